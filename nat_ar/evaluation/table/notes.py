"""The notes below a table: what its numbers mean, where they come from and which are missing; warnings."""

import collections
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nat_ar.evaluation import diagnostics, results
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.published import DEFAULT, Published
from nat_ar.evaluation.results import Row, SystemResult
from nat_ar.evaluation.speed import other_work
from nat_ar.evaluation.table.columns import MISSING, Column
from nat_ar.evaluation.table.line import BEAM, GREEDY, SIGNIFICANCE, Baselines, Line, Table


def of(table: Table, shown: Sequence[Column]) -> list[str]:
    """The notes of a table with these columns: what the scores are, then those of `Table.notes`."""
    rows = [line.result.quality for line in table.lines if line.result.quality is not None]
    names = {column.name for column in shown}
    metrics = [metric for metric in table.metrics if metric.name in names]
    notes = []
    if rows and metrics:
        ranges = "Ranges are 95 % bootstrap intervals over sentences."
        notes.append(f"{_signatures(rows, metrics)}. {ranges}")
    for metric in metrics:
        lacking = [results.label(row) for row in rows if metric.name not in row]
        if lacking:
            notes.append(
                f"{metric.title} {MISSING} for {', '.join(lacking)}: evaluated without it; run "
                "`python -m nat_ar evaluate` again, with --metrics or --scores where it is one of your own."
            )
    if "teacher" in names and any(line.of_teacher is not None for line in table.lines):
        notes.append(f"% of teacher: {table.metrics[0].title} in percent of the first line's.")
    if "accepted" in names:
        notes.append(
            "Words a pass: accepted by a pass that verifies drafts, the end included; passes count the drafter's too. "
            "They are the words of greedy search (docs/faster.md)."
        )
    if "published" in names:
        notes += _published(table)
    return [*notes, *table.notes]


def _published(table: Table) -> list[str]:
    """Which published result stands beside which lines."""
    names: dict[Published, list[str]] = collections.defaultdict(list)
    for line in table.lines:
        if line.published is not None:
            names[line.published].append(results.label(line.result.identity))
    if not names:
        return []
    corpus, pair = DEFAULT
    listed = "; ".join(f"{', '.join(who)}: {one.text}" for one, who in names.items())
    return [
        f"% in papers: published BLEU on {corpus} {pair} in percent of that of the autoregressive model beside it, by "
        f"the same method and decoding after the same kind of training data. {listed}."
    ]


def quality(
    lines: Sequence[Line], reference: SystemResult | None, metrics: Sequence[Metric]
) -> list[str]:
    """Test text, seeds, and what the marks mean."""
    rows = [line.result.quality for line in lines if line.result.quality is not None]
    if not rows:
        return ["No quality: none of these systems was evaluated; run `python -m nat_ar evaluate`."]
    first = rows[0]
    ours = [row for row in rows if row["method"] != results.IMPORTED]
    measured = [row for line in lines for row in line.result.qualities]
    notes = [
        f"Text: split {first['split']!r}, {results.coverage(first)}, "
        f"test hash {_short(first['test_hash'])}; {_by_value(rows, 'data_hash', 'data hash')}; "
        f"{_by_value(ours or rows, 'dtype', 'evaluated in')} on {results.dates(measured)}.",
        _seeds(lines),
    ]
    trained = [row for row in rows if row["train_seconds"] is not None]
    early = [row["name"] for row in trained if row.get("train_compile_seconds") is None]
    if 0 < len(early) < len(trained):
        notes.append(
            f"Training time of {', '.join(dict.fromkeys(early))} counts compilation, of the others not: an earlier "
            "version trained or evaluated it."
        )
    tested = [metric.title for metric in metrics if any(line.mark(metric) for line in lines)]
    if tested and reference is not None:
        test = "two-sided paired bootstrap"
        if len(measured) > len(rows):
            test += " over sentences, and over seeds where there are several: Sellam et al. 2022"
        notes.append(
            f"Mark after {' and '.join(tested)}, against {results.label(reference.identity)}: = not distinguishable "
            f"({test}, p >= {SIGNIFICANCE}), + better, - worse."
        )
    elif reference is None:
        notes.append("No paired test: no autoregressive system is among the rows.")
    return notes


def _seeds(lines: Sequence[Line]) -> str:
    """Over which seeds the numbers are means, and which systems have one only."""
    single = [line for line in lines if len(line.result.qualities) == 1]
    several = [line for line in lines if len(line.result.qualities) > 1]
    alone = "what another seed would change is in no interval and no test"
    if not several:
        return f"One seed a system: {alone}."
    names: dict[str, list[str]] = collections.defaultdict(list)
    for line in several:
        seeds = ", ".join(str(seed) for seed, _ in line.result.by_seed)
        names[seeds].append(results.label(line.result.identity))
    listed = "; ".join(f"{seeds} ({', '.join(who)})" for seeds, who in names.items())
    text = (
        f"Several seeds: numbers are means over seeds {listed}, intervals the means of theirs; ± behind the number of "
        f"seeds: sample standard deviation of BLEU over them."
    )
    if single:
        labels = ", ".join(results.label(line.result.identity) for line in single)
        text += f" One seed, {labels}: {alone}."
    return text


