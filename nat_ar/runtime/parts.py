"""Work that a job array shares: part I of N makes every N-th piece, in a directory that all of them write to.

A piece is a file that is complete or not there, and what it holds does not depend on N: a part that was killed goes on
where it was, and what all have made is what one process makes. Parts tell each other nothing; the locks are of the file
system, and the operating system gives them back when their process is gone."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from nat_ar.config_json import ConfigError
from nat_ar.runtime import bars, files

RECORD = "parts.json"
"""of a directory: into how many parts its work is dealt"""
BEGIN = "begin.lock"


@dataclasses.dataclass(frozen=True)
class Part:
    """One of `of` parts, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Of "2/8". Raises ConfigError."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(
                f"--part is I/N, part I of N, from 1/N to N/N, such as 2/8; got {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    def has(self, piece: int) -> bool:
        """Whether piece number `piece`, from 0, belongs to it."""
        return piece % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@contextlib.contextmanager
def at_work(directory: Path, part: Part | None, begin: Callable[[bool], None]) -> Iterator[None]:
    """Within the block this process makes its part of what is in `directory`, beside those of other parts; without a
    part it is alone there.

    `begin` is called first, in one process at a time, with whether this one is alone: it compares what is there with
    what is wanted, or writes it. Raises InUseError where another process makes this part, or is alone or not to be
    alone there, and ConfigError where the work was dealt into another number of parts."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        waiting = f"{directory}: waiting for another process, which begins"
        with in_turn(directory / BEGIN, waiting):
            alone = _alone(directory, part)
            stack.enter_context(alone or files.shared(directory))
            begin(alone is not None)
            if part is not None:
                _deal(directory, part)
                if alone is not None:
                    alone.close()
                    stack.enter_context(files.shared(directory))
                lock = directory / f"part_{part.number}_of_{part.of}.lock"
                stack.enter_context(files.held(lock, refuses=f"{directory}, part {part},"))
        yield


@contextlib.contextmanager
def in_turn(lock: Path, waiting: str) -> Iterator[None]:
    """One process at a time is within the block, by that file; others say `waiting`, and wait."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.held(lock, refuses=lock.parent))
        except files.InUseError:
            bars.say(f"nat-ar: {waiting}")
            stack.enter_context(files.held(lock))
        yield


def _alone(directory: Path, part: Part | None) -> contextlib.ExitStack | None:
    """The directory for this process alone; None for a part where others are at theirs. Raises InUseError."""
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(files.locked(directory))
    except files.InUseError:
        if part is None:
            raise
        return None
    return stack


def _deal(directory: Path, part: Part) -> None:
    """Records the number of parts. Raises ConfigError where another one is recorded."""
    known = number_of(directory)
    if known is None:
        files.write_text(directory / RECORD, json.dumps({"parts": part.of}) + "\n")
    elif known != part.of:
        raise ConfigError(
            f"{directory} was begun in {known} parts, got --part {part}: go on with --part I/{known}, or remove "
            f"{directory / RECORD}, and what is missing is dealt anew"
        )


def number_of(directory: Path) -> int | None:
    """The parts into which its work is dealt; None where it is not. Raises ValueError for a damaged record."""
    path = directory / RECORD
    if not path.exists():
        return None
    return int(files.read_json(path, remedy="remove it")["parts"])


def named(pieces: Iterable[int], number: int) -> str:
    """The parts, of `number`, that these pieces belong to: "1/4, 3/4"."""
    return ", ".join(f"{one}/{number}" for one in sorted({k % number + 1 for k in pieces}))


def require_all(directory: Path, missing: Collection[int], what: str) -> None:
    """Raises ConfigError that names the parts whose pieces, called `what`, are missing, where work was dealt."""
    number = number_of(directory)
    if number is not None and missing:
        raise ConfigError(
            f"{directory} lacks {len(missing)} {what}, those of --part {named(missing, number)}: run the same command "
            f"with each, or remove {directory / RECORD}, and without --part it makes them itself"
        )
