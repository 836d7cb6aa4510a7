"""Texts of a corpus that stay on disk: the lines of a file, one at a time."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

EVERY = 32
"""Of so many lines one has its place in memory."""


@runtime_checkable
class Texts(Protocol):
    """Sentences by their numbers, in a list or not in memory at all."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


class TextLines:
    """The first `number` lines of a UTF-8 text, split at LF only. Raises ValueError that names the file where it has
    fewer, or a line of it is not UTF-8."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[str]:
        return self.part(0, self.number)

    def __getitem__(self, row: int, /) -> str:
        return next(self.part(row, row + 1))

    def part(self, start: int, stop: int) -> Iterator[str]:
        """Lines from `start` to before `stop`. Raises IndexError where one is not among the first `number`."""
        if not 0 <= start <= stop <= self.number:
            raise IndexError(f"{self.path}: lines {start} to {stop}, of {self.number}")
        return self._part(start, stop)

    def _part(self, start: int, stop: int) -> Iterator[str]:
        with self.path.open("rb") as file:
            passed = 0
            if start:
                file.seek(self._places[start // EVERY])
                passed = start % EVERY
            row = start
            for row, line in enumerate(
                itertools.islice(file, passed, passed + stop - start), start + 1
            ):
                try:
                    yield line.decode().removesuffix("\n")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{self.path}:{row}: not UTF-8: {error.reason}") from error
            if row != stop:
                raise self._too_short(row)

    @functools.cached_property
    def _places(self) -> list[int]:
        """Where lines 0, EVERY, 2 * EVERY, ... begin."""
        places, place, row = [0], 0, 0
        with self.path.open("rb") as file:
            for row, line in enumerate(itertools.islice(file, self.number), 1):
                place += len(line)
                if row % EVERY == 0:
                    places.append(place)
        if row != self.number:
            raise self._too_short(row)
        return places

    def _too_short(self, row: int) -> ValueError:
        return ValueError(f"{self.path}: {row} lines, expected {self.number}; prepare again")
