"""Rows by length, on disk."""

from pathlib import Path

import numpy as np
import pytest

from nat_ar.data import length_order
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.ragged import Ragged

# Tokens of the longer side: 2, 1, 4, 0, 2, 1
SOURCE = Ragged.from_rows([[7], [7], [7, 7, 7, 7], [], [7, 7], [7]])
TARGET = Ragged.from_rows([[8, 8], [], [8], [], [8], [8]])
ROWS = [3, 1, 5, 0, 4, 2]
ENDS = [1, 3, 5, 5, 6]


def test_rows_stand_by_their_longer_side_and_equals_in_their_order() -> None:
    order = LengthOrder.of_lengths(SOURCE.lengths, TARGET.lengths)
    assert order.rows.tolist() == ROWS
    assert order.ends.tolist() == ENDS
    assert [order.up_to(length) for length in (0, 1, 3, 4, 100)] == [1, 3, 5, 6, 6]


def test_no_rows_have_an_order_too(tmp_path: Path) -> None:
    nothing = Ragged.from_rows([])
    assert LengthOrder.of_lengths(nothing.lengths, nothing.lengths).up_to(5) == 0


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_what_is_written_chunk_by_chunk_is_the_order_of_the_whole(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(length_order, "_CHUNK", chunk)
    assert LengthOrder.load(tmp_path) is None
    length_order.write(tmp_path, SOURCE, TARGET)
    order = LengthOrder.load(tmp_path)
    assert order is not None
    assert order.rows.tolist() == ROWS
    assert order.rows.dtype == np.uint32
    assert order.ends.tolist() == ENDS


def test_random_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length_order, "_CHUNK", 64)
    generator = np.random.default_rng(0)
    source, target = (
        Ragged.from_rows([[7] * number for number in generator.integers(0, 30, 1_000)])
        for _ in range(2)
    )
    length_order.write(tmp_path, source, target)
    expected = LengthOrder.of_lengths(source.lengths, target.lengths)
    for found, wanted in zip(LengthOrder.load(tmp_path) or (), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
