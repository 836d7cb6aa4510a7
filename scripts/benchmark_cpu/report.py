"""The results of sections as lines of results.jsonl, as Markdown, and against the record. Imports no JAX.

A figure without a unit is a ratio, larger is better: the record keeps these, because a ratio of two systems of one run
means the same on another day, on the same kind of processor: what one kernel gains over another is a matter of the
instructions that there are, and a share of a floor one of caches too. Figures with a unit are shown with their bars
only."""

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.runtime import files

LEAST_SHARE = 0.8
"""The share of its recorded value to which a ratio may fall: noise is 20 % on a shared machine."""

Value = float | int | str | Interval | None
"""A cell of a table."""
Row = dict[str, Value]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number with a bar, a recorded value, or both."""

    name: str
    interval: Interval
    unit: str = ""
    """empty: a ratio, which the record keeps"""
    bar: float | None = None
    """at least this, or at most"""
    at_most: bool = False

    def __post_init__(self) -> None:
        if self.at_most and not self.unit:
            raise ValueError(
                f"{self.name}: a larger ratio must be better, so that the record can compare it; turn "
                "it round"
            )

    @property
    def meets(self) -> bool | None:
        """Whether the median meets the bar; None without a bar."""
        if self.bar is None:
            return None
        value = self.interval.value
        return value <= self.bar if self.at_most else value >= self.bar


@dataclasses.dataclass
class Section:
    """The results of one section."""

    name: str
    signature: dict[str, str] = dataclasses.field(default_factory=dict)
    """of its numbers: device, threads, versions, date"""
    tables: dict[str, list[Row]] = dataclasses.field(default_factory=dict)
    """title -> rows; the keys of the first row are the columns"""
    figures: list[Figure] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    """what was left out and why; what a reader must know"""
    seconds: float = 0.0
    """of the whole section, compilation included"""

    def lines(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl."""
        of = {"section": self.name}
        head = {**of, "kind": "section", **self.signature, "seconds": round(self.seconds, 1)}
        return [
            {**head, "notes": self.notes},
            *(
                {**of, "kind": "row", "table": title, "cells": _to_json(row)}
                for title, rows in self.tables.items()
                for row in rows
            ),
            *({**of, "kind": "figure", **dataclasses.asdict(figure)} for figure in self.figures),
        ]


def from_lines(lines: Iterable[Mapping[str, Any]]) -> list[Section]:
    """The inverse of Section.lines, for any number of sections."""
    sections: dict[str, Section] = {}
    for line in lines:
        name, kind = line["section"], line["kind"]
        section = sections.setdefault(name, Section(name))
        fields = {key: value for key, value in line.items() if key not in ("section", "kind")}
        if kind == "section":
            section.seconds, section.notes = fields.pop("seconds"), fields.pop("notes")
            section.signature = fields
        elif kind == "row":
            section.tables.setdefault(fields["table"], []).append(_from_json(fields["cells"]))
        else:
            interval = Interval(**fields.pop("interval"))
            section.figures.append(Figure(interval=interval, **fields))
    return list(sections.values())


def _to_json(row: Row) -> dict[str, Any]:
    """An interval becomes the list [value, low, high]."""
    return {
        name: list(dataclasses.astuple(cell)) if isinstance(cell, Interval) else cell
        for name, cell in row.items()
    }


def _from_json(cells: Mapping[str, Any]) -> Row:
    return {
        name: Interval(*cell) if isinstance(cell, list) else cell for name, cell in cells.items()
    }


def read(path: Path) -> list[Section]:
    """The sections of a results.jsonl; none if there is no such file."""
    if not path.exists():
        return []
    return from_lines(json.loads(line) for line in path.read_text("utf-8").splitlines())


def write(path: Path, sections: Sequence[Section]) -> None:
    lines = [json.dumps(line) for section in sections for line in section.lines()]
    files.write_text(path, "".join(line + "\n" for line in lines))


def merged(old: Sequence[Section], new: Sequence[Section], order: Sequence[str]) -> list[Section]:
    """The new sections and the old ones that were not run again, in order."""
    latest = {section.name: section for section in (*old, *new)}
    return [latest[name] for name in order if name in latest]


