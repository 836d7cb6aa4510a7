"""A verb in a process of its own, which ends with the process that started it.

What is timed must not depend on what its process did before, and the command that stands beside a number
must be the one that gave it."""

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Sequence


def run(words: Sequence[str]) -> None:
    """Runs `python -m nat_ar WORDS`; its stderr is ours, its stdout is dropped.

    Raises ChildProcessError where it fails."""
    command = [sys.executable, "-m", "nat_ar.runtime.child_process", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    if status != 0:
        raise ChildProcessError(
            f"{words[0]} ended with exit status {status}; what it said stands above"
        )


def _end_with_parent() -> None:
    """Our stdin is a pipe that nobody writes to: it ends when the parent does, however that dies."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("nat_ar", run_name="__main__", alter_sys=True)
