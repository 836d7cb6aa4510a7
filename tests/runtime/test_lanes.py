"""Tasks in lanes: results in order, a lane one after the other."""

import functools
import threading
from collections.abc import Callable, Iterator

import pytest

from nat_ar.runtime import lanes


def test_results_come_in_order_whoever_is_first() -> None:
    """The even tasks wait for the odd ones after them, in the other lane."""
    done = [threading.Event() for _ in range(6)]

    def task(number: int) -> int:
        if number % 2 == 0:
            assert done[number + 1].wait(60)
        done[number].set()
        return number

    found = lanes.in_order((functools.partial(task, number) for number in range(6)), 2)
    assert list(found) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lane_is_a_thread(number: int) -> None:
    seen = list(lanes.in_order((threading.get_ident for _ in range(7)), number))
    assert all(seen[k] == seen[k % number] for k in range(7))
    assert len(set(seen)) == number
    assert (seen[0] == threading.get_ident()) == (number == 1)


@pytest.mark.parametrize("number", [1, 3])
def test_no_more_is_begun_than_is_soon_needed(number: int) -> None:
    asked: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for k in range(20):
            asked.append(k)
            yield functools.partial(int, k)

    found = lanes.in_order(tasks(), number)
    assert [next(found), next(found)] == [0, 1]
    assert len(asked) <= 2 + lanes.AHEAD * number


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_comes_where_its_result_would(number: int) -> None:
    begun: list[int] = []

    def task(k: int) -> int:
        begun.append(k)
        if k == 1:
            raise ValueError("the second")
        return k

    found = lanes.in_order((functools.partial(task, k) for k in range(50)), number)
    assert next(found) == 0
    with pytest.raises(ValueError, match="the second"):
        next(found)
    assert len(begun) < 10
    assert list(found) == []
