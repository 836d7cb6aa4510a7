"""Turns: A B A B, round by round, for as long as there is time."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nat_ar.evaluation.speed import clock

Call = Callable[[], float]
"""Does its work once and returns the seconds that it took."""
MIN_ROUNDS, MAX_ROUNDS = 5, 60
"""Fewer rounds make a noisy median; more add nothing."""


def timed(work: Callable[[], Any]) -> Call:
    """`work`, timed; it must wait for its own results."""

    def call() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return call


def take_turns(
    title: str, calls: Sequence[Call], *, seconds: float, pause: float = 0.0
) -> Float[np.ndarray, "calls rounds"]:
    """The seconds of every call in every round; rounds for about `seconds` in all, at least MIN_ROUNDS.

    Each call was made twice before; whatever is compiled after that is an error. `pause`: seconds before each call,
    outside its clock. The threads of a peer spin for a while after their work, and would take a core from the next
    one."""
    first = [call() for call in calls]  # allocations, lazy set-up
    once = sum(min(a, b) for a, b in zip(first, [call() for call in calls], strict=True))
    rounds = int(seconds / (once + pause * len(calls)))
    rounds = min(max(rounds, MIN_ROUNDS), MAX_ROUNDS)
    return in_rounds(title, calls, rounds, pause=pause)


def in_rounds(
    title: str, calls: Sequence[Call], rounds: int, *, pause: float = 0.0
) -> Float[np.ndarray, "calls rounds"]:
    """As `take_turns`, a given number of rounds of calls that were made before."""

    def after_pause(call: Call) -> float:
        time.sleep(pause)
        return call()

    turns = [lambda _, call=call: after_pause(call) for call in calls]
    total = rounds * len(calls)
    with clock.bar(title, total, is_quiet=False) as bar, clock.no_compilation():
        _, own = clock.interleaved(turns, rounds, 1, bar.update)
    return np.array(own)  # each call's own seconds: a peer's come from its process


class Worker:
    """A process that works when it is asked: a JSON value a line in, a JSON value a line out.

    Two frameworks in one process would compete for its threads; and a process can be pinned to fewer cores."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path | None = None,
    ) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=directory,
        )
        self.greeting = self.answer()

    def ask(self, question: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """The next line of its output. Raises RuntimeError where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{shlex.join(self.command)} ended with status {self.process.wait()}: its output is above"
            )
        return json.loads(line)

    def close(self) -> None:
        """Ends the process: it reads no more questions."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