def _signatures(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    """The signature of each metric, from the first row that has it."""
    texts = []
    for metric in metrics:
        signatures = [row[metric.name]["signature"] for row in rows if row.get(metric.name)]
        if signatures:
            texts.append(f"{metric.title} {signatures[0]}")
    return "; ".join(texts)


def speed(
    lines: Sequence[Line],
    reference: SystemResult | None,
    baselines: Mapping[results.Condition | None, Baselines],
) -> list[str]:
    """Of each condition its device and versions, and what the speed-ups refer to or why there are none."""
    notes = []
    for condition, chosen in baselines.items():
        if condition is None:
            continue
        rows = [
            line.result.speed
            for line in lines
            if line.result.speed is not None and line.result.condition == condition
        ]
        where = results.condition_text(condition)
        versions = _by_value([{**row, "v": _versions(row)} for row in rows], "v", "versions")
        notes.append(
            f"Speed: {where}; latency at batch 1, text to text, "
            f"{_by_value(rows, 'sentences', 'sentences:')}; {results.dates(rows)}; {versions}."
        )
        missing = [
            f"AR {start[:-1].lower()}"
            for start, row in ((BEAM, chosen.beam), (GREEDY, chosen.greedy))
            if row is None
        ]
        if missing:
            what = f"the teacher {reference.identity['name']}" if reference else "a teacher"
            notes.append(
                f"Speed-up {MISSING} on {where}: no row of {' and '.join(missing)} of {what} was "
                "timed there; run `python -m nat_ar benchmark` with both."
            )
        elif chosen.beam and chosen.greedy:
            notes.append(
                f"Speed-up on {where}: mean latency of {results.label(chosen.beam)} (AR beam) and "
                f"{results.label(chosen.greedy)} (AR greedy) over that of the line; the interval takes "
                "the two as independent. Smax: sentences/s of the line by those of AR beam, each at its "
                "own best batch (Kasai et al. 2020)."
            )
            uneven = [
                results.label(line.result.identity)
                for line in lines
                if line.result.condition == condition and line.over_beam is None
            ]
            if uneven:
                notes.append(
                    f"Speed-up {MISSING} for {', '.join(uneven)}: not timed on as many sentences "
                    "as AR beam and AR greedy."
                )
    timed: dict[int, list[str]] = collections.defaultdict(list)
    for line in lines:
        if line.result.speed is not None and "timed_seed" in line.result.speed:
            timed[line.result.speed["timed_seed"]].append(results.label(line.result.identity))
    for seed, names in timed.items():
        notes.append(f"Speed of {', '.join(names)}: that of the run with seed {seed}.")
    disturbed = [
        f"{results.label(row)} ({others})"
        for line in lines
        if (row := line.result.speed) is not None and (others := other_work.of_row(row)) is not None
    ]
    if disturbed:
        notes.append(f"! after a latency: timed on a busy machine: {'; '.join(disturbed)}.")
    without = [line.result.identity for line in lines if line.result.speed is None]
    imported = [results.label(row) for row in without if row["method"] == results.IMPORTED]
    untimed = [results.label(row) for row in without if row["method"] != results.IMPORTED]
    if imported:
        notes.append(
            f"Untimed: {', '.join(imported)}: translations of another program, quality only."
        )
    if untimed:
        notes.append(f"Not timed: {', '.join(untimed)}; run `python -m nat_ar benchmark`.")
    return notes


def warnings(lines: Sequence[Line]) -> list[str]:
    """One short line a warning, and the page that explains them."""
    rows = [row for line in lines for row in (*line.result.qualities, line.result.speed) if row]
    texts: dict[str, None] = dict.fromkeys(_other_models(rows))
    tokenised = (results.tokenised(row) for row in rows if row["kind"] == "quality")
    texts |= dict.fromkeys(f"Warning: {text}" for text in tokenised if text is not None)
    for line in lines:
        for warning in (line.result.quality or {}).get("warnings", ()):
            # In rows of early versions causes and remedies follow the first clause.
            short = re.split("[,:;] ", warning)[0]
            row = line.result.identity
            told = diagnostics.with_cause(short, row["family"], row["training_data"])
            texts[f"Warning, {results.label(row)}: {told}"] = None
    return [*texts, *(["Causes and remedies of warnings: docs/metrics.md."] if texts else [])]


def _other_models(rows: Sequence[Row]) -> list[str]:
    """A line for each run whose directory held different models when these rows were made, or when the models behind
    them were trained. The mean of several of its checkpoints is another model by name."""
    held: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for row in rows:
        roles = ("rescorer", "drafter", "teacher", "start_from")  # early rows lack them
        others = [(f"{role} of {row['name']}", row.get(role)) for role in roles]
        for what, model in [(results.label(row), row), *others]:
            if model is not None and model.get("parameters_hash") is not None:
                at = os.path.abspath(model["run"]), results.mean_of(model)
                known = held.setdefault(at, {})
                known.setdefault(_short(model["parameters_hash"]), {})[what] = None
    return [
        f"Warning, {Path(path).name}{mean}: another model for "
        + " than for ".join(f"{', '.join(who)} ({digest})" for digest, who in known.items())
        for (path, mean), known in held.items()
        if len(known) > 1
    ]


def _by_value(rows: Sequence[Row], key: str, title: str) -> str:
    """ "data hash 1a2b (ar), 3c4d (student)"; without names if all rows agree."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        value = _short(str(row[key])) if key.endswith("_hash") else str(row[key])
        if row["name"] not in names[value]:
            names[value].append(row["name"])
    if len(names) == 1:
        return f"{title} {next(iter(names))}"
    return f"{title} " + ", ".join(f"{value} ({', '.join(who)})" for value, who in names.items())


def _versions(row: Row) -> str:
    versions = row["versions"]
    if isinstance(versions, dict):
        return ", ".join(f"{name} {version}" for name, version in versions.items())
    return str(versions)


def _short(digest: str) -> str:
    return digest[:12]
