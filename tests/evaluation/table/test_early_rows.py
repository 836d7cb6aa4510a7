"""Rows that commit c8abc97 wrote make the table that it made of them."""

import csv
import io
import re
from pathlib import Path

import pytest

from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.table import build, formats

FIXTURES = Path(__file__).parents[1] / "fixtures" / "c8abc97"
"""Rows of two runs of the toy study, and the table of that commit."""
COLUMNS = (
    *("name", "method", "decoding", "data", "params", "bleu", "chrf", "passes", "p50", "ms_range"),
    *("throughput", "beam_range", "greedy_range", "smax", "training", "repeat", "valid", "mixed"),
)
"""The columns that every table of that commit had."""


@pytest.fixture(scope="module")
def systems() -> list[results.SystemResult]:
    return results.join(
        [row for run in ("ar", "fertility_kd") for row in results.read(FIXTURES / run)]
    )


def test_every_number_is_the_same(systems: list[results.SystemResult]) -> None:
    table = build.build(systems)
    records = [*csv.DictReader(io.StringIO(formats.render(table, "csv")))]
    expected = [*csv.DictReader(io.StringIO((FIXTURES / "table.csv").read_text("utf-8")))]
    for record, old in zip(records, expected, strict=True):
        assert Path(record.pop("run")).name == old.pop("run")
        assert {key: record[key] for key in old} == old  # later columns stand beside them


def test_the_markdown_is_the_same_but_for_the_warnings_and_the_note_on_seeds(
    systems: list[results.SystemResult],
) -> None:
    def unwarned(text: str) -> str:
        return re.sub(
            r"^- (Warning, |Causes and remedies|One seed a system).*\n",
            "",
            text,
            flags=re.MULTILINE,
        )

    rendered = formats.render(build.build(systems), "markdown", COLUMNS)
    assert unwarned(rendered) == unwarned((FIXTURES / "table.md").read_text(encoding="utf-8"))


def test_a_metric_that_is_younger_than_the_rows_is_not_available(
    systems: list[results.SystemResult],
) -> None:
    younger = Metric("younger", "Younger", lambda *texts: metrics.of_sentences([1.0], ""))
    table = build.build(systems, metrics=(*metrics.METRICS, younger))
    header, _, *lines = formats.render(table, "markdown").split("\n")[:6]
    column = header.split(" | ").index("Younger")
    assert {line.split(" | ")[column] for line in lines} == {"n/a"}
