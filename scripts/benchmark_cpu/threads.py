"""threads: the latencies of the decode section on one core and on all of them.

Two processes, each pinned before JAX starts its thread pool, take turns call by call."""

import os
import sys
from collections.abc import Callable

from nat_ar.evaluation.speed import intervals, machine
from scripts.benchmark_cpu import models, timing
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Figure, Row, Section
from scripts.benchmark_cpu.timing import Worker

NAMES = ("greedy", "beam_4", "deep_greedy", "length_nat", "ctc", "cmlm_4")
"""Each is compiled twice, once for one core, by one core."""


def run(section: Section, scale: Scale) -> None:
    cores = machine.num_threads()
    if cores == 1:
        section.notes.append("Skipped: there is one core.")
        return
    everything = models.systems(scale.transformer)
    systems = {name: everything[name] for name in NAMES}
    workers: list[Worker] = []
    try:
        for number in (1, cores):
            command = [sys.executable, "-m", "scripts.benchmark_cpu.thread_worker", str(number)]
            command += ["--systems", *NAMES]
            if scale is models.QUICK:
                command.append("--quick")
            workers.append(Worker(command, dict(os.environ)))
        calls = [_call(worker, name) for name in systems for worker in workers]
        seconds = timing.take_turns("threads", calls, seconds=2 * scale.seconds)
    finally:
        for worker in workers:
            worker.close()
    alone, together = seconds[0::2], seconds[1::2]
    rows: list[Row] = []
    for system, one, all_ in zip(systems.values(), alone, together, strict=True):
        rows.append(
            {
                "system": system.label,
                "1 thread, ms": intervals.median(1e3 * one),
                "x greedy, 1 thread": intervals.median_ratio(alone[0], one),
                f"{cores} threads, ms": intervals.median(1e3 * all_),
                f"x greedy, {cores} threads": intervals.median_ratio(together[0], all_),
                f"{cores} threads over 1": intervals.median_ratio(one, all_),
            }
        )
        if system.name == "length_nat":
            over = intervals.median_ratio(alone[0], one)
            section.figures.append(Figure("threads/1/length_nat/speed over greedy", over))
        if system.name in ("greedy", "length_nat"):
            name = f"threads/{cores} over 1/{system.name}"
            section.figures.append(Figure(name, intervals.median_ratio(one, all_)))
    section.tables[f"Batch 1, {seconds.shape[1]} rounds"] = rows


def _call(worker: Worker, name: str) -> Callable[[], float]:
    return lambda: worker.ask(name)["seconds"]
