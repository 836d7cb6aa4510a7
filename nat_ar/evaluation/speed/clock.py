"""The clock: calls in turns, A B A B, and nothing compiled while it runs. Knows no translator."""

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, TypeVar

import jax
import numpy as np
import tqdm
from jaxtyping import Float

T = TypeVar("T")

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""What JAX reports for every program that it compiles or takes from its persistent cache."""


class RecompilationError(RuntimeError):
    """Something was compiled while the clock ran: the times are void."""


def interleaved(
    calls: Sequence[Callable[[int], T]],
    num_items: int,
    repetitions: int,
    tick: Callable[[], Any] = lambda: None,
) -> tuple[Float[np.ndarray, "calls repetitions items"], list[list[T]]]:
    """Seconds of call(item) for each call, repetition and item, and what the last repetition returned.

    The calls take turns on each item, A B A B; the items follow each other; then all again. `tick` is
    called after each call, outside the clock."""
    seconds = np.zeros((len(calls), repetitions, num_items))
    found: list[list[T]] = [[] for _ in calls]
    for repetition in range(repetitions):
        found = [[] for _ in calls]
        for item in range(num_items):
            for place, call in enumerate(calls):
                start = time.perf_counter()
                result = call(item)
                seconds[place, repetition, item] = time.perf_counter() - start
                found[place].append(result)
                tick()
    return seconds, found


@contextlib.contextmanager
def no_compilation(shapes: Sequence[Sized] = ()) -> Iterator[None]:
    """Raises RecompilationError at the end where JAX compiled anything, or one of `shapes`, what
    systems keep compiled, has grown. The garbage collector rests meanwhile, as in `timeit`."""
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


def bar(title: str, total: int, is_quiet: bool) -> tqdm.tqdm:
    return tqdm.tqdm(
        total=total,
        desc=title,
        disable=is_quiet or not sys.stderr.isatty(),
        dynamic_ncols=True,
        mininterval=0.5,
    )
