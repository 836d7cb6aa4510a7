"""What a process says on stderr while it works. A stream that nobody reads any more never stops the work."""

import contextlib
import os
import sys


def say(text: str) -> None:
    """One line on stderr, at once. Where stderr is closed, or cannot be written, what follows is dropped too."""
    if sys.stderr is None:  # closed before the process began: print would take stdout
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _drop_what_follows()


def _drop_what_follows() -> None:
    """Puts the null device in the place of stderr: what is still buffered would fail again when the process ends, and
    change its exit status."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)