# The record

RECORD = "record.json"


def folder(records: Path, condition: str) -> Path:
    """Where the record of a kind of processor and a number of threads is, or would be."""
    return records / re.sub(r"[^a-z0-9]+", "_", condition.lower()).strip("_")


@dataclasses.dataclass(frozen=True)
class Fall:
    """A ratio below LEAST_SHARE of its recorded value."""

    name: str
    value: float
    recorded: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.value:.3f} is {self.value / self.recorded:.2f} of the recorded "
            f"{self.recorded:.3f}, below {LEAST_SHARE}"
        )


def read_record(path: Path) -> dict[str, float]:
    """Name of a ratio -> its recorded median; empty without a record."""
    if not path.exists():
        return {}
    record = files.read_json(path, remedy="restore it, or record anew with --record")
    return {name: entry["value"] for name, entry in record["ratios"].items()}


def write_record(path: Path, sections: Sequence[Section]) -> None:
    """Replaces the measured ratios; the others keep their values."""
    ratios: dict[str, Any] = {}
    if path.exists():
        ratios = files.read_json(path, remedy="remove it, and record anew")["ratios"]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    for section in sections:
        for figure in section.figures:
            if not figure.unit:
                measured = dataclasses.asdict(figure.interval)
                ratios[figure.name] = {
                    **measured,
                    "device": section.signature["device"],
                    "date": date,
                }
    record = files.signed({"ratios": dict(sorted(ratios.items()))})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(record, indent=2) + "\n")


def falls(record: Mapping[str, float], sections: Sequence[Section]) -> list[Fall]:
    """The ratios that fell; new ones have no recorded value to fall from."""
    return [
        Fall(figure.name, figure.interval.value, record[figure.name])
        for section in sections
        for figure in section.figures
        if not figure.unit and figure.interval.value < LEAST_SHARE * record.get(figure.name, 0.0)
    ]


def not_measured(record: Mapping[str, float], sections: Sequence[Section]) -> list[str]:
    """Recorded ratios of sections that ran which this run did not measure: their peer is not installed."""
    ran = {section.name for section in sections}
    measured = {figure.name for section in sections for figure in section.figures}
    return [name for name in record if name.split("/")[0] in ran and name not in measured]


def exit_status(fallen: Sequence[Fall], failed: Sequence[str]) -> int:
    """1 if a ratio fell or a section failed. A missed bar does not change it."""
    return 1 if fallen or failed else 0


# Markdown


def shown(value: Value) -> str:
    """The text of a cell: three significant digits, an interval in brackets."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Interval):
        return f"{shown(value.value)} [{shown(value.low)}, {shown(value.high)}]"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: numbers are aligned right, text left."""
    columns = list(rows[0])
    is_text = {name: all(isinstance(row.get(name), str) for row in rows) for name in columns}
    rule = ["---" if is_text[name] else "--:" for name in columns]
    body = [[shown(row.get(name)) for name in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [columns, rule, *body])


def figures(section: Section, record: Mapping[str, float]) -> str:
    """A Markdown table of a section's figures with their bars and recorded values."""
    rows: list[Row] = []
    for figure in section.figures:
        sign = "at most" if figure.at_most else "at least"
        bar = "" if figure.bar is None else f"{sign} {figure.bar:g} {figure.unit}".strip()
        met = {None: "", True: "yes", False: "no"}[figure.meets]
        name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
        rows.append(
            {
                "figure": name,
                "median [95 %]": figure.interval,
                "bar": bar,
                "met": met,
                "recorded": record.get(figure.name),
            }
        )
    return table(rows) if rows else ""


def markdown(section: Section, record: Mapping[str, float]) -> str:
    """The report of one section."""
    signature = ", ".join(f"{name} {value}" for name, value in section.signature.items())
    parts = [f"## {section.name}\n", f"{signature}; {section.seconds:.0f} s.\n"]
    parts += [f"{note}\n" for note in section.notes]
    parts += [f"{title}:\n\n{table(rows)}" for title, rows in section.tables.items()]
    parts += [figures(section, record)]
    return "\n".join(part for part in parts if part)
