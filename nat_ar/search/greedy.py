"""Greedy search over a step function: the most probable token at every position. The loop serves every
search with one hypothesis a row.

Knows token ids and logits only: no text, no model class. Shapes are fixed by max_length."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.search import argmax, limits
from nat_ar.search.base import StepwiseDecoding, penalised
from nat_ar.search.step_function import Cache, StepFunction
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Hypotheses, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Greedy(StepwiseDecoding):
    """The most probable token at every position."""

    @property
    def own_score(self) -> str:
        return penalised("log p", 0.0)

    def search(
        self,
        step: StepFunction,
        empty_cache: Callable[[int], Cache],
        source: Int[Array, "batch source_length"],
        *,
        max_length: int,
    ) -> Hypotheses:
        length_limits, is_sentence = limits.of_sources(source, max_length)
        return search(
            step,
            empty_cache(1),
            length_limits=length_limits,
            is_sentence=is_sentence,
            max_length=max_length,
        )


Choose = Callable[[Float[Array, "batch vocabulary"], Int[Array, ""]], Int[Array, "batch"]]
"""(allowed logits, position) -> one token per row."""


@pytree_dataclass
class GreedyState:
    position: Int[Array, ""]
    tokens: Int[Array, "batch max_length"]
    last: Int[Array, "batch"]
    log_probability: Float[Array, "batch"]
    is_finished: Bool[Array, "batch"]
    passes: Int[Array, "batch"]
    cache: Cache


def search(
    step: StepFunction,
    cache: Cache,
    *,
    length_limits: Int[Array, "batch"],
    is_sentence: Bool[Array, "batch"],
    max_length: int,
    choose: Choose | None = None,
) -> Hypotheses:
    """Extends every row by the tokens of `choose` until EOS or its length limit; stops when all rows have finished.
    `choose` None: the most probable token, ties to the lowest id.

    The cache holds max_length + 1 positions and one hypothesis a row. Scores are log p of the tokens
    and EOS, in nats. Rows without a sentence are finished from the start."""
    batch = length_limits.shape[0]

    def unfinished(state: GreedyState) -> Bool[Array, ""]:
        return ~state.is_finished.all()

    def extend(state: GreedyState) -> GreedyState:
        logits, cache = step(state.last[:, None], state.cache, state.position)
        logits = logits[:, 0]  # [batch, vocabulary], of the only hypothesis
        best = argmax.argmax(logits, limits.NEVER_TEXT)
        chosen = best.tokens
        if choose is not None:
            chosen = choose(limits.text_logits(logits, may_end=True), state.position)
        chosen = jnp.where(state.position >= length_limits, EOS, chosen)
        gain = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0] - best.normalisers
        ends = chosen == EOS
        written = jnp.where(state.is_finished | ends, PAD, chosen)
        tokens = jax.lax.dynamic_update_slice(
            state.tokens, written[:, None], (jnp.int32(0), state.position)
        )
        # The step after the last position writes nothing but PAD; the slice index is then clamped.
        tokens = jnp.where(state.position < max_length, tokens, state.tokens)
        return GreedyState(
            position=state.position + 1,
            tokens=tokens,
            last=written,
            log_probability=state.log_probability + jnp.where(state.is_finished, 0.0, gain),
            is_finished=state.is_finished | ends,
            passes=state.passes + ~state.is_finished,
            cache=cache,
        )

    start = GreedyState(
        position=jnp.int32(0),
        tokens=jnp.full((batch, max_length), PAD, jnp.int32),
        last=jnp.full((batch,), BOS, jnp.int32),
        log_probability=jnp.zeros(batch),
        is_finished=~is_sentence,
        passes=jnp.zeros(batch, jnp.int32),
        cache=cache,
    )
    final = jax.lax.while_loop(unfinished, extend, start)
    return Hypotheses(final.tokens[:, None], final.log_probability[:, None], final.passes)
