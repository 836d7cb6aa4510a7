"""Order-agnostic cross entropy: the Hungarian algorithm in a batch of ragged sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from nat_ar.config_json import ConfigError
from nat_ar.losses import oaxe
from nat_ar.losses.oaxe import Oaxe
from nat_ar.special_tokens import PAD

LENGTH = 6
cheapest_words = jax.jit(oaxe.cheapest_words)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(0, LENGTH), min_size=4, max_size=4),
    scale=st.sampled_from([0.01, 3.0, 300.0]),
)
def test_the_assignment_is_as_cheap_as_scipys(seed: int, lengths: list[int], scale: float) -> None:
    """Ties included (costs are rounded); what lies beyond a row's length is cheaper than the row."""
    random = np.random.default_rng(seed)
    costs = np.round(random.exponential(scale, (4, LENGTH, LENGTH)), 2).astype(np.float32)
    for row, length in enumerate(lengths):
        costs[row, length:] = costs[row, :, length:] = 0.0
    words = np.asarray(cheapest_words(jnp.asarray(costs), jnp.asarray(lengths)))
    for row, length in enumerate(lengths):
        assert sorted(words[row]) == list(range(LENGTH))
        assert sorted(words[row, :length]) == list(range(length))
        rows, columns = optimize.linear_sum_assignment(costs[row, :length, :length])
        expected = costs[row, rows, columns].sum()
        found = costs[row, words[row, :length], np.arange(length)].sum()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_best_order_by_hand() -> None:
    """Places that say 8, 6, 7 get the words 6, 7, 8 in that order; twice the same word stays twice."""
    said = np.array([[8, 6, 7, 6], [7, 6, 6, 6], [6, 6, 6, 6]])
    target = np.array([[6, 7, 8, PAD], [6, 6, 7, 8], [PAD] * 4])
    costs = 5.0 * (target[:, :, None] != said[:, None])
    words = cheapest_words(jnp.float32(costs), jnp.asarray((target != PAD).sum(axis=1)))
    found = np.take_along_axis(target, np.asarray(words), axis=1).tolist()
    assert found[0] == [8, 6, 7, PAD]
    assert found[1][0] == 7
    assert sorted(found[1]) == [6, 6, 7, 8]
    assert found[2] == [PAD] * 4


def test_numbers_that_are_none_end_the_search_too() -> None:
    """Or a training that diverges would hang instead of being stopped."""
    for value in (np.nan, np.inf):
        costs = jnp.full((4, LENGTH, LENGTH), value, jnp.float32)
        words = np.asarray(cheapest_words(costs, jnp.full(4, 4)))
        assert sorted(words[0, :4]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 1.0), (100, 1.0), (150, 0.75), (300, 0.0), (1000, 0.0)]
)
def test_the_plain_cross_entropy_fades_out(step: int, weight: float) -> None:
    found = Oaxe(start_step=100, anneal_steps=200).plain_weight(jnp.int32(step))
    assert float(found) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"anneal_steps": 0}, "anneal_steps of at least 1, got 0 and 0"),
        ({"start_step": -1}, "got -1"),
        ({"truncation_margin": 1.0}, r"truncation_margin must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_refused(config: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Oaxe(**config)
