"""study CONFIG: a teacher, its distilled data, students, baselines -> one table and one picture.

Every stage leaves a complete result or none, and is passed over when its result is there and its inputs
have not changed. So a study may be killed at any moment and started again by the same command, and ends
with the same table:

    DIRECTORY/data, DIRECTORY/distilled     prepared directories, raw and by the teacher
    DIRECTORY/runs/NAME                     a run for each entry
    DIRECTORY/table.{txt,md,csv,tex}, picture.{png,svg}, examples.md"""

import dataclasses
import functools
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.commands import benchmark, compare, distill, evaluate, train
from nat_ar.commands.benchmark import System
from nat_ar.config_json import ConfigError
from nat_ar.data import prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.evaluation import results
from nat_ar.evaluation.speed import machine
from nat_ar.evaluation.table import formats, picture
from nat_ar.evaluation.table.line import Table
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.experiment.run import Run
from nat_ar.experiment.study import Entry, StudyConfig, only
from nat_ar.runtime import child_process, files
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.translation import decodings

NUM_EXAMPLES = 10


def load_config(path: str) -> StudyConfig:
    config = load_file(path)
    if not isinstance(config, StudyConfig):
        raise ConfigError(f"{path} holds a {type(config).__name__}; `study` takes a StudyConfig")
    return config


@dataclasses.dataclass(frozen=True)
class Study:
    """Run all stages of a study, or those that are missing, and print its table."""

    path: str
    """Python file that assigns a StudyConfig to `config`"""
    directory: str | None = None
    """where everything goes; default: the config's directory"""
    corpus_file: str | None = None
    """tab-separated file (source, target), plain or gzipped, to read in place of the config's corpus and
    split by the same hold-out"""
    only: tuple[str, ...] = ()
    """names of entries: the teacher, these, and those that they start from; none: all"""
    publish: str | None = None
    """also write table.md, picture and examples to this directory, such as docs/results/toy"""


def run(arguments: Study) -> None:
    config = load_config(arguments.path)
    if arguments.only:
        config = only(config, arguments.only)
    if arguments.directory is not None:
        config = dataclasses.replace(config, directory=arguments.directory)
    command = f"python -m nat_ar study {arguments.path}"
    if arguments.corpus_file is not None:
        data = prepare.from_file(config.data, arguments.corpus_file)
        config = dataclasses.replace(config, data=data)
        command += f" --corpus-file {Path(arguments.corpus_file).name}"
    if arguments.only:
        command += f" --only {shlex.join(arguments.only)}"
    study(config, command, publish=arguments.publish)


class _Stages:
    """Says on stderr what is done and how long it took."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, title: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        now = time.perf_counter()
        spent, total = now - start, now - self.start
        print(f"[{total / 60:5.1f} min] {title}: {spent:.0f} s", file=sys.stderr, flush=True)
        return result


def study(config: StudyConfig, command: str, *, publish: str | None = None) -> Table:
    """Runs what is missing, writes the reports and prints the table.

    Raises ConfigError where another process is at the same study."""
    root = Path(config.directory)
    root.mkdir(parents=True, exist_ok=True)
    with files.locked(root):
        return _study(config, command, publish)


def _study(config: StudyConfig, command: str, publish: str | None) -> Table:
    root, stage = Path(config.directory), _Stages()
    data = dataclasses.replace(config.data, directory=str(root / "data"))
    entries = [config.teacher, *config.entries]
    experiments = [_experiment(entry, config, data) for entry in entries]
    runs = {entry.name: Run(root / "runs" / entry.name) for entry in entries}

    stage("prepare", lambda: prepare.prepare(data))
    for name in config.tests:
        PreparedData.load(data.directory).split(name)  # an unknown one is said before any training
    teacher = runs[config.teacher.name]
    if any(entry.distilled for entry in entries):
        stage(f"train {config.teacher.name}", lambda: train.train(experiments[0], teacher))
        stage(
            "distill",
            lambda: distill.distill(teacher, root / "distilled", decoding=config.distillation),
        )
    for entry, planned in zip(entries, experiments, strict=True):
        stage(f"train {entry.name}", functools.partial(train.train, planned, runs[entry.name]))
    for entry in entries:
        for split in config.tests:
            evaluating = functools.partial(_evaluate_missing, entry, runs[entry.name], split, data)
            stage(f"evaluate {entry.name} on {split}", evaluating)
    systems = [
        System(runs[entry.name], text) for entry in entries for text in entry.decodings or (None,)
    ]
    stage("benchmark", lambda: _benchmark_missing(systems, config))
    comparison = compare.compare(
        [runs[entry.name].directory for entry in entries],
        teacher=config.teacher.name,
        split=config.tests[0],
    )
    _write_reports(comparison, root, entries, runs, config, command)
    if publish is not None:
        _write_reports(comparison, Path(publish), entries, runs, config, command)
    print(formats.render(comparison, "terminal"), end="")
    return comparison


def _experiment(entry: Entry, config: StudyConfig, data: DataConfig) -> ExperimentConfig:
    """The entry with the study's directories filled in."""
    root = Path(config.directory)
    is_teacher = entry.name == config.teacher.name
    start = None if entry.start_from is None else str(root / "runs" / entry.start_from)
    return ExperimentConfig(
        name=entry.name,
        data=data,
        method=entry.method,
        training=entry.training,
        train_on=str(root / "distilled") if entry.distilled else None,
        teacher=None if is_teacher else str(root / "runs" / config.teacher.name),
        encoder_from_teacher=entry.encoder_from_teacher,
        start_from=start,
    )


