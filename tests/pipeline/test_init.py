"""A new study out of two files: what is written can be loaded and prepared."""

from pathlib import Path

import pytest

from nat_ar import __main__ as command_line
from nat_ar.commands import init as command
from nat_ar.config_json import ConfigError
from nat_ar.data import prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.data.pair import Report
from nat_ar.data.toy import corpus as toy
from nat_ar.experiment.study import load_study
from nat_ar.pipeline import init


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pairs = list(toy.ToyCorpus(num_train=300).splits(Report())["train"])
    Path("en.txt").write_text("".join(f"{pair.source}\n" for pair in pairs), "utf-8")
    Path("train.de").write_text("".join(f"{pair.target}\n" for pair in pairs), "utf-8")
    return tmp_path


def test_the_file_is_a_study_of_the_two_files_that_can_be_prepared(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["my_study", "--source", "en.txt", "--target", "train.de"]
    command.run(command_line.parse("init", words))
    assert capsys.readouterr().out == (
        "wrote my_study.py; next: python -m nat_ar study my_study.py\n"
    )
    config = load_study("my_study.py")
    assert (config.name, config.directory) == ("my_study", "studies/my_study")
    corpus = config.data.corpus
    assert (corpus.source_language, corpus.target_language) == ("en", "de")
    prepare.prepare(config.data, quiet=True)  # its vocabulary can be filled
    data = PreparedData.load(config.data.directory)
    assert len(data.split("validation").source_text) == len(data.split("test").source_text) == 15
    config.experiment(config.teacher)
    config.experiment(config.entries[0])


def test_nothing_is_written_over(desk: Path) -> None:
    Path("mine.py").write_text("x = 1\n", "utf-8")
    with pytest.raises(ConfigError, match=r"new file, got mine\.py, which exists"):
        init.write("mine", "en.txt", "train.de")
    assert Path("mine.py").read_text("utf-8") == "x = 1\n"


def test_files_that_do_not_belong_together_are_refused(desk: Path) -> None:
    Path("short.de").write_text("ja\n", "utf-8")
    with pytest.raises(ConfigError, match=r"300 lines in en\.txt and 1 in short\.de"):
        init.write("mine", "en.txt", "short.de")
    assert not Path("mine.py").exists()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("en.txt", "en"),
        ("data/train.zh-CN", "zh-CN"),
        ("train.de.gz", "de"),
        ("train.txt", None),
        ("sources", None),
    ],
)
def test_a_language_is_read_off_the_name_of_a_file(path: str, code: str | None) -> None:
    assert init.language_of(path) == code
