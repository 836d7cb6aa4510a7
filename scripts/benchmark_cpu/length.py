"""length: latency at batch 1 against the length of source and translation."""

from nat_ar.evaluation.speed import intervals
from scripts.benchmark_cpu import models, timing
from scripts.benchmark_cpu.models import Scale, Workshop
from scripts.benchmark_cpu.report import Figure, Row, Section

NAMES = ("greedy", "beam_4", "greedy_int8", "deep_greedy", "length_nat", "ctc", "da", "cmlm_4")
"""Each is compiled once for every length."""


def run(section: Section, scale: Scale) -> None:
    workshop = Workshop(scale)
    everything = models.systems(scale.transformer)
    systems = [everything[name] for name in NAMES]
    table: dict[str, Row] = {
        system.label: {"system": system.label, "unit": "ms"} for system in systems
    }
    for positions in scale.lengths:
        programs = workshop.programs([(system, 1, positions) for system in systems])
        seconds = timing.take_turns(
            f"length {positions}",
            [timing.timed(program) for program in programs],
            seconds=scale.seconds / 2,
        )
        for program, mine in zip(programs, seconds, strict=True):
            system = program.system
            table[system.label][f"{positions} positions"] = intervals.median(1e3 * mine)
            if system.name == "length_nat":
                name = f"length/{positions} positions/{system.name}/speed over greedy"
                section.figures.append(Figure(name, intervals.median_ratio(seconds[0], mine)))
    section.tables["Latency against length, batch 1"] = list(table.values())
    section.notes.append(
        "A source has one token more than its translation has positions, and is padded to the Translator's next bucket."
    )
