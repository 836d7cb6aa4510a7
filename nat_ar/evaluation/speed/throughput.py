"""Sentences a second at each batch size, all systems together."""

import itertools
import operator
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from nat_ar.evaluation.speed import clock, driver, sample
from nat_ar.evaluation.speed.config import MIN_SENTENCES, SpeedConfig
from nat_ar.evaluation.speed.driver import WARM_UP_CALLS, Plan
from nat_ar.runtime import out_of_memory
from nat_ar.translation.translator import Translator

Limit = Literal["batch_sizes", "sentences", "memory"]
"""Why there is no larger batch: none was asked for, the sentences fill none, or the device is too small."""
MEMORY_SHARE = 0.9
"""Share of the free memory that a program may plan for: the rest is lost to fragmentation."""


def measure(
    translators: Sequence[Translator],
    pool: Sequence[str],
    config: SpeedConfig,
    slowest: float,
    is_quiet: bool,
) -> tuple[list[str], list[dict[int, float]], list[Limit]]:
    """The sentences that were timed, and for each translator its sentences/s by batch size, from 2, and why there is
    no larger batch.

    pool: the sentences to choose from. slowest: seconds a sentence of the slowest system at batch 1, which bounds
    the time of a pass."""
    sizes = sorted(set(config.batch_sizes) - {1})
    budget = config.max_seconds / 2 / max(len(sizes), 1)
    number = config.throughput_sentences
    if not config.grow_batches:
        number = min(number, max(int(budget / slowest), MIN_SENTENCES, *config.batch_sizes))
    many = sample.spread(pool, number)
    plans = [driver.plan(translator, many) for translator in translators]  # at batch 1
    curves: list[dict[int, float]] = [{} for _ in translators]
    batch_limits: list[Limit] = ["batch_sizes" for _ in translators]
    doubled = (max(config.batch_sizes) << times for times in itertools.count(1))
    for size in itertools.chain(sizes, doubled if config.grow_batches else ()):
        for translator in translators:
            driver.set_batch(translator, size)
        new = [driver.plan(translator, many) for translator in translators]
        open_ended = [i for i in range(len(plans)) if batch_limits[i] != "memory"]
        is_larger = operator.ne if size in sizes else _is_fuller
        grown = [i for i in open_ended if is_larger(new[i], plans[i])]
        plans = new
        for i in open_ended:
            batch_limits[i] = "batch_sizes" if i in grown else "sentences"
        if size not in sizes:
            for index in _too_large([(translators[i], plans[i]) for i in grown], is_quiet):
                batch_limits[grown[index]] = "memory"
            grown = [i for i in grown if batch_limits[i] != "memory"]
            if not grown:
                break
        if not grown:
            continue
        chosen = [translators[i] for i in grown]
        one_pass = driver.warm_up(chosen, many, [plans[i] for i in grown], WARM_UP_CALLS, is_quiet)
        passes = max(1, min(config.repetitions, int(budget / one_pass)))
        calls = [driver.caller(translator, [many]) for translator in chosen]
        with (
            clock.bar(f"throughput at batch {size}", passes * len(calls), is_quiet) as bar,
            clock.no_compilation([translator.compiled for translator in chosen]),
        ):
            seconds, _ = clock.interleaved(calls, 1, passes, bar.update)
        for i, row in zip(grown, np.median(seconds[:, :, 0], axis=1), strict=True):
            curves[i][size] = len(many) / float(row)
    return many, curves, batch_limits


def _is_fuller(new: Plan, old: Plan) -> bool:
    """Whether the largest batch has more sentences than before; plans may differ by padding alone."""
    return max(len(batch[0]) for batch in new) > max(len(batch[0]) for batch in old)


def _too_large(systems: Sequence[tuple[Translator, Plan]], is_quiet: bool) -> list[int]:
    """Indices of the systems with a shape whose program plans for more memory than is free.

    The compiler's plan is asked instead of running out of memory, where Linux would kill the process."""
    translators = [translator for translator, _ in systems]
    shapes = [{batch[1:] for batch in batches} for _, batches in systems]
    driver.compile_shapes(translators, shapes, is_quiet)
    free = MEMORY_SHARE * out_of_memory.free_bytes(jax.local_devices()[0])
    too_large = []
    for index, (translator, wanted) in enumerate(zip(translators, shapes, strict=True)):
        plans = [translator.compiled[shape].memory_analysis() for shape in wanted]
        if max(plan.temp_size_in_bytes + plan.output_size_in_bytes for plan in plans) > free:
            too_large.append(index)
    return too_large
