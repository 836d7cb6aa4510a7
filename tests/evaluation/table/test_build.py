import csv
import io
import math

import pytest

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import PairedResult
from nat_ar.evaluation.table import build


@pytest.fixture
def rows(quality, speed):
    """The teacher's beam at 40 ms and greedy at 20 ms, a fertility NAT at 4 ms."""
    nat = {"method": "Fertility", "training_data": "distilled", "steps": 1.0}
    return [
        quality("nat", "Argmax()", 27.0, **nat),
        speed("nat", "Argmax()", 4.0, **nat),
        quality("ar", "Greedy()", 33.0),
        speed("ar", "Greedy()", 20.0),
        quality("ar", "Beam(size=4)", 34.0),
        speed("ar", "Beam(size=4)", 40.0),
    ]


def paired(difference: float, p_value: float) -> PairedResult:
    return PairedResult(
        34.0 + difference, 34.0, difference, difference - 1, difference + 1, p_value
    )


def test_the_teacher_comes_first(rows) -> None:
    lines = build.build(results.join(rows)).lines
    assert [line.joined.identity["decoding"] for line in lines] == [
        "Beam(size=4)",
        "Greedy()",
        "Argmax()",
    ]
    assert [line.is_teacher for line in lines] == [True, False, False]


def test_speed_ups_are_ratios_of_mean_latency(rows) -> None:
    beam, greedy, nat = build.build(results.join(rows)).lines
    assert nat.over_beam is not None
    assert nat.over_greedy is not None
    assert nat.over_beam.value == pytest.approx(10)
    assert nat.over_greedy.value == pytest.approx(5)
    assert beam.over_beam == greedy.over_greedy == build.ITSELF
    assert beam.over_greedy is not None
    assert beam.over_greedy.value == pytest.approx(0.5)
    # Both intervals span a factor of 1.1 / 0.9; their logarithms add as independent errors do.
    spread = math.exp(math.sqrt(2) * math.log(1.1 / 0.9) / 2)
    assert nat.over_beam.low == pytest.approx(10 / spread)
    assert nat.over_beam.high == pytest.approx(10 * spread)


def test_smax_compares_each_system_at_its_own_best_batch(rows) -> None:
    rows[1] |= {
        "throughput": 800.0,
        "throughput_batch": 8,
    }  # the NAT; AR beam 200/s, greedy 400/s at 64
    beam, greedy, nat = build.build(results.join(rows)).lines
    assert (nat.best_over_beam, nat.best_over_greedy) == pytest.approx((4, 2))
    assert (greedy.best_over_beam, beam.best_over_greedy) == pytest.approx((2, 0.5))
    *_, last = build.render(build.build(results.join(rows)), "markdown").split("\n")[:5]
    assert "| 4.00 | 20k" in last


def test_rows_of_early_versions_make_a_table_beside_later_ones(rows) -> None:
    old = build.render(build.build(results.join(rows)), "terminal")
    assert not set(results.LATER_SPEED_KEYS) & set(rows[1])
    floor = {"flops": 6e8, "weight_bytes": 5e7, "floor_ms": 2.5}
    rows[1] |= {"floor": floor, "latency_ms": {**rows[1]["latency_ms"], "p99": 9.0}}
    new = build.build(results.join(rows))
    *_, first, second = csv.DictReader(io.StringIO(build.render(new, "csv")))
    assert (first["latency_p99_ms"], first["sentence_floor_ms"]) == ("", "")
    assert (second["latency_p99_ms"], second["sentence_floor_ms"]) == ("9.0", "2.5")
    assert build.render(new, "terminal") == old


@pytest.mark.parametrize("lost", ["Greedy()", "Beam(size=4)"])
def test_no_speed_up_without_both_baselines(rows, lost: str) -> None:
    kept = [row for row in rows if row["kind"] == "quality" or row["decoding"] != lost]
    found = build.build(results.join(kept))
    assert all(line.over_beam is None and line.over_greedy is None for line in found.lines)
    (note,) = [note for note in found.notes if note.startswith("Speed-up n/a on")]
    assert f"no row of Autoregressive {lost.partition('(')[0].lower()}" in note
    assert "n/a" in build.render(found, "terminal").splitlines()[3]


@pytest.mark.parametrize("change", [{"device": "gpu"}, {"threads": 1}, {"dtype": "bfloat16"}])
def test_no_speed_up_under_another_condition(rows, change) -> None:
    rows[1] |= change
    found = build.build(results.join(rows))
    nat = found.lines[-1]
    assert nat.joined.identity["name"] == "nat"
    assert nat.over_beam is None
    assert found.lines[0].over_beam == build.ITSELF
    assert "timed on" in build.render(found, "markdown").splitlines()[0]


def test_no_speed_up_on_another_number_of_sentences(rows) -> None:
    rows[1]["sentences"] = 99
    found = build.build(results.join(rows))
    assert found.lines[-1].over_beam is None
    assert any(note.startswith("Speed-up n/a for nat Argmax()") for note in found.notes)


