"""From labelled frames to words: best path and prefix beam search for CTC (Graves et al. 2006).

Knows logits and lengths only: no text, no model class. Settings are static; shapes are fixed by the frames
and max_length. A frame's label is a word or BLANK; probabilities are over the whole vocabulary, and paths
through other special tokens are not followed.

A row's length limit bounds its words, not its frames: there may be more frames than the limit, and all of them are
read. Prefix beam search never extends a prefix past the limit; the best path is cut there. Translation.is_cut
reports either."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, limits
from nat_ar.search.base import Decoding, penalised, require_length_penalty, require_n_best
from nat_ar.search.step_function import take_beams
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Hypotheses, pytree_dataclass

NEVER_LABELS = (PAD, BOS, EOS, MASK)
"""what no frame says"""


@dataclasses.dataclass(frozen=True)
class FrameDecoding(Decoding, config_json.Open, abc.ABC):
    """A search over the labels of frames."""

    @abc.abstractmethod
    def search(
        self,
        logits: Float[Array, "batch frames vocabulary"],
        frame_lengths: Int[Array, "batch"],
        *,
        length_limits: Int[Array, "batch"],
        max_length: int,
    ) -> Hypotheses:
        """Translations of at most length_limits tokens, none above max_length."""


@dataclasses.dataclass(frozen=True)
class BestPath(FrameDecoding):
    """The most probable label of every frame, merged and without blanks (section 3.2, best path)."""

    blank_penalty: float = 0.0
    """nats taken from BLANK in every frame before the search: above 0, translations get longer"""
    former_names: ClassVar[tuple[str, ...]] = ("Collapse",)

    @property
    def own_score(self) -> str:
        return "log p of the best path / number of words, nats a word"

    def search(
        self,
        logits: Float[Array, "batch frames vocabulary"],
        frame_lengths: Int[Array, "batch"],
        *,
        length_limits: Int[Array, "batch"],
        max_length: int,
    ) -> Hypotheses:
        return search_best_path(
            with_blank_penalty(logits, self.blank_penalty),
            frame_lengths,
            length_limits=length_limits,
            max_length=max_length,
        )


@dataclasses.dataclass(frozen=True)
class ChunkWaitK(FrameDecoding):
    """The best path of frames that wait: those of a source token see k - 1 tokens beyond it, and nothing that comes
    later changes their labels (chunk wait-k: Ma et al. 2023, arXiv:2310.14883). For models with `wait_k`."""

    k: int = 3
    """tokens of the source, EOS counted, that the frames of its first token see"""
    blank_penalty: float = 0.0
    """nats taken from BLANK in every frame before the search: above 0, translations get longer"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, k=self.k)

    @property
    def wait_k(self) -> int | None:
        return self.k

    @property
    def own_score(self) -> str:
        return BestPath().own_score

    def search(
        self,
        logits: Float[Array, "batch frames vocabulary"],
        frame_lengths: Int[Array, "batch"],
        *,
        length_limits: Int[Array, "batch"],
        max_length: int,
    ) -> Hypotheses:
        return BestPath(self.blank_penalty).search(
            logits, frame_lengths, length_limits=length_limits, max_length=max_length
        )


@dataclasses.dataclass(frozen=True)
class PrefixBeam(FrameDecoding):
    """The most probable translations, each summed over its labellings (section 3.2, prefix search, with
    a beam: Hannun et al. 2014, arXiv:1408.2873)."""

    size: int = 20
    """prefixes kept at every frame"""
    top_k: int = 20
    """words of each frame, the most probable ones, that may extend a prefix"""
    length_penalty: float = 0.0
    """exponent of the number of words that divides log p in the end; 0 prefers short, above 1 long"""
    blank_penalty: float = 0.0
    """nats taken from BLANK in every frame before the search: above 0, translations get longer"""
    n_best: int = 1
    """translations handed back, best first; at most size"""

    def __post_init__(self) -> None:
        require_n_best(self, size=self.size)
        if self.top_k < 1:
            raise ConfigError(f"PrefixBeam needs a top_k of at least 1, got {self.top_k}")
        require_length_penalty(self.length_penalty)

    @property
    def own_score(self) -> str:
        return penalised("log p", self.length_penalty)

    def search(
        self,
        logits: Float[Array, "batch frames vocabulary"],
        frame_lengths: Int[Array, "batch"],
        *,
        length_limits: Int[Array, "batch"],
        max_length: int,
    ) -> Hypotheses:
        return search_prefixes(
            with_blank_penalty(logits, self.blank_penalty),
            frame_lengths,
            self,
            length_limits=length_limits,
            max_length=max_length,
        )


