from nat_ar.evaluation import results
from nat_ar.evaluation.table import build, formats


def test_a_table_without_any_autoregressive_system(rows) -> None:
    found = build.build(results.join(rows[:2]))
    assert any("No paired test" in note for note in found.notes)
    assert any("autoregressive beam" in note.lower() for note in found.notes)


def test_the_notes_say_where_the_numbers_come_from(rows) -> None:
    rows[0]["warnings"] = ["4.1 % of the tokens repeat"]
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
    assert "Warning, nat Argmax(): 4.1 %" in text
