"""A verb in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from nat_ar import companion

T = TypeVar("T")


def test_a_verb_that_fails_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildProcessError, match=r"^compare ended with exit status 2; what it said"):
        companion.run(["compare", "nowhere"])
    assert "nowhere" in capfd.readouterr().err


def test_a_verb_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Its config file is a fifo that nobody writes to: it would never end by itself."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"from nat_ar import companion; companion.run(['train', {str(fifo)!r}])"
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    child = wait_for(lambda: said("pgrep", "-P", str(parent.pid)))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: said("ps", "-o", "stat=", "-p", child) in ("", "Z"))  # gone, or nearly


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def wait_for(found: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result
