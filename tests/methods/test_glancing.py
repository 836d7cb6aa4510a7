"""Glancing: how many places are revealed, and which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.methods import glancing
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


def test_as_many_places_as_the_ratio_of_the_errors_and_only_places() -> None:
    """Errors 4, 2, 0 and 2 (a third lies outside the places); half of them: 2, 1, 0, 1."""
    is_place = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    is_wrong = jnp.array([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 1]], bool)
    for seed in range(20):
        found = glancing.revealed(is_wrong, is_place, jnp.float32(0.5), jax.random.key(seed))
        assert found.sum(axis=1).tolist() == [2, 1, 0, 1]
        assert not (found & ~is_place).any()


def test_right_and_wrong_places_are_revealed_alike() -> None:
    """One place of four, 400 times: each about 100 times, standard deviation below 9."""
    is_place = jnp.ones((400, 4), bool)
    is_wrong = jnp.array([[True, True, False, False]] * 400)
    found = glancing.revealed(is_wrong, is_place, jnp.float32(0.5), jax.random.key(1))
    assert np.all(np.abs(found.sum(axis=0) - 100) < 40)
