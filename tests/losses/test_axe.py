"""Aligned cross entropy against the enumeration of all alignments, and its gradient against differences."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.config_json import ConfigError
from nat_ar.losses import axe, chosen_words, ctc
from nat_ar.losses.axe import Axe
from nat_ar.special_tokens import BLANK, PAD

WORDS, PLACES, VOCABULARY = 4, 5, 9
best_alignment = jax.jit(axe.best_alignment, static_argnames="skip_target_penalty")


@functools.partial(jax.jit, static_argnames="skip_target_penalty")
def aligned_cross_entropy(
    logits: jax.Array, lengths: jax.Array, target: jax.Array, *, skip_target_penalty: float
) -> jax.Array:
    found = chosen_words.of_logits(logits, ctc.asked(target))
    return axe.aligned_cross_entropy(
        found, lengths, target, skip_target_penalty=skip_target_penalty
    )


def costs_of_all_ways(word_costs: np.ndarray, blank_costs: np.ndarray, delta: float) -> list[float]:
    """The cost of every sequence of the paper's three operators that uses up all words and places."""
    words, places = word_costs.shape

    def go(i: int, j: int) -> list[float]:
        """Of all ways from i words and j places done to the end."""
        found = [0.0] if (i, j) == (words, places) else []
        if i < words and j < places:  # align
            found += [word_costs[i, j] + rest for rest in go(i + 1, j + 1)]
        if j < places:  # skip prediction
            found += [blank_costs[j] + rest for rest in go(i, j + 1)]
        if i < words:  # skip target, by the place before, or the first
            found += [delta * word_costs[i, max(j - 1, 0)] + rest for rest in go(i + 1, j)]
        return found

    return go(0, 0)


def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.exponential(3.0, (4, WORDS, PLACES)), random.exponential(3.0, (4, PLACES))


def least_costs(
    word_costs: np.ndarray, blank_costs: np.ndarray, lengths: list[tuple[int, int]], delta: float
) -> np.ndarray:
    """What the alignments found cost, of rows with `lengths` words and places."""
    found = best_alignment(
        *(jnp.asarray(costs, jnp.float32) for costs in (word_costs, blank_costs)),
        *(jnp.asarray(column) for column in zip(*lengths, strict=True)),
        skip_target_penalty=delta,
    )
    paid = (np.asarray(found.word_weights) * word_costs).sum(axis=(1, 2))
    return paid + (np.asarray(found.is_blank) * blank_costs).sum(axis=1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(
        st.tuples(st.integers(0, WORDS), st.integers(1, PLACES)), min_size=4, max_size=4
    ),
    delta=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_cost_is_the_least_of_all_ways(
    seed: int, lengths: list[tuple[int, int]], delta: float
) -> None:
    """Four rows of different lengths at once; what lies beyond a row's lengths is noise."""
    word_costs, blank_costs = example(seed)
    found = least_costs(word_costs, blank_costs, lengths, delta)
    for row, (words, places) in enumerate(lengths):
        ways = costs_of_all_ways(word_costs[row, :words, :places], blank_costs[row, :places], delta)
        assert found[row] == pytest.approx(min(ways), rel=1e-5)


def test_penalty_one_is_the_least_over_all_monotonic_maps_of_words_to_places() -> None:
    """The paper's definition: each word pays at its place, places without a word pay for a blank."""
    word_costs, blank_costs = example(1)
    lengths = [(4, 5), (3, 3), (4, 2), (1, 5)]
    found = least_costs(word_costs, blank_costs, lengths, 1.0)
    for row, (words, places) in enumerate(lengths):
        costs = []
        for places_of in itertools.combinations_with_replacement(range(places), words):
            paid = sum(word_costs[row, i, j] for i, j in enumerate(places_of))
            blank = sum(blank_costs[row, j] for j in range(places) if j not in places_of)
            costs.append(paid + blank)
        assert found[row] == pytest.approx(min(costs), rel=1e-5)


def test_a_shifted_sentence_by_hand() -> None:
    """Words 6 7 8 at three places that say BLANK 6 7: the last place has to do for 7 and 8."""
    probability = np.full((1, 3, VOCABULARY), 0.05)
    for place, token in enumerate([BLANK, 6, 7]):
        probability[0, place, token] = 0.6
    logits, target = jnp.log(jnp.asarray(probability)), jnp.array([[6, 7, 8]])
    for delta in (1.0, 3.0):
        nats = aligned_cross_entropy(logits, jnp.array([3]), target, skip_target_penalty=delta)
        in_place = -3 * math.log(0.05)
        shifted = -3 * math.log(0.6) - delta * math.log(0.05)
        assert float(nats[0]) == pytest.approx(min(in_place, shifted), rel=1e-5)


def test_padding_changes_nothing_and_a_row_without_words_costs_nothing() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(0.0, 2.0, (3, PLACES, VOCABULARY)).astype(np.float32)
    target = jnp.array([[6, 7, 7, 8], [8, PAD, PAD, PAD], [PAD] * 4])
    lengths = jnp.array([4, 2, 0])
    is_place = np.arange(PLACES) < np.asarray(lengths)[:, None]

    @jax.jit
    def cost_and_gradient(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        def cost(logits: jax.Array) -> jax.Array:
            return aligned_cross_entropy(logits, lengths, target, skip_target_penalty=1.0)

        nats, pull_back = jax.vjp(cost, logits)
        return nats, pull_back(jnp.ones(3))[0]

    nats, gradient = cost_and_gradient(jnp.asarray(logits))
    louder = np.where(is_place[..., None], logits, 9.0 * logits + 7.0)
    np.testing.assert_array_equal(cost_and_gradient(jnp.asarray(louder))[0], nats)
    assert float(nats[2]) == 0.0
    np.testing.assert_array_equal(np.abs(np.asarray(gradient)).sum(axis=-1) > 0, is_place)


def test_the_gradient_equals_finite_differences() -> None:
    random = np.random.default_rng(3)
    with jax.enable_x64(True):
        logits = jnp.asarray(random.normal(0.0, 2.0, (2, 4, 8)))
        target, lengths = jnp.array([[6, 7, 6], [7, 6, PAD]]), jnp.array([3, 4])
        direction = jnp.asarray(random.normal(size=logits.shape))

        @jax.jit
        @jax.value_and_grad
        def objective(logits: jax.Array) -> jax.Array:
            nats = aligned_cross_entropy(logits, lengths, target, skip_target_penalty=2.0)
            return nats @ jnp.array([1.0, 0.7])

        _, gradient = objective(logits)
        above, _ = objective(logits + 1e-6 * direction)
        below, _ = objective(logits - 1e-6 * direction)
        slope = (above - below) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-7)


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(ConfigError, match="must not be below 0, got -1"):
        Axe(skip_target_penalty=-1.0)