def with_blank_penalty(
    logits: Float[Array, "batch frames vocabulary"], penalty: float
) -> Float[Array, "batch frames vocabulary"]:
    """Logits in which BLANK has lost so many nats to all other labels. Where a frame's words share what BLANK does not
    have, each of them is less probable than BLANK, and the best path leaves the word out: translations come out short.
    The scores of a search are of the distribution after the penalty."""
    return logits.at[..., BLANK].add(-penalty) if penalty else logits


def collapse(
    path: Int[Array, "batch frames"], *, length_limits: Int[Array, "batch"], max_length: int
) -> Int[Array, "batch max_length"]:
    """The words of frame labels: equal neighbours merged, then BLANK dropped; packed to the left, then PAD. A label
    PAD is no frame and counts as BLANK. Words past a row's limit are cut."""
    before = jnp.pad(path, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    is_word = (path != BLANK) & (path != PAD) & (path != before)
    count = jnp.cumsum(is_word, axis=1)
    positions = jnp.arange(max_length)
    # Word k starts in the first frame with k + 1 words up to it; its index is the number of frames with fewer.
    frames = (count[:, None, :] <= positions[:, None]).sum(axis=-1)  # [batch, max_length]
    words = jnp.take_along_axis(path, jnp.minimum(frames, path.shape[1] - 1), axis=1)
    kept = jnp.minimum(count[:, -1], length_limits)
    return jnp.where(positions < kept[:, None], words, PAD)


def best_path(
    logits: Float[Array, "batch frames vocabulary"],
    frame_lengths: Int[Array, "batch"],
) -> tuple[Int[Array, "batch frames"], Float[Array, "batch frames"]]:
    """The most probable label of every frame and its log p, PAD and 0 past the row's frames."""
    best = argmax.argmax(logits, NEVER_LABELS)
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
    of its words, at least 1. Rows without frames are empty, in no pass."""
    path, gains = best_path(logits, frame_lengths)
    tokens = collapse(path, length_limits=length_limits, max_length=max_length)
    scores = gains.sum(axis=1) / jnp.maximum((tokens != PAD).sum(axis=1), 1)
    return Hypotheses(tokens[:, None], scores[:, None], jnp.where(frame_lengths > 0, 1, 0))


@pytree_dataclass
class PrefixState:
    """The prefixes after some frames. They differ, except that unused slots hold the empty prefix with a log p of
    -inf: among equal candidates top_k takes the one on the left, which stays."""

    tokens: Int[Array, "batch beam max_length"]
    lengths: Int[Array, "batch beam"]
    last: Int[Array, "batch beam"]
    """last word; PAD for the empty prefix"""
    log_p_blank: Float[Array, "batch beam"]
    """log p of all labellings so far that collapse to the prefix and end in BLANK"""
    log_p_word: Float[Array, "batch beam"]
    """the same for those that end in the last word"""
    shared: Int[Array, "batch beam beam"]
    """length of the common prefix of each pair"""


def search_prefixes(
    logits: Float[Array, "batch frames vocabulary"],
    frame_lengths: Int[Array, "batch"],
    settings: PrefixBeam,
    *,
    length_limits: Int[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """The n_best prefixes of every row after its last frame, best first; the score -inf marks missing ones.

    Scores are log p of the translation, in nats, summed over the labellings that the beam kept, divided by
    the number of words to the power of the penalty. A frame may extend a prefix to one that the beam already
    holds: both ways to it are then summed. Such pairs are recognised by the length of their common prefix, updated
    frame by frame: exact, unlike a hash of the words, at beam * beam numbers a row."""
    batch, frames, vocabulary = logits.shape
    size, width = settings.size, min(settings.top_k, vocabulary)
    log_p = jax.nn.log_softmax(logits)
    top_log_p, top_words = top_k(limits.text_logits(log_p, may_end=False), width)

    def extend(
        state: PrefixState, frame: tuple[Array, Array, Array, Array]
    ) -> tuple[PrefixState, None]:
        log_p, top_log_p, top_words, is_frame = frame
        total = jnp.logaddexp(state.log_p_blank, state.log_p_word)  # [batch, beam]
        again = jnp.take_along_axis(
            log_p, state.last, axis=1
        )  # [batch, beam], the last word once more
        # Prefix i and a further word: the last word of prefix j, [batch, beam i, beam j], or one of the frame's
        # best words, [batch, beam i, width]. The last word of i itself starts a new word only after a BLANK.
        is_own = state.last[:, None, :] == state.last[:, :, None]
        into_other = again[:, None] + jnp.where(
            is_own, state.log_p_blank[..., None], total[..., None]
        )
        is_own = top_words[:, None] == state.last[..., None]
        into_new = top_log_p[:, None] + jnp.where(
            is_own, state.log_p_blank[..., None], total[..., None]
        )

        is_child = state.lengths[:, None] == state.lengths[..., None] + 1  # [batch, beam i, beam j]
        is_child &= state.shared == state.lengths[..., None]  # j is i and the last word of j
        is_known = (
            state.last[:, None, :, None] == top_words[:, None, None, :]
        )  # [batch, 1, beam j, width]
        is_known = (is_known & is_child[..., None]).any(axis=2)  # [batch, beam i, width]
        is_full = (state.lengths >= length_limits[:, None])[..., None]
        into_new = jnp.where(is_known | is_full, -jnp.inf, into_new)

        blank = total + log_p[:, BLANK, None]
        joined = jnp.where(is_child, into_other, -jnp.inf).max(
            axis=1
        )  # [batch, beam j], at most one parent
        word = jnp.logaddexp(state.log_p_word + again, joined)
        # The prefixes of the beam as they are, then each with each new word: [batch, size + size * width].
        candidates = jnp.concatenate(
            [jnp.logaddexp(blank, word), into_new.reshape(batch, size * width)], axis=1
        )
        best, chosen = jax.lax.top_k(candidates, size)  # [batch, size]
        is_new = chosen >= size
        parents = jnp.where(is_new, (chosen - size) // width, chosen)
        added = jnp.take_along_axis(top_words, (chosen - size) % width, axis=1)
        old = take_beams((state.tokens, state.lengths, state.last, blank, word), parents)
        tokens, lengths, last, blank, word = old
        is_next = is_new[..., None] & (jnp.arange(max_length) == lengths[..., None])
        tokens = jnp.where(is_next, added[..., None], tokens)

        # Two prefixes share what their parents share, and the next word if both have it and it is the same;
        # no more, because only one word was added and equal prefixes are merged. [batch, size, size]
        rows = jnp.arange(batch)[:, None, None]
        shared = state.shared[rows, parents[:, :, None], parents[:, None, :]]
        following = jnp.take_along_axis(tokens, shared, axis=2, mode="fill", fill_value=PAD)
        is_same = (following == following.swapaxes(1, 2)) & (following != PAD)
        new = PrefixState(
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
    empty = PrefixState(
        tokens=jnp.full((batch, size, max_length), PAD, jnp.int32),
        lengths=jnp.zeros((batch, size), jnp.int32),
        last=jnp.full((batch, size), PAD, jnp.int32),
        log_p_blank=jnp.broadcast_to(only_first, (batch, size)),
        log_p_word=jnp.full((batch, size), -jnp.inf, log_p.dtype),
        shared=jnp.zeros((batch, size, size), jnp.int32),
    )
    is_frame = jnp.arange(frames)[:, None] < frame_lengths
    # The scan goes over frames: [frames, batch, ...].
    log_p, top_log_p, top_words = (x.swapaxes(0, 1) for x in (log_p, top_log_p, top_words))
    final, _ = jax.lax.scan(extend, empty, (log_p, top_log_p, top_words, is_frame))
    scores = jnp.logaddexp(final.log_p_blank, final.log_p_word)
    scores = scores / jnp.maximum(final.lengths, 1) ** settings.length_penalty
    scores, chosen = jax.lax.top_k(scores, settings.n_best)
    tokens = jnp.where(scores[..., None] > -jnp.inf, take_beams(final.tokens, chosen), PAD)
    return Hypotheses(tokens, scores, jnp.where(frame_lengths > 0, 1, 0))
