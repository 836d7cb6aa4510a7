"""Iterative decoding: a translation of known length is predicted whole, then again from itself.

Mask-predict (Ghazvininejad et al. 2019, arXiv:1904.09324, section 3.1) hides the least probable words and predicts
them again; refinement (Lee et al. 2018, arXiv:1802.06901) predicts all words again from all words. Knows token ids,
lengths and logits only. A row's words and passes depend on the row alone, and every pass is the same compiled
body."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, candidates, limits, one_pass
from nat_ar.search.base import MEAN, Decoding, require_n_best
from nat_ar.special_tokens import EOS, MASK, PAD
from nat_ar.types import Internal, pytree_dataclass

LogitsFunction = Callable[[Int[Array, "*axes width"]], Float[Array, "*axes width vocabulary"]]
"""All that these searches know of a model: whole translations -> logits of every position."""


@pytree_dataclass
class Words:
    """A word for every position within the length."""

    tokens: Int[Array, "*axes width"]
    """PAD past the length"""
    log_probabilities: Float[Array, "*axes width"]
    """of each word in the pass that chose it, in nats; 0 past the length"""

    def mean_log_p(self, lengths: Int[Array, "*axes"]) -> Float[Array, "*axes"]:
        return self.log_probabilities.sum(axis=-1) / jnp.maximum(lengths, 1)


@pytree_dataclass
class Refined:
    """The result of an iterative search."""

    tokens: Int[Array, "*axes width"]
    """PAD past the length"""
    scores: Float[Array, "*axes"]
    """mean log p of the words, in nats"""
    passes: Int[Array, "*axes"]
    """decoder passes that the row needed; 0 for a row of length 0"""


@dataclasses.dataclass(frozen=True)
class MaskPredict(Decoding):
    """All words at once, then the least probable ones again, fewer each time (section 3.1)."""

    iterations: int = 10
    """decoder passes; 1 is the one-pass decoder"""
    length_beam: int = 5
    """lengths tried in parallel, of which the best translation is kept (section 3.3)"""
    rescore: bool = False
    """choose by the autoregressive teacher instead of by the model's own mean log p"""
    n_best: int = 1
    """translations returned, best first; at most length_beam"""
    remove_repeats: bool = False
    """return one of every run of equal words; own scores are those before"""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"MaskPredict needs iterations of at least 1, got {self.iterations}")
        require_n_best(self, length_beam=self.length_beam)

    @property
    def own_score(self) -> str:
        return MEAN

    def search(
        self, logits_of: LogitsFunction, lengths: Int[Array, "*axes"], width: int
    ) -> Refined:
        found = mask_predict(logits_of, lengths, width, iterations=self.iterations)
        if self.remove_repeats:
            found = dataclasses.replace(found, tokens=one_pass.remove_repeats(found.tokens))
        return found


@dataclasses.dataclass(frozen=True)
class Refine(Decoding):
    """One translation, rewritten from itself until the passes are used up or nothing changes."""

    iterations: int = 10
    """decoder passes at most, the first included; 1 is the one-pass decoder"""
    adaptive: bool = True
    """stop a sentence once a pass has changed none of its words; the same translations, sooner"""
    stop_distance: float | None = None
    """stop it also once a pass changes little: the Jaccard distance of the words before and after, from 0
    (the same in any order) to 1, is at most this (section 3, inference)"""
    length_beam: int = 1
    """lengths tried in parallel, of which the best translation is kept"""
    rescore: bool = False
    """choose by the autoregressive teacher instead of by the model's own mean log p"""
    remove_repeats: bool = False
    """return one of every run of equal words, as the paper does; own scores are those before"""
    n_best: int = 1
    """translations returned, best first; at most length_beam"""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"Refine needs iterations of at least 1, got {self.iterations}")
        if self.stop_distance is not None and not self.adaptive:
            raise ConfigError(
                "stop_distance stops sentences early and needs adaptive True, got adaptive False and "
                f"stop_distance {self.stop_distance}; set stop_distance to None or adaptive to True"
            )
        if self.stop_distance is not None and not 0.0 <= self.stop_distance < 1.0:
            raise ConfigError(
                "stop_distance must be from 0 to less than 1, where every sentence would stop, got "
                f"{self.stop_distance}; None stops only where nothing changes"
            )
        require_n_best(self, length_beam=self.length_beam)

    @property
    def own_score(self) -> str:
        return MEAN

    def search(
        self, logits_of: LogitsFunction, first: Words, lengths: Int[Array, "*axes"]
    ) -> Refined:
        refined = refine(
            logits_of,
            first,
            lengths,
            iterations=self.iterations,
            is_adaptive=self.adaptive,
            stop_distance=self.stop_distance,
        )
        if self.remove_repeats:
            refined = dataclasses.replace(refined, tokens=one_pass.remove_repeats(refined.tokens))
        return refined


