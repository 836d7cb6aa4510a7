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


@pytest.fixture(scope="module")
def joined() -> list[results.Joined]:
    return results.join(
        [row for run in ("ar", "fertility_kd") for row in results.read(FIXTURES / run)]
    )


def test_every_number_is_the_same(joined: list[results.Joined]) -> None:
    table = build.build(joined)
    records = [*csv.DictReader(io.StringIO(formats.render(table, "csv")))]
    expected = [*csv.DictReader((FIXTURES / "table.csv").open(encoding="utf-8"))]
    for record, old in zip(records, expected, strict=True):
        assert Path(record.pop("run")).name == old.pop("run")
        assert record == old


def test_the_markdown_is_the_same_but_for_the_warnings(joined: list[results.Joined]) -> None:
    def unwarned(text: str) -> str:
        return re.sub(r"^- (Warning, |Causes and remedies).*\n", "", text, flags=re.MULTILINE)

    rendered = formats.render(build.build(joined), "markdown")
    assert unwarned(rendered) == unwarned((FIXTURES / "table.md").read_text(encoding="utf-8"))


def test_a_metric_that_is_younger_than_the_rows_is_not_available(
    joined: list[results.Joined],
) -> None:
    younger = Metric("younger", "Younger", lambda *texts: metrics.of_sentences([1.0], ""))
    table = build.build(joined, metrics=(*metrics.METRICS, younger))
    header, _, *lines = formats.render(table, "markdown").split("\n")[:6]
    column = header.split(" | ").index("Younger")
    assert {line.split(" | ")[column] for line in lines} == {"n/a"}
