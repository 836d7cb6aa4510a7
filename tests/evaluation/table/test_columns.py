import csv
import io
import re
from pathlib import Path

import pytest

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import METRICS, Metric, Score
from nat_ar.evaluation.table import build, columns, formats


def header(rows, *names: str) -> list[str]:
    table = build.build(results.join(rows))
    return formats.render(table, "markdown", names).splitlines()[0].strip("| ").split(" | ")


def test_a_table_has_few_columns_unless_others_are_named(rows) -> None:
    few = ["system", "data", "BLEU", "passes", "ms", "× AR beam", "× AR greedy", "% of teacher"]
    assert header(rows) == few
    assert header(rows, "ms", "bleu_lc", "name") == ["ms", "BLEU lc", "name"]


def test_all_columns_are_those_that_some_line_has(rows) -> None:
    plain = header(rows, "all")
    assert {"BLEU", "BLEU lc", "chrF++", "TER", "p50 ms", "Smax × beam", "training"} <= {*plain}
    assert not {"× floor", "valid %"} & {*plain}
    rows[1] |= {"floor": {"floor_ms": 2.5, "ratio": 1.6}}
    floors = formats.render(
        build.build(results.join(rows)), "markdown", ["name", "floor", "over_floor"]
    )
    assert floors.splitlines()[:5] == [
        "| name | floor ms | × floor |",
        "| :-- | --: | --: |",
        "| ar | n/a | n/a |",
        "| ar | n/a | n/a |",
        "| nat | 2.50 | 1.60 |",
    ]
    assert {*plain, "floor ms", "× floor"} == {*header(rows, "all")}


def test_every_name_is_a_column(rows) -> None:
    for name in columns.NAMES:
        assert len(header(rows, name)) == 1
    with pytest.raises(ValueError, match=r"columns: expected some of all, system, .*; got blue"):
        header(rows, "bleu", "blue")


def test_the_page_of_the_columns_has_every_name() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
    section = page.partition("## Columns")[2].partition("\n## ")[0]
    listed = re.findall(
        r"`([a-z_0-9]+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    )
    assert {*listed} == {*columns.NAMES, *(metric.name for metric in METRICS)}


def test_a_metric_that_is_called_like_a_column_is_refused() -> None:
    metric = Metric("ms", "Mine", lambda *texts: Score(1.0, None, None, ""))
    with pytest.raises(ValueError, match=r"a metric needs a name of its own, .* ms"):
        columns.check((), [metric])


def test_percent_of_the_teacher_by_hand(rows) -> None:
    found = build.build(results.join(rows))
    percents = [line.of_teacher for line in found.lines]
    assert percents == pytest.approx([100, 100 * 33 / 34, 100 * 27 / 34])
    assert "| 79.4 |" in formats.render(found, "markdown")
    assert "- % of teacher: BLEU in percent of" in formats.render(found, "markdown")
    greedy_only = [row for row in rows if row["decoding"] != "Beam(size=4)"]
    assert "% of teacher" not in header(greedy_only)


def test_valid_and_mixed_are_columns_of_the_toy_language_only(rows) -> None:
    rows[0] |= {"valid": 61.25, "mixed": 27.5}
    first, _, beam, _, nat, *_ = formats.render(
        build.build(results.join(rows)), "markdown", ["all"]
    ).split("\n")
    assert first.endswith("| valid % | mixed % |")
    assert nat.endswith("| 61.2 | 27.5 |")
    assert beam.endswith("| n/a | n/a |")


def test_the_published_ratio_stands_beside_ours_and_the_note_says_whose_it_is(rows) -> None:
    assert "% in papers" not in header(rows)  # rows without a variant
    rows[0] |= {"variant": "fertility NAT"}
    assert header(rows)[-2:] == ["% of teacher", "% in papers"]
    text = formats.render(build.build(results.join(rows)), "markdown")
    assert "| 79.4 | 74.0 |" in text  # 17.35 of 23.45
    assert "nat Argmax(): fertility NAT 17.35 of 23.45 (Gu et al. 2018)" in text
    assert "WMT14 en-de" in text
    assert "in papers" not in formats.render(build.build(results.join(rows)), "latex", ["bleu"])
    *_, record = csv.DictReader(io.StringIO(formats.render(build.build(results.join(rows)), "csv")))
    assert float(record["published_percent"]) == pytest.approx(100 * 17.35 / 23.45)
    assert float(record["teacher_percent"]) == pytest.approx(100 * 27 / 34)
