"""kernels: whole decodes by XLA alone, with nat_ar.runtime.cpu_kernels, and with these and 8-bit weights, in turns.

Runs only if --only names it: it records no ratio, and the other sections take all of the 20 minutes."""

import dataclasses

from nat_ar.evaluation.speed import intervals
from nat_ar.runtime import cpu_kernels
from scripts.benchmark_cpu import models, timing
from scripts.benchmark_cpu.models import Program, Scale, Workshop
from scripts.benchmark_cpu.report import Row, Section

SYSTEMS = ("greedy", "beam_4", "deep_greedy", "length_nat", "ctc", "da", "cmlm_10")


def run(section: Section, scale: Scale) -> None:
    if not cpu_kernels.are_available():
        section.notes.append("Skipped: there are no kernels on this machine.")
        return
    workshop, systems = Workshop(scale), models.systems(scale.transformer)
    for rows in (scale.batches[0], scale.large):
        table: list[Row] = []
        for system in (systems[name] for name in SYSTEMS):
            ways = (
                workshop.model(system.method),
                workshop.ready_model(system),
                workshop.ready_model(dataclasses.replace(system, weights="int8")),
            )
            programs = [
                Program(
                    system, model, rows=rows, positions=scale.positions, vocabulary=scale.vocabulary
                )
                for model in ways
            ]
            for program in programs:
                program.check()
            by_xla, by_kernels, by_int8 = timing.take_turns(
                f"kernels, {system.label}, batch {rows}",
                [timing.timed(program) for program in programs],
                seconds=scale.seconds,
            )
            table.append(
                {
                    "system": system.label,
                    "XLA, ms/sentence": intervals.median(1e3 * by_xla / rows),
                    "kernels, ms/sentence": intervals.median(1e3 * by_kernels / rows),
                    "kernels / XLA": intervals.median_ratio(by_kernels, by_xla),
                    "int8 / float32, both kernels": intervals.median_ratio(by_int8, by_kernels),
                    "rounds": len(by_xla),
                }
            )
        section.tables[f"Whole decodes, batch {rows}"] = table
    section.notes.append("Ratios of times, within a round: below 1 is faster.")
