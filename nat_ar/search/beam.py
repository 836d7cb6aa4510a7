"""Beam search over a step function.

Knows token ids and scores only: no text, no model class. Settings are static; shapes are fixed by
max_length. A row stops when it has `size` finished hypotheses: a hypothesis finishes when its EOS is among the
best `size` continuations of a step, as in deployed engines (fairseq, CTranslate2), so that our beam is neither
slower nor more thorough than theirs."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, limits, ngrams
from nat_ar.search.base import (
    StepwiseDecoding,
    penalised,
    require_length_penalty,
    require_n_best,
)
from nat_ar.search.step_function import Cache, StepFunction, reordered, take_beams
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Hypotheses, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Beam(StepwiseDecoding):
    """The best translations by log p / length ** length_penalty."""

    size: int = 4
    """hypotheses kept at every position"""
    length_penalty: float = 1.0
    """exponent of the length (EOS counted) that divides log p; 0 prefers short, above 1 long"""
    n_best: int = 1
    """translations handed back, best first; at most size"""
    no_repeat_ngram_size: int = 0
    """no hypothesis has an n-gram of so many tokens twice; log p stays the model's own; 0: all may repeat"""

    def __post_init__(self) -> None:
        require_n_best(self, size=self.size)
        if self.no_repeat_ngram_size < 0:
            raise ConfigError(
                "Beam needs no_repeat_ngram_size of at least 0 (off; 3 is usual), got "
                f"{self.no_repeat_ngram_size}"
            )
        require_length_penalty(self.length_penalty)

    @property
    def own_score(self) -> str:
        return penalised("log p", self.length_penalty)

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
            empty_cache(self.size),
            self,
            length_limits=length_limits,
            is_sentence=is_sentence,
            max_length=max_length,
        )


@pytree_dataclass
class BeamState:
    position: Int[Array, ""]
    tokens: Int[Array, "batch beam max_length"]
    last: Int[Array, "batch beam"]
    log_probability: Float[Array, "batch beam"]
    finished_tokens: Int[Array, "batch beam max_length"]
    finished_scores: Float[Array, "batch beam"]
    num_finished: Int[Array, "batch"]
    is_done: Bool[Array, "batch"]
    passes: Int[Array, "batch"]
    cache: Cache


def search(
    step: StepFunction,
    cache: Cache,
    settings: Beam,
    *,
    length_limits: Int[Array, "batch"],
    is_sentence: Bool[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """The n_best finished hypotheses of every row, best first; the score -inf marks missing ones.

    The cache holds max_length + 1 positions and `size` hypotheses a row. At a row's length limit only
    EOS may follow."""
    batch, size = length_limits.shape[0], settings.size

    def unfinished(state: BeamState) -> Bool[Array, ""]:
        return ~state.is_done.all()

    def extend(state: BeamState) -> BeamState:
        logits, cache = step(state.last, state.cache, state.position)
        normaliser = argmax.normalisers(logits)[..., None]
        logits = limits.text_logits(logits, may_end=True)
        if settings.no_repeat_ngram_size:
            logits = ngrams.block_repeats(
                logits, state.tokens, state.position, settings.no_repeat_ngram_size
            )
        is_last = (state.position >= length_limits)[:, None, None]
        is_eos = jnp.arange(logits.shape[-1]) == EOS
        logits = jnp.where(is_last & ~is_eos, -jnp.inf, logits)

        # Twice the beam: even if all of the best `size` end here, `size` others go on.
        width = min(2 * size, logits.shape[-1])
        top_logits, top_tokens = top_k(logits, width)  # [batch, beam, width]
        scores = top_logits - normaliser + state.log_probability[..., None]
        scores = scores.reshape(batch, -1)  # [batch, beam * width]
        scores, index = jax.lax.top_k(scores, min(2 * size, size * width))  # [batch, 2 * size]
        beams = index // width  # [batch, 2 * size], the hypothesis that each continuation extends
        tokens = jnp.take_along_axis(top_tokens.reshape(batch, -1), index, axis=1)
        prefixes = take_beams(state.tokens, beams)  # [batch, 2 * size, max_length]

        ends = (tokens == EOS)[:, :size] & jnp.isfinite(scores[:, :size]) & ~state.is_done[:, None]
        normalised = scores[:, :size] / (state.position + 1.0) ** settings.length_penalty
        # Finished hypotheses of before and of this step: [batch, 2 * size], of which `size` are kept.
        all_scores = jnp.concatenate(
            [state.finished_scores, jnp.where(ends, normalised, -jnp.inf)], axis=1
        )
        all_tokens = jnp.concatenate([state.finished_tokens, prefixes[:, :size]], axis=1)
        finished_scores, kept = jax.lax.top_k(all_scores, size)
        finished_tokens = take_beams(all_tokens, kept)
        num_finished = state.num_finished + ends.sum(axis=1)

        # The best `size` of the 2 * size continuations that go on.
        alive_scores, chosen = jax.lax.top_k(jnp.where(tokens == EOS, -jnp.inf, scores), size)
        last = jnp.take_along_axis(tokens, chosen, axis=1)
        alive_beams = jnp.take_along_axis(beams, chosen, axis=1)  # [batch, size]
        alive_tokens = jax.lax.dynamic_update_slice(
            take_beams(prefixes, chosen), last[..., None], (0, 0, state.position)
        )
        return BeamState(
            position=state.position + 1,
            tokens=alive_tokens,
            last=last,
            log_probability=alive_scores,
            finished_tokens=finished_tokens,
            finished_scores=finished_scores,
            num_finished=num_finished,
            is_done=state.is_done | (num_finished >= size) | (state.position >= length_limits),
            passes=state.passes + ~state.is_done,
            cache=reordered(cache, alive_beams),
        )

    empty = jnp.full((batch, size, max_length), PAD, jnp.int32)
    only_first = jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf)
    start = BeamState(
        position=jnp.int32(0),
        tokens=empty,
        last=jnp.full((batch, size), BOS, jnp.int32),
        log_probability=jnp.broadcast_to(only_first, (batch, size)),
        finished_tokens=empty,
        finished_scores=jnp.full((batch, size), -jnp.inf),
        num_finished=jnp.zeros(batch, jnp.int32),
        is_done=~is_sentence,
        passes=jnp.zeros(batch, jnp.int32),
        cache=cache,
    )
    final = jax.lax.while_loop(unfinished, extend, start)
    n_best = settings.n_best
    return Hypotheses(
        final.finished_tokens[:, :n_best], final.finished_scores[:, :n_best], final.passes
    )
