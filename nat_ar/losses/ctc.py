"""Connectionist temporal classification (Graves et al. 2006): frames, labelled with words or BLANK, against
a target that is shorter than they are.

A labelling of the frames collapses to the target if merging its equal neighbours and then dropping BLANK gives the
target. These labellings are the paths through 2 * target + 1 states, BLANK and words in turn (section 4.1): a frame
stays in its state, moves to the next, or skips a BLANK between two different words. The loss sums over the paths;
the best alignment is their maximum; both are one scan over the frames.

optax.ctc_loss computes the same value (a test compares them) through a one-hot matrix of the target. Gathering the
target's logits takes half the time, and 6 MiB of temporary memory instead of 157 (batch 32, 90 frames, 30 words,
6,000 labels).

Any word may label a frame, so that log p, in nats, is of the whole vocabulary; only labels of `asked` are looked at.
A target is right-padded with PAD and holds no EOS."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.special_tokens import BLANK, PAD

IMPOSSIBLE = -1e9
"""The log of 0: finite, so that neither sums of it nor gradients are NaN."""


def frames_needed(target: Int[Array, "batch target_length"]) -> Int[Array, "batch"]:
    """The fewest frames that can collapse to a target: one a word, and a BLANK between equal neighbours."""
    is_word = target != PAD
    is_repeated = (target[:, 1:] == target[:, :-1]) & is_word[:, 1:]
    return is_word.sum(axis=1) + is_repeated.sum(axis=1)


def is_feasible(
    frame_lengths: Int[Array, "batch"], target: Int[Array, "batch target_length"]
) -> Bool[Array, "batch"]:
    """True for targets to which some labelling of that many frames collapses."""
    return frame_lengths >= frames_needed(target)


class Lattice(NamedTuple):
    """The states of a target: state 2 n is the BLANK before word n, state 2 n + 1 is word n."""

    labels: Int[Array, "batch states"]
    log_p: Float[Array, "batch frames states"]
    may_skip: Bool[Array, "batch states"]
    """True where a path may come from two states before: from a word to a different one"""


def asked(target: Int[Array, "batch target_length"]) -> Int[Array, "batch number"]:
    """The labels that a target's states have: BLANK, and its words."""
    return jnp.pad(target, ((0, 0), (1, 0)), constant_values=BLANK)


def lattice(found: ChosenWords, target: Int[Array, "batch target_length"]) -> Lattice:
    """The states of each target, and log p of their labels at each frame, of what was found of `asked`."""
    batch, length = target.shape
    labels = jnp.stack([jnp.full_like(target, BLANK), target], axis=-1).reshape(batch, 2 * length)
    labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=BLANK)
    blank, words = found.logits[..., :1], found.logits[..., 1:]
    states = jnp.stack([jnp.broadcast_to(blank, words.shape), words], axis=-1)
    states = jnp.concatenate([states.reshape(*words.shape[:-1], 2 * length), blank], axis=-1)
    log_p = states - found.normaliser[..., None]
    two_before = jnp.pad(labels, ((0, 0), (2, 0)), constant_values=BLANK)[:, :-2]
    return Lattice(labels, log_p, (labels != BLANK) & (labels != two_before))


def start(states: Lattice) -> Float[Array, "batch states"]:
    """Scores before the first frame: in the first BLANK, from where the first word is one state on."""
    first = jnp.arange(states.labels.shape[1]) == 0
    scores = jnp.where(first, 0.0, IMPOSSIBLE).astype(states.log_p.dtype)
    return jnp.broadcast_to(scores, states.labels.shape)


def arrivals(
    scores: Float[Array, "batch states"], may_skip: Bool[Array, "batch states"]
) -> Float[Array, "moves=3 batch states"]:
    """Scores of coming to each state from itself, from the state before and from the one before that."""
    before = jnp.pad(scores, ((0, 0), (2, 0)), constant_values=IMPOSSIBLE)
    skipped = jnp.where(may_skip, before[:, :-2], IMPOSSIBLE)
    return jnp.stack([scores, before[:, 1:-1], skipped])


