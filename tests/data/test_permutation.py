"""An order of any number of things that is computed, not kept."""

import collections
import math

import numpy as np
import pytest

from nat_ar.data.permutation import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 10_000])
def test_every_number_comes_once(size: int) -> None:
    found = Permutation(size, 3, 1)(np.arange(size))
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [10**9, 10**10 + 1])
def test_places_far_apart_need_nothing_between_them(size: int) -> None:
    places = np.array([0, size // 2, size - 1, 12_345])
    found = Permutation(size, 1)(places)
    assert len(set(found.tolist())) == 4
    assert ((found >= 0) & (found < size)).all()
    for place, number in zip(places, found, strict=True):
        assert Permutation(size, 1)(np.array([place])).tolist() == [number]


def test_all_orders_are_met_about_equally_often() -> None:
    """24 orders of four things, 4,800 keys: 200 each, of which five standard deviations are 70."""
    orders = collections.Counter(tuple(Permutation(4, key)(np.arange(4))) for key in range(4_800))
    assert len(orders) == math.factorial(4)
    assert min(orders.values()) > 130
    assert max(orders.values()) < 270


def test_neighbours_end_up_anywhere() -> None:
    """Two random numbers below n are n / 3 apart in the mean."""
    found = Permutation(100_000, 5)(np.arange(100_000))
    assert np.abs(np.diff(found)).mean() == pytest.approx(100_000 / 3, rel=0.02)
    assert abs(np.corrcoef(found, np.arange(100_000))[0, 1]) < 0.02


def test_many_permutations_at_once() -> None:
    """Places 0 to 4 of each of 300 permutations: each holds every number, and they differ."""
    places, within = np.tile(np.arange(5), 300), np.repeat(np.arange(300), 5)
    found = Permutation(5, 2)(places, within=within).reshape(300, 5)
    np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(5), (300, 1)))
    assert len({tuple(order) for order in found.tolist()}) > 90  # of 120
    np.testing.assert_array_equal(found[7], Permutation(5, 2)(np.arange(5), within=7))


def test_an_order_is_the_same_on_every_machine() -> None:
    """A resumed run reads on in this order: changing it needs another name."""
    assert Permutation(10, 1, 2)(np.arange(10)).tolist() == [6, 8, 9, 5, 3, 4, 2, 0, 7, 1]


def test_nothing_has_no_order() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Permutation(0)
