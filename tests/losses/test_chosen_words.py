"""Normaliser, mean and a few logits at each position: by kernels, which hold no logits, against all logits at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from nat_ar.losses import chosen_words, cross_entropy, ctc, ngram_matching
from nat_ar.losses.axe import Axe
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.ngram_matching import BagOfNgrams
from nat_ar.losses.oaxe import Oaxe
from nat_ar.runtime import training_kernels
from nat_ar.special_tokens import BLANK, PAD
from nat_ar.types import Prediction

needs_kernels = pytest.mark.skipif(
    not training_kernels.are_available(), reason="training_kernels.cc cannot be built here"
)
SIZES = {
    "one": (1, 1, 1, 1, 3),
    "less than a tile": (2, 5, 3, 31, 8),
    "a block and more": (3, 50, 4, 300, 72),
    "two parts": (9, 1, 1, 513, 32),
}
"""name -> sentences, positions of each, words asked for, vocabulary, d_model"""
NEVER = (1, 2, 290)
"""words that are not the likeliest of any position"""


@pytest.fixture
def multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this processor had the instructions."""
    monkeypatch.setattr(training_kernels, "multiply_bfloat16", lambda: True)


def example(size: str) -> tuple[Prediction, jax.Array, jax.Array]:
    """Prediction, words and which positions are used; the others have states of NaN."""
    sentences, positions, number, vocabulary, d_model = SIZES[size]
    random = np.random.default_rng(len(size))
    is_used = random.random((sentences, positions)) < 0.8
    is_used[0, 0] = True
    states = random.normal(size=(sentences, positions, d_model)).astype(np.float32)
    states[~is_used] = np.nan
    table = random.normal(size=(vocabulary, d_model)).astype(np.float32)
    words = random.integers(0, vocabulary, (sentences, number), dtype=np.int32)
    prediction = Prediction(jnp.asarray(states, jnp.bfloat16), jnp.asarray(table))
    return prediction, jnp.asarray(words), jnp.asarray(is_used)


def rounded(x: jax.Array) -> np.ndarray:
    """As products take it."""
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def expected(prediction: Prediction, words: jax.Array, is_used: jax.Array) -> ChosenWords:
    logits = np.nan_to_num(rounded(prediction.states)) @ rounded(prediction.table).T
    chosen = np.stack([row[:, own] for row, own in zip(logits, np.asarray(words), strict=True)])
    largest = logits.max(axis=-1, keepdims=True)
    normaliser = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
    used = np.asarray(is_used)
    is_allowed = np.isin(np.arange(logits.shape[-1]), NEVER, invert=True)
    return ChosenWords(
        np.where(used[..., None], chosen, 0.0),
        np.where(used, normaliser, 0.0),
        np.where(used, logits.mean(axis=-1), 0.0),
        np.where(used, np.where(is_allowed, logits, -np.inf).max(axis=-1), 0.0),
    )


@needs_kernels
@pytest.mark.parametrize("level", training_kernels.levels())
@pytest.mark.parametrize("size", SIZES)
def test_what_is_found_is_that_of_all_logits(size: str, level: str) -> None:
    prediction, words, is_used = example(size)
    flat = prediction.states.reshape(is_used.size, -1)
    look_up = jax.jit(functools.partial(training_kernels.look_up, level=level, never=NEVER))
    found = look_up(flat, prediction.table, words, is_used.reshape(-1))
    normaliser, mean, likeliest, chosen = found
    wanted = expected(prediction, words, is_used)
    np.testing.assert_allclose(likeliest.reshape(is_used.shape), wanted.likeliest, atol=2e-5)
    np.testing.assert_allclose(normaliser.reshape(is_used.shape), wanted.normaliser, atol=2e-5)
    np.testing.assert_allclose(mean.reshape(is_used.shape), wanted.mean, atol=2e-5)
    np.testing.assert_allclose(chosen.reshape(wanted.logits.shape), wanted.logits, atol=2e-5)


