"""score: lines of two files in, log p of each pair out."""

from pathlib import Path

import pytest

from nat_ar.commands import score
from nat_ar.commands.score import Score
from nat_ar.experiment.translators import open_translator


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Three pairs, the second of them empty."""
    source, target = tmp_path / "source.txt", tmp_path / "target.txt"
    source.write_text("a b\n\nc\n", "utf-8")
    target.write_bytes(b"A B\r\n\r\nA C\r\n")
    return str(source), str(target)


def test_each_pair_has_a_line(
    tiny_runs, pair: tuple[str, str], tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The numbers are those of the model, and a file has what standard output has."""
    run = str(tiny_runs.autoregressive.directory)
    score.run(Score(run, *pair))
    said = capsysbinary.readouterr().out.decode()
    _, translator = open_translator(run)
    expected = translator.score(["a b", "", "c"], ["A B", "", "A C"])
    assert [float(line) for line in said.splitlines()] == pytest.approx(expected, abs=1e-4)
    assert expected[1] == 0.0
    assert max(expected[0], expected[2]) < 0.0
    score.run(Score(run, *pair, output=str(tmp_path / "out.txt")))
    assert (tmp_path / "out.txt").read_text("utf-8") == said


def test_a_pair_needs_two_sides(tiny_runs, pair: tuple[str, str], tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A B\n", "utf-8")
    with pytest.raises(ValueError, match=r"source.txt has 3 lines and .*short.txt has 1"):
        score.run(Score(str(tiny_runs.autoregressive.directory), pair[0], str(short)))


def test_a_model_without_probabilities_of_given_text_is_refused(
    tiny_runs, pair: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="only autoregressive and joint models score"):
        score.run(Score(str(tiny_runs.length_nat.directory), *pair))
