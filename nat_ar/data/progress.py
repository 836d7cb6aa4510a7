"""What is shown of the work on a corpus, and the seconds that its stages take."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from nat_ar.runtime import bars

T = TypeVar("T")


class Progress:
    """Bars and lines that change, on stderr; none if asked to be quiet, or if stderr is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self._is_quiet = quiet

    def bar(self, pairs: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        yield from bars.Bar(pairs, desc=what, total=total, unit=" pairs", is_quiet=self._is_quiet)

    def line(self, text: str) -> bars.Bar:
        return bars.line(text, is_quiet=self._is_quiet)


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds of a `with` block to `seconds[stage]`."""
    start = time.monotonic()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start
