"""decode: every method at every batch size, with ratios to our autoregressive baselines and to the floor."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nat_ar.evaluation.speed import intervals, machine
from nat_ar.evaluation.speed.floor import Cost
from nat_ar.evaluation.speed.intervals import Interval
from scripts.benchmark_cpu import models, timing
from scripts.benchmark_cpu.models import Program, Scale, Workshop
from scripts.benchmark_cpu.report import Figure, Row, Section

BARS = {
    ("greedy", "share of the memory floor"): 1 / 1.3,
    ("length_nat", "speed over greedy"): 4.0,
    ("length_nat", "share of the floor"): 0.5,
    ("length_nat_int8", "speed over float32"): 1 / 0.6,
    ("ctc_int8", "speed over float32"): 1 / 0.65,
    ("da_int8", "speed over float32"): 1 / 0.65,
}
"""At batch 1. A share of 0.5 of the floor is twice its time."""


def run(section: Section, scale: Scale) -> None:
    workshop, peaks = Workshop(scale), machine.measure()
    systems = models.systems(scale.transformer)
    curves: dict[str, Row] = {
        system.label: {"system": system.label, "unit": "sentences/s"} for system in systems.values()
    }
    for rows in scale.batches:
        programs = workshop.programs(
            [(system, rows, scale.positions) for system in systems.values()]
        )
        seconds = timing.take_turns(
            f"decode, batch {rows}",
            [timing.timed(program) for program in programs],
            seconds=scale.seconds,
        )
        for program, mine in zip(programs, seconds, strict=True):
            curves[program.system.label][f"batch {rows}"] = intervals.median(rows / mine)
        if rows in (scale.batches[0], scale.large):
            costs = workshop.costs(programs, peaks)
            section.tables[f"Batch {rows}, {seconds.shape[1]} rounds"] = table(
                programs, seconds, costs
            )
            section.figures += figures(rows, programs, seconds, costs, rows == scale.batches[0])
    section.tables["Throughput against batch"] = list(curves.values())
    section.notes.append(
        f"Sources of {scale.positions + 1} tokens, translations of {scale.positions} positions, all checked; from "
        "token ids on the host to token ids on the host. The arithmetic floor is matrix products at the "
        "machine's peak rate; the floor is, block by block, the larger of that and of reading the weights. "
        "x floor: time over floor."
    )


def table(
    programs: Sequence[Program],
    seconds: Float[np.ndarray, "programs rounds"],
    costs: Sequence[Cost],
) -> list[Row]:
    """A row for each system; the first two are the baselines of the ratios."""
    rows: list[Row] = []
    for program, mine, cost in zip(programs, seconds, costs, strict=True):
        middle = intervals.median(mine).value
        rows.append(
            {
                "system": program.system.label,
                "ms/sentence": intervals.median(1e3 * mine / program.rows),
                "x greedy": intervals.median_ratio(seconds[0], mine),
                "x beam 4": intervals.median_ratio(seconds[1], mine),
                "GFLOP/sentence": cost.flops / program.rows / 1e9,
                "x arithmetic floor": middle / cost.arithmetic_seconds,
                "x floor": middle / cost.floor_seconds,
                "bound by": cost.bound,
                "compile s": program.compile_seconds,
            }
        )
    return rows


def figures(
    rows: int,
    programs: Sequence[Program],
    seconds: Float[np.ndarray, "programs rounds"],
    costs: Sequence[Cost],
    has_bars: bool,
) -> list[Figure]:
    """Of every system, its speed over greedy and its share of the arithmetic floor; of greedy search its share of the
    memory floor; of one with int8 weights its speed over that with float32, since floors are those of float32."""
    results: list[Figure] = []
    of = {program.system.name: mine for program, mine in zip(programs, seconds, strict=True)}
    for program, mine, cost in zip(programs, seconds, costs, strict=True):
        measured: dict[str, Interval] = {
            "speed over greedy": intervals.median_ratio(seconds[0], mine),
            "share of the floor": intervals.median(cost.arithmetic_seconds / mine),
        }
        name = program.system.name
        if program.system.weights != "float32":
            with_floats = of[name.removesuffix(f"_{program.system.weights}")]
            measured = {"speed over float32": intervals.median_ratio(with_floats, mine)}
        if name == "greedy":
            measured = {
                "share of the memory floor": intervals.median(cost.memory_seconds / mine),
                "share of the floor": measured["share of the floor"],
            }
        for what, interval in measured.items():
            bar = BARS.get((name, what)) if has_bars else None
            results.append(Figure(f"decode/batch {rows}/{name}/{what}", interval, bar=bar))
    return results
