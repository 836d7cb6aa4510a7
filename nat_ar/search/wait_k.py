"""wait-k (Ma et al. 2019, arXiv:1810.08398): writing begins k tokens behind the reader, and goes on token by token.

Word t (from 0) sees the first k + t tokens of the source, so that it can be written before the rest is there. Once
written it stays, and what was written of a source that goes on is what would have been written of the whole. Knows
token ids and logits only: the step function hides what has not been read."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.search import argmax, limits
from nat_ar.search.base import StepwiseDecoding, penalised
from nat_ar.search.step_function import Cache, StepFunction
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Hypotheses, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class WaitK(StepwiseDecoding):
    """The most probable token at every position, given k more tokens of the source than were written."""

    k: int = 3
    """tokens of the source, EOS counted, that the first token sees"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, k=self.k)

    @property
    def wait_k(self) -> int | None:
        return self.k

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
        start = nothing(empty_cache(1), source.shape[0], max_length)
        whole = jnp.full_like(length_limits, max_length + 1)
        written = go_on(
            step, start, until=whole, length_limits=length_limits, is_sentence=is_sentence
        )
        return written.hypotheses


@pytree_dataclass
class Written:
    """What has been written of sources that go on, and all that is needed to go on with it."""

    tokens: Int[Array, "batch max_length"]
    position: Int[Array, "batch"]
    """of the next token"""
    last: Int[Array, "batch"]
    log_probability: Float[Array, "batch"]
    is_finished: Bool[Array, "batch"]
    passes: Int[Array, "batch"]
    cache: Cache

    @property
    def hypotheses(self) -> Hypotheses:
        """Scores are log p of the tokens, and of EOS where it was written, in nats."""
        return Hypotheses(self.tokens[:, None], self.log_probability[:, None], self.passes)


def nothing(cache: Cache, batch: int, max_length: int) -> Written:
    """The beginning, with an empty cache of one hypothesis a row and max_length + 1 positions."""
    return Written(
        tokens=jnp.full((batch, max_length), PAD, jnp.int32),
        position=jnp.zeros(batch, jnp.int32),
        last=jnp.full((batch,), BOS, jnp.int32),
        log_probability=jnp.zeros(batch),
        is_finished=jnp.zeros(batch, bool),
        passes=jnp.zeros(batch, jnp.int32),
        cache=cache,
    )


def go_on(
    step: StepFunction,
    written: Written,
    *,
    until: Int[Array, "batch"],
    length_limits: Int[Array, "batch"],
    is_sentence: Bool[Array, "batch"],
) -> Written:
    """What is written when the tokens before position `until` of each row may be. A row ends with EOS, or at its
    length limit. Rows without a sentence write nothing."""
    positions = jnp.arange(written.tokens.shape[1])

    def may_write(state: Written) -> Bool[Array, "batch"]:
        return ~state.is_finished & (state.position < until) & is_sentence

    def unfinished(state: Written) -> Bool[Array, ""]:
        return may_write(state).any()

    def write(state: Written) -> Written:
        is_writing = may_write(state)
        logits, cache = step(state.last[:, None], state.cache, state.position)
        best = argmax.argmax(logits[:, 0], limits.NEVER_TEXT)
        chosen = jnp.where(state.position >= length_limits, EOS, best.tokens)
        own = jnp.take_along_axis(logits[:, 0], chosen[:, None], axis=-1)[:, 0]
        ends = chosen == EOS
        is_here = positions == state.position[:, None]  # [batch, max_length]
        is_new = is_here & (is_writing & ~ends)[:, None]
        return Written(
            tokens=jnp.where(is_new, chosen[:, None], state.tokens),
            position=state.position + is_writing,
            last=jnp.where(is_writing, chosen, state.last),
            log_probability=state.log_probability
            + jnp.where(is_writing, own - best.normalisers, 0.0),
            is_finished=state.is_finished | (is_writing & ends),
            passes=state.passes + is_writing,
            cache=cache,
        )

    return jax.lax.while_loop(unfinished, write, written)
