"""From labelled frames to words: best path and prefix beam search for CTC (Graves et al. 2006).

Knows logits and lengths only: no text, no model class. Settings are static; shapes are fixed by the frames
and max_length. A frame's label is a word or BLANK; probabilities are over the whole vocabulary, and paths
through other special tokens are not followed.

A row's length limit bounds its words, not its frames: three frames a source token may be more than the
limit, and a search that left the last of them unread would decode another model than was trained. Prefix
beam search never extends a prefix past the limit, as beam search; the best path is cut at it. Both then end
at the limit, which is what Translation.is_cut reports."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, beam, limits
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Hypotheses, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class BestPath:
    """The most probable label of every frame, merged and without blanks (section 3.2, best path)."""

    former_names: ClassVar[tuple[str, ...]] = ("Collapse",)


@dataclasses.dataclass(frozen=True)
class PrefixBeam:
    """The most probable translations, each summed over its labellings (section 3.2, prefix search, with
    a beam: Hannun et al. 2014, arXiv:1408.2873)."""

    size: int = 20
    """prefixes kept at every frame"""
    top_k: int = 20
    """words of each frame, the most probable ones, that may extend a prefix"""
    length_penalty: float = 0.0
    """exponent of the number of words that divides log p in the end; 0 prefers short, above 1 long"""
    n_best: int = 1
    """translations handed back, best first; at most size"""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                f"PrefixBeam needs 1 <= n_best <= size, got n_best {self.n_best} and size {self.size}"
            )
        if self.top_k < 1:
            raise ConfigError(f"PrefixBeam needs a top_k of at least 1, got {self.top_k}")


def collapse(
    path: Int[Array, "batch frames"], *, length_limits: Int[Array, "batch"], max_length: int
) -> Int[Array, "batch max_length"]:
    """The words that frame labels stand for: equal neighbours merged, then BLANK dropped; packed to the
    left, PAD behind them. PAD among the labels is no frame and counts as BLANK. Words past a row's limit
    are cut."""
    before = jnp.pad(path, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    is_word = (path != BLANK) & (path != PAD) & (path != before)
    count = jnp.cumsum(is_word, axis=1)
    places = jnp.arange(max_length)
    # Word k stands in the first frame that has k + 1 words up to it: as many frames have fewer.
    frames = (count[:, None, :] <= places[:, None]).sum(axis=-1)
    words = jnp.take_along_axis(path, jnp.minimum(frames, path.shape[1] - 1), axis=1)
    kept = jnp.minimum(count[:, -1], length_limits)
    return jnp.where(places < kept[:, None], words, PAD)


def best_path(
    logits: Float[Array, "batch frames vocabulary"],
    frame_lengths: Int[Array, "batch"],
) -> tuple[Int[Array, "batch frames"], Float[Array, "batch frames"]]:
    """The most probable label of every frame and its log p, PAD and 0 past the row's frames."""
    best = argmax.argmax(logits, (PAD, BOS, EOS, MASK))
    is_frame = jnp.arange(logits.shape[1]) < frame_lengths[:, None]
    log_p = jnp.where(is_frame, best.log_probabilities, 0.0)
    return jnp.where(is_frame, best.tokens, PAD), log_p


