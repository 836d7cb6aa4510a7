"""The clock: calls take turns, A B A B, and compiling while it runs is an error. For any work, not only translators."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from nat_ar.runtime import bars

T = TypeVar("T")

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""JAX's event for every program that it compiles or takes from its persistent cache."""


class RecompilationError(RuntimeError):
    """A program was compiled while the clock ran, so the times are void."""


def interleaved(
    calls: Sequence[Callable[[int], T]],
    num_items: int,
    repetitions: int,
    tick: Callable[[], Any] = lambda: None,
) -> tuple[Float[np.ndarray, "calls repetitions items"], list[list[T]]]:
    """Seconds of call(item) for each call, repetition and item, and the results of the last repetition by call
    and item.

    The calls take turns on each item, A B A B; the items follow each other; then all again. `tick` runs after each
    call, outside the clock."""
    seconds = np.zeros((len(calls), repetitions, num_items))
    outputs: list[list[T]] = [[] for _ in calls]
    for repetition in range(repetitions):
        outputs = [[] for _ in calls]
        for item in range(num_items):
            for index, call in enumerate(calls):
                start = time.perf_counter()
                output = call(item)
                seconds[index, repetition, item] = time.perf_counter() - start
                outputs[index].append(output)
                tick()
    return seconds, outputs


@contextlib.contextmanager
def no_compilation(shapes: Sequence[Sized] = ()) -> Iterator[None]:
    """Raises RecompilationError on exit if JAX compiled a program, or one of `shapes` has grown: collections of
    the shapes that a system has compiled. The garbage collector is off meanwhile, as in `timeit`."""
    compiled: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILE_EVENT:
            compiled.append(duration_secs)

    before = sum(map(len, shapes))
    was_collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        if was_collecting:
            gc.enable()
    new = sum(map(len, shapes)) - before
    if compiled or new:
        raise RecompilationError(
            f"{len(compiled)} programs ({sum(compiled):.2f} s) were compiled and {new} new shapes met "
            "while the clock ran: compile and warm up every shape first"
        )


def bar(title: str, total: int, is_quiet: bool) -> bars.Bar:
    return bars.Bar(total=total, desc=title, mininterval=0.5, is_quiet=is_quiet, is_ticking=False)
