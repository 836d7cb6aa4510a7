"""A study: what is refused before any work, and that it survives being killed."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nat_ar import __main__ as main
from nat_ar.commands import study as command_line
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.evaluation import results
from nat_ar.experiment.study import Entry, PlannedRun, StudyConfig, load_study, only
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.pipeline import compare, study
from nat_ar.runtime import files
from nat_ar.training import logging
from nat_ar.training.config import TrainingConfig
from scripts.torture import kills, tiny_study

RUNS = tiny_study.RUNS
STUDY = [sys.executable, "-m", "nat_ar", "study", "study.py"]
TEACHER = Entry("ar", Autoregressive(), TrainingConfig())
STUDENT = Entry("nat", LengthNat(), TrainingConfig())
POSSIBLE = StudyConfig(
    "x", "study", DataConfig("data", TextFiles(("train.tsv",))), TEACHER, (STUDENT,)
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entries": (STUDENT, STUDENT)}, "different names, got ar, nat, nat"),
        ({"teacher": STUDENT}, "different names, got nat, nat"),
        (
            {"teacher": dataclasses.replace(STUDENT, name="t")},
            r"autoregressive .family AR. and trained on raw data, got LengthNat",
        ),
        ({"teacher": dataclasses.replace(TEACHER, distilled=True)}, "trained on raw data"),
        (
            {"entries": (dataclasses.replace(STUDENT, start_from="next"),)},
            r"nat\.start_from: expected an earlier entry \(ar\), got 'next'",
        ),
        ({"distillation": "LengthBeam()"}, r"a decoding of Autoregressive: Greedy\(\)"),
        ({"tests": ()}, "tests: expected at least one split"),
    ],
)
def test_an_impossible_study_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(POSSIBLE, **change)


@pytest.mark.parametrize("method", [Recurrent(), DecoderOnly()])
def test_any_autoregressive_model_may_be_the_teacher(method: AnyMethod) -> None:
    """But only a Transformer encoder can be handed over."""
    teacher = dataclasses.replace(TEACHER, method=method)
    dataclasses.replace(POSSIBLE, teacher=teacher)
    started = dataclasses.replace(STUDENT, encoder_from_teacher=True)
    with pytest.raises(ConfigError, match=f"got ar, which is {type(method).__name__}"):
        dataclasses.replace(POSSIBLE, teacher=teacher, entries=(started,))


def test_a_decoder_that_does_not_fit_is_refused_before_any_training() -> None:
    started = dataclasses.replace(STUDENT, decoder_from_teacher=True)
    study = dataclasses.replace(POSSIBLE, entries=(started,))
    assert study.experiment(started).decoder_from_teacher
    teacher = dataclasses.replace(TEACHER, method=DecoderOnly())
    with pytest.raises(
        ConfigError, match=r"nat\.decoder_from_teacher, of ar: expected a teacher and a"
    ):
        dataclasses.replace(POSSIBLE, teacher=teacher, entries=(started,))


def test_word_distributions_must_be_kept_before_they_are_learnt_from() -> None:
    training = dataclasses.replace(STUDENT.training, word_distributions=0.5)
    learning = dataclasses.replace(STUDENT, training=training, distilled=True)
    raw = dataclasses.replace(learning, distilled=False)
    dataclasses.replace(POSSIBLE, entries=(learning,), word_distributions=8)
    for entry, kept in ((learning, None), (raw, 8)):
        with pytest.raises(ConfigError, match=rf"got distilled={entry.distilled} and {kept}"):
            dataclasses.replace(POSSIBLE, entries=(entry,), word_distributions=kept)


def test_a_decoding_that_the_method_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a decoding of FertilityNat: .*; got 'Beam\(size=4\)'"):
        Entry("nat", FertilityNat(), TrainingConfig(), decodings=("Argmax()", "Beam(size=4)"))


def test_every_entry_but_the_teacher_has_the_teacher() -> None:
    teacher = POSSIBLE.experiment(TEACHER)
    assert (teacher.teacher, teacher.train_on, teacher.start_from) == (None, None, None)
    entry = dataclasses.replace(STUDENT, distilled=True, start_from="ar")
    student = POSSIBLE.experiment(entry)
    assert student.teacher == student.start_from == "study/runs/ar"
    assert student.train_on == "study/distilled"


def test_only_keeps_what_the_named_entries_start_from() -> None:
    more = dataclasses.replace(STUDENT, name="more", start_from="nat")
    most = dataclasses.replace(STUDENT, name="most", start_from="more")
    other = dataclasses.replace(STUDENT, name="other")
    config = dataclasses.replace(POSSIBLE, entries=(STUDENT, more, most, other))
    for names, kept in [
        (["most"], (STUDENT, more, most)),
        (["other", "nat"], (STUDENT, other)),
        (["ar"], ()),
    ]:
        chosen = only(config, names)
        assert chosen.entries == kept
        assert chosen.teacher == TEACHER


def test_only_an_entry_that_the_study_has() -> None:
    with pytest.raises(
        ConfigError, match=r"expected entries of the study \(nat\), got latter, nta"
    ):
        only(POSSIBLE, ["nta", "nat", "latter"])


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a directory of tiny_study.write under that name."""
    return lambda name: tiny_study.write(tmp_path / name)