def _evaluate_missing(entry: Entry, run: Run, split: str, data: DataConfig) -> None:
    """Evaluates the decodings that have no row of this config, checkpoint and test text yet."""
    expected = {
        "kind": "quality",
        "split": split,
        "config_hash": config_json.hash_of(run.config()),
        "checkpoint_step": _best_step(run),
        "test_hash": evaluate.test_hash(PreparedData.load(data.directory).split(split)),
    }
    for text in entry.decodings or (None,):
        decoding = decodings.decoding_text(decodings.parse_decoding(entry.method, text))
        if not _has_row(run, {**expected, "decoding": decoding}):
            evaluate.evaluate(run, decoding=text, split=split)


def _benchmark_missing(systems: Sequence[System], config: StudyConfig) -> None:
    """Times all systems together, in a process that has done nothing else, unless every one has a row of
    this checkpoint and this machine."""
    resolved = [system.resolved() for system in systems]
    split = config.tests[0]
    for system in resolved:
        expected = {
            "kind": "speed",
            "split": split,
            "decoding": system.decoding,
            "config_hash": config_json.hash_of(system.run.config()),
            "checkpoint_step": _best_step(system.run),
            "device": machine.device_name(),
            "threads": machine.num_threads(),
        }
        if not _has_row(system.run, expected):
            child_process.run(benchmark.command(resolved, config.speed, split))
            return


def _best_step(run: Run) -> int:
    checkpoints = Checkpoints(run.checkpoints_directory, is_read_only=True)
    try:
        return checkpoints.resolve("best")
    finally:
        checkpoints.close()


def _has_row(run: Run, expected: dict[str, Any]) -> bool:
    if not (run.directory / results.FILE_NAME).exists():
        return False
    rows = results.read(run.directory)
    return any(all(row.get(key) == value for key, value in expected.items()) for row in rows)


def _write_reports(
    comparison: Table,
    directory: Path,
    entries: Sequence[Entry],
    runs: dict[str, Run],
    config: StudyConfig,
    command: str,
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for suffix, kind in compare.FORMAT_OF_SUFFIX.items():
        text = formats.render(comparison, kind)
        if suffix == ".md":
            text = (
                f"# {config.name}\n\nMade by `{command}`.\n\n![quality against latency](picture.png)"
                f"\n\n{text}\n{_groups(entries, runs, config)}"
            )
        files.write_text(directory / f"table{suffix}", text)
    picture.save(comparison, directory / "picture", title=config.name)
    files.write_text(directory / "examples.md", _examples(entries, runs, config, command))


def _groups(entries: Sequence[Entry], runs: dict[str, Run], config: StudyConfig) -> str:
    """BLEU of every system on every test, by domain and by length of the reference."""
    sections = []
    for split in config.tests:
        rows = [row for e in entries for row in _rows_of(e, runs[e.name], split)]
        for title, key in (("domain", "domains"), ("reference length", "lengths")):
            names = list(dict.fromkeys(name for row in rows for name in row[key] or {}))
            if len(names) < 2:
                continue
            sizes = {name: row[key][name]["sentences"] for row in rows for name in row[key] or {}}
            head = " | ".join(f"{name} ({sizes[name]})" for name in names)
            lines = [
                f"\n## BLEU by {title}, {split} (sentences)\n",
                f"| system | decoding | all | {head} |",
                "|---|---|---" + "|---" * len(names) + "|",
            ]
            for row in rows:
                scores = [row[key].get(name, {}).get("bleu") for name in names]
                shown = " | ".join("" if s is None else f"{s:.1f}" for s in scores)
                overall = row["bleu"]["score"]
                lines.append(f"| {row['name']} | {row['decoding']} | {overall:.1f} | {shown} |")
            sections.append("\n".join(lines) + "\n")
    return "".join(sections)


def _rows_of(entry: Entry, run: Run, split: str) -> list[results.Row]:
    """The latest quality row of each of the entry's decodings."""
    rows = [
        r for r in results.read(run.directory) if r["kind"] == "quality" and r["split"] == split
    ]
    latest = {row["decoding"]: row for row in sorted(rows, key=lambda row: row["date"])}
    wanted = [
        decodings.decoding_text(decodings.parse_decoding(entry.method, t))
        for t in entry.decodings or (None,)
    ]
    return [latest[decoding] for decoding in wanted]


def _examples(
    entries: Sequence[Entry], runs: dict[str, Run], config: StudyConfig, command: str
) -> str:
    """Ten sentences of each test, evenly spread over its order, with every system's output."""
    lines = [f"# Examples: {config.name}\n", f"Made by `{command}`.\n"]
    data = PreparedData.load(Path(config.directory) / "data")
    for split in config.tests:
        test = data.split(split)
        outputs = {
            f"{row['name']} {row['decoding']}": files.read_lines(
                runs[entry.name].directory / row["hypotheses"]
            )
            for entry in entries
            for row in _rows_of(entry, runs[entry.name], split)
        }
        number = min(NUM_EXAMPLES, len(test))
        for place in [round((i + 0.5) * len(test) / number - 0.5) for i in range(number)]:
            domain = f", {test.domains[place]}" if test.domains[place] else ""
            lines += [
                f"\n## {split}, line {place + 1}{domain}\n",
                "| | |\n|---|---|",
                f"| source | {formats.escape_markdown(test.source_text[place])} |",
                f"| reference | {formats.escape_markdown(test.target_text[place])} |",
            ]
            lines += [
                f"| {name} | {formats.escape_markdown(texts[place])} |"
                for name, texts in outputs.items()
            ]
    return "\n".join(lines) + "\n"
