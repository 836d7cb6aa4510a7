"""evaluate --scores: what another program says of each sentence, as a metric of a table."""

import csv
import dataclasses
import io
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from nat_ar import __main__ as command_line
from nat_ar.commands import compare as compare_command
from nat_ar.commands import evaluate as command
from nat_ar.commands.compare import Compare
from nat_ar.commands.evaluate import Evaluate
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results, sentence_scores
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run
from nat_ar.pipeline import compare, evaluate
from nat_ar.pipeline.given_scores import GivenScores
from nat_ar.search.beam import Beam
from nat_ar.search.one_pass import LengthBeam
from nat_ar.translation.decodings import Choice
from nat_ar.translation.translation import Translation

LENGTHS = "import sys; [print(len(line.split())) for line in open(sys.argv[1])]"


class Saying:
    """A decoding that found these texts."""

    def __init__(self, decoding: object, texts: list[str]) -> None:
        self.choice, self.texts = Choice(decoding), texts

    def translate(self, sentences: list[str], *, title: str) -> list[Translation]:
        return [Translation([text], [0.0], [[7]], 1) for text in self.texts]


@pytest.fixture
def systems(tiny_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """Of 12 sentences, evaluated: a beam search that says the references, a student that says them backwards."""
    references = list(PreparedData.load(tiny_runs.data).split("test").target_text)
    backwards = [" ".join(reversed(text.split())) for text in references]
    runs = []
    for name, run, decoding, texts in (
        ("ar", tiny_runs.autoregressive, Beam(), references),
        ("nat", tiny_runs.length_nat, LengthBeam(), backwards),
    ):
        run = Run(shutil.copytree(run.directory, tmp_path / name))
        (run.directory / results.FILE_NAME).unlink(missing_ok=True)
        opened = run.load(), Saying(decoding, texts)
        monkeypatch.setattr(evaluate, "open_translator", lambda *_, opened=opened: opened)
        evaluate.evaluate(run)
        runs.append(run)

    def work(*_: object) -> None:
        raise AssertionError("it translates")

    monkeypatch.setattr(evaluate, "open_translator", work)
    return runs[0], runs[1]


def numbers(path: Path, values: list[float]) -> str:
    path.write_text("".join(f"{value}\n" for value in values), "utf-8")
    return str(path)


@pytest.mark.parametrize(("direction", "mark"), [("higher", "-"), ("lower", "+")])
def test_a_number_a_sentence_is_a_column_with_interval_and_paired_mark(
    systems: tuple[Run, Run],
    tmp_path: Path,
    direction: str,
    mark: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every sentence of the one system is 0.5 above the other's; nothing is translated again."""
    ar, nat = systems
    name = "COMET" if direction == "higher" else "COMET:lower"
    higher = numbers(tmp_path / "ar.scores", [0.5 + 0.01 * place for place in range(12)])
    lower = numbers(tmp_path / "nat.scores", [0.01 * place for place in range(12)])
    row = evaluate.evaluate(ar, scores=[f"{name}={higher}"])
    assert row["comet"]["score"] == pytest.approx(0.5 + 0.01 * 5.5)
    assert row["comet"]["low"] < row["comet"]["score"] < row["comet"]["high"]
    alone = compare.compare([ar.directory, nat.directory])
    assert "comet n/a for nat" in " ".join(alone.render("markdown").split()).lower()
    command.run(Evaluate(str(nat.directory), scores=(f"{name}={lower}",)))

    found = compare.compare([ar.directory, nat.directory])
    line = found.table.lines[-1]
    test = line.tests["comet"]
    assert (test.difference, test.low, test.high) == pytest.approx((-0.5,) * 3)
    assert test.p_value == 1 / 1001
    markdown = found.render("markdown")
    assert f"0.5550 [{row['comet']['low']:.4f}, {row['comet']['high']:.4f}]" in markdown
    assert f"] {mark} |" in markdown
    assert "Mark after BLEU and COMET" in markdown
    assert "COMET a number a sentence" in markdown
    assert "| COMET |" in found.render("markdown", ["system", "comet"])
    assert "& COMET" in found.render("latex", ["system", "comet"])
    (*_, record) = csv.DictReader(io.StringIO(found.render("csv")))
    assert float(record["comet_difference"]) == pytest.approx(-0.5)
    assert (record["comet_mark"], record["teacher_mark"]) == (
        mark,
        line.mark(found.table.metrics[0]),
    )

    runs = str(ar.directory), str(nat.directory)
    compare_command.run(Compare(runs, columns=("system", "comet"), format="markdown"))
    assert "| system | COMET |" in capsys.readouterr().out

    verb, *words = shlex.split(results.read(nat.directory)[-1]["command"])[3:]
    assert command_line.parse(verb, words).scores == (f"{name}={lower}",)


def test_seeds_have_the_mean_of_their_scores(systems: tuple[Run, Run], tmp_path: Path) -> None:
    ar, nat = systems
    evaluate.evaluate(ar, scores=[f"COMET={numbers(tmp_path / 'a', [0.5] * 12)}"])
    rows = []
    for seed, value in ((1, 0.25), (2, 0.35)):
        file = numbers(tmp_path / f"n{seed}", [value] * 12)
        rows.append({**evaluate.evaluate(nat, scores=[f"COMET={file}"])})
        directory = shutil.copytree(nat.directory, tmp_path / f"nat_seed{seed}")
        rows[-1]["run"] = str(directory)
    (reference,) = results.join(results.read(ar.directory))
    system = results.SystemResult(rows[0], None, ((1, rows[0]), (2, rows[1])))
    tests = compare.paired_tests(
        [reference, system], reference, sentence_scores.metrics_of(rows), n_bootstrap=100
    )
    test = tests[results.system_key(rows[0])]["comet"]
    assert (test.system, test.baseline) == pytest.approx((0.3, 0.5))


def test_a_command_scores_what_is_translated(
    systems: tuple[Run, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It gets paths, prints numbers, and where it fails the row without them is written."""
    ar, _ = systems
    opened = ar.load(), Saying(Beam(), ["A B C"] * 12)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    said = (
        f"Words={sys.executable} -c {shlex.quote(LENGTHS)} {{hypotheses}} {{source}} {{references}}"
    )
    command.run(Evaluate(str(ar.directory), scores=(said,)))
    row = results.read(ar.directory)[-1]
    assert (row["words"]["score"], row["words"]["signature"]) == (
        3,
        f"a number a sentence, by {said[6:]}",
    )
    assert "Words 3.00 [3.00, 3.00]" in capsys.readouterr().out
    opened[1].texts = ["A B"] * 12
    with pytest.raises(ValueError, match=r"status 3 of .*the row without them is written"):
        evaluate.evaluate(
            ar, scores=[f"Words={sys.executable} -c 'raise SystemExit(3)' {{hypotheses}}"]
        )
    row = results.read(ar.directory)[-1]
    assert "words" not in row
    assert (ar.directory / row["hypotheses"]).read_text("utf-8") == "A B\n" * 12
    with pytest.raises(ValueError, match="no_such_program cannot be started: No such file"):
        evaluate.evaluate(ar, scores=["Words=no_such_program {hypotheses}"])


def test_scores_stay_with_the_translations_that_they_are_of(
    systems: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all are written in one second."""
    ar, _ = systems
    monkeypatch.setattr(provenance, "now", lambda: results.read(ar.directory)[-1]["date"])
    evaluate.evaluate(ar, scores=[f"COMET={numbers(tmp_path / 'a', [0.5] * 12)}"])
    evaluate.evaluate(ar, scores=[f"MetricX:lower={numbers(tmp_path / 'b', [3.0] * 12)}"])
    row = results.read(ar.directory)[-1]
    assert (row["comet"]["score"], row["metricx"]["score"]) == (0.5, 3.0)

    references = (ar.directory / row["hypotheses"]).read_text("utf-8").splitlines()
    opened = ar.load(), Saying(Beam(), references)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    evaluate.evaluate(ar)
    (system,) = results.join(results.read(ar.directory))
    assert system.quality is not None
    assert system.quality["comet"] == row["comet"]  # the same translations
    opened[1].texts = ["A"] * 12
    evaluate.evaluate(ar)
    (system,) = results.join(results.read(ar.directory))
    assert system.quality is not None
    assert "comet" not in system.quality


def test_what_cannot_be_is_one_line(systems: tuple[Run, Run], tmp_path: Path) -> None:
    ar, _ = systems

    def wrong(values: list[float], match: str) -> None:
        file = numbers(tmp_path / "scores", values)
        with pytest.raises(ValueError, match=match) as caught:
            evaluate.evaluate(ar, scores=[f"COMET={file}"])
        assert "\n" not in str(caught.value)

    before = results.read(ar.directory)
    wrong([0.5] * 11, "scores COMET, .*: expected 12 lines, a number for each .*, got 11")
    wrong([0.5] * 11 + [np.nan], "line 12: expected a finite number, got 'nan'")
    wrong([np.inf] + [0.5] * 11, "line 1: expected a finite number, got 'inf'")
    good = f"COMET={numbers(tmp_path / 'scores', [0.5] * 12)}"
    for text, match in (
        ("scores.txt", "expected NAME=FILE, or NAME=COMMAND with {hypotheses}"),
        ("2COMET=x", "expected NAME=FILE"),
        ("COMET=nowhere.txt", "which is no file"),
        (good.replace("COMET", "BLEU"), "a metric needs a name of its own, got 2 named 'bleu'"),
        (good.replace("COMET", "decoding"), "rows have another decoding"),
        (good.replace("COMET", "passes"), "columns are called passes"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate.evaluate(ar, scores=[text])
    with pytest.raises(ConfigError, match=r"no row of Greedy\(\) on test by this checkpoint"):
        evaluate.evaluate(ar, decoding="Greedy()", scores=[good])
    with pytest.raises(ConfigError, match="expected one --decoding with it, got 2"):
        command.run(Evaluate(str(ar.directory), ("Greedy()", "Beam()"), scores=(good,)))
    with pytest.raises(ConfigError, match="leave out --metrics"):
        evaluate.evaluate(ar, bleu_tokenizer="char", scores=[good])
    assert results.read(ar.directory) == before

    row = evaluate.evaluate(ar, scores=[good])
    path = ar.directory / row["sentence_scores"]["comet"]["file"]
    path.write_text("0.9\n" * 12, "utf-8")
    with pytest.raises(ValueError, match=r"comet\.scores has changed since its row was written"):
        compare.compare([ar.directory])
    path.unlink()
    with pytest.raises(ValueError, match="the comet of each sentence, does not exist"):
        compare.compare([ar.directory])
    (ar.directory / row["hypotheses"]).write_text("A\n" * 12, "utf-8")
    with pytest.raises(ValueError, match=r"expected the translations of the row .* got others"):
        evaluate.evaluate(ar, scores=[good])


def test_an_imported_system_takes_them_too(
    systems: tuple[Run, Run], tiny_runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ar, _ = systems
    lines = tmp_path / "other.txt"
    lines.write_text("A\n" * 12, "utf-8")
    file = numbers(tmp_path / "scores", [80.0] * 12)
    place = str(tmp_path / "other")
    arguments = Evaluate(place, imported=str(lines), data=str(tiny_runs.data))
    command.run(dataclasses.replace(arguments, scores=(f"COMET={file}",)))
    assert "COMET 80.00 [80.00, 80.00]" in capsys.readouterr().out
    evaluate.evaluate(ar, scores=[f"COMET={numbers(tmp_path / 'a', [85.0] * 12)}"])
    line = compare.compare([ar.directory, place]).table.lines[-1]
    assert line.tests["comet"].difference == pytest.approx(-5)


def test_the_spelling() -> None:
    assert GivenScores("MetricX", "x {hypotheses}", "lower") == GivenScores.of(
        "MetricX:lower=x {hypotheses}"
    )
    assert not GivenScores("C", __file__).is_command
