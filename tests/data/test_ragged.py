"""Sentences of different lengths in flat arrays, against lists of lists."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat_ar.data import ragged
from nat_ar.data.ragged import Ragged

ROWS = [[7, 7, 7], [], [7, 8], [8, 8], []]


def test_rows_come_back_from_the_disk(tmp_path: Path) -> None:
    Ragged.from_rows(ROWS).save(tmp_path / "ids")
    loaded = Ragged.load(tmp_path / "ids")
    assert [row.tolist() for row in loaded] == ROWS
    assert len(loaded) == 5
    assert loaded.lengths.tolist() == [3, 0, 2, 2, 0]


def test_the_first_rows_alone() -> None:
    rows = Ragged.from_rows(ROWS)
    assert [row.tolist() for row in rows.first(3)] == ROWS[:3]
    assert [row.tolist() for row in rows.first(9)] == ROWS
    assert len(rows.first(0)) == 0


def test_a_part_is_rows_of_the_whole() -> None:
    rows = Ragged.from_rows([[7, 7], [], [8], [9, 9, 8]])
    part = rows.part(1, 3)
    assert [part[row].tolist() for row in range(len(part))] == [[], [8]]
    assert rows.part(2, 100).lengths.tolist() == [1, 3]
    assert rows.part(2, 100).repeats.tolist() == [0, 1]
    assert len(rows.part(4, 8)) == 0


def test_repeats_by_hand() -> None:
    """The 7 that opens the third row and the 8 that opens the fourth repeat nothing of their own row."""
    assert Ragged.from_rows(ROWS).repeats.tolist() == [2, 0, 0, 1, 0]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=5))
def test_repeats_are_equal_neighbours(rows: list[list[int]]) -> None:
    expected = [sum(a == b for a, b in itertools.pairwise(row)) for row in rows]
    found = Ragged.from_rows(rows).repeats
    assert found.tolist() == expected
    assert np.issubdtype(found.dtype, np.integer)


def test_rows_for_which_it_is_true_are_taken_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[1, 2], [], [3], [4, 5, 6], [7], [8, 9]]
    whole = Ragged.from_rows(rows, np.uint16)
    assert whole.where(np.ones(6, np.bool_)) is whole
    wanted = np.array([True, True, False, True, False, True])
    for part in (1, 4, 6, 100):
        monkeypatch.setattr(ragged, "_PART", part)
        found = whole.part(0, 6).where(wanted)
        assert found.values.dtype == np.uint16
        assert [found[row].tolist() for row in range(len(found))] == [[1, 2], [], [4, 5, 6], [8, 9]]


@pytest.mark.parametrize(("rows", "most"), [(10, 3), (7, 7), (5, 9), (0, 4), (1000, 313), (9, 8)])
def test_evenly_spaced_rows_are_one_of_each_equal_share(rows: int, most: int) -> None:
    """As the floors of equal shares step up."""
    steps = np.diff([row * min(most, rows) // max(rows, 1) for row in range(rows + 1)])
    assert ragged.evenly_spaced(rows, most).tolist() == (steps > 0).tolist()
    assert ragged.evenly_spaced(rows, most).sum() == min(rows, most)
