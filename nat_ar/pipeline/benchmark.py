"""Latency and throughput of several systems, interleaved in one process.

A system is a run under one decoding. nat_ar/evaluation/speed/protocol.py is the protocol, docs/speed.md explains
the numbers. Every system appends a row to its run's results.jsonl. Ratios are exact only between systems of
one call."""

import dataclasses
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import machine, other_work, profiling, protocol, report
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.evaluation.speed.intervals import Ratio
from nat_ar.evaluation.speed.protocol import Speed
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.experiment.translators import open_translator
from nat_ar.runtime import console, files
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.translation import decodings
from nat_ar.translation.translator import Translator

DEFAULT = SpeedConfig()


@dataclasses.dataclass(frozen=True)
class System:
    """A run under one decoding."""

    run: Run
    decoding: Any = None
    """an object or its text; None: the run's default"""

    def resolved(self) -> "System":
        """With the decoding as text, all that differs from the defaults spelt out. Raises ConfigError for one that
        the method lacks."""
        return System(self.run, decodings.choose(self.run.config().method, self.decoding).text)


@dataclasses.dataclass(frozen=True)
class Timings:
    """The rows of one benchmark. As text, a table."""

    rows: tuple[Row, ...]

    def plot(self, directory: str | Path) -> list[Path]:
        """Writes latency against length and throughput against batch size, each as .png and .svg."""
        from nat_ar.evaluation.speed import (
            plots,  # matplotlib, which a benchmark itself does not need
        )

        return plots.save(self.rows, Path(directory))

    def __str__(self) -> str:
        return report.render(self.rows)

    def __repr__(self) -> str:
        systems = ", ".join(
            f"{results.label(row)} {row['latency_ms']['mean']:.2f} ms" for row in self.rows
        )
        return f"Timings({systems})"


def systems_of(named: str | Path | System) -> list[System]:
    """The systems of one argument: RUN, "RUN:Decoding(field=value)", or a System.

    RUN alone is its method's default decoding; of an autoregressive run also beam and greedy search, since
    a speed-up needs both. Raises ConfigError for a run that does not exist and a decoding that its method lacks."""
    if isinstance(named, System):
        return [named.resolved()]
    text = str(named)
    # The decoding comes last and its text may hold colons; a path may hold colons too.
    match = (
        None
        if Path(text).exists()
        else re.fullmatch(r"(.+?):([A-Za-z_]\w*(?:\(.*\))?(?: int8)?)", text)
    )
    directory = Run(Path(match[1] if match else text))
    method = directory.config().method
    if match:
        return [System(directory, match[2]).resolved()]
    chosen = [method.decoding]
    if method.family == "AR":
        is_beam = isinstance(method.decoding, Beam)
        chosen = [*chosen, *([] if is_beam else [Beam()]), Greedy()]
    texts = dict.fromkeys(decodings.decoding_text(decoding) for decoding in chosen)
    return [System(directory, text) for text in texts]


def benchmark(
    systems: str | Path | System | Sequence[str | Path | System],
    config: SpeedConfig = DEFAULT,
    *,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: str | Path | None = None,
    threads: int | None = None,
    profile_directory: str | Path | None = None,
    is_quiet: bool = False,
) -> Timings:
    """Times all systems together, each once however often it is named, and appends a row to the results.jsonl
    of each run.

    systems: one or several, see `systems_of`. threads: the number of cores to which the caller has pinned this process
    (machine.pin), for the rows and their command. profile_directory: each system is traced into it.

    Raises ConfigError and ValueError before any work where a decoding, a split or a checkpoint does not
    exist or the systems would translate different text."""
    names = [systems] if isinstance(systems, str | Path | System) else systems
    resolved = list(dict.fromkeys(one for named in names for one in systems_of(named)))
    if not resolved:
        raise ConfigError("expected runs to benchmark, got none")
    data_directory = None if data_directory is None else str(data_directory)
    data, text = _common_text(resolved, split, data_directory)
    for system in resolved:
        files.require_writable(system.run.directory)
    if profile_directory is not None:
        files.require_writable(Path(profile_directory))
    opened = [open_translator(system.run, system.decoding, checkpoint) for system in resolved]
    console.say(machine.summary(trained.dtype for trained, _ in opened))
    with other_work.measured(machine.cores()) as others:
        measured = protocol.measure(
            [translator for _, translator in opened], text, config, is_quiet=is_quiet
        )
    words = command(resolved, config, split, checkpoint, data_directory, threads)
    made_by = shlex.join(["python", "-m", "nat_ar", *words])
    rows: list[Row] = []
    for system, (loaded, translator), prepared, speed in zip(
        resolved, opened, data, measured, strict=True
    ):
        row = {
            **_identity(system, loaded, translator, prepared, split, made_by),
            **_measurements(speed),
            "cores": None if threads is None else machine.cores(),
            "other_work": dataclasses.asdict(others[0]) if others else None,
            "profile": None,
        }
        if profile_directory is not None:
            traces = Path(profile_directory) / f"{len(rows) + 1}_{profiling.file_name(row)}"
            row["profile"] = profiling.measure(translator, speed.texts, speed.seconds, traces)
        rows.append(row)
    reference = _reference(rows)
    for system, row, speed in zip(resolved, rows, measured, strict=True):
        row["over_reference"] = (
            None
            if reference is None
            else _over_reference(speed, measured[reference], rows[reference])
        )
        results.append(system.run.directory, row)
    return Timings(tuple(rows))


