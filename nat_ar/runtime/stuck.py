"""Notices a process that lives but takes no step, while all that train with it wait for it.

The heartbeats of JAX see a process that is gone, and not one whose disk never answers. A thread of each looks every
second how long ago its own process has taken a step; where that is too long, all say how far they are, and the one that
is behind is named. The training itself pays two assignments a step."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

AFTER = 600.0
"""default seconds without a step after which all processes end"""
ADVICE = "the last checkpoint is good: look at that machine, and run the same command"
GRACE = 10.0
"""seconds within which a process says how far it is: it needs no more than a moment"""
ANSWERS = "nat_ar/stuck/"
"""of the store: how far each process is, once one of them asks"""


class Steps:
    """How far the training of this process is: written where it steps, read by the thread that looks."""

    def __init__(self) -> None:
        self.number = 0
        """of steps that were begun"""
        self.since: float | None = None
        """when the last one was; None: none is expected, as in a validation"""

    def began(self, number: int) -> None:
        """Takes note of a step."""
        self.number, self.since = number, time.monotonic()

    @contextlib.contextmanager
    def none_expected(self) -> Iterator[None]:
        """Within the block the process does what takes its time: it compiles, validates or saves."""
        self.since = None
        try:
            yield
        finally:
            self.since = time.monotonic()

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """From the first step in the block to the end of it."""
        try:
            yield
        finally:
            self.since = None

    @property
    def answer(self) -> "Answer":
        since = self.since
        return Answer(self.number, None if since is None else time.monotonic() - since)


steps = Steps()
"""of this process"""


class Answer(NamedTuple):
    """How far a process is."""

    step: int
    """the last one that it has begun"""
    seconds: float | None
    """since then; None where it does something else"""


def verdict(answers: Mapping[int, Answer], names: Sequence[str]) -> str:
    """Which processes hold up the others, in a line. `answers` of those that gave one, by their places in `names`."""
    silent = [name for index, name in enumerate(names) if index not in answers]
    if silent:
        return f"{', '.join(silent)} is stuck: it does not even say at which step it is; {ADVICE}"
    waiting = {index: one for index, one in answers.items() if one.seconds is not None}
    first = min(one.step for one in waiting.values())
    last = max(one.step for one in answers.values())
    behind = [names[index] for index, one in sorted(waiting.items()) if one.step == first]
    seconds = max(one.seconds or 0.0 for one in waiting.values())
    if len(behind) == len(names):
        return f"all processes have begun step {last:,}, and none has ended it for {seconds:.0f} s; {ADVICE}"
    return (
        f"{', '.join(behind)} is stuck: no step for {seconds:.0f} s since step {first:,}, and the others wait at step "
        f"{last:,}; {ADVICE}"
    )


class Watch:
    """The thread. `store` is JAX's, `end` is called with the verdict."""

    def __init__(
        self, store: Any, index: int, names: Sequence[str], end: Callable[[str], None], after: float
    ) -> None:
        self.store, self.index, self.names = store, index, names
        self.end, self.after = end, after
        self.asked: float | None = None
        self.is_closing = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Returns when the thread has ended."""
        self.is_closing.set()
        if self.thread.is_alive():
            self.thread.join()

    def _look(self) -> None:
        with contextlib.suppress(RuntimeError):  # of JAX's store: all is over
            while not self.is_closing.wait(1.0):
                answers = dict(self.store.key_value_dir_get(ANSWERS))
                seconds = steps.answer.seconds
                if answers or (seconds is not None and seconds > self.after):
                    self._answer(answers)

    def _answer(self, answers: Mapping[str, str]) -> None:
        """Says how far this process is, and ends it once all have, or have had the time."""
        if self.asked is None:
            self.asked = time.monotonic()
            self.store.key_value_set(f"{ANSWERS}{self.index}", json.dumps(steps.answer))
            return
        if len(answers) < len(self.names) and time.monotonic() - self.asked < GRACE:
            return
        known = {
            int(key.removeprefix(ANSWERS)): Answer(*json.loads(answer))
            for key, answer in answers.items()
        }
        self.end(verdict(known, self.names))
