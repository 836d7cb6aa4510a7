"""The reports of a study: table, picture, BLEU by group, examples."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results, seeds
from nat_ar.evaluation.table import formats
from nat_ar.experiment.study import PlannedRun, StudyConfig
from nat_ar.pipeline.compare import Comparison
from nat_ar.runtime import files
from nat_ar.training import logging
from nat_ar.translation import decodings

NUM_EXAMPLES = 10


def write(
    comparison: Comparison,
    directory: Path,
    config: StudyConfig,
    command: str,
    *,
    width: float | None = None,
    has_title: bool = True,
) -> None:
    """A study of which nothing was timed yet has no picture."""
    directory.mkdir(parents=True, exist_ok=True)
    is_timed = any(line.result.speed for line in comparison.table.lines)
    picture = "![quality against latency](picture.png)\n\n" if is_timed else ""
    for suffix, kind in formats.FORMAT_OF_SUFFIX.items():
        text = comparison.render(kind, config.columns)
        if suffix == ".md":
            head = f"# {config.name}\n\nMade by `{command}`.\n\n"
            text = f"{head}{picture}{text}\n{_groups(config)}"
        files.write_text(directory / f"table{suffix}", text)
    if is_timed:
        comparison.picture(
            directory / "picture", title=config.name, width=width, has_title=has_title
        )
    files.write_text(directory / "examples.md", _examples(config, command))


def copy_systems(config: StudyConfig, directory: Path) -> None:
    """Writes what `compare` reads of every run, with its learning curve, to a folder each in `directory`: all but the
    weights, so that a table can be made anew, with other systems beside these, where nothing was trained."""
    for planned in config.plan():
        run, to = planned.directory, directory / planned.directory.name
        translations = {
            name
            for row in results.read(run)
            if row["kind"] == "quality"
            for name in (row["hypotheses"], row["references"], *row["more_references"])
        }
        curve = (run / logging.FILE_NAME).is_file()  # not of a teacher that was trained elsewhere
        kept = ("config.json", results.FILE_NAME, *([logging.FILE_NAME] if curve else ()))
        for name in (*kept, *sorted(translations)):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, to / name)


def _groups(config: StudyConfig) -> str:
    """BLEU of every system on every test, by domain and by length of the reference."""
    sections = []
    for split in config.tests:
        rows = [row for runs in _runs(config) for row in _rows_of(runs, split)]
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


def _runs(config: StudyConfig) -> list[list[PlannedRun]]:
    """The runs of each entry, one a seed."""
    grouped: dict[str, list[PlannedRun]] = {}
    for planned in config.plan():
        grouped.setdefault(planned.entry.name, []).append(planned)
    return [*grouped.values()]


def _rows_of(runs: Sequence[PlannedRun], split: str) -> list[results.Row]:
    """The latest quality row of each decoding of an entry; of several seeds their mean, as the table has it."""
    entry = runs[0].entry
    found = []
    for planned in runs:
        rows = [
            row
            for row in results.read(planned.directory)
            if row["kind"] == "quality" and row["split"] == split and not results.mean_of(row)
        ]
        found.append({row["decoding"]: row for row in sorted(rows, key=lambda row: row["date"])})
    wanted = [decodings.choose(entry.method, text).text for text in entry.decodings or (None,)]
    if len(found) == 1:
        return [found[0][decoding] for decoding in wanted]
    return [
        {**seeds.mean_row([latest[decoding] for latest in found]), "name": entry.name}
        for decoding in wanted
    ]


def _examples(config: StudyConfig, command: str) -> str:
    """Ten sentences of each test, evenly spread over its order, with the output of every system by its first seed."""
    lines = [f"# Examples: {config.name}\n", f"Made by `{command}`.\n"]
    data = PreparedData.load(Path(config.directory) / "data")
    for split in config.tests:
        test = data.split(split)
        outputs = {
            f"{row['name']} {row['decoding']}": files.read_lines(
                Path(row["run"]) / row["hypotheses"]
            )
            for runs in _runs(config)
            for row in _rows_of(runs[:1], split)
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
