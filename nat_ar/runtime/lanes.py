"""Work for several devices at once: a thread for each, results in the order of the work.

A thread and not JAX's asynchronous dispatch: a loop whose end depends on its values holds up whoever started it."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2
"""tasks of a lane that are begun or wait before the first result is taken: a lane never waits for who takes them"""


def in_order(tasks: Iterable[Callable[[], T]], lanes: int) -> Iterator[T]:
    """The results of the tasks, in order; task k is done by lane k mod `lanes`, in which one follows another.

    With one lane everything is done here, one task when its result is asked for. Where a task raises, so does the call
    that asks for its result; those begun are waited for, the others are never begun."""
    if lanes == 1:
        for task in tasks:
            yield task()
        return
    with contextlib.ExitStack() as stack:
        threads = [ThreadPoolExecutor(max_workers=1) for _ in range(lanes)]
        for thread in threads:
            stack.callback(thread.shutdown, cancel_futures=True)
        pending: collections.deque[Future[T]] = collections.deque()
        for number, task in enumerate(tasks):
            pending.append(threads[number % lanes].submit(task))
            if len(pending) == AHEAD * lanes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
