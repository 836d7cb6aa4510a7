"""A terminal that tests can read: the bytes that a Python program writes to it, and what a person would see."""

import os
import pty
import subprocess
import sys
import termios
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parents[1]


class Terminal:
    """Runs a program whose stderr is a terminal, to its end."""

    def __init__(
        self,
        program: str,
        *,
        columns: int = 60,
        rows: int = 20,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        stream, written = pyte.ByteStream(self.screen), b""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (rows, columns))
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
        os.close(theirs)
        while True:
            try:
                output = os.read(ours, 65536)
            except OSError:  # Linux says so of a terminal that nobody writes to any more
                break
            if not output:
                break
            stream.feed(output)
            written += output
        os.close(ours)
        self.written = written.decode()
        """all bytes, among them those of bars that have gone"""
        self.status = process.wait()

    @property
    def lines(self) -> list[str]:
        """What stays on the screen."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            del lines[-1]
        return lines
