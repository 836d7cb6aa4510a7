"""Runs that differ in their seed only, as one system: the mean of their scores, with the spread over seeds."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from nat_ar.evaluation import results
from nat_ar.evaluation.results import Condition, Row, SystemResult

MEANS = (
    "steps",
    "length_ratio",
    "repetition",
    "repetition_sentences",
    "valid",
    "mixed",
    "train_seconds",
    "train_compile_seconds",
    "train_steps",
    "train_target_tokens",
)
"""Numbers of a quality row, beside its scores, of which several seeds have the mean."""


@dataclasses.dataclass(frozen=True)
class SeededRun:
    """What a run is but for its seed, and its seed."""

    name: str
    """of the system, without the seed"""
    seed: int
    rest: Hashable
    """equal for runs that differ in the seed only"""


def merge(
    systems: Sequence[SystemResult], runs: Mapping[str, SeededRun | None]
) -> list[SystemResult]:
    """The systems, with those of runs that differ in the seed only as one, in the place of the first.

    runs: by directory, as rows have it; None where a run's config is not known. Runs of one seed are not merged:
    something else tells them apart. Speed is that of the first seed that was timed under a condition: the work of a
    decoding does not depend on the seed, but for the lengths of what it translates."""
    groups: dict[Hashable, dict[str, SeededRun]] = {}
    for system in systems:
        run = runs.get(system.identity["run"])
        if run is not None:
            groups.setdefault((run.name, run.rest), {})[system.identity["run"]] = run
    together = {
        directory: members
        for members in groups.values()
        if len({run.seed for run in members.values()}) == len(members) > 1
        for directory in members
    }
    merged: list[SystemResult] = []
    for system in systems:
        row = system.identity
        members = together.get(row["run"], {})
        same = [
            one
            for one in systems
            if one.identity["run"] in members
            and one.identity["decoding"] == row["decoding"]
            and results.mean_of(one.identity) == results.mean_of(row)
        ]
        if not members:
            merged.append(system)
        elif system is same[0]:
            merged += _as_one(same, members)
    return merged


def _as_one(systems: Sequence[SystemResult], runs: Mapping[str, SeededRun]) -> list[SystemResult]:
    """One system a condition, of the same decoding of several runs."""
    first, *_ = sorted(runs, key=lambda directory: runs[directory].seed)
    ordered = sorted(systems, key=lambda system: runs[system.identity["run"]].seed)

    def named(row: Row) -> Row:
        """As a row of the first run; the hash of its parameters is that of another where it was measured with one."""
        own = {} if row["run"] == first else {"parameters_hash": None}
        return {**row, "name": runs[first].name + results.mean_of(row), "run": first, **own}

    by_seed = {
        runs[system.quality["run"]].seed: system.quality
        for system in ordered
        if system.quality is not None
    }
    quality = named(mean_row([*by_seed.values()])) if by_seed else None
    speeds: dict[Condition | None, Row | None] = {}
    for system in ordered:
        if system.speed is not None:
            timed = {"timed_seed": runs[system.speed["run"]].seed}
            speeds.setdefault(system.condition, {**named(system.speed), **timed})
    return [
        SystemResult(quality, speed, tuple(by_seed.items())) for speed in speeds.values() or [None]
    ]


def mean_row(rows: Sequence[Row]) -> Row:
    """The quality row of several seeds: the first, with the means of scores and numbers.

    The interval of a score is the mean of theirs. It is over sentences, for these seeds, and not too narrow: the
    standard deviation of a mean is at most the mean of the standard deviations. A score that one lacks is left out."""
    first = rows[0]
    mean: Row = {
        key: _mean_score([row.get(key) for row in rows]) if _is_score(value) else value
        for key, value in first.items()
        if not _is_score(value) or all(_is_score(row.get(key)) for row in rows)
    }
    mean |= {key: _mean([row.get(key) for row in rows]) for key in MEANS}
    mean["train_steps"] = round(mean["train_steps"])
    for key in ("domains", "lengths"):
        if first.get(key) is not None:
            mean[key] = {
                group: {**one, "bleu": _mean([row[key][group]["bleu"] for row in rows])}
                for group, one in first[key].items()
            }
    mean["warnings"] = list(dict.fromkeys(text for row in rows for text in row["warnings"]))
    return mean


def deviation(rows: Sequence[Row], metric: str) -> float | None:
    """The sample standard deviation of a score over rows, a seed each; None where fewer than two have it."""
    scores = [row[metric]["score"] for row in rows if _is_score(row.get(metric))]
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def _is_score(value: Any) -> bool:
    return isinstance(value, dict) and {"score", "low", "high", "signature"} <= set(value)


def _mean_score(scores: Sequence[Any]) -> dict[str, Any]:
    ends = {key: _mean([score[key] for score in scores]) for key in ("score", "low", "high")}
    return {**scores[0], **ends}


def _mean(values: Sequence[float | int | None]) -> Any:
    """None where one is missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
