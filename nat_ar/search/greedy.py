"""Greedy search over a step function: the most probable token at every position. The loop serves every
search that keeps one hypothesis a row.

Knows token ids and logits only: no text, no model class. Shapes are fixed by max_length."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.search import argmax, limits
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Cache, Hypotheses, StepFunction, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token at every position."""


Choose = Callable[[Float[Array, "batch vocabulary"], Int[Array, ""]], Int[Array, "batch"]]
"""Logits of what may come at a position, and the position, to a token for every row."""


@pytree_dataclass
class State:
    position: Int[Array, ""]
    tokens: Int[Array, "batch max_length"]
    last: Int[Array, "batch"]
    log_probability: Float[Array, "batch"]
    is_finished: Bool[Array, "batch"]
    steps: Int[Array, "batch"]
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
    """Extends every row until EOS or its length limit; stops when all rows have finished. `choose` says
    by which token; None: the most probable, of equal ones the first.

    The cache holds max_length + 1 positions and one hypothesis a row. Scores are log p of the tokens
    and EOS, in nats. Rows that are no sentence are finished from the start."""
    batch = length_limits.shape[0]

    def unfinished(state: State) -> Bool[Array, ""]:
        return ~state.is_finished.all()

    def extend(state: State) -> State:
        logits, cache = step(state.last[:, None], state.cache, state.position)
        logits = logits[:, 0]
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
        return State(
            position=state.position + 1,
            tokens=tokens,
            last=written,
            log_probability=state.log_probability + jnp.where(state.is_finished, 0.0, gain),
            is_finished=state.is_finished | ends,
            steps=state.steps + ~state.is_finished,
            cache=cache,
        )

    start = State(
        position=jnp.int32(0),
        tokens=jnp.full((batch, max_length), PAD, jnp.int32),
        last=jnp.full((batch,), BOS, jnp.int32),
        log_probability=jnp.zeros(batch),
        is_finished=~is_sentence,
        steps=jnp.zeros(batch, jnp.int32),
        cache=cache,
    )
    final = jax.lax.while_loop(unfinished, extend, start)
    return Hypotheses(final.tokens[:, None], final.log_probability[:, None], final.steps)
