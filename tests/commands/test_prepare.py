"""prepare: a corpus in, a directory and a summary out."""

import dataclasses
from pathlib import Path

import pytest

from nat_ar.commands import prepare
from nat_ar.commands.prepare import Prepare
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Four pairs for training, one of them without a target, and one for each of the others."""
    rows = {"train": ["a b\tA B", "b a\tB A", "a\t", "b b a\tB B A"]}
    rows |= {"validation": ["a a\tA A"], "test": ["b b\tB B"]}
    paths = {}
    for name, lines in rows.items():
        path = tmp_path / f"{name}.tsv"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        paths[name] = (str(path),)
    words = VocabularyConfig(size=14, byte_fallback=False)
    return DataConfig(
        str(tmp_path / "data"),
        TextFiles(**paths, bleu_tokenizer="13a"),
        words,
        aligner=None,
        max_lost=0.25,
    )


def test_it_says_what_was_kept_and_what_was_dropped(
    config: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.run(Prepare(config))
    said = capsys.readouterr().out.splitlines()
    data = PreparedData.load(config.directory)
    sizes = {name: len(data.split(name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 3, "validation": 1, "test": 1}
    assert said[0].startswith(f"{config.directory}: ")
    assert "train 3" in said[0]
    assert said[0].endswith(f"pairs; data hash {data.hash[:12]}")
    assert any("empty" in line and line.endswith(": 1") for line in said[1:]), said


def test_a_second_time_finds_it_done(
    config: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.run(Prepare(config))
    first = capsys.readouterr().out
    manifest = Path(config.directory, "manifest.json")
    before = manifest.stat().st_mtime_ns
    prepare.run(Prepare(config))
    assert capsys.readouterr().out == first
    assert manifest.stat().st_mtime_ns == before


def test_another_config_for_the_same_directory_is_refused(config: DataConfig) -> None:
    prepare.run(Prepare(config))
    with pytest.raises(ValueError, match=r"another config \(max_tokens: 200 -> 100\)"):
        prepare.run(Prepare(dataclasses.replace(config, max_tokens=100)))


def test_a_config_without_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text("config = 5", "utf-8")
    with pytest.raises(ConfigError, match="holds a int; `prepare` takes an ExperimentConfig or a"):
        prepare.load_config(str(path))
