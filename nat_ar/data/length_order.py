"""The rows of a split by length, on disk: whatever the buckets, the members of one are a slice of it.

    <split>/order.rows.npy   rows by the tokens of their longer side, equals in the order of the split
    <split>/order.ends.npy   how many rows have at most 0, 1, 2, ... tokens

It follows from the token arrays, and is no part of the data's hash."""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from nat_ar.data.ragged import Ragged

STEM = "order"
_CHUNK = 1 << 20
"""Rows whose lengths are looked at together."""


class LengthOrder(NamedTuple):
    """Lengths do not count EOS."""

    rows: Integer[np.ndarray, "pairs"]
    """memory-mapped where it was loaded"""
    ends: Int[np.ndarray, "lengths"]
    """ends[n]: rows whose longer side has at most n tokens"""

    @classmethod
    def of_lengths(
        cls, source_lengths: Int[np.ndarray, "pairs"], target_lengths: Int[np.ndarray, "pairs"]
    ) -> "LengthOrder":
        """In memory: 8 bytes a pair."""
        longest = np.maximum(source_lengths, target_lengths)
        return cls(np.argsort(longest, kind="stable"), np.cumsum(np.bincount(longest)))

    @classmethod
    def load(cls, directory: Path) -> "LengthOrder | None":
        """Of a split's directory, memory-mapped; None where a version without it wrote the split."""
        rows, ends = _paths(directory)
        if not rows.exists():
            return None
        mapped = np.load(rows, mmap_mode="r", allow_pickle=False)
        if isinstance(mapped.base, mmap.mmap):  # not where it is empty
            # Batches read single rows from everywhere: reading ahead costs seconds where no row is in memory yet.
            mapped.base.madvise(mmap.MADV_RANDOM)
        return cls(mapped, np.load(ends, allow_pickle=False))

    def up_to(self, length: int) -> int:
        """The rows with at most so many tokens on their longer side."""
        return int(self.ends[min(length, len(self.ends) - 1)]) if len(self.ends) else 0


def write(directory: Path, source: Ragged, target: Ragged) -> None:
    """Counts, then puts each row at its place, a million rows at a time: no more memory for a larger split."""
    counts = np.zeros(1, np.int64)
    for _, longest in _chunks(source, target):
        found = np.bincount(longest, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    ends = np.cumsum(counts)
    rows_path, ends_path = _paths(directory)
    np.save(ends_path, ends, allow_pickle=False)
    number = len(source)
    kind = np.uint32 if number <= 1 << 32 else np.uint64
    rows = np.lib.format.open_memmap(rows_path, mode="w+", dtype=kind, shape=(number,))
    free = ends - counts  # the next free place of each length
    for start, longest in _chunks(source, target):
        by_length = np.argsort(longest, kind="stable")
        found = np.bincount(longest, minlength=len(counts))
        number_before = np.repeat(np.cumsum(found) - found, found)
        places = np.repeat(free, found) + np.arange(len(longest)) - number_before
        rows[places] = start + by_length
        free += found
    rows.flush()


def _chunks(source: Ragged, target: Ragged) -> Iterator[tuple[int, Int[np.ndarray, "chunk"]]]:
    """The first row of each chunk, and the tokens of its rows' longer sides."""
    for start in range(0, len(source), _CHUNK):
        sides = (side.part(start, start + _CHUNK).lengths for side in (source, target))
        yield start, np.maximum(*sides)


def is_part(name: str) -> bool:
    """Whether a file of a prepared directory is of an order."""
    return PurePosixPath(name).name.startswith(f"{STEM}.")


def _paths(directory: Path) -> tuple[Path, Path]:
    return directory / f"{STEM}.rows.npy", directory / f"{STEM}.ends.npy"