def end_states(target: Int[Array, "batch target_length"]) -> Int[Array, "batch ends=2"]:
    """Where a path may end: the last BLANK, and the last word; twice the only BLANK of an empty target."""
    last = 2 * (target != PAD).sum(axis=1)
    return jnp.stack([last, jnp.maximum(last - 1, 0)], axis=1)


def ctc_loss(
    found: ChosenWords,
    frame_lengths: Int[Array, "batch"],
    target: Int[Array, "batch target_length"],
) -> Float[Array, "batch"]:
    """-log p(target) of every row, summed over all labellings of its frames, of what was found of `asked`; 0, with a
    gradient of 0, for rows that are not feasible."""
    states = lattice(found, target)

    def advance(
        scores: Float[Array, "batch states"], frame: tuple[Array, Array]
    ) -> tuple[Float[Array, "batch states"], None]:
        log_p, is_frame = frame
        arrived = jax.nn.logsumexp(arrivals(scores, states.may_skip), axis=0) + log_p
        return jnp.where(is_frame[:, None], arrived, scores), None

    is_frame = jnp.arange(found.logits.shape[1])[:, None] < frame_lengths
    frames = (states.log_p.swapaxes(0, 1), is_frame)
    final, _ = jax.lax.scan(advance, start(states), frames)
    is_empty = (target != PAD).sum(axis=1) == 0
    last_blank, last_word = jnp.take_along_axis(final, end_states(target), axis=1).T
    log_p = jnp.logaddexp(last_blank, jnp.where(is_empty, IMPOSSIBLE, last_word))
    return jnp.where(is_feasible(frame_lengths, target), -log_p, 0.0)


def best_alignment(
    found: ChosenWords,
    frame_lengths: Int[Array, "batch"],
    target: Int[Array, "batch target_length"],
) -> tuple[Int[Array, "batch frames"], Float[Array, "batch frames"]]:
    """The most probable labelling of the frames that collapses to the target (Viterbi): words and BLANK; PAD past
    the frames, and everywhere in rows that are not feasible. Ties go to the path that, read from its end, stays
    longer in its state. With the logits of these labels; both of what was found of `asked`."""
    states = lattice(found, target)

    def advance(
        scores: Float[Array, "batch states"], frame: tuple[Array, Array]
    ) -> tuple[Float[Array, "batch states"], Int[Array, "batch states"]]:
        log_p, is_frame = frame
        arrived = arrivals(scores, states.may_skip)
        moves = jnp.argmax(arrived, axis=0).astype(jnp.int8)  # states back that a path came from
        scores = jnp.where(is_frame[:, None], arrived.max(axis=0) + log_p, scores)
        return scores, jnp.where(is_frame[:, None], moves, 0)

    def retrace(
        state: Int[Array, "batch"], moves: Int[Array, "batch states"]
    ) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
        return state - jnp.take_along_axis(moves, state[:, None], axis=1)[:, 0], state

    is_frame = jnp.arange(found.logits.shape[1])[:, None] < frame_lengths
    frames = (states.log_p.swapaxes(0, 1), is_frame)
    final, moves = jax.lax.scan(advance, start(states), frames)
    ends = end_states(target)
    better = jnp.argmax(jnp.take_along_axis(final, ends, axis=1), axis=1)
    last = jnp.take_along_axis(ends, better[:, None], axis=1)[:, 0]
    _, path = jax.lax.scan(retrace, last, moves, reverse=True)
    path = jnp.maximum(path.T, 0)
    labels = jnp.take_along_axis(states.labels, path, axis=1)
    is_labelled = is_frame.T & is_feasible(frame_lengths, target)[:, None]
    place = jnp.where(path % 2 == 0, 0, path // 2 + 1)  # of the label in what was asked for
    logits = jnp.take_along_axis(found.logits, place[..., None], axis=2)[..., 0]
    return jnp.where(is_labelled, labels, PAD), logits
