"""Sentences of different lengths in two flat arrays, so that a corpus can be memory-mapped."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer

_PART = 1 << 20
"""rows that are looked at together"""


def token_type(vocabulary_size: int) -> np.dtype:
    """The smallest array type for the ids of a vocabulary of this size."""
    return np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.int32)


def evenly_spaced(rows: int, most: int) -> Bool[np.ndarray, "rows"]:
    """Which rows to look at: all, or `most` of them."""
    is_wanted = np.zeros(rows, np.bool_)
    if most := min(most, rows):
        is_wanted[-(-np.arange(1, most + 1) * rows // most) - 1] = True  # rounded up
    return is_wanted


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: Integer[np.ndarray, "total"]
    offsets: Int[np.ndarray, "rows_plus_one"]

    @classmethod
    def from_rows(
        cls, rows: Iterable[Sequence[int] | np.ndarray], dtype: type | np.dtype = np.int32
    ) -> "Ragged":
        lists = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=offsets[1:])
        values = itertools.chain.from_iterable(lists)
        return cls(np.fromiter(values, dtype, int(offsets[-1])), offsets)

    @classmethod
    def load(cls, stem: Path) -> "Ragged":
        """Memory-maps `stem.values.npy` and `stem.offsets.npy`."""
        return cls(
            np.load(stem.with_name(stem.name + ".values.npy"), mmap_mode="r", allow_pickle=False),
            np.load(stem.with_name(stem.name + ".offsets.npy"), mmap_mode="r", allow_pickle=False),
        )

    def save(self, stem: Path) -> None:
        np.save(stem.with_name(stem.name + ".values.npy"), self.values, allow_pickle=False)
        np.save(stem.with_name(stem.name + ".offsets.npy"), self.offsets, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Integer[np.ndarray, "length"]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def first(self, number: int) -> "Ragged":
        """The first rows alone, at most `number`; nothing is copied."""
        return self.part(0, number)

    def part(self, start: int, stop: int) -> "Ragged":
        """Rows from `start` to before `stop`, as many of them as there are; no value is copied."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def where(self, is_wanted: Bool[np.ndarray, "rows"]) -> "Ragged":
        """The rows for which it is True: itself where it is for all, else copied, a part at a time."""
        if is_wanted.all():
            return self
        lengths = self.lengths[is_wanted]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        values = np.empty(int(offsets[-1]), self.values.dtype)
        filled = 0
        for start in range(0, len(self), _PART):
            part, wanted = self.part(start, start + _PART), is_wanted[start : start + _PART]
            kept = part.values[np.repeat(wanted, part.lengths)]
            values[filled : filled + len(kept)] = kept
            filled += len(kept)
        return Ragged(values, offsets)

    @property
    def lengths(self) -> Int[np.ndarray, "rows"]:
        return np.diff(self.offsets)

    @property
    def repeats(self) -> Int[np.ndarray, "rows"]:
        """Values of each row that equal the one before them."""
        repeated = np.flatnonzero(self.values[1:] == self.values[:-1]) + 1
        rows = np.searchsorted(self.offsets, repeated, side="right") - 1
        is_in_row = repeated > self.offsets[rows]  # the value before is of the same row
        return np.bincount(rows[is_in_row], minlength=len(self))
