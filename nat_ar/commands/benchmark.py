"""benchmark RUN ...: latency and throughput of several systems, interleaved in one process.

A system is a run under one decoding, written RUN or "RUN:Decoding(field=value)"; repeat the run for
several decodings. RUN alone is the method's default decoding; of an autoregressive run both its beam
search and Greedy(), since no speed-up is fair without both:

    python -m nat_ar benchmark runs/teacher runs/nat "runs/nat:LengthBeam(size=5)"

nat_ar/evaluation/speed.py says how it is measured. Every system appends a row to its run's
results.jsonl. Only systems of one call are comparable down to the noise: name them together."""

import dataclasses
import datetime
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from nat_ar import config_json, experiment
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results, speed
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import Speed, SpeedConfig
from nat_ar.experiment import Loaded, Run
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.translator import Translator


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
    quiet: bool = False
    """no progress bars"""


@dataclasses.dataclass(frozen=True)
class System:
    """A run under one decoding, as text; None: the run's default."""

    run: Run
    decoding: str | None = None

    def resolved(self) -> "System":
        """With the decoding spelt out. Raises ConfigError for one that the method lacks."""
        chosen = experiment.parse_decoding(self.run.config().method, self.decoding)
        return System(self.run, experiment.decoding_text(chosen))


def run(arguments: Benchmark) -> None:
    fields = (field.name for field in dataclasses.fields(SpeedConfig))
    rows = benchmark(
        [system for text in arguments.systems for system in parse_system(text)],
        SpeedConfig(**{name: getattr(arguments, name) for name in fields}),
        split=arguments.split,
        checkpoint=arguments.checkpoint,
        data_directory=arguments.data,
        is_quiet=arguments.quiet,
    )
    print(summary(rows))


def parse_system(text: str) -> list[System]:
    """The systems that one word of the command line names. Raises ConfigError for a run that is not
    there and for a decoding that its method lacks."""
    # The decoding comes last and may hold colons in its own text; a path may hold colons too.
    match = None if Path(text).exists() else re.fullmatch(r"(.+?):([A-Za-z_]\w*(?:\(.*\))?)", text)
    directory = Run(Path(match[1] if match else text))
    method = directory.config().method
    if match:
        return [System(directory, match[2]).resolved()]
    decodings = [method.decoding]
    if isinstance(method, Autoregressive):
        is_beam = isinstance(method.decoding, Beam)
        decodings = [*decodings, *([] if is_beam else [Beam()]), Greedy()]
    texts = dict.fromkeys(experiment.decoding_text(decoding) for decoding in decodings)
    return [System(directory, text) for text in texts]


def benchmark(
    systems: Sequence[System],
    config: SpeedConfig,
    *,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: str | None = None,
    is_quiet: bool = False,
) -> list[Row]:
    """Times all systems together, each once however often it is named; appends a row to the
    results.jsonl of each run and returns the rows in order.

    Raises ConfigError and ValueError before any work where a decoding, a split or a checkpoint does not
    exist or the systems would translate different text."""
    systems = list(dict.fromkeys(system.resolved() for system in systems))
    if not systems:
        raise ConfigError("expected runs to benchmark, got none")
    data, text = _common_text(systems, split, data_directory)
    opened = [
        experiment.open_translator(system.run, system.decoding, checkpoint) for system in systems
    ]
    measured = speed.measure(
        [translator for _, translator in opened], text, config, is_quiet=is_quiet
    )
    made_by = shlex.join(
        ["python", "-m", "nat_ar", *command(systems, config, split, checkpoint, data_directory)]
    )
    rows = []
    for system, (loaded, translator), prepared, found in zip(
        systems, opened, data, measured, strict=True
    ):
        row = {
            **_identity(system, loaded, translator, prepared, split, made_by),
            **_measurements(found),
        }
        results.append(system.run.directory, row)
        rows.append(row)
    return rows


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
    loaded: Loaded,
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
        "decoding": experiment.decoding_text(translator.decoding),
        "training_data": system.run.facts()["training_data"],
        "split": split,
        "data_hash": data.hash,
        "config_hash": config_json.hash_of(loaded.config),
        "checkpoint_step": loaded.step,
        "device": speed.device_name(),
        "dtype": loaded.dtype,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "threads": speed.num_threads(),
        "versions": speed.versions(),
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
        "split_ms": dataclasses.asdict(found.pieces),
        "compile_seconds": found.compile_seconds,
        "recompilations": 0,  # speed.measure raises otherwise
    }


def command(
    systems: Sequence[System],
    config: SpeedConfig,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: str | None = None,
) -> list[str]:
    """The words after `python -m nat_ar` that time the same systems in the same way, what was chosen by
    default spelt out."""
    words = ["benchmark", *(f"{system.run.directory}:{system.decoding}" for system in systems)]
    words += ["--split", split, "--checkpoint", checkpoint]
    words += [] if data_directory is None else ["--data", data_directory]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values = value if isinstance(value, tuple) else (value,)
        words += ["--" + field.name.replace("_", "-"), *map(str, values)]
    return words


def summary(rows: Sequence[Row]) -> str:
    """The rows as a short table for a person: latencies in milliseconds."""
    header = ("name", "decoding", "p50 ms", "p95 ms", "mean ms", "", "best batch", "sentences/s")
    table = [header]
    for row in rows:
        latency = row["latency_ms"]
        table.append(
            (
                row["name"],
                row["decoding"],
                f"{latency['p50']:.2f}",
                f"{latency['p95']:.2f}",
                f"{latency['mean']:.2f}",
                f"±{(latency['high'] - latency['low']) / 2:.2f}",
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
    first = rows[0]
    lines.append(
        f"{first['sentences']} sentences x {first['repetitions']} repetitions, throughput over "
        f"{first['throughput_sentences']}; {first['device']}, {first['threads']} threads; ± half of "
        "the 95 % interval of the mean over sentences"
    )
    return "\n".join(lines)
