import json
from pathlib import Path

import numpy as np
import pytest

from nat_ar.evaluation import results
from nat_ar.evaluation.table import build


def test_rows_come_back_as_they_were_written(tmp_path: Path, quality, speed) -> None:
    first = quality("ar", "Greedy()", 30.0, run=str(tmp_path), warnings=["größer\u2028als"])
    second = speed("ar", "Greedy()", 10.0, run=str(tmp_path))
    results.append(tmp_path, first)
    results.append(tmp_path, second)
    assert results.read(tmp_path) == [first, second]


def test_run_is_the_directory_that_was_read(tmp_path: Path, quality) -> None:
    results.append(tmp_path, quality("ar", "Greedy()", 30.0, run="runs/elsewhere"))
    assert results.read(tmp_path)[0]["run"] == str(tmp_path)


def test_numpy_scalars_become_numbers(tmp_path: Path, quality) -> None:
    results.append(tmp_path, quality("ar", "Greedy()", 30.0, steps=np.float32(9.5)))
    assert results.read(tmp_path)[0]["steps"] == 9.5


def test_a_row_without_a_key_or_with_a_nan_is_not_written(tmp_path: Path, quality) -> None:
    row = quality("ar", "Greedy()", 30.0)
    del row["references"]
    with pytest.raises(ValueError, match="quality row lacks references"):
        results.append(tmp_path, row)
    with pytest.raises(ValueError, match="float"):
        results.append(tmp_path, quality("ar", "Greedy()", 30.0, steps=float("nan")))
    assert not (tmp_path / "results.jsonl").exists()


