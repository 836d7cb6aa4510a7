"""Work that processes which compute together share: each does its part by itself, and the first one gets all."""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from nat_ar.runtime import distributed

T = TypeVar("T")
U = TypeVar("U")


def dealt(tasks: Sequence[T], work: Callable[[Sequence[T]], Sequence[U]]) -> list[U] | None:
    """The results of all tasks, in order, in the first process; None in the others.

    Task k is of process k mod their number. `work` makes the results of some, JSON data and not None, and waits
    for no other process. What it raises in one process ends it in all (`distributed.failing_together`)."""
    with distributed.failing_together():
        own = work(tasks[distributed.index() :: distributed.count()])
    every = distributed.gathered_by_first(list(own))
    if every is None:
        return None
    rounds = itertools.zip_longest(*every)
    return [result for dealt_round in rounds for result in dealt_round if result is not None]
