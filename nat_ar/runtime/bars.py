"""What a verb shows of its work on stderr: bars that move where somebody watches, lines everywhere.

A bar leaves nothing behind; what is to stay is said in a line, which stands above the bars that are drawn."""

import sys
import threading
from typing import Any

from tqdm.auto import tqdm

from nat_ar.runtime import console


def are_drawn() -> bool:
    """True in a terminal and in a notebook; False where stderr goes to a file or a pipe."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed before the start
    return is_terminal or "ipykernel" in sys.modules


def say(text: str) -> None:
    """A line on stderr, above the bars that are drawn."""
    with tqdm.external_write_mode(file=sys.stderr):
        console.say(text)


class Bar(tqdm):
    """A tqdm bar that is drawn where `are_drawn`, goes when it is closed, and in a terminal shows every second that
    the process is alive, also while nothing is counted."""

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
        is_hidden = is_quiet or not are_drawn()
        super().__init__(iterable, disable=is_hidden, leave=False, dynamic_ncols=True, **settings)
        if is_ticking and not is_hidden and sys.stderr.isatty():
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while not self._stopped.wait(1.0):
            self.refresh()

    def close(self) -> None:
        self._stopped.set()
        if self._ticker is not None:
            self._ticker.join()  # drawn after the end, a bar would stay
        super().close()


def line(text: str, *, is_quiet: bool = False) -> Bar:
    """A text that may change, with the time since it was first shown: its `set_description_str` takes the next one."""
    return Bar(desc=text, bar_format="{desc} [{elapsed}]", is_quiet=is_quiet)
