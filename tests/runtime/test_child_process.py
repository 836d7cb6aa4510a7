"""A verb in a process of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from nat_ar.runtime import child_process

pytestmark = pytest.mark.slow

T = TypeVar("T")


def test_a_verb_that_fails_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildProcessError, match=r"^compare ended with exit status 2; what it said"):
        child_process.run(["compare", "nowhere"])
    assert "nowhere" in capfd.readouterr().err


def test_a_verb_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Its config file sleeps for longer than the test waits."""
    config, pid = tmp_path / "config.py", tmp_path / "pid"
    config.write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(300)\n"
    )
    program = (
        f"from nat_ar.runtime import child_process; child_process.run(['train', {str(config)!r}])"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    child = wait_for(lambda: pid.exists() and pid.read_text())
    assert state_of(child) not in ("", "Z")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: state_of(child) in ("", "Z"))  # gone, or nobody has fetched its status yet


def state_of(pid: str) -> str:
    """The first letter of the process's state; empty where there is none."""
    command = ["ps", "-o", "stat=", "-p", pid]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()[:1]


def wait_for(found: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result
