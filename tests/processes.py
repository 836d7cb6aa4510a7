"""Several processes of one job on this machine, each with CPU devices of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def free_port() -> int:
    """One that nobody listens at; another process may take it before it is used, which is rare."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Job:
    """Processes 0 to number - 1 of one command, which is the same but for its last words."""

    def __init__(
        self, command: Sequence[str], directory: Path, *, number: int, devices: int
    ) -> None:
        """`command` is followed by --coordinator, --processes and --process. What the processes say goes to files in
        `directory`, which is the one they work in."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "NPROC": "8",  # threads of XLA, by whose number it cuts products
        }
        place = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(number))
        self.files = [directory / f"process_{index}.txt" for index in range(number)]
        self.processes = []
        for index, path in enumerate(self.files):
            with path.open("w") as file:
                words = [sys.executable, *command, *place, "--process", str(index)]
                self.processes.append(
                    subprocess.Popen(
                        words, env=environment, cwd=directory, stdout=file, stderr=file
                    )
                )

    def said(self, index: int) -> str:
        """All that a process has said so far."""
        return self.files[index].read_text("utf-8", "replace")

    def errors(self, index: int) -> list[str]:
        """The lines in which nat_ar said what went wrong."""
        lines = self.said(index).splitlines()
        return [line for line in lines if line.startswith("nat-ar: error: ")]

    def wait_for(self, text: str, *, seconds: float = 240) -> None:
        """Until the first process has said this."""
        until = time.monotonic() + seconds
        while text not in self.said(0):
            assert time.monotonic() < until, f"no {text!r} in {self.said(0)}"
            assert None in (one.poll() for one in self.processes), self.said(0)
            time.sleep(0.05)

    def end(self, *, seconds: float = 240) -> list[int]:
        """Their exit statuses, once all have ended."""
        return [one.wait(seconds) for one in self.processes]


@contextlib.contextmanager
def job(
    command: Sequence[str], directory: Path, *, number: int = 2, devices: int = 1
) -> Iterator[Job]:
    """No process of it outlives the block."""
    directory.mkdir(exist_ok=True)
    started = Job(command, directory, number=number, devices=devices)
    try:
        yield started
    finally:
        for one in started.processes:
            one.kill()
            one.wait()
