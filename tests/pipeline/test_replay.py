"""A test replayed word by word: the row, and what `compare` makes of several."""

from pathlib import Path

import numpy as np
import pytest

import nat_ar
from nat_ar.commands import compare as compare_command
from nat_ar.commands import evaluate
from nat_ar.commands.compare import Compare
from nat_ar.commands.evaluate import Evaluate
from nat_ar.config_json import ConfigError
from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.captions import table
from nat_ar.pipeline import compare, replay
from nat_ar.pipeline.replay import replay as replayed


@pytest.fixture(scope="module")
def rows(tiny_runs) -> list[results.Row]:
    options = {"decoding": "Greedy()", "sentences": 6}
    ar = [
        replayed(tiny_runs.autoregressive, policy, **options)
        for policy in ("Retranslate()", "Redraft()", "AppendOnly(mask_k=1)")
    ]
    return [*ar, replayed(tiny_runs.length_nat, "Retranslate(mask_k=1)", sentences=6)]


def test_a_row_is_of_the_captions_of_its_sentences(tiny_runs, rows) -> None:
    plain, drafted, growing, _ = rows
    captioner = nat_ar.caption(tiny_runs.autoregressive, decoding="Greedy()")
    sources = (tiny_runs.data / "test" / "source.txt").read_text("utf-8").splitlines()[:6]
    captions = [captioner.replay(source) for source in sources]
    assert plain["sentences"] == 6
    assert plain["updates"] == sum(len(source.split()) for source in sources)
    assert plain["steps"] == np.mean([u.passes for caption in captions for u in caption.updates])
    assert plain["silent"] == sum(not caption.final for caption in captions)
    assert plain["update_ms"]["p50"] <= plain["update_ms"]["p99"]
    for row in (plain, drafted):
        assert row["policy"] in row["command"]
        assert row["computing_lags"]["laal"]["score"] >= row["lags"]["laal"]["score"]
    same = ("bleu", "lags", "erasure", "updates", "silent", "test_hash")
    assert {key: plain[key] for key in same} == {key: drafted[key] for key in same}
    assert drafted["steps"] < plain["steps"]
    assert growing["erasure"] == 0


def test_times_of_some_sentences_are_enough(tiny_runs, rows, tmp_path: Path) -> None:
    """The rest of the row is that of one at a time; policies that need what was said take one at a time anyway."""
    options = {"decoding": "Greedy()", "sentences": 6, "timed": 2}
    plain, drafted = (
        replayed(tiny_runs.autoregressive, policy, **options)
        for policy in ("Retranslate()", "Redraft()")
    )
    same = ("bleu", "lags", "erasure", "updates", "steps", "silent", "test_hash")
    assert {key: plain[key] for key in same} == {key: rows[0][key] for key in same}
    assert set(results.LATER_STREAM_KEYS) <= set(plain)
    assert [row["timed_sentences"] for row in (rows[0], plain, drafted)] == [6, 2, 6]
    assert plain["update_ms"]["p50"] > 0.0
    assert plain["computing_lags"]["laal"]["score"] > 0.0
    assert "--timed 2" in plain["command"]
    notes = " ".join(table.notes([plain, rows[1]]))
    assert "one at a time: 2 of ar Greedy() Retranslate()." in notes
    early = {key: value for key, value in rows[0].items() if key != "timed_sentences"}
    assert "one at a time" not in " ".join(table.notes([early]))


def test_the_last_texts_are_those_of_an_evaluation(tiny_runs, rows) -> None:
    """Quality is that of whole sentences: re-translation loses none of it."""
    found = nat_ar.load(tiny_runs.autoregressive.directory, "Greedy()")
    test = (tiny_runs.data / "test" / "source.txt").read_text("utf-8").splitlines()[:6]
    references = (tiny_runs.data / "test" / "target.txt").read_text("utf-8").splitlines()[:6]
    texts = [" ".join(one.texts[0].split()) for one in found.translate(test)]
    assert rows[0]["bleu"]["score"] == metrics.bleu(texts, references).score


def test_compare_makes_a_table_and_a_picture(tiny_runs, rows, tmp_path: Path) -> None:
    runs = [tiny_runs.length_nat.directory, tiny_runs.autoregressive.directory]
    paths = [tmp_path / name for name in ("captions.md", "captions.csv", "captions.svg")]
    shown = compare.save_captions(runs, paths)
    assert [line.split()[0] for line in shown.splitlines()[:5]] == [
        "system",
        "ar",
        "ar",
        "ar",
        "nat",
    ]
    markdown = paths[0].read_text("utf-8")
    assert "| ar | Greedy() | Redraft() | raw | " in markdown
    assert "python -m nat_ar evaluate" in markdown
    assert len(paths[1].read_text("utf-8").splitlines()) == 5
    assert "LAAL, words" in paths[2].read_text("utf-8")
    with pytest.raises(ValueError, match="expected a name that ends in"):
        compare.save_captions(runs, [tmp_path / "captions.doc"])
    with pytest.raises(ValueError, match="no captions of split 'validation'"):
        compare.save_captions(runs, [], split="validation")


def test_captions_are_no_rows_of_other_tables(tiny_runs, rows) -> None:
    assert all(row["kind"] == "stream" for row in rows)
    assert results.join([{**row, "run": "r"} for row in rows]) == []


def test_a_later_row_replaces_an_earlier_one_and_other_sentences_are_refused(rows) -> None:
    first, *_ = rows
    later = {**first, "date": "2999-01-01T00:00:00+00:00", "erasure": 0.5}
    assert table.choose([later, first], "test") == [later]
    other = {**first, "policy": "LocalAgreement()", "test_hash": "another"}
    with pytest.raises(ValueError, match="not scored on the same sentences"):
        table.choose([first, other], "test")


def test_what_cannot_be_is_refused(tiny_runs) -> None:
    with pytest.raises(ConfigError, match="sentences must be at least 1"):
        replayed(tiny_runs.length_nat, sentences=0)
    with pytest.raises(ConfigError, match="timed must be at least 1"):
        replayed(tiny_runs.length_nat, timed=0)
    with pytest.raises(ConfigError, match="pace must be above 0"):
        replayed(tiny_runs.length_nat, pace=0.0)


def test_lines_of_a_summary(rows) -> None:
    lines = replay.summary(rows[0]).splitlines()
    assert lines[0].startswith("ar Greedy() Retranslate() on test (6 sentences, checkpoint 0)")
    assert "LAAL" in lines[1]
    assert "passes" in lines[2]


def test_the_command_line_replays_and_compares(
    tiny_runs, rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tiny_runs.length_nat.directory)
    policies = ("Retranslate()", "LocalAgreement()")
    evaluate.run(Evaluate(run, policy=policies, sentences=6))
    shown = capsys.readouterr().out
    assert [line.split()[2] for line in shown.splitlines()[::3]] == [*policies]
    picture = tmp_path / "captions.png"
    compare_command.run(Compare((run,), captions=(str(picture),)))
    assert "LocalAgreement()" in capsys.readouterr().out
    assert picture.stat().st_size > 1000
