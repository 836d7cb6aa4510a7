"""LSTM sequence to sequence, with additive attention (Bahdanau et al. 2015, arXiv:1409.0473), with the
inner-product attention and input feeding of Luong et al. 2015 (arXiv:1508.04025; global, "dot"), or with
no attention (Sutskever et al. 2014, arXiv:1409.3215).

The autoregressive baseline before the Transformer, and on distilled data the student of Kim & Rush 2016
(arXiv:1606.07947). Searches, scores and contract are those of methods/autoregressive.py; the cache is the
recurrent state, so that a step costs the same at every position. What differs from the papers:
- LSTM cells also where Bahdanau et al. had gated recurrent units; an encoder in both directions also
  where Luong et al. had one and where Sutskever et al. reversed the source;
- the decoder starts from a learned map of the encoder's last states;
- every variant reads state and context out through one tanh layer, as Luong et al. did, and the embeddings
  are tied to the vocabulary projection."""

import dataclasses
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.losses import cross_entropy
from nat_ar.methods import autoregressive, base
from nat_ar.nn.recurrent import (
    DecoderState,
    RecurrentConfig,
    RecurrentDecoder,
    RecurrentEncoded,
    RecurrentEncoder,
)
from nat_ar.search import left_to_right
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.types import Batch, Hypotheses, Loss


@dataclasses.dataclass(frozen=True)
class Recurrent(base.Method):
    """LSTM sequence to sequence (Sutskever et al. 2014, Bahdanau et al. 2015, Luong et al. 2015)."""

    family: ClassVar[base.Family] = "AR"
    has_own_encoder: ClassVar[bool] = True

    network: RecurrentConfig = RecurrentConfig()
    """sizes of encoder and decoder, and the attention between them"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: Greedy | Beam | Sampling = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "RecurrentModel":
        return RecurrentModel(self, sizes, rngs=rngs)


class RecurrentModel(base.TokenEmbeddings):
    def __init__(self, config: Recurrent, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        network = config.network
        super().__init__(network.d_model, network.dtype, sizes, rngs=rngs)
        self.encoder = RecurrentEncoder(network, rngs=rngs)
        self.decoder = RecurrentDecoder(network, rngs=rngs)
        self.config = config

    @jax.named_scope("encoder")
    def encode(
        self, source: Int[Array, "batch source_length"], *, rngs: nnx.Rngs | None = None
    ) -> RecurrentEncoded:
        return self.encoder(self.embed_source(source), base.lengths_of(source), rngs=rngs)

    def logits(
        self,
        source: Int[Array, "batch source_length"],
        target: Int[Array, "batch target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch target_length vocabulary"]:
        """Teacher-forced: position t sees the source and target[:t]. The target ends with EOS."""
        return self._logits(self.encode(source, rngs=rngs), target, rngs=rngs)

    def _logits(
        self,
        encoded: RecurrentEncoded,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length vocabulary"]:
        inputs = self.target_embedding(autoregressive.shift_right(target))
        return self.target_embedding.attend(self.decoder(inputs, encoded, rngs=rngs))

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        logits = self.logits(batch.source, batch.target, rngs=rngs)
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            logits, batch.target, smoothing=self.config.label_smoothing
        )
        return Loss(smoothed.value, {"token": plain})

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: Greedy | Beam | Sampling,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        encoded = self.encode(source)
        memory = self.decoder.memory(encoded)

        def step(
            token_ids: Int[Array, "batch beam"], state: DecoderState, position: Int[Array, ""]
        ) -> tuple[Float[Array, "batch beam vocabulary"], DecoderState]:
            inputs = self.target_embedding(token_ids)
            readout, state = self.decoder.step(inputs, state, memory)
            return self.target_embedding.attend(readout), state

        def start(beam: int) -> DecoderState:
            return self.decoder.start_state(encoded, beam)

        return left_to_right.search(step, start, source, decoding, max_length=max_length)

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
    ) -> Float[Array, "batch n_best"]:
        """log p of each hypothesis and its EOS, divided by length ** rescoring_length_penalty, all
        hypotheses side by side over one encoding."""
        target = autoregressive.flat_targets(hypotheses)
        scores = autoregressive.normalised_log_p(
            self._logits(self.encode(source), target), target, self.config.rescoring_length_penalty
        )
        return scores.reshape(hypotheses.shape[:2])
