import math

import pytest

from nat_ar.evaluation import results
from nat_ar.evaluation.bootstrap import PairedResult
from nat_ar.evaluation.metrics import METRICS
from nat_ar.evaluation.table import build, formats
from nat_ar.evaluation.table.line import ITSELF


def paired(difference: float, p_value: float) -> PairedResult:
    return PairedResult(
        34.0 + difference, 34.0, difference, difference - 1, difference + 1, p_value
    )


def test_the_teacher_comes_first(rows) -> None:
    lines = build.build(results.join(rows)).lines
    assert [line.result.identity["decoding"] for line in lines] == [
        "Beam(size=4)",
        "Greedy()",
        "Argmax()",
    ]
    assert [line.is_teacher for line in lines] == [True, False, False]


@pytest.mark.parametrize("method", ["Recurrent", "DecoderOnly"])
def test_any_model_of_family_ar_may_be_the_baseline(rows, method: str) -> None:
    for row in rows[2:]:
        row |= {"method": method}
    beam, _, nat = build.build(results.join(rows)).lines
    assert (beam.is_teacher, beam.result.identity["method"]) == (True, method)
    assert nat.over_beam is not None
    assert nat.over_beam.value == pytest.approx(10)
    assert nat.over_greedy is not None
    assert nat.over_greedy.value == pytest.approx(5)


def test_other_ar_systems_come_after_the_teacher_and_before_the_others(rows, quality) -> None:
    rows = [
        quality("joint", "Greedy()", 31.0, method="Joint", family="AR+NAT"),
        quality("recurrent", "Greedy()", 32.0, method="Recurrent", training_data="distilled"),
        *rows,
    ]
    lines = build.build(results.join(rows)).lines
    assert [line.result.identity["name"] for line in lines] == [
        "ar",
        "ar",
        "recurrent",
        "joint",
        "nat",
    ]


def test_speed_ups_are_ratios_of_mean_latency(rows) -> None:
    beam, greedy, nat = build.build(results.join(rows)).lines
    assert nat.over_beam is not None
    assert nat.over_greedy is not None
    assert nat.over_beam.value == pytest.approx(10)
    assert nat.over_greedy.value == pytest.approx(5)
    assert beam.over_beam == greedy.over_greedy == ITSELF
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
    *_, last = formats.render(build.build(results.join(rows)), "markdown", ["all"]).split("\n")[:5]
    assert "| 4.00 | 79.4 | 20k, 1.5 h |" in last


@pytest.mark.parametrize("lost", ["Greedy()", "Beam(size=4)"])
def test_no_speed_up_without_both_baselines(rows, lost: str) -> None:
    kept = [row for row in rows if row["kind"] == "quality" or row["decoding"] != lost]
    found = build.build(results.join(kept))
    assert all(line.over_beam is None and line.over_greedy is None for line in found.lines)
    (note,) = [note for note in found.notes if note.startswith("Speed-up n/a on")]
    assert f"no row of AR {lost.partition('(')[0].lower()}" in note
    assert "n/a" in formats.render(found, "terminal").splitlines()[3]


@pytest.mark.parametrize("change", [{"device": "gpu"}, {"threads": 1}, {"dtype": "bfloat16"}])
def test_no_speed_up_under_another_condition(rows, change) -> None:
    rows[1] |= change
    found = build.build(results.join(rows))
    nat = found.lines[-1]
    assert nat.result.identity["name"] == "nat"
    assert nat.over_beam is None
    assert found.lines[0].over_beam == ITSELF
    assert "timed on" in formats.render(found, "markdown").splitlines()[0]


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
    tests = {("nat", "runs/nat", "Argmax()"): {"bleu": paired(difference, p_value)}}
    found = build.build(results.join(rows), tests=tests)
    assert [line.mark(METRICS[0]) for line in found.lines] == ["", "", mark]
    assert f"27.00 ±1.00 {mark}" in formats.render(found, "terminal")
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
    other = results.SystemResult(quality("law", "Argmax()", 9.0, split="test_law"), None)
    with pytest.raises(ValueError, match="split 'test_law'"):
        build.build([*results.join(rows), other])


def test_the_number_of_resamples_may_differ(rows) -> None:
    signature = rows[0]["bleu"]["signature"].replace("bs:1000", "bs:200")
    rows[0]["bleu"] = {**rows[0]["bleu"], "signature": signature}
    assert len(build.build(results.join(rows)).lines) == 3


def test_the_teacher_is_named_by_name_or_run_or_is_the_first_raw_one(rows, quality) -> None:
    student = quality("ar_kd", "Beam(size=4)", 35.0, training_data="distilled")
    systems = results.join([student, *rows])

    def chosen(teacher: str | None) -> str:
        found = build.find_teacher(systems, teacher)
        assert found is not None
        return f"{found.identity['name']} {found.identity['decoding']}"

    assert chosen(None) == "ar Beam(size=4)"
    assert chosen("ar_kd") == chosen("runs/ar_kd") == "ar_kd Beam(size=4)"
    with pytest.raises(ValueError, match=r"teacher 'nat' names 0 .*ar \(runs/ar\), ar_kd"):
        build.find_teacher(systems, "nat")
    assert build.find_teacher(results.join(rows[:2]), None) is None


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows to compare"):
        build.build([])