def most_probable(
    logits: Float[Array, "*axes width vocabulary"], lengths: Int[Array, "*axes"]
) -> Words:
    """The most probable word of each position within the length; never a special token."""
    best = argmax.argmax(logits, (*limits.NEVER_TEXT, EOS))
    is_inside = is_position(lengths, logits.shape[-2])
    tokens = jnp.where(is_inside, best.tokens, PAD)
    return Words(tokens, jnp.where(is_inside, best.log_probabilities, 0.0))


def is_position(lengths: Int[Array, "*axes"], width: int) -> Bool[Array, "*axes width"]:
    """True within the length."""
    return jnp.arange(width) < lengths[..., None]


def lowest(
    values: Float[Array, "*axes width"], counts: Int[Array, "*axes"]
) -> Bool[Array, "*axes width"]:
    """True at the `counts` lowest values of every row; ties go to the left."""
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

    Passes in which a row hides no word would change nothing, and do not count."""
    passes = num_passes(lengths, iterations)
    predict = mask_predict_pass(logits_of, lengths, iterations)
    words = jax.lax.fori_loop(0, passes.max(), predict, nothing(lengths, width))
    return Refined(words.tokens, words.mean_log_p(lengths), passes)


def mask_predict_trace(
    logits_of: LogitsFunction, lengths: Int[Array, "*axes"], width: int, *, iterations: int
) -> Words:
    """The words after each pass of mask_predict, [iterations, *axes, width]."""
    predict = mask_predict_pass(logits_of, lengths, iterations)

    def advance(words: Words, iteration: Int[Array, ""]) -> tuple[Words, Words]:
        words = predict(iteration, words)
        return words, words

    start = nothing(lengths, width)
    _, trace = jax.lax.scan(advance, start, jnp.arange(iterations, dtype=jnp.int32))
    return trace


def nothing(lengths: Int[Array, "*axes"], width: int) -> Words:
    """No word yet."""
    shape = (*lengths.shape, width)
    return Words(jnp.full(shape, PAD, jnp.int32), jnp.zeros(shape))


def mask_predict_pass(
    logits_of: LogitsFunction, lengths: Int[Array, "*axes"], iterations: int
) -> Callable[[Int[Array, ""], Words], Words]:
    """(iteration, words before) -> words after."""

    def predict(iteration: Int[Array, ""], words: Words) -> Words:
        is_inside = is_position(lengths, words.tokens.shape[-1])
        hidden = lowest(
            jnp.where(is_inside, words.log_probabilities, jnp.inf),
            num_masked(lengths, iteration, iterations),
        )
        new = most_probable(logits_of(jnp.where(hidden, MASK, words.tokens)), lengths)
        return jax.tree.map(lambda new, old: jnp.where(hidden, new, old), new, words)

    return predict


@pytree_dataclass
class RefinementState:
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
    """Predicts all words from all words of the pass before, for `iterations` passes, the one that gave `first`
    included.

    Adaptive: a row that repeats itself is finished. logits_of is a function of the words, so that a row which
    repeats once repeats for ever: its result is that of all iterations, for fewer passes. With a stop_distance a
    row is also finished once the bag_distance of two passes is at most that; its result is that of the pass at
    which it stopped."""
    advance = refinement_pass(
        logits_of, lengths, is_adaptive=is_adaptive, stop_distance=stop_distance
    )

    def unfinished(state: RefinementState) -> Bool[Array, ""]:
        return (state.iteration < iterations) & ~state.is_finished.all()

    final = jax.lax.while_loop(unfinished, advance, start(first, lengths))
    return Refined(final.words.tokens, final.words.mean_log_p(lengths), final.passes)


def refinement_trace(
    logits_of: LogitsFunction,
    first: Words,
    lengths: Int[Array, "*axes"],
    *,
    iterations: int,
    is_adaptive: bool,
    stop_distance: float | None = None,
) -> Words:
    """The words after each pass of refine, [iterations, *axes, width]; a finished row repeats its last ones."""
    advance = refinement_pass(
        logits_of, lengths, is_adaptive=is_adaptive, stop_distance=stop_distance
    )

    def record(state: RefinementState, _: None) -> tuple[RefinementState, Words]:
        state = advance(state)
        return state, state.words

    _, later = jax.lax.scan(record, start(first, lengths), None, length=iterations - 1)
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, later)


def start(first: Words, lengths: Int[Array, "*axes"]) -> RefinementState:
    """After the first pass."""
    return RefinementState(
        iteration=jnp.int32(1),
        words=first,
        is_finished=lengths == 0,
        passes=(lengths > 0).astype(jnp.int32),
    )


def refinement_pass(
    logits_of: LogitsFunction,
    lengths: Int[Array, "*axes"],
    *,
    is_adaptive: bool,
    stop_distance: float | None,
) -> Callable[[RefinementState], RefinementState]:
    """One more pass over all rows that are not finished."""

    def advance(state: RefinementState) -> RefinementState:
        new = most_probable(logits_of(state.words.tokens), lengths)
        is_finished, keeps = state.is_finished, state.is_finished[..., None]
        if is_adaptive:
            is_finished = is_finished | (new.tokens == state.words.tokens).all(axis=-1)
        if stop_distance is not None:
            distance = bag_distance(new.tokens, state.words.tokens)
            is_finished = is_finished | (distance <= stop_distance)
        return RefinementState(
            iteration=state.iteration + 1,
            words=jax.tree.map(lambda new, old: jnp.where(keeps, old, new), new, state.words),
            is_finished=is_finished,
            passes=state.passes + ~state.is_finished,
        )

    return advance


def internals(trace: Words, lengths: Int[Array, "batch size"]) -> dict[str, Internal]:
    """The trace of each row's best candidate, [batch, iterations, width]; it may be padded along its width."""
    last = jax.tree.map(lambda x: x[-1], trace)
    best = candidates.best_index(last.mean_log_p(lengths))
    length = candidates.chosen(lengths, best)

    def of_best(values: Array) -> Internal:  # [iterations, batch, size, width]
        return Internal(candidates.chosen(jnp.moveaxis(values, 0, 2), best), {2: length})

    return {
        "length": Internal(length, {}),
        "tokens": of_best(trace.tokens),
        "log_probabilities": of_best(trace.log_probabilities),
    }


def bag_distance(
    one: Int[Array, "*axes width"], other: Int[Array, "*axes width"]
) -> Float[Array, "*axes"]:
    """Jaccard distance of two translations as bags of words: 1 - |shared| / |all|. It is 0 for the same words in
    any order, and 1 for translations that share none."""
    same = one[..., :, None] == one[..., None, :]  # [..., width, width]
    before = jnp.tril(same, -1).sum(axis=-1)  # how often the word occurs further left
    in_other = (one[..., :, None] == other[..., None, :]).sum(axis=-1)
    shared = ((one != PAD) & (before < in_other)).sum(axis=-1)
    total = (one != PAD).sum(axis=-1) + (other != PAD).sum(axis=-1)
    return (total - 2 * shared) / jnp.maximum(total - shared, 1)
