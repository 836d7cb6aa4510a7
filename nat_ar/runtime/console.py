"""What a process says while it works. A stream that nobody reads any more never stops the work."""

import contextlib
import os
import sys
from typing import Any


def say(text: str) -> None:
    """One line on stderr, at once."""
    _write(text, sys.stderr)


def show(text: str) -> None:
    """One line on stdout, at once: the summary of something that is saved already, with more work to come."""
    _write(text, sys.stdout)


def _write(text: str, stream: Any) -> None:
    """To a text stream, or None. Where it is closed, or cannot be written, what follows is dropped too."""
    if stream is None:  # closed before the process began: print would take stdout
        return
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        # What is still buffered would fail again when the process ends, and change its exit status.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
