"""Latency and throughput of several systems, interleaved in one process.

A system is a run under one decoding, written RUN or "RUN:Decoding(field=value)"; repeat the run for
several decodings.
nat_ar/evaluation/speed/protocol.py says how it is measured, docs/speed.md how to read it. Every system appends a
row to its run's results.jsonl. Only systems of one call are comparable down to the noise: name them
together."""

import dataclasses
import datetime
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import machine, profiling, protocol
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.evaluation.speed.intervals import Ratio
from nat_ar.evaluation.speed.protocol import Speed
from nat_ar.experiment.run import Run, TrainedModel, open_translator
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.translation import decodings
from nat_ar.translation.translator import Translator


@dataclasses.dataclass(frozen=True)
class System:
    """A run under one decoding, as text; None: the run's default."""

    run: Run
    decoding: str | None = None

    def resolved(self) -> "System":
        """With the decoding spelt out. Raises ConfigError for one that the method lacks."""
        chosen = decodings.parse_decoding(self.run.config().method, self.decoding)
        return System(self.run, decodings.decoding_text(chosen))


def parse_system(text: str) -> list[System]:
    """The systems that one word of the command line names. Raises ConfigError for a run that is not
    there and for a decoding that its method lacks."""
    # The decoding comes last and may hold colons in its own text; a path may hold colons too.
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
    systems: Sequence[System],
    config: SpeedConfig,
    *,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: str | None = None,
    threads: int | None = None,
    profile_directory: Path | None = None,
    is_quiet: bool = False,
) -> list[Row]:
    """Times all systems together, each once however often it is named; appends a row to the
    results.jsonl of each run and returns the rows in order. `threads` is what the caller pinned the process
    to: rows and their command say so.

    Raises ConfigError and ValueError before any work where a decoding, a split or a checkpoint does not
    exist or the systems would translate different text."""
    systems = list(dict.fromkeys(system.resolved() for system in systems))
    if not systems:
        raise ConfigError("expected runs to benchmark, got none")
    data, text = _common_text(systems, split, data_directory)
    opened = [open_translator(system.run, system.decoding, checkpoint) for system in systems]
    measured = protocol.measure(
        [translator for _, translator in opened], text, config, is_quiet=is_quiet
    )
    words = command(systems, config, split, checkpoint, data_directory, threads)
    made_by = shlex.join(["python", "-m", "nat_ar", *words])
    rows: list[Row] = []
    for system, (loaded, translator), prepared, found in zip(
        systems, opened, data, measured, strict=True
    ):
        row = {
            **_identity(system, loaded, translator, prepared, split, made_by),
            **_measurements(found),
            "cores": None if threads is None else machine.cores(),
            "profile": None,
        }
        if profile_directory is not None:
            place = profile_directory / f"{len(rows) + 1}_{profiling.file_name(row)}"
            row["profile"] = profiling.measure(translator, found.texts, found.seconds, place)
        rows.append(row)
    reference = _reference(rows)
    for system, row, found in zip(systems, rows, measured, strict=True):
        row["over_reference"] = (
            None
            if reference is None
            else _over_reference(found, measured[reference], rows[reference])
        )
        results.append(system.run.directory, row)
    return rows


def _reference(rows: Sequence[Row]) -> int | None:
    """Place of the system that ratios refer to: the first autoregressive one by greedy or beam search."""
    starts = (f"{Greedy.__name__}(", f"{Beam.__name__}(")
    for place, row in enumerate(rows):
        if row["family"] == "AR" and row["decoding"].startswith(starts):
            return place
    return None


def _over_reference(found: Speed, reference: Speed, row: Row) -> Row:
    """S1 and Smax of Kasai et al. 2020 (arXiv:2006.10369, section 3): times faster at batch 1, and at each
    system's own best batch."""
    ratio = Ratio.of(reference.seconds, found.seconds)
    best, theirs = found.throughput[found.best_batch], reference.throughput[reference.best_batch]
    return {
        "name": row["name"],
        "run": row["run"],
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
        directory = data_directory or system.run.config().data.directory
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
        "name": loaded.config.name,
        "run": str(system.run.directory),
        "method": type(loaded.config.method).__name__,
        "family": loaded.config.method.family,
        "decoding": decodings.decoding_text(translator.decoding),
        "training_data": system.run.facts()["training_data"],
        "split": split,
        "data_hash": data.hash,
        "config_hash": config_json.hash_of(loaded.config),
        "checkpoint_step": loaded.step,
        "device": machine.device_name(),
        "dtype": loaded.dtype,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "threads": machine.num_threads(),
        "versions": machine.versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _measurements(found: Speed) -> Row:
    return {
        "sentences": found.sentences,
        "repetitions": found.repetitions,
        "steps": found.steps,
        "latency_ms": dataclasses.asdict(found.latency),
        "throughput": found.throughput[found.best_batch],
        "throughput_batch": found.best_batch,
        "throughput_curve": {str(size): value for size, value in found.throughput.items()},
        "throughput_sentences": found.throughput_sentences,
        "batch_limit": found.batch_limit,
        "split_ms": dataclasses.asdict(found.pieces),
        "latency_by_length": [dataclasses.asdict(bin_) for bin_ in found.lengths],
        "floor": _floor(found),
        "peaks": None if found.peaks is None else _peaks(found.peaks),
        "compile_seconds": found.compile_seconds,
        "recompilations": 0,  # protocol.measure raises otherwise
    }


def _floor(found: Speed) -> Row | None:
    """The cost of the mean sentence, and how far its latency is from it."""
    cost = found.cost
    if cost is None:
        return None
    return {
        "flops": cost.flops,
        "weight_bytes": cost.weight_bytes,
        "arithmetic_ms": 1000 * cost.arithmetic_seconds,
        "memory_ms": 1000 * cost.memory_seconds,
        "floor_ms": 1000 * cost.floor_seconds,
        "bound": cost.bound,
        "ratio": found.latency.mean / (1000 * cost.floor_seconds),
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
    """The words after `python -m nat_ar` that time the same systems in the same way, what was chosen by
    default spelt out."""
    words = ["benchmark", *(f"{system.run.directory}:{system.decoding}" for system in systems)]
    words += ["--split", split, "--checkpoint", checkpoint]
    words += [] if data_directory is None else ["--data", data_directory]
    words += [] if threads is None else ["--threads", str(threads)]
    for field in dataclasses.fields(config):
        words += _option(field.name.replace("_", "-"), getattr(config, field.name))
    return words


def _option(name: str, value: Any) -> list[str]:
    """A field as the command line says it."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