@pytest.mark.parametrize(
    ("difference", "p_value", "mark"),
    [(-7.0, 0.001, "-"), (7.0, 0.049, "+"), (-7.0, 0.05, "="), (0.1, 0.7, "=")],
)
def test_marks(rows, difference: float, p_value: float, mark: str) -> None:
    comparisons = {("nat", "runs/nat", "Argmax()"): paired(difference, p_value)}
    found = build.build(results.join(rows), comparisons=comparisons)
    assert [line.mark for line in found.lines] == ["", "", mark]
    assert f"27.00 ±1.00 {mark}" in build.render(found, "terminal")
    assert any("against ar Beam(size=4)" in note for note in found.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"test_hash": "f" * 64},
        {"bleu": {"score": 27, "low": 26, "high": 28, "signature": "nrefs:1|bs:9|tok:intl"}},
    ],
)
def test_rows_of_another_test_or_signature_do_not_share_a_table(rows, change) -> None:
    rows[0] |= change
    with pytest.raises(ValueError, match="cannot share a table") as error:
        build.build(results.join(rows))
    listed = str(error.value).splitlines()
    assert len(listed) == 3
    assert listed[1].endswith(": nat Argmax()")
    assert listed[2].endswith(": ar Greedy(); ar Beam(size=4)")


def test_rows_of_another_split_do_not_share_a_table(rows, quality) -> None:
    other = results.Joined(quality("law", "Argmax()", 9.0, split="test_law"), None)
    with pytest.raises(ValueError, match="split 'test_law'"):
        build.build([*results.join(rows), other])


def test_the_number_of_resamples_may_differ(rows) -> None:
    signature = rows[0]["bleu"]["signature"].replace("bs:1000", "bs:200")
    rows[0]["bleu"] = {**rows[0]["bleu"], "signature": signature}
    assert len(build.build(results.join(rows)).lines) == 3


def test_the_teacher_is_named_by_name_or_run_or_is_the_first_raw_one(rows, quality) -> None:
    student = quality("ar_kd", "Beam(size=4)", 35.0, training_data="distilled")
    joined = results.join([student, *rows])

    def chosen(teacher: str | None) -> str:
        found = build.find_teacher(joined, teacher)
        assert found is not None
        return f"{found.identity['name']} {found.identity['decoding']}"

    assert chosen(None) == "ar Beam(size=4)"
    assert chosen("ar_kd") == chosen("runs/ar_kd") == "ar_kd Beam(size=4)"
    with pytest.raises(ValueError, match=r"teacher 'nat' names 0 .*ar \(runs/ar\), ar_kd"):
        build.find_teacher(joined, "nat")
    assert build.find_teacher(results.join(rows[:2]), None) is None


def test_a_table_without_any_autoregressive_system(rows) -> None:
    found = build.build(results.join(rows[:2]))
    assert any("No paired test" in note for note in found.notes)
    assert any("autoregressive beam" in note.lower() for note in found.notes)


def test_the_terminal_table_is_aligned_and_fits(rows) -> None:
    text = build.render(build.build(results.join(rows)), "terminal")
    assert max(map(len, text.splitlines())) <= 160
    values = ("40.0 ±4.0", "20.0 ±2.0", "4.00 ±0.40")
    lines = [next(line for line in text.splitlines() if value in line) for value in values]
    ends = {line.index(value) + len(value) for line, value in zip(lines, values, strict=True)}
    assert len(ends) == 1
    assert "10.0 ±1.4" in lines[2]
    assert "\n  Fertility Argmax()\n" in text
    assert "valid" not in text


def test_the_notes_say_where_the_numbers_come_from(rows) -> None:
    rows[0]["warnings"] = ["4.1 % of the tokens repeat"]
    rows[0]["data_hash"] = "a" * 64
    text = build.render(build.build(results.join(rows)), "terminal")
    assert "tok:13a" in text
    assert "cpu, 2 threads, float32" in text
    assert "data hash aaaaaaaaaaaa (nat), dddddddddddd (ar)" in text.replace("\n  ", " ") or (
        "data hash dddddddddddd (ar), aaaaaaaaaaaa (nat)" in text.replace("\n  ", " ")
    )
    assert "test hash eeeeeeeeeeee" in text
    assert "2026-01-03" in text
    assert "python -m nat_ar evaluate runs/nat" in text
    assert "Warning, nat Argmax(): 4.1 %" in text


def test_valid_and_mixed_are_columns_of_the_toy_language_only(rows) -> None:
    rows[0] |= {"valid": 61.25, "mixed": 27.5}
    header, _, beam, _, nat, *_ = build.render(build.build(results.join(rows)), "markdown").split(
        "\n"
    )
    assert header.endswith("| valid % | mixed % |")
    assert nat.endswith("| 61.2 | 27.5 |")
    assert beam.endswith("| n/a | n/a |")


def test_markdown_has_one_cell_a_column(rows) -> None:
    header, rule, *body = build.render(build.build(results.join(rows)), "markdown").split("\n")[:5]
    assert {line.count("|") for line in (header, rule, *body)} == {header.count("|")}
    assert "| 34.00 [33.00, 35.00] |" in body[0]
    assert "| 20k, 1.5 h |" in body[0]


def test_csv_is_unrounded_and_empty_where_nothing_was_measured(rows) -> None:
    del rows[1]  # the NAT was not timed
    text = build.render(build.build(results.join(rows)), "csv")
    beam, greedy, nat = csv.DictReader(io.StringIO(text))
    assert float(greedy["over_beam"]) == 2
    assert float(beam["latency_p50_ms"]) == 36
    assert float(nat["bleu"]) == 27
    assert nat["latency_mean_ms"] == nat["over_beam"] == nat["device"] == ""
    assert beam["benchmark_command"] == "python -m nat_ar benchmark runs/*"


def test_latex_is_escaped(rows) -> None:
    for row in rows[:2]:
        row |= {"name": "nat_50%&co"}
    text = build.render(build.build(results.join(rows)), "latex")
    assert r"nat\_50\%\&co & Fertility & Argmax()" in text
    assert r"\toprule" in text
    assert r"$\times$ AR beam" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines()[1:]} == {15}


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows to compare"):
        build.build([])
