"""evaluate --import: what another program translated, beside our own rows."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from nat_ar import __main__ as command_line
from nat_ar.commands import evaluate as command
from nat_ar.commands.evaluate import Evaluate
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.table import picture
from nat_ar.experiment.run import Run
from nat_ar.pipeline import compare, evaluate
from nat_ar.search.beam import Beam
from nat_ar.translation.decodings import Choice
from nat_ar.translation.translation import Translation


@pytest.fixture
def output(tiny_runs, tmp_path: Path) -> str:
    """Translations of the prepared test: the references, and a blank line."""
    lines = list(PreparedData.load(tiny_runs.data).split("test").target_text)
    path = tmp_path / "hypotheses.txt"
    path.write_text("".join(line + "\n" for line in [*lines[:-1], ""]), "utf-8")
    return str(path)


class References:
    """A beam search that found every reference."""

    choice = Choice(Beam())

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def translate(self, sentences: list[str], *, title: str) -> list[Translation]:
        return [Translation([text], [0.0], [[7]], 1) for text in self.texts]


def test_it_is_a_row_beside_ours(
    tiny_runs,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With score, interval, paired test and note; without latency, passes and training."""
    ours = Run(shutil.copytree(tiny_runs.autoregressive.directory, tmp_path / "ar"))
    (ours.directory / results.FILE_NAME).unlink(missing_ok=True)
    texts = PreparedData.load(tiny_runs.data).split("test").target_text
    opened = ours.load(), References(list(texts))
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    own = evaluate.evaluate(ours)
    foreign, data = str(tmp_path / "fairseq_cmlm"), str(tiny_runs.data)
    command.run(Evaluate(foreign, imported=output, data=data))
    (row,) = results.read(Path(foreign))
    assert (row["name"], row["method"], row["family"]) == ("fairseq_cmlm", "imported", None)
    assert row["bleu"]["signature"] == own["bleu"]["signature"]
    assert row["test_hash"] == own["test_hash"]
    assert 80 < row["chrf"]["score"] < own["chrf"]["score"]  # one of twelve is blank
    said = capsys.readouterr().out
    assert "fairseq_cmlm imported on test (12 sentences, imported)" in said
    verb, *words = shlex.split(row["command"])[3:]
    again = Evaluate(foreign, ("imported",), imported=output, data=data)
    assert "--import" in words
    assert command_line.parse(verb, words) == again

    equals = command_line.parse(
        "evaluate", [*shlex.split(f"{foreign} --import={output} --data {data}")]
    )
    assert equals == Evaluate(foreign, imported=output, data=data)
    row_of_training = {"kind": "train", "step": 10, "objective": 4.0}
    (ours.directory / "metrics.jsonl").write_text(json.dumps(row_of_training) + "\n", "utf-8")
    capsys.readouterr()
    (curves,) = compare.save_curves([foreign, ours.directory], tmp_path / "curves.svg")
    assert curves.is_file()
    assert f"no curve for {foreign}: what another program translated" in capsys.readouterr().err

    found = compare.compare([ours.directory, foreign])
    line = found.table.lines[-1]
    assert line.result.identity["name"] == "fairseq_cmlm"
    assert line.mark(metrics.METRICS[0]) in ("=", "-")
    for form in ("terminal", "markdown", "csv", "latex"):
        text = " ".join(found.render(form, ["all"]).split())
        assert "None" not in text
        assert form == "csv" or "quality only" in text
    assert "Not timed: ar Beam" in found.render("markdown")  # it can be
    assert "Not timed: fairseq" not in found.render("markdown")

    latency = {"mean": 9.0, "p50": 9.0, "p95": 9.0, "low": 8.0, "high": 10.0}
    speed = {"threads": 1, "latency_ms": latency, "throughput": 1.0, "versions": {}}
    timed = {**own, **speed, "kind": "speed", "split": "test"}
    systems = results.join([{**own, "run": "ar"}, {**timed, "run": "ar"}, row])
    table = compare.build.build(systems)
    figure = picture.draw(table)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert "fairseq_cmlm, untimed" in [text.get_text() for text in legend.get_texts()]


def test_what_cannot_be_imported_is_refused(tiny_runs, output: str, tmp_path: Path) -> None:
    data, place = str(tiny_runs.data), str(tmp_path / "other")
    with pytest.raises(ConfigError, match="is a run of ours: name a directory of its own"):
        command.run(Evaluate(str(tiny_runs.length_nat.directory), imported=output, data=data))
    with pytest.raises(ConfigError, match="--import needs the test"):
        command.run(Evaluate(place, imported=output))
    with pytest.raises(ConfigError, match="expected --import FILE with it"):
        command.run(Evaluate(place, name="other"))
    with pytest.raises(ConfigError, match="takes one --decoding"):
        command.run(Evaluate(place, ("a", "b"), imported=output, data=data))
    Path(output).write_text("A\n", "utf-8")
    with pytest.raises(ValueError, match="has 1 lines and test 12 sources"):
        command.run(Evaluate(place, imported=output, data=data))
    assert not Path(place).exists()
