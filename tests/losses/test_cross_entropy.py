"""Losses against their definitions, written once more in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.losses import cross_entropy
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, SoftTargets

smoothed_cross_entropy = jax.jit(cross_entropy.smoothed_cross_entropy, static_argnames="smoothing")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def reference(logits: np.ndarray, target: np.ndarray, smoothing: float) -> tuple[float, int]:
    """Total cross entropy against (1 - smoothing) * one-hot + smoothing / vocabulary, and tokens."""
    total, count, vocabulary = 0.0, 0, logits.shape[-1]
    for row, token in zip(log_softmax(logits).reshape(-1, vocabulary), target.ravel(), strict=True):
        if token != PAD:
            wanted = np.full(vocabulary, smoothing / vocabulary)
            wanted[token] += 1.0 - smoothing
            total, count = total - float(wanted @ row), count + 1
    return total, count


def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [3, 5, 7] and targets with 0 to 5 tokens a row."""
    random = np.random.default_rng(seed)
    target = random.integers(1, 7, (3, 5))
    target[np.arange(5) >= random.integers(0, 6, 3)[:, None]] = PAD
    return random.normal(0.0, 3.0, (3, 5, 7)).astype(np.float32), target.astype(np.int32)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), smoothing=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_smoothed_cross_entropy_equals_its_definition(seed: int, smoothing: float) -> None:
    logits, target = example(seed)
    smoothed, plain = smoothed_cross_entropy(
        jnp.asarray(logits), jnp.asarray(target), smoothing=smoothing
    )
    for mean, share in [(smoothed, smoothing), (plain, 0.0)]:
        total, count = reference(logits, target, share)
        assert float(mean.count) == count
        assert float(mean.total) == pytest.approx(total, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_soft_targets_are_a_mean_of_the_cross_entropies_of_their_words(smoothing: float) -> None:
    logits, target = example(3)
    words = np.stack([target, np.full_like(target, 2), np.full_like(target, 5)], axis=-1)
    weights = np.where(target[..., None] == PAD, 0.0, [0.5, 0.2, 0.3])
    soft = SoftTargets(jnp.asarray(words), jnp.asarray(weights, jnp.float32))
    smoothed, plain = smoothed_cross_entropy(
        jnp.asarray(logits), jnp.asarray(target), smoothing=smoothing, soft=soft
    )
    totals = [
        reference(logits, np.where(target == PAD, PAD, words[..., i]), smoothing)[0]
        for i in range(3)
    ]
    assert float(smoothed.total) == pytest.approx(np.dot(totals, [0.5, 0.2, 0.3]), rel=1e-5)
    assert float(plain.total) == pytest.approx(reference(logits, target, 0.0)[0], rel=1e-5)
    assert float(smoothed.count) == float(plain.count) == (target != PAD).sum()


def test_equal_logits_cost_log_of_the_vocabulary_whatever_the_smoothing() -> None:
    target = jnp.array([[3, 1, 2, PAD]])
    smoothed, plain = smoothed_cross_entropy(jnp.zeros((1, 4, 8)), target, smoothing=0.3)
    assert float(smoothed.value) == pytest.approx(math.log(8))
    assert float(plain.value) == pytest.approx(math.log(8))
    assert float(plain.count) == 3


def test_smoothing_zero_is_the_plain_loss() -> None:
    logits, target = (jnp.asarray(array) for array in example(0))
    smoothed, plain = smoothed_cross_entropy(logits, target, smoothing=0.0)
    _, beside = smoothed_cross_entropy(logits, target, smoothing=0.1)
    assert smoothed.total == plain.total == beside.total


def test_logits_at_padding_change_neither_loss_nor_gradient() -> None:
    logits, target = (jnp.asarray(array) for array in example(1))
    assert bool((target == PAD).any())

    def objective(logits: jax.Array) -> jax.Array:
        return cross_entropy.smoothed_cross_entropy(logits, target, smoothing=0.1)[0].value

    is_padding = np.asarray(target == PAD)[..., None]
    louder = jnp.asarray(np.where(is_padding, logits * 100.0 + 7.0, logits))
    value_and_gradient = jax.jit(jax.value_and_grad(objective))
    value, gradient = value_and_gradient(logits)
    assert value_and_gradient(louder)[0] == value
    np.testing.assert_array_equal(np.abs(np.asarray(gradient)).sum(axis=-1) > 0, target != PAD)


def test_a_batch_of_padding_only_costs_nothing_and_gives_no_nan() -> None:
    target = jnp.full((2, 3), PAD)

    def objective(logits: jax.Array) -> jax.Array:
        return cross_entropy.smoothed_cross_entropy(logits, target, smoothing=0.1)[0].value

    value, gradient = jax.jit(jax.value_and_grad(objective))(jnp.ones((2, 3, 7)))
    assert float(value) == 0.0
    assert float(jnp.abs(gradient).max()) == 0.0


def test_means_of_parts_add_up_to_the_mean_of_the_whole() -> None:
    logits, target = (jnp.asarray(array) for array in example(2))
    whole, _ = smoothed_cross_entropy(logits, target, smoothing=0.1)
    parts = Mean(jnp.float32(0.0), jnp.float32(0.0))
    for row in range(3):
        one, _ = smoothed_cross_entropy(logits[row : row + 1], target[row : row + 1], smoothing=0.1)
        parts = parts + one
    assert float(parts.count) == float(whole.count)
    assert float(parts.value) == pytest.approx(float(whole.value), rel=1e-6)


def test_token_log_probabilities_of_all_tokens_sum_to_one() -> None:
    logits = jnp.broadcast_to(jnp.asarray(example(3)[0][0, 0]), (7, 7))
    probabilities = jnp.exp(cross_entropy.token_log_probabilities(logits, jnp.arange(7)))
    assert float(probabilities.sum()) == pytest.approx(1.0, rel=1e-6)


def test_masked_mean_counts_what_the_mask_keeps() -> None:
    values, mask = jnp.array([1.0, 10.0, 3.0, jnp.inf]), jnp.array([True, False, True, False])
    mean = cross_entropy.masked_mean(values, mask)
    assert (float(mean.total), float(mean.count), float(mean.value)) == (4.0, 2.0, 2.0)


def test_class_cross_entropy_by_hand() -> None:
    # p = 3/4 for class 1 in row 0, p = 1/2 for class 0 in row 1; row 2 is masked.
    logits = jnp.log(jnp.array([[1.0, 3.0], [2.0, 2.0], [1.0, 9.0]]))
    mean = cross_entropy.class_cross_entropy(
        logits, jnp.array([1, 0, 0]), jnp.array([True, True, False])
    )
    assert float(mean.value) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)
