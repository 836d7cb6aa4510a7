"""CTC against the list of all labellings of the frames, which is short for four frames and three words."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.losses import chosen_words, ctc
from nat_ar.special_tokens import BLANK, NUM_SPECIAL, PAD

A, B, C = WORDS = range(NUM_SPECIAL, NUM_SPECIAL + 3)
VOCABULARY = NUM_SPECIAL + 3
ROWS, FRAMES, WIDTH = 24, 6, 5  # of all arrays, so that each function is compiled once
Case = tuple[int, list[int]]

CASES: list[Case] = [  # frames, target: all lengths, repeats that need a frame more, too few frames
    *[(frames, [A, B]) for frames in range(5)],
    *[(frames, [A, A]) for frames in range(2, 5)],
    *[(frames, []) for frames in range(5)],
    (4, [A]),
    (1, [B]),
    (4, [A, B, A]),
    (4, [A, B, B]),
    (3, [A, B, B]),
    (4, [C, C, C]),
    (3, [C, B, A]),
]


def loss_of(logits: jax.Array, frame_lengths: jax.Array, target: jax.Array) -> jax.Array:
    found = chosen_words.of_logits(logits, ctc.asked(target))
    return ctc.ctc_loss(found, frame_lengths, target)


@jax.jit
def evaluate(
    logits: jax.Array, frame_lengths: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses, the gradient of their sum, and best alignments."""

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = loss_of(logits, frame_lengths, target)
        return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(logits)
    found = chosen_words.of_logits(logits, ctc.asked(target))
    return losses, gradient, ctc.best_alignment(found, frame_lengths, target)[0]


def arrays_of(cases: list[Case]) -> tuple[np.ndarray, np.ndarray]:
    """Frames and targets, padded with empty rows."""
    frame_lengths, target = np.zeros(ROWS, np.int32), np.full((ROWS, WIDTH), PAD, np.int32)
    for row, (frames, words) in enumerate(cases):
        frame_lengths[row], target[row, : len(words)] = frames, words
    return frame_lengths, target


def random_logits(seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0.0, 2.0, (ROWS, FRAMES, VOCABULARY))
    return logits.astype(np.float32)


def collapse(labels: tuple[int, ...]) -> list[int]:
    merged = [label for label, _ in itertools.groupby(labels)]
    return [label for label in merged if label != BLANK]


def labellings(logits: np.ndarray, frames: int, words: list[int]) -> dict[tuple[int, ...], float]:
    """log p of every labelling that stands for the words."""
    log_p = logits.astype(np.float64)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    return {
        labels: float(sum(log_p[t, label] for t, label in enumerate(labels)))
        for labels in itertools.product([BLANK, *WORDS], repeat=frames)
        if collapse(labels) == words
    }


@pytest.mark.slow
def test_sum_and_maximum_over_all_labellings() -> None:
    """The loss is minus the log of the one, the alignment is the other. 0 and PAD where there is none."""
    logits = random_logits(0)
    losses, _, paths = evaluate(logits, *arrays_of(CASES))
    number_without = 0
    for loss, path, row, case in zip(losses, paths, logits, CASES, strict=False):
        every = labellings(row, *case)
        number_without += not every
        expected = -np.logaddexp.reduce(list(every.values())) if every else 0.0
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)
        best = list(max(every, key=lambda labels: every[labels])) if every else []
        assert path.tolist() == best + [PAD] * (FRAMES - len(best))
    assert 4 < number_without < 10  # or the test says little


