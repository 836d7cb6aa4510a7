import csv
import io

import pytest

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import METRICS, Metric, Score
from nat_ar.evaluation.table import build, formats


def test_a_table_without_any_autoregressive_system(rows) -> None:
    found = build.build(results.join(rows[:2]))
    assert any("No paired test" in note for note in found.notes)
    assert any("no row of AR beam and AR greedy" in note for note in found.notes)


def test_the_notes_say_where_the_numbers_come_from(rows) -> None:
    rows[0]["data_hash"] = "a" * 64
    text = formats.render(build.build(results.join(rows)), "terminal")
    assert "tok:13a" in text
    assert "cpu, 2 threads, float32" in text
    assert "data hash aaaaaaaaaaaa (nat), dddddddddddd (ar)" in text.replace("\n  ", " ") or (
        "data hash dddddddddddd (ar), aaaaaaaaaaaa (nat)" in text.replace("\n  ", " ")
    )
    assert "test hash eeeeeeeeeeee" in text
    assert "2026-01-03" in text
    assert "python -m nat_ar evaluate runs/nat" in text


def test_a_warning_is_one_short_line_and_latex_has_none(rows) -> None:
    rows[0]["warnings"] = ["3 of 9 translations are empty"]
    rows[2]["warnings"] = [
        "9.8 % of the tokens repeat the one before, more than any: a fault"
    ]  # as c8abc97 wrote it
    found = build.build(results.join(rows))
    assert found.warnings == (
        "Warning, ar Greedy(): 9.8 % of the tokens repeat the one before: trained too little",
        "Warning, nat Argmax(): 3 of 9 translations are empty: look at its lengths",
        "Causes and remedies of warnings: docs/metrics.md.",
    )
    for form in ("terminal", "markdown"):
        assert "Warning, nat Argmax(): 3 of 9" in formats.render(found, form)
    assert "Warning" not in formats.render(found, "latex")


def test_two_models_of_one_path_in_one_table_are_a_warning(rows) -> None:
    nat = rows[0]
    assert build.build(results.join(rows)).warnings == ()
    nat["rescorer"] = {"run": "runs/ar", "checkpoint_step": 1000, "parameters_hash": "b" * 64}
    warning, _ = build.build(results.join(rows)).warnings
    same = "ar Beam(size=4), ar Greedy() (aaaaaaaaaaaa)"
    assert (
        warning == f"Warning, ar: another model for {same} than for rescorer of nat (bbbbbbbbbbbb)"
    )


def test_a_training_time_that_counts_compilation_is_marked_beside_others(rows) -> None:
    def said() -> bool:
        return any("counts compilation" in note for note in build.build(results.join(rows)).notes)

    assert not said()  # all of one kind
    rows[0]["train_compile_seconds"] = 6.1
    assert "Training time of ar counts compilation, of the others not" in "\n".join(
        build.build(results.join(rows)).notes
    )
    for row in rows:
        row["train_compile_seconds"] = 6.1
    assert not said()


def test_the_notes_have_the_signature_of_every_column_and_name_rows_without_it(rows) -> None:
    kiwi = Metric("kiwi", "KIWI", lambda *texts: Score(0.5, None, None, "kiwi-22"), decimals=4)
    chosen = (*METRICS, kiwi)
    score = {"score": 0.81234, "low": None, "high": None, "signature": "kiwi-22"}
    rows[0]["kiwi"] = score
    found = build.build(results.join(rows), metrics=chosen)
    header, _, beam, _, nat, _, first, *notes = formats.render(found, "markdown").split("\n")
    assert "tok:13a" in first
    assert "KIWI kiwi-22" in first
    assert "TER" not in first
    assert any(note.startswith("- KIWI n/a for ar Beam(size=4), ar Greedy()") for note in notes)
    assert "| BLEU | KIWI | passes |" in header
    assert "| 27.00 [26.00, 28.00] | 0.8123 | 1.0 |" in nat
    assert "| 34.00 [33.00, 35.00] | n/a | 9.5 |" in beam
    header, *_ = formats.render(found, "markdown", ["all"]).split("\n")
    assert "| BLEU | BLEU lc | chrF++ | TER | KIWI | passes |" in header
    *_, record = csv.DictReader(io.StringIO(formats.render(found, "csv")))
    assert (record["kiwi"], record["kiwi_low"], record["kiwi_signature"]) == (
        "0.81234",
        "",
        "kiwi-22",
    )
    rows[2]["kiwi"] = {**score, "signature": "kiwi-23"}
    with pytest.raises(ValueError, match="by the same KIWI"):
        build.build(results.join(rows), metrics=chosen)


def test_a_column_that_an_early_row_lacks_is_not_available(rows) -> None:
    del rows[0]["chrf"]
    found = build.build(results.join(rows))
    text = formats.render(found, "markdown", ["bleu", "chrf"])
    assert "| 27.00 [26.00, 28.00] | n/a |" in text
    assert "chrF++ n/a for nat Argmax(): evaluated without it" in text
    assert "chrF++" not in formats.render(found, "markdown")


def test_a_warning_knows_family_and_training_data(rows) -> None:
    """Once, an autoregressive row was told that its modes are mixed, and a distilled one to distil."""
    text = "9.8 % of the tokens repeat the one before (references 0.1 %)"
    for row in rows:
        row["warnings"] = [text] if row["kind"] == "quality" else None
    beam, greedy, nat, _ = build.build(results.join(rows)).warnings
    assert "modes" not in beam + greedy
    assert nat.endswith("modes are still mixed, or trained too little")
    for row in rows[:2]:
        row["training_data"] = "raw"
    *_, nat, _ = build.build(results.join(rows)).warnings
    assert nat.endswith("modes of raw data are mixed, distilled data help")


def test_a_row_that_was_timed_on_a_busy_machine_is_marked_in_every_format(rows) -> None:
    rows[1]["other_work"] = {"busy": 1.2, "cores": 2}
    rows[3]["other_work"] = {"busy": 0.01, "cores": 2}
    found = build.build(results.join(rows))
    note = "! after a latency: timed on a busy machine: nat Argmax() (other work kept 1.2 of 2 cores busy)."
    assert note in found.notes
    for form in ("terminal", "markdown", "latex"):
        text = formats.render(found, form)
        marked = [line for line in text.splitlines() if " !" in line and "4.0" in line]
        assert len(marked) == 1, form
    *_, record = csv.DictReader(io.StringIO(formats.render(found, "csv")))
    assert record["other_work_cores"] == "1.2"