def run(*words: str) -> None:
    """`study study.py WORDS`, in this process."""
    command_line.run(main.parse("study", ["study.py", *words]))


def start(directory: Path, cache: Path, command: list[str] = STUDY) -> subprocess.Popen[bytes]:
    """The study as a process of its own, in `directory`."""
    with (directory / "table").open("wb") as table, (directory / "progress").open("wb") as progress:
        return subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **kills.settings(cache)},
            stdout=table,
            stderr=progress,
        )


def finish(process: subprocess.Popen[bytes], directory: Path) -> None:
    assert process.wait() == 0, (directory / "progress").read_text("utf-8")


def kill_in_training(directory: Path, cache: Path, run: str, step: int) -> None:
    """The study, and SIGKILL at that step."""
    command = kills.signalled(["study", "study.py"], signal.SIGKILL, run=run, step=step)
    process = start(directory, cache, command)
    assert process.wait() == -9, (directory / "progress").read_text("utf-8")


def stop_after_line(process: subprocess.Popen[bytes], path: Path) -> None:
    """Ends the process once the file has a whole line."""
    while not (path.exists() and path.read_bytes().endswith(b"\n")):
        assert process.poll() is None, f"ended before it made {path}"
        time.sleep(0.02)
    process.kill()
    process.wait()


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            name: x
            for name, x in row.items()
            if "second" not in name and name not in ("date", "time")
        }
        for row in rows
    ]


def outcome(directory: Path) -> dict[str, Any]:
    """All that a study found out, but for dates and speeds."""
    root = directory / "study"
    found: dict[str, Any] = {}
    for name in RUNS:
        run = root / "runs" / name
        rows = [row for row in results.read(run) if row["kind"] == "quality"]
        found[f"{name} quality"] = [{**row, "run": ""} for row in without_clocks(rows)]
        found[f"{name} log"] = without_clocks(logging.read(run))
        for path in (run / "translations").iterdir():
            found[f"{name} {path.name}"] = path.read_text("utf-8")
    found["distilled"] = (root / "distilled" / "train" / "target.txt").read_text("utf-8")
    return found


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_results(
    make_study: Callable[[str], Path], tmp_path: Path
) -> None:
    """Killed while the teacher trains and while the student trains; then nothing is left to do."""
    killed, straight, cache = make_study("killed"), make_study("straight"), tmp_path / "cache"
    kill_in_training(killed, cache, "ar", 70)  # a checkpoint every 50 steps
    assert not (killed / "study" / "runs" / "length").exists()
    kill_in_training(killed, cache, "fertility_kd", 30)
    assert not (killed / "study" / "table.md").exists()
    finish(start(killed, cache), killed)
    last = straight / "study" / "runs" / RUNS[-1] / results.FILE_NAME
    stop_after_line(start(straight, cache), last)  # its speeds are missing, or some of them
    found = outcome(killed)
    assert found == outcome(straight)
    assert [len(found[f"{name} quality"]) for name in RUNS] == [1, 1, 1]
    check_reports(killed)

    before = contents(killed)
    finish(start(killed, cache), killed)
    assert contents(killed) == before


