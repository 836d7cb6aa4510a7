"""Autoregressive Transformer (Vaswani et al. 2017, arXiv:1706.03762).

Training sees all positions in parallel under a causal mask; translating goes token by token over
key/value caches. Differences: pre-norm by default, and embeddings tied to the output projection; with a
joint vocabulary the source embedding is the same table. `num_encoder_layers=12, num_decoder_layers=1`
is the fair baseline of Kasai et al. 2020 (arXiv:2006.10369)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.nn import attention, layers
from nat_ar.nn.cache import Cache
from nat_ar.nn.transformer import Decoder, TransformerConfig
from nat_ar.search import left_to_right
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Loss


@dataclasses.dataclass(frozen=True)
class Autoregressive(base.Method):
    """Autoregressive Transformer (Vaswani et al. 2017)."""

    family: ClassVar[base.Family] = "AR"

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: Greedy | Beam | Sampling = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        attention.require_steps(self.transformer.attention)
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)

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
        return causal_logits(self.target_embedding, self.decoder, encoded, target, rngs=rngs)

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
        return causal_search(
            self.target_embedding, self.decoder, encoded, source, decoding, max_length=max_length
        )

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
    ) -> Float[Array, "batch n_best"]:
        """log p of each hypothesis and its EOS, divided by length ** rescoring_length_penalty, all
        positions of all hypotheses in one pass over one encoding."""
        return causal_scores(
            self.target_embedding,
            self.decoder,
            self.encode(source),
            hypotheses,
            length_penalty=self.config.rescoring_length_penalty,
        )


def causal_logits(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    target: Int[Array, "rows target_length"],
    *,
    rngs: nnx.Rngs | None = None,
) -> Float[Array, "rows target_length vocabulary"]:
    """What a causal decoder expects at every position of given targets, rows = batch * hypotheses."""
    inputs = embedding(shift_right(target))
    return embedding.attend(decoder(inputs, None, encoded, is_causal=True, rngs=rngs))


def causal_search(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    source: Int[Array, "batch source_length"],
    decoding: Greedy | Beam | Sampling,
    *,
    max_length: int,
) -> Hypotheses:
    """Translations by a causal decoder that goes step by step over its caches."""
    memory = decoder.memory(encoded)

    def step(
        token_ids: Int[Array, "batch beam"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "batch beam vocabulary"], Cache]:
        inputs = embedding(token_ids)
        states, cache = decoder.step(inputs, cache, position, memory, encoded.lengths)
        return embedding.attend(states), cache

    def empty_cache(beam: int) -> Cache:
        return decoder.empty_cache(source.shape[0], beam, max_length + 1)

    return left_to_right.search(step, empty_cache, source, decoding, max_length=max_length)


def causal_scores(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    hypotheses: Int[Array, "batch n_best length"],
    *,
    length_penalty: float,
) -> Float[Array, "batch n_best"]:
    """log p / length ** length_penalty by a causal decoder, on states that are already there."""
    target = flat_targets(hypotheses)
    logits = causal_logits(embedding, decoder, encoded, target)
    return normalised_log_p(logits, target, length_penalty).reshape(hypotheses.shape[:2])


def flat_targets(
    hypotheses: Int[Array, "batch n_best length"],
) -> Int[Array, "rows length_plus_one"]:
    """A row for each hypothesis, with its EOS; the rows of one source stand together."""
    return append_eos(hypotheses.reshape(-1, hypotheses.shape[-1]))


def normalised_log_p(
    logits: Float[Array, "rows length vocabulary"],
    target: Int[Array, "rows length"],
    length_penalty: float,
) -> Float[Array, "rows"]:
    """log p of each target, its EOS among it, divided by its length ** length_penalty."""
    log_probabilities = cross_entropy.token_log_probabilities(logits, target)
    total = jnp.where(target != PAD, log_probabilities, 0.0).sum(axis=-1)
    return total / base.lengths_of(target).astype(jnp.float32) ** length_penalty


def shift_right(target: Int[Array, "rows length"]) -> Int[Array, "rows length"]:
    """Decoder inputs: BOS and the target without its last position."""
    return jnp.pad(target, ((0, 0), (1, 0)), constant_values=BOS)[:, :-1]


def append_eos(tokens: Int[Array, "rows length"]) -> Int[Array, "rows length_plus_one"]:
    """EOS after the last token of every right-padded row."""
    wider = jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=PAD)
    ends = base.lengths_of(tokens)[:, None]
    return jnp.where(jnp.arange(wider.shape[1]) == ends, EOS, wider)
