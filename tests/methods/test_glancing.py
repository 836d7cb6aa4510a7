"""Glancing: how many places are revealed, and which."""

import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.methods.glancing import Glancing


@pytest.mark.parametrize(("step", "ratio"), [(0, 0.5), (50, 0.4), (100, 0.3), (1000, 0.3)])
def test_the_ratio_falls_linearly_and_then_stays(step: int, ratio: float) -> None:
    found = Glancing(anneal_steps=100).ratio(jnp.int32(step))
    assert found == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_ratio": 0.2, "end_ratio": 0.3}, "end_ratio <= start_ratio"),
        ({"start_ratio": 1.5}, "got start_ratio 1.5"),
        ({"anneal_steps": 0}, "at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Glancing(**settings)


IS_PLACE = jnp.arange(8) < jnp.array([8, 5, 1, 0])[:, None]
IS_WRONG = jnp.array([[1, 0, 1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 1, 1, 0], [1] * 8, [1] * 8], bool)
"""3 errors in 8 places, 1 in 5 (two more lie outside), 1 in 1, and a row without places."""


def numbers(
    count: str, ratio: float, num_draws: int = 2000, *, is_wrong: jax.Array = IS_WRONG
) -> np.ndarray:
    """How many places of each row are revealed, draw by draw; never one that is none."""
    glancing = Glancing(ratio, ratio, count=count)  # type: ignore[arg-type]
    keys = jax.random.split(jax.random.key(0), num_draws)
    draw = jax.vmap(lambda key: glancing.revealed(is_wrong, IS_PLACE, jnp.int32(0), key))
    found = np.asarray(jax.jit(draw)(keys))
    assert not (found & ~np.asarray(IS_PLACE)).any()
    return found.sum(axis=2)


def test_one_wrong_word_is_shown_as_often_as_the_ratio_says() -> None:
    """Half of 3 errors: one or two alike; half of 1 error: shown every other time, at 0.1 every tenth time. The
    standard deviation of a mean of 2,000 coins is 0.011."""
    found = numbers("stochastic", 0.5)
    assert set(found[:, 0].tolist()) == {1, 2}
    assert set(found[:, 1].tolist()) == set(found[:, 2].tolist()) == {0, 1}
    np.testing.assert_allclose(found.mean(axis=0), [1.5, 0.5, 0.5, 0.0], atol=0.05)
    np.testing.assert_allclose(
        numbers("stochastic", 0.1).mean(axis=0), [0.3, 0.1, 0.1, 0.0], atol=0.05
    )


@pytest.mark.parametrize("count", ["stochastic", "round", "floor_half_up"])
@pytest.mark.parametrize(("ratio", "expected"), [(1.0, [3, 1, 1, 0]), (0.0, [0, 0, 0, 0])])
def test_a_whole_number_is_not_rounded(count: str, ratio: float, expected: list[int]) -> None:
    assert (numbers(count, ratio, 100) == expected).all()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        ("round", [2, 0, 0, 0]),  # halves to even: 1.5, 0.5, 0.5
        ("floor_half_up", [2, 1, 1, 0]),
        ("fixed", [4, 3, 1, 0]),  # half of 8, 5 and 1 places, halves up
    ],
)
def test_counts_that_leave_nothing_to_chance(count: str, expected: list[int]) -> None:
    assert (numbers(count, 0.5, 100) == expected).all()


def test_uniform_counts_know_neither_ratio_nor_errors() -> None:
    """floor(8 u + 0.5): 1 to 7 with 1/8 each, none and all with 1/16 each."""
    found = numbers("uniform", 0.0, is_wrong=jnp.zeros_like(IS_WRONG))
    shares = np.bincount(found[:, 0], minlength=9) / len(found)
    np.testing.assert_allclose(shares, [1 / 16, *[1 / 8] * 7, 1 / 16], atol=0.04)
    np.testing.assert_allclose(found.mean(axis=0), [4.0, 2.5, 0.5, 0.0], atol=0.2)


def test_coins_fall_for_each_place() -> None:
    """p = 0.5 * 3/8, 0.5 * 1/5 and 0.5 * 1: means 1.5, 0.5 and 0.5, variances n p (1 - p)."""
    found = numbers("bernoulli", 0.5)
    np.testing.assert_allclose(found.mean(axis=0), [1.5, 0.5, 0.5, 0.0], atol=0.1)
    expected = [1.5 * (1 - 3 / 16), 0.5 * 0.9, 0.25, 0.0]
    np.testing.assert_allclose(found.var(axis=0), expected, atol=0.12)


def test_poisson_numbers_leave_one_place_hidden() -> None:
    """Mean 1.5 in 8 places, of which 7 at most (more have 1e-3); 0.5 in 5; and a single place is never shown."""
    found = numbers("poisson", 0.5)
    shares = np.bincount(found[:, 0], minlength=5)[:5] / len(found)
    poisson = [math.exp(-1.5) * 1.5**k / math.factorial(k) for k in range(5)]
    np.testing.assert_allclose(shares, poisson, atol=0.04)
    np.testing.assert_allclose(found.mean(axis=0), [1.5, 0.5, 0.0, 0.0], atol=0.1)
    assert numbers("poisson", 1.0, is_wrong=jnp.ones_like(IS_WRONG)).max(axis=0).tolist() == [
        7,
        4,
        0,
        0,
    ]


@pytest.mark.parametrize("count", typing.get_args(typing.get_type_hints(Glancing)["count"]))
def test_the_key_decides(count: str) -> None:
    np.testing.assert_array_equal(numbers(count, 0.4, 20), numbers(count, 0.4, 20))


def test_right_and_wrong_places_are_revealed_alike() -> None:
    """One place of four, 400 times: each about 100 times, standard deviation below 9."""
    is_place = jnp.ones((400, 4), bool)
    is_wrong = jnp.array([[True, True, False, False]] * 400)
    found = Glancing(0.5).revealed(is_wrong, is_place, jnp.int32(0), jax.random.key(1))
    assert np.all(np.abs(found.sum(axis=0) - 100) < 40)


def test_a_run_from_before_there_was_a_choice_rounds_as_it_did() -> None:
    old = {"type": "Glancing", "start_ratio": 0.5, "end_ratio": 0.3, "anneal_steps": 7}
    assert config_json.from_json(Glancing, old) == Glancing(0.5, 0.3, 7, "round")
    new = Glancing(count="fixed")
    assert config_json.from_json(Glancing, config_json.to_json(new)) == new
