"""What a verb shows of its work on stderr: bars that move where somebody watches, lines everywhere.

A bar leaves nothing behind; what is to stay is said in a line, which stands above the bars that are drawn. In a file,
where none is drawn, the innermost one says a line whenever nothing else has been said for SILENCE seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm

from nat_ar.runtime import console, durations

is_muted = False
"""whether nothing is shown or said here: of several processes that work together the first one speaks"""
SILENCE = 5.0
"""seconds after which a file hears that the process is alive"""
BEAT = "nat_ar_bars"
"""name of the thread that tells it"""


def are_drawn() -> bool:
    """True in a terminal and in a notebook; False where stderr goes to a file or a pipe."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed before the start
    return is_terminal or "ipykernel" in sys.modules


def say(text: str) -> None:
    """A line on stderr, above the bars that are drawn."""
    if is_muted:
        return
    _heart.last_said = time.monotonic()
    with tqdm.external_write_mode(file=sys.stderr):
        console.say(text)


class _Heart:
    """Says what the innermost bar that is not drawn is at, from a thread that lives while there are such bars."""

    def __init__(self) -> None:
        self.last_said = time.monotonic()
        self._bars: list[Bar] = []
        self._lock = threading.Lock()
        self._is_beating = False

    def add(self, bar: "Bar") -> None:
        with self._lock:
            self._bars.append(bar)
            if not self._is_beating:
                self._is_beating = True
                threading.Thread(target=self._beat, name=BEAT, daemon=True).start()

    def remove(self, bar: "Bar") -> None:
        with self._lock:
            if bar in self._bars:
                self._bars.remove(bar)

    def _beat(self) -> None:
        while True:
            time.sleep(min(1.0, SILENCE / 5))
            with self._lock:
                if not self._bars:
                    self._is_beating = False
                    return
                if time.monotonic() - self.last_said >= SILENCE:
                    say(self._bars[-1].text)


_heart = _Heart()


class Bar(tqdm):
    """A tqdm bar that is drawn where `are_drawn`, goes when it is closed, and in a terminal shows every second that
    the process is alive, also while nothing is counted."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__  # tqdm's compares positions on the screen

    def __init__(
        self,
        iterable: Any = None,
        *,
        is_quiet: bool = False,
        is_ticking: bool = True,
        **settings: Any,
    ) -> None:
        """`is_quiet`: never drawn. `is_ticking` False: no thread beside the work, which may be timed. `settings` are
        tqdm's."""
        self._stopped, self._ticker = threading.Event(), None
        is_quiet = is_quiet or is_muted
        is_hidden = is_quiet or not are_drawn()
        super().__init__(iterable, disable=is_hidden, leave=False, dynamic_ncols=True, **settings)
        self._began = time.monotonic()
        self._is_said = is_ticking and is_hidden and not is_quiet
        if self._is_said:  # tqdm keeps neither of a bar that it does not draw
            self.unit, self.desc = settings.get("unit", "it"), settings.get("desc", "")
            _heart.add(self)
        if is_ticking and not is_hidden and sys.stderr.isatty():
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while not self._stopped.wait(1.0):
            self.refresh()

    @property
    def text(self) -> str:
        """ "validating: 64 of 200 sentences [12 s]": what is done, and since when."""
        title = self.desc.removesuffix(": ")  # as tqdm writes it behind a description
        counted = f"{self.n:,} of {self.total:,}" if self.total else f"{self.n:,}" if self.n else ""
        counted += (
            f" {self.unit.strip()}{'' if self.unit.endswith('s') else 's'}" if counted else ""
        )
        told = ": ".join(part for part in (title, counted) if part)
        return f"{told} [{durations.text(time.monotonic() - self._began)}]"

    def update(self, n: float | int | None = 1) -> Any:
        if self._is_said:
            self.n += n or 0
        return super().update(n)

    def __iter__(self) -> Iterator[Any]:
        if not self._is_said:
            yield from super().__iter__()
            return
        try:
            for item in self.iterable:
                yield item
                self.n += 1
        finally:
            self.close()

    def close(self) -> None:
        if self._is_said:
            _heart.remove(self)
        self._stopped.set()
        if self._ticker is not None:
            self._ticker.join()  # drawn after the end, a bar would stay
        super().close()


def line(text: str, *, is_quiet: bool = False) -> Bar:
    """A text that may change, with the time since it was first shown: its `set_description_str` takes the next one."""
    return Bar(desc=text, bar_format="{desc} [{elapsed}]", is_quiet=is_quiet)
