"""threads: the latencies of the decode section on one core and on all of them.

Two processes, each pinned before JAX starts its thread pool, take turns call by call."""

import contextlib
import os
import sys
from collections.abc import Sequence

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
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(start(number, scale, NAMES)) for number in (1, cores)]
        calls = [call(worker, name) for name in systems for worker in workers]
        seconds = timing.take_turns("threads", calls, seconds=2 * scale.seconds)
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


def start(threads: int, scale: Scale, names: Sequence[str], rows: Sequence[int] = (1,)) -> Worker:
    """A process that translates on so many cores."""
    command = [sys.executable, "-m", "scripts.benchmark_cpu.thread_worker", str(threads)]
    command += ["--systems", *names, "--rows", *map(str, rows)]
    command += ["--quick"] if scale is models.QUICK else []
    return Worker(command, dict(os.environ))


def call(worker: Worker, name: str, rows: int = 1, calls: int = 1) -> timing.Call:
    """The seconds of the last of so many translations."""
    question = {"system": name, "rows": rows, "calls": calls}
    return lambda: worker.ask(question)["seconds"]