@pytest.mark.slow
def test_two_processes_share_a_study(make_study: Callable[[str], Path], tmp_path: Path) -> None:
    """Each run is trained once, by one of them, evaluated and timed once, and both end with the whole table."""
    shared, cache = make_study("shared"), tmp_path / "cache"
    first = start(shared, cache)
    stop = time.monotonic() + 60
    while not (shared / "study" / "lock").exists():
        assert time.monotonic() < stop
        time.sleep(0.02)
    second = subprocess.run(
        STUDY,
        cwd=shared,
        env={**os.environ, **kills.settings(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    finish(first, shared)
    assert "waiting for another process, which is at what all of them need" in second.stderr
    assert second.stdout == (shared / "table").read_text("utf-8")
    for name in RUNS:
        rows = logging.read(shared / "study" / "runs" / name)
        steps = [row["step"] for row in rows if "learning_rate" in row]
        assert steps == list(range(10, 151, 10)), name
        kinds = [row["kind"] for row in results.read(shared / "study" / "runs" / name)]
        assert sorted(kinds) == ["quality", "speed"], name


def test_what_another_process_trains_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So does what starts from it, however free."""
    entries = tuple(
        dataclasses.replace(STUDENT, name=name, start_from=start)
        for name, start in [("a", None), ("b", "a"), ("c", None)]
    )
    config = dataclasses.replace(POSSIBLE, entries=entries, directory=str(tmp_path))
    students = config.plan()[1:]
    done: list[str] = []
    busy = ["a", "a"]  # also when it is asked for again

    def trained(planned: PlannedRun) -> None:
        planned.directory.mkdir(parents=True, exist_ok=True)
        name = planned.experiment.name
        if name in busy:
            busy.remove(name)
            raise files.InUseError("in use")
        done.append(name)

    study._train_all(students, trained)
    assert done == ["c", "a", "b"]
    assert capsys.readouterr().err == "nat-ar: a is trained by another process\n"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("picture.svg", "picture.png", "progress", "lock")
    }


def check_reports(directory: Path) -> None:
    root = directory / "study"
    printed = (directory / "table").read_text("utf-8")
    assert printed == (root / "table.txt").read_text("utf-8")
    table = (root / "table.md").read_text("utf-8")
    assert "Made by `python -m nat_ar study study.py`." in table
    assert "![quality against latency](picture.png)" in table
    for name in RUNS:
        assert f"| {name}" in table
    assert (root / "table.csv").read_text("utf-8").count("\n") > 3
    assert "tabular" in (root / "table.tex").read_text("utf-8")
    assert (root / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (root / "picture.svg").read_text("utf-8")
    examples = (root / "examples.md").read_text("utf-8")
    test = (directory / "test.tsv").read_text("utf-8").splitlines()
    for place, line in enumerate(test, start=1):
        source, reference = line.split("\t")
        section = examples.split(f"## test, line {place}\n")[1].split("##")[0]
        assert f"| source | {source} |" in section
        assert f"| reference | {reference} |" in section
        assert all(f"| {name} " in section for name in RUNS)


@pytest.mark.slow
def test_the_table_of_a_study_has_the_means_over_its_seeds(
    make_study: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher and student have two seeds each, so that each teacher distils; only the first seeds are timed, when the
    study is called for the second time."""
    monkeypatch.setenv("PYTHONPATH", str(Path(study.__file__).parents[2]))  # for the benchmark
    monkeypatch.chdir(make_study("here"))
    config = load_study("study.py")
    length, student = config.entries
    length = dataclasses.replace(length, seeds=())
    config = dataclasses.replace(config, entries=(length, student), seeds=(1, 2), seed_teacher=True)
    study.study(config, is_timed=False)
    runs = sorted(path.name for path in Path("study/runs").iterdir())
    assert {row["kind"] for name in runs for row in results.read(Path("study/runs") / name)} == {
        "quality"
    }
    assert not Path("study/picture.png").exists()
    assert "picture" not in Path("study/table.md").read_text("utf-8")
    paper = Path("paper.pdf")
    comparison = study.study(config, publish="published", picture=paper, width=3.3, has_title=False)
    assert paper.read_bytes().startswith(b"%PDF")
    assert f'width="{72 * 3.3:g}' in (Path(config.directory) / "picture.svg").read_text("utf-8")
    assert runs == ["ar_seed1", "ar_seed2", "fertility_kd_seed1", "fertility_kd_seed2", "length"]
    cards = [
        PreparedData.load(f"study/distilled_seed{seed}").manifest["distilled"] for seed in (1, 2)
    ]
    assert [card["teacher"]["name"] for card in cards] == ["ar_seed1", "ar_seed2"]
    lines = {line.result.identity["name"]: line for line in comparison.table.lines}
    assert {name: len(line.result.qualities) for name, line in lines.items()} == {
        "ar": 2,
        "fertility_kd": 2,
        "length": 1,
    }
    assert lines["ar"].is_teacher
    for name in runs:
        timed = [row["kind"] for row in results.read(Path("study/runs") / name)].count("speed")
        assert timed == (0 if name.endswith("2") else 1), name
    assert "| fertility_kd_seed1 " in Path("study/examples.md").read_text("utf-8")
    systems = [Path("published/systems") / one.directory.name for one in config.plan()]
    again = compare.compare(systems).render("csv").replace("published/systems", "study/runs")
    assert again == comparison.render("csv")  # and no weights are needed
    assert not [*Path("published").rglob("checkpoints")]


def test_a_split_that_is_not_there_is_said_before_any_training(
    make_study: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_study("here"))
    config = dataclasses.replace(load_study("study.py"), tests=("test", "tset"))
    with pytest.raises(ValueError, match="tset"):
        study.study(config)
    assert not Path("study/runs").exists()


def test_a_corpus_file_takes_the_place_of_the_corpus(
    make_study: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is split by the hold-out of the config's corpus, and cannot be without one; three are the splits."""
    monkeypatch.chdir(make_study("here"))
    with pytest.raises(ValueError, match=r"corpus_file pairs\.tsv: TextFiles has no hold_out"):
        run("--corpus-file", "pairs.tsv")
    with pytest.raises(ValueError, match=r"expected one file, or three .* got 2"):
        run("--corpus-file", "a.tsv", "b.tsv")
    seen: list[Any] = []
    monkeypatch.setattr(command_line, "study", lambda *words, **more: seen.append((words, more)))
    text = (
        Path("study.py")
        .read_text("utf-8")
        .replace('("validation.tsv",), ("test.tsv",)', "hold_out=HoldOut(5, 6)")
    )
    text = text.replace("import TextFiles", "import HoldOut, TextFiles")
    Path("study.py").write_text(text, "utf-8")
    run("--directory", "elsewhere", "--corpus-file", "/some/pairs.tsv", "--publish", "docs")
    ((config,), more) = seen[0]
    assert config.directory == "elsewhere"
    assert config.data.corpus.train == ("/some/pairs.tsv",)
    assert more == {
        "command": "python -m nat_ar study study.py --corpus-file pairs.tsv",
        "is_timed": True,
        "publish": "docs",
        "picture": None,
        "width": None,
        "has_title": True,
        "mesh": None,
        "teacher_from": None,
    }
    assert (config.data.corpus.hold_out.validation, config.data.corpus.hold_out.test) == (5, 6)

    run("--corpus-file", "/a.tsv", "/b.tsv", "/c d.tsv")
    ((config,), more) = seen[1]
    assert config.data.corpus == TextFiles(
        ("/a.tsv",), ("/b.tsv",), ("/c d.tsv",), bleu_tokenizer="13a"
    )
    assert more["command"] == "python -m nat_ar study study.py --corpus-file a.tsv b.tsv 'c d.tsv'"


def test_the_columns_of_the_command_are_those_of_the_study_and_of_its_command(
    make_study: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_study("here"))
    seen: list[Any] = []
    monkeypatch.setattr(command_line, "study", lambda *words, **more: seen.append((words, more)))
    run("--columns", "system", "bleu_lc")
    ((config,), more) = seen[0]
    assert config.columns == ("system", "bleu_lc")
    assert more["command"] == "python -m nat_ar study study.py --columns system bleu_lc"
    with pytest.raises(ValueError, match=r"columns: expected some of all, .*; got blue"):
        run("--columns", "blue")
