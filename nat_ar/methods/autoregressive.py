"""Autoregressive Transformer (Vaswani et al. 2017, arXiv:1706.03762).

Loss, search and score are those of methods/left_to_right.py, over key/value caches. Differences: pre-norm by default,
and embeddings tied to the output projection; with a joint vocabulary the source embedding is the same table.
`num_encoder_layers=12, num_decoder_layers=1` is the fair baseline of Kasai et al. 2020 (arXiv:2006.10369)."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.methods import base
from nat_ar.methods.left_to_right import (
    LeftToRight,
    of_tokens,
    shift_right,
    translation_of,
    without_drafts,
)
from nat_ar.nn import attention, layers
from nat_ar.nn.cache import Cache, Position
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.base import require_length_penalty
from nat_ar.search.beam import Beam
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.step_function import Blocks, StepFunction
from nat_ar.types import Encoded, Hypotheses, Internal


@dataclasses.dataclass(frozen=True)
class Autoregressive(base.Method):
    """Autoregressive Transformer (Vaswani et al. 2017)."""

    family: ClassVar[base.Family] = "AR"

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: LeftToRightDecoding = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        attention.require_steps(self.transformer.attention)
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        require_length_penalty(self.rescoring_length_penalty, name="rescoring_length_penalty")

    @property
    def learns_distributions(self) -> bool:
        return True

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "AutoregressiveModel":
        return AutoregressiveModel(self, sizes, rngs=rngs)


class AutoregressiveModel(base.Seq2Seq, LeftToRight):
    config: Autoregressive

    def __init__(
        self, config: Autoregressive, sizes: base.VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        self.decoder = Decoder(config.transformer, rngs=rngs)
        self.config = config

    def _logits(
        self,
        encoded: Encoded,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length vocabulary"]:
        return causal_logits(self.target_embedding, self.decoder, encoded, target, rngs=rngs)

    def _stepper(
        self, encoded: Encoded, max_length: int
    ) -> tuple[StepFunction, Callable[[int], Cache]]:
        return causal_stepper(self.target_embedding, self.decoder, encoded, max_length)

    def _blocks(self, encoded: Encoded, max_length: int, block: int) -> Blocks:
        return causal_blocks(self.target_embedding, self.decoder, encoded, max_length)

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LeftToRightDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """Of the best translation: `tokens`, EOS included, `log_probabilities`, of each given those before, and
        `cross_attention`, [layers, heads, target, source], over the source for each token."""
        found = self.decode(source, decoding=without_drafts(decoding), max_length=max_length)
        encoded = self.encode(source)
        return causal_internals(self.target_embedding, self.decoder, encoded, found, source)


def causal_internals(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    hypotheses: Hypotheses,
    source: Int[Array, "batch source_length"],
) -> dict[str, Internal]:
    """See AutoregressiveModel.internals."""
    target, lengths = translation_of(hypotheses, source)
    weights = decoder.cross_attention_weights(
        embedding(shift_right(target)), None, encoded, is_causal=True
    )
    return {
        **of_tokens(causal_logits(embedding, decoder, encoded, target), target, lengths),
        # [batch, layers, heads, target, source]
        "cross_attention": Internal(jnp.stack(weights, axis=1), {3: lengths, 4: encoded.lengths}),
    }


def causal_logits(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    target: Int[Array, "rows target_length"],
    *,
    rngs: nnx.Rngs | None = None,
) -> Float[Array, "rows target_length vocabulary"]:
    """Teacher-forced logits of a causal decoder, rows = batch * hypotheses of each source."""
    inputs = embedding(shift_right(target))
    return embedding.attend(decoder(inputs, None, encoded, is_causal=True, rngs=rngs))


def causal_stepper(
    embedding: layers.Embedding, decoder: Decoder, encoded: Encoded, max_length: int
) -> tuple[StepFunction, Callable[[int], Cache]]:
    """A causal decoder's step function and the empty cache for n hypotheses a row."""
    memory = decoder.memory(encoded)

    def step(
        token_ids: Int[Array, "batch beam"], cache: Cache, position: Position
    ) -> tuple[Float[Array, "batch beam vocabulary"], Cache]:
        inputs = embedding(token_ids)
        states, cache = decoder.step(inputs, cache, position, memory, encoded.lengths)
        return embedding.attend(states), cache

    def empty_cache(hypotheses: int) -> Cache:
        return decoder.empty_cache(encoded.lengths.shape[0], hypotheses, max_length + 1)

    return step, empty_cache


def causal_blocks(
    embedding: layers.Embedding, decoder: Decoder, encoded: Encoded, max_length: int
) -> Blocks:
    """A causal decoder's block function."""
    memory = decoder.memory(encoded)

    def extend(
        tokens: Int[Array, "batch block"], cache: Cache, position: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch block vocabulary"], Cache]:
        inputs = embedding(tokens)
        states, cache = decoder.extend(inputs, cache, position, memory, encoded.lengths)
        return embedding.attend(states), cache

    cache = decoder.empty_cache(encoded.lengths.shape[0], 1, max_length + 1)
    return Blocks(extend, cache, is_exact=decoder.extends_exactly)