def search_best_path(
    logits: Float[Array, "batch frames vocabulary"],
    frame_lengths: Int[Array, "batch"],
    *,
    length_limits: Int[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """One translation a row, in one pass. Scores are log p of the best path, in nats, divided by the number
    of its words, at least 1. Rows without frames are empty and took no pass."""
    path, gains = best_path(logits, frame_lengths)
    tokens = collapse(path, length_limits=length_limits, max_length=max_length)
    scores = gains.sum(axis=1) / jnp.maximum((tokens != PAD).sum(axis=1), 1)
    return Hypotheses(tokens[:, None], scores[:, None], jnp.where(frame_lengths > 0, 1, 0))


@pytree_dataclass
class State:
    """The prefixes after some frames. No two are equal, but for copies of the empty one, with a log p of
    -inf, in places that are not yet used: of equal candidates top_k takes the first, which stays."""

    tokens: Int[Array, "batch beam max_length"]
    lengths: Int[Array, "batch beam"]
    last: Int[Array, "batch beam"]
    """last word; PAD for the empty prefix"""
    log_p_blank: Float[Array, "batch beam"]
    """log p of all labellings so far that stand for the prefix and end in BLANK"""
    log_p_word: Float[Array, "batch beam"]
    """the same of those that end in the last word"""
    shared: Int[Array, "batch beam beam"]
    """how many first words each pair of prefixes has in common"""


def search_prefixes(
    logits: Float[Array, "batch frames vocabulary"],
    frame_lengths: Int[Array, "batch"],
    settings: PrefixBeam,
    *,
    length_limits: Int[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """The n_best prefixes of every row after its last frame, best first; -inf where fewer were found.

    Scores are log p of the translation, in nats, summed over the labellings that the beam kept, divided by
    the number of words to the power of the penalty. A frame may extend a prefix to one that the beam already
    holds: both ways to it are then summed. That is found by how many words two prefixes share, which is
    kept up to date frame by frame and is exact, as a hash of the words would not be, at beam * beam numbers
    a row."""
    batch, frames, vocabulary = logits.shape
    size, width = settings.size, min(settings.top_k, vocabulary)
    log_p = jax.nn.log_softmax(logits)
    top_log_p, top_words = top_k(limits.text_logits(log_p, may_end=False), width)

    def extend(state: State, frame: tuple[Array, Array, Array, Array]) -> tuple[State, None]:
        log_p, top_log_p, top_words, is_frame = frame
        total = jnp.logaddexp(state.log_p_blank, state.log_p_word)
        again = jnp.take_along_axis(log_p, state.last, axis=1)
        # [batch, beam i, beam j] and [batch, beam i, width]: prefix i and a further word. The last word of
        # i itself opens a new word only after a BLANK.
        is_own = state.last[:, None, :] == state.last[:, :, None]
        into_other = again[:, None] + jnp.where(
            is_own, state.log_p_blank[..., None], total[..., None]
        )
        is_own = top_words[:, None] == state.last[..., None]
        into_new = top_log_p[:, None] + jnp.where(
            is_own, state.log_p_blank[..., None], total[..., None]
        )

        is_child = state.lengths[:, None] == state.lengths[..., None] + 1
        is_child &= state.shared == state.lengths[..., None]  # j is i and the last word of j
        is_known = state.last[:, None, :, None] == top_words[:, None, None, :]
        is_known = (is_known & is_child[..., None]).any(axis=2)
        is_full = (state.lengths >= length_limits[:, None])[..., None]
        into_new = jnp.where(is_known | is_full, -jnp.inf, into_new)

        blank = total + log_p[:, BLANK, None]
        joined = jnp.where(is_child, into_other, -jnp.inf).max(axis=1)  # of one parent at most
        word = jnp.logaddexp(state.log_p_word + again, joined)
        candidates = jnp.concatenate(
            [jnp.logaddexp(blank, word), into_new.reshape(batch, size * width)], axis=1
        )
        best, places = jax.lax.top_k(candidates, size)
        is_new = places >= size
        parents = jnp.where(is_new, (places - size) // width, places)
        added = jnp.take_along_axis(top_words, (places - size) % width, axis=1)
        old = beam.take_beams((state.tokens, state.lengths, state.last, blank, word), parents)
        tokens, lengths, last, blank, word = old
        is_place = is_new[..., None] & (jnp.arange(max_length) == lengths[..., None])
        tokens = jnp.where(is_place, added[..., None], tokens)

        # Two prefixes share what their parents did, and the next word if both have it and it is the same;
        # no more than that, because only one word was added and equal prefixes are one.
        rows = jnp.arange(batch)[:, None, None]
        shared = state.shared[rows, parents[:, :, None], parents[:, None, :]]
        following = jnp.take_along_axis(tokens, shared, axis=2, mode="fill", fill_value=PAD)
        is_same = (following == following.swapaxes(1, 2)) & (following != PAD)
        new = State(
            tokens=tokens,
            lengths=lengths + is_new,
            last=jnp.where(is_new, added, last),
            log_p_blank=jnp.where(is_new, -jnp.inf, blank),
            log_p_word=jnp.where(is_new, best, word),
            shared=shared + is_same,
        )

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(is_frame.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, new, state), None

    only_first = jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf).astype(log_p.dtype)
    empty = State(
        tokens=jnp.full((batch, size, max_length), PAD, jnp.int32),
        lengths=jnp.zeros((batch, size), jnp.int32),
        last=jnp.full((batch, size), PAD, jnp.int32),
        log_p_blank=jnp.broadcast_to(only_first, (batch, size)),
        log_p_word=jnp.full((batch, size), -jnp.inf, log_p.dtype),
        shared=jnp.zeros((batch, size, size), jnp.int32),
    )
    is_frame = jnp.arange(frames)[:, None] < frame_lengths
    log_p, top_log_p, top_words = (x.swapaxes(0, 1) for x in (log_p, top_log_p, top_words))
    final, _ = jax.lax.scan(extend, empty, (log_p, top_log_p, top_words, is_frame))
    scores = jnp.logaddexp(final.log_p_blank, final.log_p_word)
    scores = scores / jnp.maximum(final.lengths, 1) ** settings.length_penalty
    scores, places = jax.lax.top_k(scores, settings.n_best)
    tokens = jnp.where(scores[..., None] > -jnp.inf, beam.take_beams(final.tokens, places), PAD)
    return Hypotheses(tokens, scores, jnp.where(frame_lengths > 0, 1, 0))
