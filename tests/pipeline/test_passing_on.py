"""A run without what training needs, and studies whose teacher was trained elsewhere."""

import dataclasses
import shutil
from pathlib import Path

import pytest

import nat_ar
from nat_ar import __main__ as command_line
from nat_ar.commands import export
from nat_ar.commands import study as study_command
from nat_ar.commands.export import Export
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.experiment.run import Run
from nat_ar.experiment.study import load_study, only
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.pipeline import study
from nat_ar.pipeline.passing_on import pass_on
from nat_ar.pipeline.train import train as trained
from scripts.torture import tiny_study

SOURCES = ["a b c", "d e", "h"]


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in files_of(directory))


def test_it_translates_alike_and_needs_the_other_no_longer(
    tiny_runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(shutil.copytree(tiny_runs.autoregressive.directory, tmp_path / "run"))
    before = nat_ar.load(run.directory).translate(SOURCES)
    export.run(Export(str(run.directory), "run", str(tmp_path / "light")))
    assert "every verb but train takes it" in capsys.readouterr().out
    light = Run(tmp_path / "light")
    assert {path.name for path in light.directory.iterdir()} == {
        *("config.json", "facts.json", "vocabulary", "checkpoints"),
    }
    assert not any(
        str(tmp_path).encode() in path.read_bytes()
        for path in files_of(light.directory / "checkpoints")
    )
    assert light.parameters_hash() == run.parameters_hash()
    assert light.facts()["passed_on_from"] == {
        "run": str(run.directory),
        "checkpoint_step": 0,
        "parameters_hash": run.parameters_hash(),
    }
    shutil.rmtree(run.directory)
    assert nat_ar.load(light.directory).translate(SOURCES) == before
    with pytest.raises(ValueError, match=r"takes no rows, got 2: leave it out"):
        Export(str(light.directory), "run", rows=2)


def test_a_mean_of_checkpoints_is_one(tiny_runs, tmp_path: Path) -> None:
    """The same parameters at two steps have themselves as their mean."""
    run = Run(shutil.copytree(tiny_runs.autoregressive.directory, tmp_path / "run"))
    (only_step,) = (path for path in run.checkpoints_directory.iterdir() if path.name.isdecimal())
    shutil.copytree(only_step, run.checkpoints_directory / "7")
    made = pass_on(run, tmp_path / "mean", checkpoint="average:0,7")
    assert made.averaged_steps == (0, 7)
    mean = Run(tmp_path / "mean")
    assert (mean.resolve(), mean.progress(7)["score"]) == (7, None)
    assert nat_ar.load(mean.directory).translate(SOURCES) == nat_ar.load(run.directory).translate(
        SOURCES
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study, and its teacher trained by itself: runs/ar, and passed on: light."""
    place = tiny_study.write(tmp_path_factory.mktemp("passing_on") / "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        config = load_study("study.py")
        study.study(only(config, ["ar"]), is_timed=False)
        Path("study/runs/ar").rename("trained")
        shutil.rmtree("study")
        pass_on(Run(Path("trained")), Path("light"))
    return place


def test_only_its_training_cannot_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    shutil.copytree("light", "copy")
    config = Run(Path("light")).config()
    study.study(only(load_study("study.py"), ["ar"]), is_timed=False)  # makes its data
    assert trained(config, "copy").directory == Path("copy")  # finished: nothing is left to do
    longer = dataclasses.replace(
        config, training=dataclasses.replace(config.training, max_steps=160)
    )
    with pytest.raises(ConfigError, match=r"step 150 of 160: it translates, .* --start-from copy"):
        trained(longer, "copy")
    assert size_of(Path("copy/checkpoints")) < 0.7 * size_of(Path("trained/checkpoints"))


def test_a_study_takes_a_teacher_from_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is copied, distils, and is found again; another is refused, and so is one of another method."""
    monkeypatch.chdir(here)
    config = dataclasses.replace(only(load_study("study.py"), ["fertility_kd"]), directory="second")
    for _ in range(2):
        study.study(config, is_timed=False, teacher_from="light")
    light, taken = Run(Path("light")), Run(Path("second/runs/ar"))
    assert taken.parameters_hash() == light.parameters_hash()
    assert taken.config().data.directory == "second/data"
    assert [row["kind"] for row in results.read(taken.directory)] == ["quality"]
    card = PreparedData.load("second/distilled").manifest["distilled"]
    assert card["teacher"]["parameters_hash"] == light.parameters_hash()
    student = Run(Path("second/runs/fertility_kd"))
    assert student.facts()["teacher"]["parameters_hash"] == light.parameters_hash()
    assert "ar" in Path("second/table.md").read_text("utf-8")

    shutil.copytree("second", "third")
    shutil.rmtree("third/runs/ar")
    shutil.copytree("trained", "third/runs/ar")
    with pytest.raises(ConfigError, match=r"third/runs/ar is not the model of light: it was tr"):
        study.study(dataclasses.replace(config, directory="third"), teacher_from="light")
    small = dataclasses.replace(
        config.teacher,
        method=Autoregressive(
            dataclasses.replace(config.teacher.method.transformer, num_decoder_layers=2)
        ),
    )
    deeper = dataclasses.replace(config, teacher=small, entries=(), directory="fourth")
    with pytest.raises(
        ConfigError, match=r"light cannot be the study's teacher: .*num_decoder_layers: 1 -> 2"
    ):
        study.study(deeper, teacher_from="light")
    assert not Path("fourth").exists()
    seeded = dataclasses.replace(config, seeds=(1, 2), seed_teacher=True)
    with pytest.raises(ConfigError, match="seed_teacher asks for a teacher of each seed"):
        study.study(seeded, teacher_from="light")


def test_a_teacher_of_another_vocabulary_is_refused(
    tiny_runs, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    config = only(load_study("study.py"), ["length"])
    teacher = dataclasses.replace(
        config.teacher, method=tiny_runs.autoregressive.config().method, decodings=()
    )
    length = dataclasses.replace(config.entries[0], encoder_from_teacher=False)
    other = dataclasses.replace(config, teacher=teacher, entries=(length,), directory="fifth")
    with pytest.raises(ConfigError, match=r"expected its vocabulary, .*; prepare the same corpus"):
        study.study(other, teacher_from=tiny_runs.autoregressive)
    assert not Path("fifth/runs").exists()


def test_the_command_takes_it_and_the_reports_say_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    seen = []
    monkeypatch.setattr(study_command, "study", lambda *words, **more: seen.append(more))
    study_command.run(command_line.parse("study", ["study.py", "--teacher-from", "light"]))
    assert seen[0]["teacher_from"] == "light"
    assert seen[0]["command"] == "python -m nat_ar study study.py --teacher-from light"
