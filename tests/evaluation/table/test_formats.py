import csv
import dataclasses
import io

import pytest
import rich.console

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


def test_the_terminal_table_is_aligned_and_fits_80_columns(rows) -> None:
    for row in rows[:2]:
        row |= {"name": "a_student_with_a_long_name", "decoding": "NoisyParallel(samples=100)"}
    rows[0] |= {"valid": 61.25}
    text = formats.render(build.build(results.join(rows)), "terminal")
    assert max(map(len, text.splitlines())) <= 80
    values = ("40.0", "20.0", "4.00")
    lines = [next(line for line in text.splitlines() if f" {value} " in line) for value in values]
    ends = {line.index(f" {v} ") + len(v) for line, v in zip(lines, values, strict=True)}
    assert len(ends) == 1
    words = lines[2].split()
    assert words[1:] == ["27.00", "±1.00", "1.0", "4.00", "10.0", "5.00", "79.4", "61.2"]
    folded = "".join(text.split())
    assert "a_student_with_a_long_name27.00" in folded
    assert "NoisyParallel(samples=100),distilled" in folded


def test_with_every_optional_column_the_terminal_table_still_fits(rows) -> None:
    rows[0] |= {"valid": 100.0, "variant": "fertility NAT"}
    rows[1]["latency_ms"] |= {"mean": 1234.5}
    *others, nat = results.join([*rows[2:], *rows[:2]])
    by_seed = tuple(
        (seed, {**rows[0], "bleu": {**rows[0]["bleu"], "score": 27.0 + 10 * seed}})
        for seed in (1, 2)
    )
    systems = [*others, dataclasses.replace(nat, by_seed=by_seed)]
    text = formats.render(build.build(systems), "terminal")
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if line.startswith("nat"))
    shown = ["nat", "27.00", "±1.00", "2,", "±7.07", "1.0", "1,234", "0.03", "0.02", "79.4"]
    assert line.split() == [*shown, "74.0", "100.0"]


def test_the_terminal_table_is_text_wherever_python_runs(
    rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook rich displays what it prints; colours and widths of the environment do not count either."""
    table = build.build(results.join(rows))
    expected = formats.render(table, "terminal")
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "40"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    assert formats.render(table, "terminal") == expected


def test_a_terminal_table_of_all_columns_is_as_wide_as_they_need(rows) -> None:
    text = formats.render(build.build(results.join(rows)), "terminal", ["all"])
    rule = next(line for line in text.splitlines() if line.startswith("─"))
    assert 80 < len(rule) <= 170
    assert "4.00 ±0.40" in text
    assert "FertilityNat Argmax()," in text
    assert "valid" not in text  # no row has it


def test_markdown_has_one_cell_a_column(rows) -> None:
    for names in ((), ("all",), ("name", "bleu", "bleu_lc")):
        text = formats.render(build.build(results.join(rows)), "markdown", names)
        header, rule, *body = text.split("\n")[:5]
        assert {line.count("|") for line in (header, rule, *body)} == {header.count("|")}
        assert "| 34.00 [33.00, 35.00] |" in body[0]


def test_csv_is_unrounded_and_empty_where_nothing_was_measured(rows) -> None:
    del rows[1]  # the NAT was not timed
    text = formats.render(build.build(results.join(rows)), "csv")
    beam, greedy, nat = csv.DictReader(io.StringIO(text))
    assert float(greedy["over_beam"]) == 2
    assert float(beam["latency_p50_ms"]) == 36
    assert float(nat["bleu"]) == 27
    assert nat["latency_mean_ms"] == nat["over_beam"] == nat["device"] == ""
    assert beam["benchmark_command"] == "python -m nat_ar benchmark runs/*"


@pytest.mark.parametrize("names", [(), ("all",)])
def test_csv_has_everything_whatever_columns_are_named(rows, names: tuple[str, ...]) -> None:
    table = build.build(results.join(rows))
    assert formats.render(table, "csv", names) == formats.render(table, "csv", ("bleu",))


def test_latex_is_escaped(rows) -> None:
    for row in rows[:2]:
        row |= {"name": "nat_50%&co"}
    text = formats.render(build.build(results.join(rows)), "latex", ["all"])
    assert r"nat\_50\%\&co & FertilityNat & Argmax()" in text
    assert r"\toprule" in text
    assert r"$\times$ AR beam" in text
    assert r"\resizebox{\textwidth}" in text


@pytest.mark.parametrize(("names", "columns"), [((), 8), (("system", "bleu_lc", "ms"), 3)])
def test_latex_has_one_cell_a_column_and_scales_no_small_table(rows, names, columns: int) -> None:
    text = formats.render(build.build(results.join(rows)), "latex", names)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines()[1:]} == {columns - 1}
    assert "resizebox" not in text
    assert text.count("{") == text.count("}")
