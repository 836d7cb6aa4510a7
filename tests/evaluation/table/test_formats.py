import csv
import io

from nat_ar.evaluation import results
from nat_ar.evaluation.table import build, formats


def test_rows_of_early_versions_make_a_table_beside_later_ones(rows) -> None:
    old = formats.render(build.build(results.join(rows)), "terminal")
    assert not set(results.LATER_SPEED_KEYS) & set(rows[1])
    floor = {"flops": 6e8, "weight_bytes": 5e7, "floor_ms": 2.5}
    rows[1] |= {"floor": floor, "latency_ms": {**rows[1]["latency_ms"], "p99": 9.0}}
    new = build.build(results.join(rows))
    *_, first, second = csv.DictReader(io.StringIO(formats.render(new, "csv")))
    assert (first["latency_p99_ms"], first["sentence_floor_ms"]) == ("", "")
    assert (second["latency_p99_ms"], second["sentence_floor_ms"]) == ("9.0", "2.5")
    assert formats.render(new, "terminal") == old


def test_the_terminal_table_is_aligned_and_fits(rows) -> None:
    text = formats.render(build.build(results.join(rows)), "terminal")
    assert max(map(len, text.splitlines())) <= 160
    values = ("40.0 ±4.0", "20.0 ±2.0", "4.00 ±0.40")
    lines = [next(line for line in text.splitlines() if value in line) for value in values]
    ends = {line.index(value) + len(value) for line, value in zip(lines, values, strict=True)}
    assert len(ends) == 1
    assert "10.0 ±1.4" in lines[2]
    assert "\n  FertilityNat Argmax()\n" in text
    assert "valid" not in text


def test_markdown_has_one_cell_a_column(rows) -> None:
    header, rule, *body = formats.render(build.build(results.join(rows)), "markdown").split("\n")[
        :5
    ]
    assert {line.count("|") for line in (header, rule, *body)} == {header.count("|")}
    assert "| 34.00 [33.00, 35.00] |" in body[0]
    assert "| 20k, 1.5 h |" in body[0]


def test_csv_is_unrounded_and_empty_where_nothing_was_measured(rows) -> None:
    del rows[1]  # the NAT was not timed
    text = formats.render(build.build(results.join(rows)), "csv")
    beam, greedy, nat = csv.DictReader(io.StringIO(text))
    assert float(greedy["over_beam"]) == 2
    assert float(beam["latency_p50_ms"]) == 36
    assert float(nat["bleu"]) == 27
    assert nat["latency_mean_ms"] == nat["over_beam"] == nat["device"] == ""
    assert beam["benchmark_command"] == "python -m nat_ar benchmark runs/*"


def test_latex_is_escaped(rows) -> None:
    for row in rows[:2]:
        row |= {"name": "nat_50%&co"}
    text = formats.render(build.build(results.join(rows)), "latex")
    assert r"nat\_50\%\&co & FertilityNat & Argmax()" in text
    assert r"\toprule" in text
    assert r"$\times$ AR beam" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines()[1:]} == {15}
