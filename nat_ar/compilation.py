"""Several programs compiled at the same time."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax

from nat_ar import machine


def compile_together(
    programs: Iterable[jax.stages.Lowered],
) -> Iterator[tuple[jax.stages.Compiled, float]]:
    """Each program compiled, and the seconds that it took, in order; as many at a time as there are cores,
    since XLA compiles a program for CPUs on one. They are traced as the iterable yields them, in the thread of
    the caller."""
    pool = ThreadPoolExecutor(machine.num_threads())
    try:
        for job in [pool.submit(_compile, program) for program in programs]:
            yield job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _compile(program: jax.stages.Lowered) -> tuple[jax.stages.Compiled, float]:
    start = time.perf_counter()
    return program.compile(), time.perf_counter() - start
