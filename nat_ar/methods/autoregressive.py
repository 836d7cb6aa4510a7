"""Autoregressive Transformer (Vaswani et al. 2017, arXiv:1706.03762).

Training sees all positions in parallel under a causal mask; translating goes token by token over
key/value caches. Differences: pre-norm by default, and embeddings tied to the output projection; with a
joint vocabulary the source embedding is the same table. `num_encoder_layers=12, num_decoder_layers=1`
is the fair baseline of Kasai et al. 2020 (arXiv:2006.10369)."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.nn.attention import KeyValue
from nat_ar.nn.transformer import Decoder, TransformerConfig
from nat_ar.search import beam, greedy, limits, sampling
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampled
from nat_ar.special import BOS, EOS, PAD
from nat_ar.types import Batch, Hypotheses, Loss, StepFunction


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """Autoregressive Transformer (Vaswani et al. 2017)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: Greedy | Beam | Sampled = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "AutoregressiveModel":
        return AutoregressiveModel(self, sizes, rngs=rngs)


class AutoregressiveModel(base.Seq2Seq):
    def __init__(
        self, config: Autoregressive, sizes: base.VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        self.decoder = Decoder(config.transformer, rngs=rngs)
        self.config = config

    def logits(
        self,
        source: Int[Array, "batch source_length"],
        target: Int[Array, "batch target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch target_length vocabulary"]:
        """Teacher-forced: position t sees the source and target[:t]. The target ends with EOS."""
        encoded = self.encode(source, rngs=rngs)
        inputs = self.target_embedding(shift_right(target))
        states = self.decoder(inputs, None, encoded, is_causal=True, rngs=rngs)
        return self.target_embedding.attend(states)

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
        decoding: Greedy | Beam | Sampled,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        encoded = self.encode(source)
        step = self._step_function(self.decoder.memory(encoded), encoded.lengths)
        batch = source.shape[0]
        row_limits, is_sentence = limits.length_limit(encoded.lengths), encoded.lengths > 0
        if isinstance(decoding, Greedy):
            cache = self.decoder.empty_cache(batch, 1, max_length + 1)
            return greedy.search(
                step,
                cache,
                length_limits=row_limits,
                is_sentence=is_sentence,
                max_length=max_length,
            )
        if isinstance(decoding, Sampled):
            cache = self.decoder.empty_cache(batch, 1, max_length + 1)
            return sampling.search(
                step,
                cache,
                decoding,
                keys=sampling.row_keys(source, seed=decoding.seed),
                length_limits=row_limits,
                is_sentence=is_sentence,
                max_length=max_length,
            )
        cache = self.decoder.empty_cache(batch, decoding.size, max_length + 1)
        return beam.search(
            step,
            cache,
            decoding,
            length_limits=row_limits,
            is_sentence=is_sentence,
            max_length=max_length,
        )

    def _step_function(
        self, memory: list[KeyValue], memory_lengths: Int[Array, "batch"]
    ) -> StepFunction:
        def step(
            token_ids: Int[Array, "batch beam"], cache: list[KeyValue], position: Int[Array, ""]
        ) -> tuple[Float[Array, "batch beam vocabulary"], list[KeyValue]]:
            inputs = self.target_embedding(token_ids)
            states, cache = self.decoder.step(inputs, cache, position, memory, memory_lengths)
            return self.target_embedding.attend(states), cache

        return step

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
    ) -> Float[Array, "batch n_best"]:
        """log p of each hypothesis and its EOS, divided by length ** rescoring_length_penalty, all
        positions of all hypotheses in one pass over one encoding."""
        batch, n_best, length = hypotheses.shape
        encoded = self.encode(source)
        target = append_eos(hypotheses.reshape(batch * n_best, length))
        inputs = self.target_embedding(shift_right(target))
        states = self.decoder(inputs, None, encoded, is_causal=True)
        logits = self.target_embedding.attend(states)
        log_probabilities = cross_entropy.token_log_probabilities(logits, target)
        total = jnp.where(target != PAD, log_probabilities, 0.0).sum(axis=-1)
        lengths = base.lengths_of(target).astype(jnp.float32)
        return (total / lengths**self.config.rescoring_length_penalty).reshape(batch, n_best)


def shift_right(target: Int[Array, "rows length"]) -> Int[Array, "rows length"]:
    """Decoder inputs: BOS and the target without its last position."""
    return jnp.pad(target, ((0, 0), (1, 0)), constant_values=BOS)[:, :-1]


def append_eos(tokens: Int[Array, "rows length"]) -> Int[Array, "rows length_plus_one"]:
    """EOS after the last token of every right-padded row."""
    wider = jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=PAD)
    ends = base.lengths_of(tokens)[:, None]
    return jnp.where(jnp.arange(wider.shape[1]) == ends, EOS, wider)