@pytest.mark.slow
def test_values_and_gradients_are_those_of_optax() -> None:
    """On feasible rows; the others cost 1e5 nats there."""
    logits, (frame_lengths, target) = random_logits(1), arrays_of(CASES)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def optax_loss(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = optax.ctc_loss(
            logits,
            (jnp.arange(FRAMES) >= frame_lengths[:, None]).astype(jnp.float32),
            target,
            (target == PAD).astype(np.float32),
            blank_id=BLANK,
        )
        return losses.sum(), losses

    expected_gradient, expected = optax_loss(logits)
    losses, gradient, _ = evaluate(logits, frame_lengths, target)
    is_feasible = np.asarray(ctc.is_feasible(jnp.asarray(frame_lengths), jnp.asarray(target)))
    assert (expected[~is_feasible] > 1e4).all()
    np.testing.assert_allclose(losses[is_feasible], expected[is_feasible], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient[is_feasible], expected_gradient[is_feasible], atol=1e-5)


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences() -> None:
    """In float64, one entry of every row at a time; exactly 0 in rows that no labelling fits."""
    frame_lengths, target = arrays_of(CASES)
    step = 1e-5
    with jax.enable_x64(True):
        logits = jnp.asarray(random_logits(2), jnp.float64)
        lengths, words = jnp.asarray(frame_lengths), jnp.asarray(target)
        _, gradient, _ = evaluate(logits, lengths, words)

        def differences(by: jax.Array) -> jax.Array:
            right, left = (loss_of(logits + x, lengths, words) for x in (by, -by))
            return (right - left) / (2 * step)

        directions = step * jnp.eye(FRAMES * VOCABULARY).reshape(-1, 1, FRAMES, VOCABULARY)
        expected = jax.jit(jax.vmap(differences))(directions)
    np.testing.assert_allclose(gradient, np.asarray(expected).T.reshape(gradient.shape), atol=1e-8)
    is_feasible = np.asarray(ctc.is_feasible(jnp.asarray(frame_lengths), jnp.asarray(target)))
    is_learned = (np.abs(gradient).sum(axis=(1, 2)) > 0).tolist()
    assert is_learned == (is_feasible & (frame_lengths > 0)).tolist()


def test_frames_needed_by_hand() -> None:
    """One a word and one between equal neighbours; padding is no neighbour."""
    target = jnp.array([[A, B, C], [A, A, B], [A, A, A], [A, B, A], [A, PAD, PAD], [PAD, PAD, PAD]])
    assert ctc.frames_needed(target).tolist() == [3, 4, 5, 3, 1, 0]
    feasible = ctc.is_feasible(jnp.array([3, 3, 5, 2, 0, 0]), target)
    assert feasible.tolist() == [True, False, True, False, False, True]


def test_a_target_is_feasible_where_a_labelling_exists() -> None:
    frame_lengths, target = (jnp.asarray(x) for x in arrays_of(CASES))
    exists = [bool(labellings(random_logits(0)[0], *case)) for case in CASES]
    assert ctc.is_feasible(frame_lengths, target)[: len(CASES)].tolist() == exists


cases = st.tuples(st.integers(0, FRAMES), st.lists(st.sampled_from(WORDS), max_size=WIDTH))


@settings(max_examples=25, deadline=None)
@given(drawn=st.lists(cases, min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_company_and_padding_change_nothing(drawn: list[Case], seed: int) -> None:
    """Each row beside the others, and alone with other logits past its frames; no loss is below 0, and
    nothing learns from padding."""
    logits = random_logits(seed)
    frame_lengths, target = arrays_of(drawn)
    together = evaluate(logits, frame_lengths, target)
    is_padding = np.arange(FRAMES) >= frame_lengths[:, None]
    louder = np.where(is_padding[..., None], 9.0, logits).astype(np.float32)
    losses, gradient, path = (np.asarray(x) for x in together)
    assert (losses >= 0.0).all()
    assert not gradient[is_padding].any()
    assert not path[is_padding].any()
    for row, case in enumerate(drawn):
        alone = evaluate(np.roll(louder, -row, axis=0), *arrays_of([case]))
        for x, expected in zip(alone, together, strict=True):
            np.testing.assert_allclose(x[0], expected[row], rtol=1e-6, atol=1e-6)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    """A model that is sure of something else pays much, not infinitely or NaN."""
    logits = np.zeros((ROWS, FRAMES, VOCABULARY), np.float32)
    logits[..., PAD] = 1e4
    frame_lengths, target = arrays_of(CASES)
    losses, gradient, _ = evaluate(logits, frame_lengths, target)
    assert np.isfinite(gradient).all()
    is_feasible = ctc.is_feasible(jnp.asarray(frame_lengths), jnp.asarray(target))
    np.testing.assert_allclose(losses, np.where(is_feasible, 1e4 * frame_lengths, 0.0), rtol=1e-3)
