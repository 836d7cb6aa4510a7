"""Iterative decoding: a translation of known length is predicted whole, then again from itself.

Mask-predict (Ghazvininejad et al. 2019, arXiv:1904.09324, section 3.1) hides the words that the model was
least sure of and predicts those anew; refinement (Lee et al. 2018, arXiv:1802.06901) predicts all words
anew from all words. Knows token ids, lengths and logits only. A row's words and passes depend on the row
alone, and every pass is the same compiled body."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.search import argmax, limits
from nat_ar.special_tokens import EOS, MASK, PAD
from nat_ar.types import pytree_dataclass

LogitsFunction = Callable[[Int[Array, "*axes width"]], Float[Array, "*axes width vocabulary"]]
"""All that these searches know of a model: a whole translation in, what could stand at each place out."""


@pytree_dataclass
class Words:
    """A word for every place within the length."""

    tokens: Int[Array, "*axes width"]
    """PAD past the length"""
    log_probabilities: Float[Array, "*axes width"]
    """of each word in the pass that chose it, in nats; 0 past the length"""


@pytree_dataclass
class Refined:
    """Where an iterative search ended."""

    tokens: Int[Array, "*axes width"]
    """PAD past the length"""
    scores: Float[Array, "*axes"]
    """mean log p of the words, in nats"""
    passes: Int[Array, "*axes"]
    """decoder passes that the row needed; 0 for a row without places"""


def most_probable(
    logits: Float[Array, "*axes width vocabulary"], lengths: Int[Array, "*axes"]
) -> Words:
    """The most probable word of each place within the length; never a special token."""
    best = argmax.argmax(logits, (*limits.NEVER_TEXT, EOS))
    is_place = places(lengths, logits.shape[-2])
    tokens = jnp.where(is_place, best.tokens, PAD)
    return Words(tokens, jnp.where(is_place, best.log_probabilities, 0.0))


def places(lengths: Int[Array, "*axes"], width: int) -> Bool[Array, "*axes width"]:
    """True within the length."""
    return jnp.arange(width) < lengths[..., None]


def lowest(
    values: Float[Array, "*axes width"], counts: Int[Array, "*axes"]
) -> Bool[Array, "*axes width"]:
    """True at the `counts` lowest values of every row; of equal ones the first come first."""
    ranks = jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)
    return ranks < counts[..., None]


def num_masked(
    lengths: Int[Array, "*axes"], iteration: Int[Array, ""], iterations: int
) -> Int[Array, "*axes"]:
    """Words hidden in pass 0, 1, ... iterations - 1: all at first, then linearly fewer, rounded down,
    floor(N (T - t) / T) (section 3.1)."""
    return lengths * (iterations - iteration) // iterations


def num_passes(lengths: Int[Array, "*axes"], iterations: int) -> Int[Array, "*axes"]:
    """Passes of mask-predict that hide any word: t <= T - T / N, which are all T where N >= T."""
    per_word = -(-iterations // jnp.maximum(lengths, 1))  # T / N, rounded up
    return jnp.where(lengths > 0, 1 + iterations - per_word, 0)


def mask_predict(
    logits_of: LogitsFunction, lengths: Int[Array, "*axes"], width: int, *, iterations: int
) -> Refined:
    """Predicts all words from masks alone, then hides the least probable ones and predicts them from the
    rest, fewer each time. Words that are not hidden keep the probability with which they were chosen.

    A short row has passes in which no word is hidden: they would change nothing, and do not count."""
    passes, is_place = num_passes(lengths, iterations), places(lengths, width)

    def predict(iteration: Int[Array, ""], words: Words) -> Words:
        hidden = lowest(
            jnp.where(is_place, words.log_probabilities, jnp.inf),
            num_masked(lengths, iteration, iterations),
        )
        new = most_probable(logits_of(jnp.where(hidden, MASK, words.tokens)), lengths)
        return jax.tree.map(lambda new, old: jnp.where(hidden, new, old), new, words)

    shape = (*lengths.shape, width)
    nothing = Words(jnp.full(shape, PAD, jnp.int32), jnp.zeros(shape))
    words = jax.lax.fori_loop(0, passes.max(), predict, nothing)
    return Refined(words.tokens, _mean(words, lengths), passes)


@pytree_dataclass
class State:
    iteration: Int[Array, ""]
    words: Words
    is_finished: Bool[Array, "*axes"]
    passes: Int[Array, "*axes"]


def refine(
    logits_of: LogitsFunction,
    first: Words,
    lengths: Int[Array, "*axes"],
    *,
    iterations: int,
    is_adaptive: bool,
    stop_distance: float | None = None,
) -> Refined:
    """Predicts all words from all words of the pass before, until `iterations` passes are done, the one
    that gave `first` among them.

    Adaptive: a row that repeats itself is finished. logits_of is a function of the words, so what
    repeats once repeats for ever: the row's result is that of all iterations, for fewer passes. With a
    stop_distance a row is finished as well where the bag_distance of two passes is at most that; then
    its result is that of the pass at which it stopped."""

    def unfinished(state: State) -> Bool[Array, ""]:
        return (state.iteration < iterations) & ~state.is_finished.all()

    def advance(state: State) -> State:
        new = most_probable(logits_of(state.words.tokens), lengths)
        is_finished, keeps = state.is_finished, state.is_finished[..., None]
        if is_adaptive:
            is_finished = is_finished | (new.tokens == state.words.tokens).all(axis=-1)
        if stop_distance is not None:
            distance = bag_distance(new.tokens, state.words.tokens)
            is_finished = is_finished | (distance <= stop_distance)
        return State(
            iteration=state.iteration + 1,
            words=jax.tree.map(lambda new, old: jnp.where(keeps, old, new), new, state.words),
            is_finished=is_finished,
            passes=state.passes + ~state.is_finished,
        )

    start = State(
        iteration=jnp.int32(1),
        words=first,
        is_finished=lengths == 0,
        passes=(lengths > 0).astype(jnp.int32),
    )
    final = jax.lax.while_loop(unfinished, advance, start)
    return Refined(final.words.tokens, _mean(final.words, lengths), final.passes)


def bag_distance(
    one: Int[Array, "*axes width"], other: Int[Array, "*axes width"]
) -> Float[Array, "*axes"]:
    """Jaccard distance of two translations as bags of words: 1 - |shared| / |all|. It is 0 where they hold
    the same words, in whatever order, and 1 where they share none."""
    same = one[..., :, None] == one[..., None, :]
    before = jnp.tril(same, -1).sum(axis=-1)  # how often the word stood further left
    in_other = (one[..., :, None] == other[..., None, :]).sum(axis=-1)
    shared = ((one != PAD) & (before < in_other)).sum(axis=-1)
    total = (one != PAD).sum(axis=-1) + (other != PAD).sum(axis=-1)
    return (total - 2 * shared) / jnp.maximum(total - shared, 1)


def _mean(words: Words, lengths: Int[Array, "*axes"]) -> Float[Array, "*axes"]:
    return words.log_probabilities.sum(axis=-1) / jnp.maximum(lengths, 1)


def remove_repeats(tokens: Int[Array, "*axes width"]) -> Int[Array, "*axes width"]:
    """One of every run of equal words, as one-pass models are often cleaned (Lee et al. 2018)."""
    is_first = (jnp.diff(tokens, axis=-1, prepend=PAD) != 0) & (tokens != PAD)
    order = jnp.argsort(~is_first, axis=-1)  # stable: what stays keeps its order
    kept = places(is_first.sum(axis=-1), tokens.shape[-1])
    return jnp.where(kept, jnp.take_along_axis(tokens, order, axis=-1), PAD)
