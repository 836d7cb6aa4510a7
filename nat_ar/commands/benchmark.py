"""benchmark RUN ...: latency and throughput of several systems, interleaved in one process.

A system is a run under one decoding, written RUN or "RUN:Decoding(field=value)"; repeat the run for
several decodings. RUN alone is the method's default decoding; of an autoregressive run both its beam
search and Greedy(), since no speed-up is fair without both:

    python -m nat_ar benchmark runs/teacher runs/nat "runs/nat:LengthBeam(size=5)"

nat_ar/evaluation/speed/protocol.py says how it is measured, docs/speed.md how to read it. Every system appends a
row to its run's results.jsonl. Only systems of one call are comparable down to the noise: name them
together."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import machine, plots, profiling
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.pipeline.benchmark import benchmark, parse_system


@dataclasses.dataclass(frozen=True)
class Benchmark(SpeedConfig):
    """Time systems: batch-1 latency with interval, throughput by batch size, and where the time goes."""

    systems: tuple[str, ...]
    """RUN or "RUN:Decoding(field=value)", as many as are to be compared"""
    split: str = "test"
    """split of the prepared data whose sources are translated"""
    checkpoint: str = "best"
    """best (by validation), latest, or a step; of every run"""
    data: str | None = None
    """prepared directory; default: the one that each run was configured with"""
    threads: int | None = None
    """cores that the process is kept to, and threads of XLA's pool on the CPU; default: all it may use"""
    plots: str | None = None
    """directory for two pictures: latency against length, throughput against batch size"""
    profile: str | None = None
    """directory for a trace of each system (TensorBoard and Perfetto open it), and a table of where the
    time goes"""
    quiet: bool = False
    """no progress bars"""


def run(arguments: Benchmark) -> None:
    if arguments.threads is not None:
        machine.pin(arguments.threads)
    if arguments.profile is not None:
        profiling.keep_scopes()
    fields = (field.name for field in dataclasses.fields(SpeedConfig))
    rows = benchmark(
        [system for text in arguments.systems for system in parse_system(text)],
        SpeedConfig(**{name: getattr(arguments, name) for name in fields}),
        split=arguments.split,
        checkpoint=arguments.checkpoint,
        data_directory=arguments.data,
        threads=arguments.threads,
        profile_directory=None if arguments.profile is None else Path(arguments.profile),
        is_quiet=arguments.quiet,
    )
    print(summary(rows))
    if arguments.profile is not None:
        print("\n" + profiling.render(rows))
    if arguments.plots is not None:
        for path in plots.save(rows, Path(arguments.plots)):
            print(path)


def summary(rows: Sequence[Row]) -> str:
    """The rows as a short table for a person: latencies in milliseconds."""
    header = ("name", "decoding", "p50 ms", "p95 ms", "p99 ms", "mean ms", "", "× floor", "S1", "")
    table: list[tuple[str, ...]] = [(*header, "Smax", "best batch", "sentences/s")]
    for row in rows:
        latency, over, floor = row["latency_ms"], row["over_reference"], row["floor"]
        table.append(
            (
                row["name"],
                row["decoding"],
                *(f"{latency[key]:.2f}" for key in ("p50", "p95", "p99", "mean")),
                _half(latency["low"], latency["high"]),
                "" if floor is None else f"{floor['ratio']:.1f} {floor['bound'][0]}",
                "" if over is None else f"{over['s1']:.2f}",
                "" if over is None else _half(over["s1_low"], over["s1_high"]),
                "" if over is None else f"{over['smax']:.2f}",
                str(row["throughput_batch"]),
                f"{row['throughput']:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        texts = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        lines.append("  ".join([*texts, *numbers]).rstrip())
    return "\n".join([*lines, *_notes(rows[0])])


def _half(low: float, high: float) -> str:
    return f"±{(high - low) / 2:.2f}"


def _notes(row: Row) -> list[str]:
    """What the numbers of all rows mean, from the first of them."""
    notes = [
        f"{row['sentences']} sentences x {row['repetitions']} repetitions, throughput over "
        f"{row['throughput_sentences']}; {row['device']}, {row['threads']} threads; ± half of "
        "the 95 % interval over sentences"
    ]
    over, peaks = row["over_reference"], row["peaks"]
    if over is not None:
        notes.append(
            f"S1, Smax: times faster than {over['name']} {over['decoding']} at batch 1, and each at its own "
            "best batch"
        )
    if peaks is not None:
        matmul = ", ".join(
            f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in peaks["matmul"].items()
        )
        bandwidth = [*peaks["bandwidth"].values()][-1] / 1e9
        notes.append(
            f"× floor: mean latency by what its matrix products must take, at {matmul} (a: arithmetic binds) "
            f"and {bandwidth:.1f} GB/s of memory (m: reading weights binds)"
        )
    return notes
