"""benchmark RUN ...: latency and throughput of several systems, interleaved in one process.

A system is a run under one decoding, written RUN or "RUN:Decoding(field=value)"; repeat the run for
several decodings. RUN alone is the method's default decoding; of an autoregressive run both its beam
search and Greedy(), since no speed-up is fair without both:

    python -m nat_ar benchmark runs/teacher runs/nat "runs/nat:LengthBeam(size=5)"

nat_ar/evaluation/speed/protocol.py is the protocol, docs/speed.md explains the numbers. Every system appends a row
to its run's results.jsonl. Ratios are exact only between systems of one call: name them together."""

import dataclasses

from nat_ar.evaluation.speed import machine, profiling
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.pipeline.benchmark import benchmark


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
    print(timings)
    if arguments.profile is not None:
        print("\n" + profiling.render(timings.rows))
    if arguments.plots is not None:
        for path in timings.plot(arguments.plots):
            print(path)
