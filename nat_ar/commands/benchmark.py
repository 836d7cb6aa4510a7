"""benchmark RUN ...: latency and throughput of several systems, interleaved in one process.

A system is a run under one decoding, written RUN or "RUN:Decoding(field=value)"; repeat the run for several
decodings. RUN alone is the run with its own decoding; an autoregressive RUN is also timed with beam search and with
greedy search, since a speed-up needs both:

    python -m nat_ar benchmark runs/teacher runs/nat "runs/nat:LengthBeam(size=5)"

nat_ar/evaluation/speed/protocol.py has the protocol, docs/speed.md explains the numbers. Each system appends a row
to its run's results.jsonl. Ratios are exact only between systems of one call: name them together."""

import dataclasses
from pathlib import Path

from nat_ar.evaluation.speed import machine, profiling
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.pipeline.benchmark import benchmark
from nat_ar.runtime import files


@dataclasses.dataclass(frozen=True)
class Benchmark(SpeedConfig):
    """Time systems: latency at batch size 1, throughput by batch size, and where the time goes."""

    systems: tuple[str, ...]
    """the systems to compare: RUN or "RUN:Decoding(field=value)", one or more"""
    split: str = "test"
    """split of the prepared data whose sources are translated"""
    checkpoint: str = "best"
    """checkpoint of every run: best (by validation BLEU), latest, a step, or average:5, the mean of the best five"""
    data: str | None = None
    """prepared directory; default: that of each run's config"""
    threads: int | None = None
    """CPU cores to which the process is pinned, and threads of XLA's pool; default: all available"""
    plots: str | None = None
    """directory for two plots: latency against length, throughput against batch size"""
    profile: str | None = None
    """directory for a profiler trace of each system; also prints a table of where the time goes"""
    quiet: bool = False
    """show no progress bars"""


def run(arguments: Benchmark) -> None:
    if arguments.threads is not None:
        machine.pin(arguments.threads)
    if arguments.profile is not None:
        profiling.keep_scopes()
    if arguments.plots is not None:
        files.require_writable(Path(arguments.plots))
    fields = (field.name for field in dataclasses.fields(SpeedConfig))
    timings = benchmark(
        arguments.systems,
        SpeedConfig(**{name: getattr(arguments, name) for name in fields}),
        split=arguments.split,
        checkpoint=arguments.checkpoint,
        data_directory=arguments.data,
        threads=arguments.threads,
        profile_directory=arguments.profile,
        is_quiet=arguments.quiet,
    )
    plots = [] if arguments.plots is None else timings.plot(arguments.plots)
    print(timings)  # last: to speak can fail
    if arguments.profile is not None:
        print("\n" + profiling.render(timings.rows))
    for path in plots:
        print(path)
