"""The toy world that tests share: a tiny Transformer, random sentences, a scorer, and decoding compiled once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nat_ar.nn.transformer import TransformerConfig
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD
from nat_ar.types import Hypotheses

TINY = TransformerConfig(
    d_model=16,
    d_hidden=32,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
LETTERS = "abcdefgh"


def sentences(seed: int, lengths: list[int], width: int, *, vocabulary: int) -> jax.Array:
    """Random words, EOS after each row's length (0: no sentence), padded to width."""
    rows = np.random.default_rng(seed).integers(NUM_SPECIAL, vocabulary, (len(lengths), width))
    for row, length in zip(rows, lengths, strict=True):
        row[length:] = PAD
        if length:
            row[length - 1] = EOS
    return jnp.asarray(rows, jnp.int32)


@dataclasses.dataclass(frozen=True)
class SmallIds:
    """A scorer that likes short translations of small ids: 6 7 is worth -13."""

    def score(self, source: jax.Array, hypotheses: jax.Array) -> jax.Array:
        return -hypotheses.sum(axis=-1).astype(jnp.float32)


def one_width(max_length: int) -> tuple[int, ...]:
    """`widths` of a decode whose narrower branches, which only save time, need not be compiled."""
    return (max_length,)


def decode(
    model: Any,
    source: jax.Array,
    decoding: Any,
    max_length: int,
    *,
    scorer: Any = None,
    **options: Any,
) -> Hypotheses:
    """model.decode, compiled once for each shape and decoding. The scorer is a model or SmallIds."""
    scorer_parts = nnx.split(scorer, nnx.Param) if isinstance(scorer, nnx.Module) else (scorer, {})
    parts = (*nnx.split(model, nnx.Param), *scorer_parts)
    hypotheses = _decode(*parts, source, decoding, max_length, tuple(options.items()))
    return jax.device_get(hypotheses)


@functools.partial(
    jax.jit, static_argnames=("graph", "scorer_graph", "decoding", "max_length", "options")
)
def _decode(
    graph: nnx.GraphDef,
    params: nnx.State,
    scorer_graph: Any,
    scorer_params: Any,
    source: jax.Array,
    decoding: Any,
    max_length: int,
    options: tuple[tuple[str, Any], ...],
) -> Hypotheses:
    scorer = scorer_graph
    if isinstance(scorer_graph, nnx.GraphDef):
        scorer = nnx.merge(scorer_graph, scorer_params)
    return nnx.merge(graph, params).decode(
        source, decoding=decoding, max_length=max_length, scorer=scorer, **dict(options)
    )
