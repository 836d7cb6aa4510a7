"""What needs no training: latency, batch curve, train steps and their share of the device's peak."""

import statistics
from collections.abc import Sequence

import numpy as np

from nat_ar.evaluation.speed import intervals, training_cost
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.types import Batch
from scripts.benchmark_cpu import timing
from scripts.benchmark_cpu.models import Program, System, Workshop
from scripts.benchmark_cpu.report import Row, Section
from scripts.gpu_study import scale
from scripts.gpu_study.study import Study, first_line


def latency(study: Study, workshop: Workshop) -> None:
    """Batch 1, random weights, every system."""
    decode = study.size.decode
    with study.stage("latency") as section:
        section.notes.append(
            f"Random weights, sources of {decode.positions + 1} tokens, translations of {decode.positions} positions, "
            "all checked; from token ids on the host to token ids on the host. Every call waits for its result."
        )
        systems = list(scale.systems(study.size).values())
        programs = _working(study, section, workshop, systems, 1)
        seconds = timing.take_turns(
            "latency", [timing.timed(program) for program in programs], seconds=decode.seconds
        )
        by_name = {
            program.system.name: mine for program, mine in zip(programs, seconds, strict=True)
        }
        rows: list[Row] = []
        for program, mine in zip(programs, seconds, strict=True):
            study.alone[program.system.label] = intervals.median(1 / mine)
            row: Row = {
                "system": program.system.label,
                "ms/sentence": intervals.median(1e3 * mine),
            }
            for title, reference in (("x greedy", "greedy"), ("x beam 4", "beam_4")):
                if reference in by_name:
                    row[title] = intervals.median_ratio(by_name[reference], mine)
            rows.append({**row, "compile s": program.compile_seconds})
        section.tables[f"Batch 1, {seconds.shape[1]} rounds"] = rows


def curve(study: Study, workshop: Workshop) -> None:
    """Throughput against batch size. In a section of the name and with a table of the title that benchmark_cpu/plots.py
    draws."""
    decode = study.size.decode
    with study.stage("decode") as section:
        systems = [scale.systems(study.size)[name] for name in scale.CURVE]
        rows: dict[str, Row] = {
            system.label: {"system": system.label, "unit": "sentences/s"} for system in systems
        }
        first, *larger = decode.batches  # batch 1 has been timed
        for label in rows.keys() & study.alone.keys():
            rows[label][f"batch {first}"] = study.alone[label]
        for number in larger:
            if not study.may_measure_more:
                study.note(section, f"Batches from {number} on are left out: time was short.")
                break
            programs = _working(study, section, workshop, systems, number)
            seconds = timing.take_turns(
                f"batch {number}",
                [timing.timed(program) for program in programs],
                seconds=decode.seconds / 2,
            )
            for program, mine in zip(programs, seconds, strict=True):
                rows[program.system.label][f"batch {number}"] = intervals.median(number / mine)
            section.tables["Throughput against batch"] = [
                row for row in rows.values() if f"batch {number}" in row
            ]
            study.save()


def _working(
    study: Study, section: Section, workshop: Workshop, systems: Sequence[System], rows: int
) -> list[Program]:
    """The compiled and checked programs. A system that fails is left out with a note: together they would fail all."""
    positions = study.size.decode.positions
    try:
        return workshop.programs([(system, rows, positions) for system in systems])
    except Exception:  # of a compiler, of a check: which system it was is not known
        programs = []
        for system in systems:
            try:
                programs += workshop.programs([(system, rows, positions)])
            except Exception as error:
                note = f"{system.label}, batch {rows}: {type(error).__name__}: {first_line(error)}"
                study.note(section, note)
        return programs


def steps(study: Study) -> None:
    """Train steps on random batches, and their share of the device's peak (MFU: model FLOPs utilisation, Chowdhery et
    al. 2022, section 4.1)."""
    size = study.size
    with study.stage("train") as section:
        section.notes.append(
            f"{size.step_rows} sentences of {size.step_length} tokens a side, dropout {size.transformer.dropout_rate}, "
            "Adam with clipping. FLOPs are those of all matrix products of the step, counted in the program: the first "
            "pass of glancing among them, and what is computed again to save memory. MFU: over the time and "
            f"{study.peak / 1e12:.0f} TFLOP/s. XLA's own count has elementwise work too, and a loop's body once."
        )
        vocabulary = size.decode.vocabulary
        sizes = VocabularySizes(vocabulary, vocabulary, is_joint=True)
        batch = training_cost.random_batch(size.step_rows, size.step_length, sizes)
        rows = section.tables.setdefault("A train step", [])
        for name, method in scale.methods(size.transformer, size.max_steps).items():
            try:
                rows.append(_step(study, name, method, sizes, batch))
            except Exception as error:
                study.note(section, f"{name}: {type(error).__name__}: {first_line(error)}")
            study.save()
        if not rows:
            del section.tables["A train step"]


def _step(study: Study, name: str, method: AnyMethod, sizes: VocabularySizes, batch: Batch) -> Row:
    one = TrainStep(method, sizes, batch)
    for _ in range(2):
        one(batch)
    call = timing.timed(lambda: one(batch))
    seconds = [call() for _ in range(study.size.rounds)]
    study.step_seconds[name] = statistics.median(seconds)
    assert study.peaks is not None
    cost = one.product_cost(batch, study.peaks)
    rate = cost.flops / np.asarray(seconds)
    by_xla = one.compiled.cost_analysis() or {}
    tokens = batch.target.size
    return {
        "method": name,
        "parameters": one.parameters,
        "ms": intervals.median(1e3 * np.asarray(seconds)),
        "target tokens/s": intervals.median(tokens / np.asarray(seconds)),
        "GFLOP": cost.flops / 1e9,
        "GFLOP by XLA": by_xla.get("flops", float("nan")) / 1e9,
        "MFU %": intervals.median(100 * rate / study.peak),
        "x arithmetic floor": statistics.median(seconds) / cost.arithmetic_seconds,
        "compile s": one.compile_seconds,
    }
