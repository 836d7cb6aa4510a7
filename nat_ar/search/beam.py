"""Beam search over a step function.

Knows token ids and scores only: no text, no model class. Settings are static; shapes are fixed by
max_length. A row stops when it has as many finished hypotheses as the beam has places: a hypothesis
finishes when its EOS is among the best `size` continuations of its step, as in the engines that users
deploy (fairseq, CTranslate2), so that our beam is neither slower nor more thorough than theirs."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, limits
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Cache, Hypotheses, Reorderable, StepFunction, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Beam:
    """The best translations by log p / length ** length_penalty."""

    size: int = 4
    """hypotheses kept at every position"""
    length_penalty: float = 1.0
    """exponent of the length (EOS counted) that divides log p; 0 prefers short, above 1 long"""
    n_best: int = 1
    """translations handed back, best first; at most size"""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                f"Beam needs 1 <= n_best <= size, got n_best {self.n_best} and size {self.size}"
            )


@pytree_dataclass
class State:
    position: Int[Array, ""]
    tokens: Int[Array, "batch beam max_length"]
    last: Int[Array, "batch beam"]
    log_probability: Float[Array, "batch beam"]
    finished_tokens: Int[Array, "batch beam max_length"]
    finished_scores: Float[Array, "batch beam"]
    num_finished: Int[Array, "batch"]
    is_done: Bool[Array, "batch"]
    steps: Int[Array, "batch"]
    cache: Cache


def take_beams(tree: Cache, beams: Int[Array, "batch places"]) -> Cache:
    """Every leaf [batch, beam, ...] reordered to [batch, places, ...]."""
    rows = jnp.arange(beams.shape[0])[:, None]
    return jax.tree.map(lambda leaf: leaf[rows, beams], tree)


def reordered(cache: Cache, beams: Int[Array, "batch beam"]) -> Cache:
    """The cache of hypotheses of which n goes on from beams[n]."""
    return cache.reordered(beams) if isinstance(cache, Reorderable) else take_beams(cache, beams)


def search(
    step: StepFunction,
    cache: Cache,
    settings: Beam,
    *,
    length_limits: Int[Array, "batch"],
    is_sentence: Bool[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """The n_best finished hypotheses of every row, best first; -inf where fewer were found.

    The cache holds max_length + 1 positions and `size` hypotheses a row. At a row's length limit only
    EOS may follow."""
    batch, size = length_limits.shape[0], settings.size

    def unfinished(state: State) -> Bool[Array, ""]:
        return ~state.is_done.all()

    def extend(state: State) -> State:
        logits, cache = step(state.last, state.cache, state.position)
        normaliser = argmax.normalisers(logits)[..., None]
        logits = limits.text_logits(logits, may_end=True)
        is_last = (state.position >= length_limits)[:, None, None]
        is_eos = jnp.arange(logits.shape[-1]) == EOS
        logits = jnp.where(is_last & ~is_eos, -jnp.inf, logits)

        # Twice the beam: however many of the best end here, `size` that go on remain.
        width = min(2 * size, logits.shape[-1])
        top_logits, top_tokens = top_k(logits, width)  # [batch, beam, width]
        scores = (top_logits - normaliser + state.log_probability[..., None]).reshape(batch, -1)
        scores, index = jax.lax.top_k(scores, min(2 * size, size * width))
        beams = index // width
        tokens = jnp.take_along_axis(top_tokens.reshape(batch, -1), index, axis=1)
        prefixes = take_beams(state.tokens, beams)

        ends = (tokens == EOS)[:, :size] & jnp.isfinite(scores[:, :size]) & ~state.is_done[:, None]
        normalised = scores[:, :size] / (state.position + 1.0) ** settings.length_penalty
        all_scores = jnp.concatenate(
            [state.finished_scores, jnp.where(ends, normalised, -jnp.inf)], axis=1
        )
        all_tokens = jnp.concatenate([state.finished_tokens, prefixes[:, :size]], axis=1)
        finished_scores, places = jax.lax.top_k(all_scores, size)
        finished_tokens = take_beams(all_tokens, places)
        num_finished = state.num_finished + ends.sum(axis=1)

        alive_scores, places = jax.lax.top_k(jnp.where(tokens == EOS, -jnp.inf, scores), size)
        last = jnp.take_along_axis(tokens, places, axis=1)
        alive_beams = jnp.take_along_axis(beams, places, axis=1)
        alive_tokens = jax.lax.dynamic_update_slice(
            take_beams(prefixes, places), last[..., None], (0, 0, state.position)
        )
        return State(
            position=state.position + 1,
            tokens=alive_tokens,
            last=last,
            log_probability=alive_scores,
            finished_tokens=finished_tokens,
            finished_scores=finished_scores,
            num_finished=num_finished,
            is_done=state.is_done | (num_finished >= size) | (state.position >= length_limits),
            steps=state.steps + ~state.is_done,
            cache=reordered(cache, alive_beams),
        )

    empty = jnp.full((batch, size, max_length), PAD, jnp.int32)
    only_first = jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf)
    start = State(
        position=jnp.int32(0),
        tokens=empty,
        last=jnp.full((batch, size), BOS, jnp.int32),
        log_probability=jnp.broadcast_to(only_first, (batch, size)),
        finished_tokens=empty,
        finished_scores=jnp.full((batch, size), -jnp.inf),
        num_finished=jnp.zeros(batch, jnp.int32),
        is_done=~is_sentence,
        steps=jnp.zeros(batch, jnp.int32),
        cache=cache,
    )
    final = jax.lax.while_loop(unfinished, extend, start)
    n_best = settings.n_best
    return Hypotheses(
        final.finished_tokens[:, :n_best], final.finished_scores[:, :n_best], final.steps
    )