def test_a_broken_line_is_named(tmp_path: Path, quality) -> None:
    path = tmp_path / "results.jsonl"
    good = json.dumps(quality("ar", "Greedy()", 30.0))
    path.write_text(good + '\n{"kind": "quality", \n')
    with pytest.raises(ValueError, match=r"results\.jsonl:2: not a JSON object"):
        results.read(tmp_path)
    path.write_text(good + '\n{"kind": "opinion"}\n')
    with pytest.raises(ValueError, match=r'results\.jsonl:2: "kind" is \'opinion\''):
        results.read(tmp_path)
    path.write_bytes(good.encode() + b"\n\xff\n")
    with pytest.raises(ValueError, match=r"results\.jsonl:2: not UTF-8"):
        results.read(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        results.read(tmp_path / "nowhere")


def test_a_row_that_a_crash_cut_is_no_row(tmp_path: Path, quality) -> None:
    rows = [quality("ar", "Greedy()", score) for score in (30.0, 31.0)]
    results.append(tmp_path, rows[0])
    with (tmp_path / results.FILE_NAME).open("a") as file:
        file.write('{"kind": "qua')
    expected = [{**row, "run": str(tmp_path)} for row in rows]
    assert results.read(tmp_path) == expected[:1]
    results.append(tmp_path, rows[1])
    assert results.read(tmp_path) == expected


def test_join_pairs_equal_systems_and_keeps_the_order(quality, speed) -> None:
    rows = [
        quality("nat", "Argmax()", 20.0),
        quality("ar", "Beam(size=4)", 30.0),
        speed("ar", "Greedy()", 5.0),
        speed("ar", "Beam(size=4)", 10.0),
    ]
    nat, beam, greedy = results.join(rows)
    assert (nat.quality, nat.speed) == (rows[0], None)
    assert (beam.quality, beam.speed) == (rows[1], rows[3])
    assert (greedy.quality, greedy.speed) == (None, rows[2])


def test_the_latest_date_wins(quality, speed) -> None:
    old = quality("ar", "Greedy()", 30.0, date="2026-01-01T00:00:00+00:00")
    new = quality("ar", "Greedy()", 31.0, date="2026-01-02T00:00:00+00:00")
    (systems,) = results.join([new, old])
    assert systems.quality == new


def test_the_mean_of_checkpoints_is_a_system_beside_its_run(quality, speed) -> None:
    """Whichever was measured last, each has its own quality and speed, and neither is the other's stale row."""
    mean = {"averaged_steps": [300, 400], "parameters_hash": "b" * 64, "checkpoint_step": 400}
    rows = [
        quality("ar", "Beam()", 30.0, date="2026-01-01"),
        quality("ar", "Beam()", 31.0, date="2026-01-02", **mean),
        speed("ar", "Beam()", 5.0, date="2026-01-03"),
        speed("ar", "Beam()", 5.1, date="2026-01-04", **mean),
    ]
    best, average = results.join(rows)
    assert (best.quality, best.speed) == (rows[0], rows[2])
    assert average.identity["name"] == "ar (mean of 2)"
    assert (average.quality or {})["bleu"]["score"] == 31
    assert (average.speed or {})["latency_ms"]["mean"] == 5.1
    table = build.build([best, average], teacher="runs/ar")
    assert [line.is_teacher for line in table.lines] == [True, False]
    assert not table.warnings


def test_rows_of_an_older_checkpoint_are_stale(quality, speed) -> None:
    timed_before = speed("ar", "Greedy()", 5.0, date="2026-01-01", checkpoint_step=10)
    evaluated_now = quality("ar", "Greedy()", 30.0, date="2026-01-02", checkpoint_step=20)
    (systems,) = results.join([timed_before, evaluated_now])
    assert (systems.quality, systems.speed) == (evaluated_now, None)


@pytest.mark.parametrize("role", ["model", "rescorer"])
def test_rows_of_other_parameters_are_stale_under_the_same_path_config_and_step(
    quality, speed, role: str
) -> None:
    def of(digest: str) -> dict[str, object]:
        known = {"run": "runs/x", "checkpoint_step": 1000, "parameters_hash": digest}
        return {"parameters_hash": digest} if role == "model" else {"rescorer": known}

    timed_before = speed("ar", "Greedy()", 5.0, date="2026-01-01", **of("1" * 64))
    evaluated_now = quality("ar", "Greedy()", 30.0, date="2026-01-02", **of("2" * 64))
    (systems,) = results.join([timed_before, evaluated_now])
    assert (systems.quality, systems.speed) == (evaluated_now, None)


def test_an_early_row_that_knows_no_parameters_still_has_its_partner(quality, speed) -> None:
    early = quality("ar", "Greedy()", 30.0, date="2026-01-01")
    for key in ("parameters_hash", "rescorer", "teacher", "start_from"):
        del early[key]
    timed_now = speed("ar", "Greedy()", 5.0, date="2026-01-02")
    (systems,) = results.join([early, timed_now])
    assert (systems.quality, systems.speed) == (early, timed_now)


def test_each_condition_is_its_own_pair(quality, speed) -> None:
    row = quality("ar", "Greedy()", 30.0)
    cpu, gpu = speed("ar", "Greedy()", 5.0), speed("ar", "Greedy()", 1.0, device="gpu")
    assert results.join([row, cpu, gpu]) == [
        results.SystemResult(row, cpu),
        results.SystemResult(row, gpu),
    ]


def test_other_splits_are_left_out(quality) -> None:
    rows = [quality("ar", "Greedy()", 30.0), quality("ar", "Greedy()", 9.0, split="test_law")]
    (systems,) = results.join(rows, split="test_law")
    assert systems.quality == rows[1]


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("Autoregressive", "AR"),
        ("Recurrent", "AR"),
        ("DecoderOnly", "AR"),
        ("LengthNat", "NAT"),
        ("Joint", "AR+NAT"),
    ],
)
def test_the_family_of_an_early_row_is_that_of_its_method(
    tmp_path: Path, quality, method: str, family: str
) -> None:
    row = quality("system", "Greedy()", 30.0, method=method)
    del row["family"]
    (tmp_path / results.FILE_NAME).write_text(json.dumps(row) + "\n")
    assert results.read(tmp_path)[0]["family"] == family
    with pytest.raises(ValueError, match="a new row lacks family"):
        results.append(tmp_path, row)


def test_an_early_row_of_an_unknown_method_is_named(tmp_path: Path, quality) -> None:
    row = quality("system", "Greedy()", 30.0, method="Gone")
    del row["family"]
    (tmp_path / results.FILE_NAME).write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl:1: .*'Gone' is no method"):
        results.read(tmp_path)


def test_a_metric_is_not_called_like_another_key_of_a_row() -> None:
    results.check_metric_names(["bleu", "chrf", "ter", "comet"])
    with pytest.raises(ValueError, match="rows have another decoding, family"):
        results.check_metric_names(["comet", "family", "decoding"])