@needs_kernels
@pytest.mark.parametrize("level", training_kernels.levels())
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_all_logits(size: str, level: str) -> None:
    """Of random weights on all that is found; their products take the gradient of logits rounded."""
    prediction, words, is_used = example(size)
    random = np.random.default_rng(1)
    of_normaliser, of_mean = (
        np.where(is_used, random.normal(size=is_used.shape), 0) for _ in range(2)
    )
    by_word = random.normal(size=(*is_used.shape, words.shape[1]))
    by_word = np.where(is_used[..., None], by_word, 0)
    logits = np.nan_to_num(rounded(prediction.states)) @ rounded(prediction.table).T
    softmax = np.exp(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
    to_logits = of_normaliser[..., None] * softmax
    to_logits += of_mean[..., None] / len(prediction.table)
    for sentence, own in enumerate(np.asarray(words)):
        for k, word in enumerate(own):  # a word may be asked for twice
            to_logits[sentence, :, word] += by_word[sentence, :, k]
    wanted_states = rounded(to_logits) @ rounded(prediction.table)
    wanted_table = np.einsum(
        "spv,spd->vd", rounded(to_logits), np.nan_to_num(rounded(prediction.states))
    )

    flat, used = prediction.states.reshape(is_used.size, -1), is_used.reshape(-1)
    normaliser = training_kernels.look_up(flat, prediction.table, words, used, level=level)[0]
    gradients = tuple(
        jnp.asarray(x, jnp.float32)
        for x in (of_normaliser.ravel(), of_mean.ravel(), by_word.reshape(is_used.size, -1))
    )
    backward = jax.jit(functools.partial(training_kernels.look_up_backward, level=level))
    to_states, to_table = backward(flat, prediction.table, words, used, normaliser, gradients)
    assert to_states.dtype == jnp.bfloat16
    assert to_table.dtype == jnp.float32
    scale = np.abs(wanted_states).max()
    np.testing.assert_allclose(
        to_states.astype(jnp.float32).reshape(wanted_states.shape), wanted_states, atol=6e-3 * scale
    )
    np.testing.assert_allclose(to_table, wanted_table, atol=2e-3 * np.abs(wanted_table).max())
    assert not to_states[~used].any()


@needs_kernels
def test_a_position_does_not_depend_on_others() -> None:
    prediction, words, is_used = example("a block and more")
    flat, used = prediction.states.reshape(is_used.size, -1), is_used.reshape(-1)
    together = training_kernels.look_up(flat, prediction.table, words, used)
    for place in (0, 49, 149):
        alone = training_kernels.look_up(
            flat, prediction.table, words, used & (jnp.arange(len(used)) == place)
        )
        for all_places, only in zip(together, alone, strict=True):
            np.testing.assert_array_equal(all_places[place], only[place])


@needs_kernels
@pytest.mark.usefixtures("multiplies")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_by_kernels_are_those_by_blocks(smoothing: float) -> None:
    """Cross entropy, CTC and its n-grams, AXE, OaXE and bags of n-grams of the same bfloat16 states: objective, what is
    reported, and gradients."""
    random = np.random.default_rng(3)
    states = jnp.asarray(random.normal(size=(4, 9, 16)), jnp.bfloat16)
    prediction = Prediction(states, jnp.asarray(random.normal(size=(40, 16)), jnp.float32))
    words = random.integers(BLANK + 1, 40, (4, 9), dtype=np.int32)
    is_word = np.arange(9) < np.array([9, 4, 0, 1])[:, None]
    target = jnp.asarray(np.where(is_word, words, PAD))
    frame_lengths = jnp.array([9, 8, 2, 3])

    def of_words(found: ChosenWords, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
        nats = ctc.ctc_loss(found, *rows)
        scores = ngram_matching.matching(found, *rows, ngram=2, merges=True)
        return (nats - 10.0 * scores).sum(), (nats, scores)

    def objective(prediction: Prediction, has_kernels: bool) -> tuple[jax.Array, tuple[Any, ...]]:
        with training_kernels.in_use(has_kernels):
            means = cross_entropy.smoothed_cross_entropy(prediction, target, smoothing=smoothing)
            nats, reports = chosen_words.total(
                of_words,
                prediction,
                ctc.asked(target[:, :4]),
                (frame_lengths, target[:, :4]),
                jnp.arange(9) < frame_lengths[:, None],
            )
            others = [
                loss(prediction, target, step=jnp.int32(1), smoothing=smoothing)
                for loss in (Axe(2.0), Oaxe(anneal_steps=2, truncation_margin=0.0), BagOfNgrams(2))
            ]
        value = means[0].value + 0.1 * nats + sum(value for value, _ in others)
        return value, (*means, reports, others)

    gradient = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=1)
    mine, blocks = (gradient(prediction, has_kernels) for has_kernels in (True, False))
    program = gradient.trace(prediction, True).lower().as_text()
    assert program.count(training_kernels.LOOK_UP_BACKWARD) == 5
    for a, b in zip(*map(jax.tree.leaves, (mine, blocks)), strict=True):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        np.testing.assert_allclose(a, b, atol=0.01 * float(jnp.abs(b).max()))
