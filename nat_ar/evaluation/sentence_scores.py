"""Scores of each sentence, kept beside the row whose translations they are of: what a paired test needs.

A metric of ours whose Score is `metrics.of_sentences` leaves them there; `read` takes those of any other program, a
number a line."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

import numpy as np
from jaxtyping import Float

from nat_ar.evaluation.metrics import Metric, Score
from nat_ar.evaluation.results import Row
from nat_ar.runtime import files

SHOWN = ("title", "direction", "decimals", "shows_interval", "in_table")
"""Fields of a Metric that a row keeps, so that `compare` shows it without the file that defines it."""


def read(lines: Sequence[str], count: int, what: str) -> tuple[float, ...]:
    """A number from each line. Raises ValueError that names `what` they are from, unless there are `count` lines and
    each is a finite number."""
    if len(lines) != count:
        raise ValueError(
            f"{what}: expected {count} lines, a number for each translation in order, got {len(lines)}"
        )
    values = []
    for place, line in enumerate(lines, start=1):
        try:
            value = float(line)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"{what}, line {place}: expected a finite number, got {line.strip()!r}; score the sentence, or take "
                "it out of the test"
            )
        values.append(value)
    return tuple(values)


def keep(
    directory: Path, hypotheses: str, hypotheses_hash: str, scores: Mapping[Metric, Score]
) -> dict[str, dict[str, Any]]:
    """Writes the sentence scores of those metrics that have them beside a file of translations of the directory; the
    field `sentence_scores` of its row."""
    kept = {}
    for metric, score in scores.items():
        if score.by_sentence is None:
            continue
        name = f"{hypotheses.removesuffix('.txt')}.{metric.name}.scores"
        files.write_text(directory / name, "".join(f"{value!r}\n" for value in score.by_sentence))
        kept[metric.name] = {
            **{field: getattr(metric, field) for field in SHOWN},
            "file": name,
            "file_hash": files.file_hash(directory / name),
            "hypotheses_hash": hypotheses_hash,
        }
    return kept


def of_row(row: Row, metric: str) -> Float[np.ndarray, "sentences 1"] | None:
    """The scores of a metric's sentences; None where the row has none."""
    kept = _kept(row).get(metric)
    if kept is None:
        return None
    path = Path(row["run"]) / kept["file"]
    values = read(files.read_lines(path), row["sentences"], str(path))
    return np.asarray(values)[:, None]


def check_files(row: Row) -> None:
    """Raises ValueError for sentence scores that are gone, or that are not those, of those translations, of which the
    row has the mean."""
    for name, kept in _kept(row).items():
        path = Path(row["run"]) / kept["file"]
        remedy = f"give them again, with `evaluate --scores {kept['title']}=...`, or evaluate again"
        if not path.is_file():
            raise ValueError(f"{path}, the {name} of each sentence, does not exist; {remedy}")
        if files.file_hash(path) != kept["file_hash"]:
            raise ValueError(f"{path} has changed since its row was written; {remedy}")


def metrics_of(rows: Iterable[Row], known: Sequence[Metric] = ()) -> tuple[Metric, ...]:
    """The metrics whose sentence scores rows have, as they were when the first of them was written, but those that are
    known."""
    found: dict[str, Metric] = {}
    names = {metric.name for metric in known}
    for row in rows:
        for name, kept in _kept(row).items():
            if name not in names:
                shown = {field: kept[field] for field in SHOWN}
                found.setdefault(name, Metric(name, compute=elsewhere, **shown))
    return tuple(found.values())


def elsewhere(*_: Any) -> Never:
    """`compute` of a metric whose numbers are given."""
    raise ValueError("these sentences were scored by another program: evaluate --scores")


def _kept(row: Row) -> Mapping[str, dict[str, Any]]:
    """By metric; rows of early versions have none."""
    return row.get("sentence_scores") or {}