def _reference(rows: Sequence[Row]) -> int | None:
    """Index of the system that ratios refer to: the first autoregressive one by greedy or beam search."""
    starts = (f"{Greedy.__name__}(", f"{Beam.__name__}(")
    for index, row in enumerate(rows):
        if row["family"] == "AR" and row["decoding"].startswith(starts):
            return index
    return None


def _over_reference(speed: Speed, reference: Speed, row: Row) -> Row:
    """S1 and Smax of Kasai et al. 2020 (arXiv:2006.10369, section 3): times faster at batch 1, and at each
    system's own best batch."""
    ratio = Ratio.of(reference.seconds, speed.seconds)
    best, theirs = speed.throughput[speed.best_batch], reference.throughput[reference.best_batch]
    return {
        "name": row["name"],
        "run": row["run"],
        "parameters_hash": row["parameters_hash"],
        "decoding": row["decoding"],
        "s1": ratio.value,
        "s1_low": ratio.low,
        "s1_high": ratio.high,
        "smax": best / theirs,
    }


def _common_text(
    systems: Sequence[System], split: str, data_directory: str | None
) -> tuple[list[PreparedData], list[str]]:
    """The prepared data of each system, and the source text of the split, which must be the same."""
    opened: dict[str, PreparedData] = {}
    data = []
    for system in systems:
        directory = data_directory or str(system.run.find(system.run.config().data.directory))
        if directory not in opened:
            opened[directory] = PreparedData.load(directory)
        data.append(opened[directory])
    text = data[0].split(split).source_text
    for prepared in data:
        if prepared.split(split).source_text != text:
            raise ValueError(
                f"the split {split!r} of {prepared.directory} has other sources than that of "
                f"{data[0].directory}: systems are timed on the same text; name one directory with --data"
            )
    return data, text


def _identity(
    system: System,
    loaded: TrainedModel,
    translator: Translator,
    data: PreparedData,
    split: str,
    command: str,
) -> Row:
    return {
        "kind": "speed",
        **provenance.identity(system.run, loaded),
        "decoding": translator.choice.text,
        "split": split,
        "data_hash": data.hash,
        "device": machine.device_name(),
        "date": provenance.now(),
        "command": command,
        "threads": machine.num_threads(),
        "versions": machine.versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _measurements(speed: Speed) -> Row:
    return {
        "sentences": speed.sentences,
        "repetitions": speed.repetitions,
        "steps": speed.steps,
        "latency_ms": dataclasses.asdict(speed.latency),
        "throughput": speed.throughput[speed.best_batch],
        "throughput_batch": speed.best_batch,
        "throughput_curve": {str(size): value for size, value in speed.throughput.items()},
        "throughput_sentences": speed.throughput_sentences,
        "batch_limit": speed.batch_limit,
        "split_ms": dataclasses.asdict(speed.pieces),
        "latency_by_length": [dataclasses.asdict(length_bin) for length_bin in speed.lengths],
        "floor": _floor(speed),
        "peaks": None if speed.peaks is None else _peaks(speed.peaks),
        "compile_seconds": speed.compile_seconds,
        "recompilations": 0,  # protocol.measure raises otherwise
    }


def _floor(speed: Speed) -> Row | None:
    """The cost of the mean sentence, and how far its latency is from it."""
    cost = speed.cost
    if cost is None:
        return None
    return {
        "flops": cost.flops,
        "weight_bytes": cost.weight_bytes,
        "arithmetic_ms": 1000 * cost.arithmetic_seconds,
        "memory_ms": 1000 * cost.memory_seconds,
        "floor_ms": 1000 * cost.floor_seconds,
        "bound": cost.bound,
        "ratio": speed.latency.mean / (1000 * cost.floor_seconds),
    }


def _peaks(peaks: machine.Peaks) -> Row:
    """FLOP/s and bytes/s."""
    bandwidth = {str(size): rate for size, rate in peaks.bandwidth.items()}
    return {"matmul": peaks.matmul, "bandwidth": bandwidth}


def command(
    systems: Sequence[System],
    config: SpeedConfig,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: str | None = None,
    threads: int | None = None,
) -> list[str]:
    """The words after `python -m nat_ar` that time the same systems in the same way, defaults spelt out."""
    return provenance.words_of(
        "benchmark",
        *(f"{system.run.directory}:{system.decoding}" for system in systems),
        split=split,
        checkpoint=checkpoint,
        data=data_directory,
        threads=threads,
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(config)},
    )
