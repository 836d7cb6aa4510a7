"""LSTM sequence to sequence, with additive attention (Bahdanau et al. 2015, arXiv:1409.0473), with the
inner-product attention and input feeding of Luong et al. 2015 (arXiv:1508.04025; global, "dot"), or with
no attention (Sutskever et al. 2014, arXiv:1409.3215).

The autoregressive baseline before the Transformer, and on distilled data the student of Kim & Rush 2016
(arXiv:1606.07947). Loss, search and score are those of methods/left_to_right.py; the cache is the recurrent state, so
that a step costs the same at every position. What differs from the papers:
- LSTM cells also where Bahdanau et al. had gated recurrent units; an encoder in both directions also
  where Luong et al. had one and where Sutskever et al. reversed the source;
- the decoder starts from a learned map of the encoder's last states;
- every variant reads state and context out through one tanh layer, as Luong et al. did, and the embeddings
  are tied to the vocabulary projection."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.methods import base
from nat_ar.methods.left_to_right import FromStates, shift_right
from nat_ar.nn.cache import Position
from nat_ar.nn.recurrent import (
    DecoderState,
    RecurrentConfig,
    RecurrentDecoder,
    RecurrentEncoded,
    RecurrentEncoder,
)
from nat_ar.search.base import require_length_penalty
from nat_ar.search.beam import Beam
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.step_function import StepFunction
from nat_ar.types import lengths_of


@dataclasses.dataclass(frozen=True)
class Recurrent(base.Method):
    """LSTM sequence to sequence (Sutskever et al. 2014, Bahdanau et al. 2015, Luong et al. 2015)."""

    family: ClassVar[base.Family] = "AR"
    has_own_encoder: ClassVar[bool] = True

    network: RecurrentConfig = RecurrentConfig()
    """sizes of encoder and decoder, and the attention between them"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: LeftToRightDecoding = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        require_length_penalty(self.rescoring_length_penalty, name="rescoring_length_penalty")

    @property
    def learns_distributions(self) -> bool:
        return True

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "RecurrentModel":
        return RecurrentModel(self, sizes, rngs=rngs)


class RecurrentModel(FromStates):
    config: Recurrent

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
        return self.encoder(self.embed_source(source), lengths_of(source), rngs=rngs)

    def _states(
        self,
        encoded: RecurrentEncoded,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length d_model"]:
        inputs = self.target_embedding(shift_right(target))
        return self.decoder(inputs, encoded, rngs=rngs)

    def _stepper(
        self, encoded: RecurrentEncoded, max_length: int
    ) -> tuple[StepFunction, Callable[[int], DecoderState]]:
        """The cache is the recurrent state, of the same size at every position."""
        memory = self.decoder.memory(encoded)

        def step(
            token_ids: Int[Array, "batch beam"], state: DecoderState, position: Position
        ) -> tuple[Float[Array, "batch beam vocabulary"], DecoderState]:
            inputs = self.target_embedding(token_ids)
            readout, state = self.decoder.step(inputs, state, memory)
            return self.target_embedding.attend(readout), state

        return step, lambda hypotheses: self.decoder.start_state(encoded, hypotheses)
