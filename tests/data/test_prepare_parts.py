"""A job array prepares what one process does, byte for byte."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nat_ar.commands import prepare as command
from nat_ar.config_json import ConfigError
from nat_ar.data import encoding, prepare, prepare_parts
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.prepare_parts import prepare_part
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.runtime import files, parts

SIZES = prepare_parts.PIECE, encoding.CHUNK


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "CHUNK", 4)
        patch.setattr(prepare_parts, "PIECE", 8)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """60 training pairs of one to nine letters, of which the longest are dropped, seven are uneven and one is empty:
    eight pieces."""
    place = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    rows = [" ".join(draw.choices("abcdefgh", k=1 + i % 9)) for i in range(76)]
    pairs = [(row, row.upper()) for row in rows]
    pairs[:60:9] = [(row, " ".join(["A"] * 6)) for row, _ in pairs[:60:9]]
    paths = {}
    for name, some in (("train", pairs[:60]), ("validation", pairs[60:68]), ("test", pairs[68:])):
        lines = [f"{source}\t{target}\n" for source, target in some]
        if name == "train":
            lines.insert(30, "a b\t\n")
        paths[name] = (str(place / f"{name}.tsv"),)
        (place / f"{name}.tsv").write_text("".join(lines), "utf-8")
    return DataConfig(
        directory=str(place / "data"),
        corpus=TextFiles(**paths, bleu_tokenizer="13a"),
        vocabulary=VocabularyConfig(size=24, byte_fallback=False),
        aligner=AlignerConfig(iterations=2),
        remove_overlap=False,
        max_tokens=16,
        max_length_ratio=2.5,
        max_lost=0.5,
    )


@pytest.fixture(scope="module")
def whole(config: DataConfig) -> dict[str, Any]:
    """The manifest of what one process makes."""
    manifest = prepare.prepare(config, quiet=True)
    counts = manifest["report"]["counts"]
    assert counts["train: dropped, longer than 16 tokens"] > 5
    assert counts["train: dropped, length ratio over 2.5"] > 5
    assert counts["train: dropped, empty side"] == 1
    return manifest


def at(config: DataConfig, directory: Path, **fields: Any) -> DataConfig:
    return dataclasses.replace(config, directory=str(directory), **fields)


def assert_same(manifest: dict[str, Any] | None, whole: dict[str, Any]) -> None:
    """All but places and times."""
    assert manifest is not None
    for name in ("files", "data_hash", "report", "splits", "vocabulary", "config_hash"):
        assert manifest[name] == whole[name], name
    for fields in ("counts", "examples"):
        assert list(manifest["report"][fields]) == list(whole["report"][fields])


@pytest.mark.parametrize("number", [1, 2, 5, 11])
def test_any_number_of_parts_makes_the_same_bytes(
    config: DataConfig, whole: dict[str, Any], tmp_path: Path, number: int
) -> None:
    """In any order; the last one joins."""
    order = random.Random(number).sample(range(1, number + 1), number)
    wanted = at(config, tmp_path / "d")
    found = [prepare_part(wanted, f"{one}/{number}", quiet=True) for one in order]
    assert_same(found[-1], whole)
    assert found.count(None) == number - 1 or number > 8  # of eleven, three have nothing to do
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert PreparedData.load(tmp_path / "d").manifest == found[-1]
    assert prepare_part(wanted, "1/2", quiet=True) == prepare_part(wanted, None, quiet=True)


def test_a_killed_part_goes_on_and_what_is_missing_is_named(
    config: DataConfig,
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted, encode, encoded = at(config, tmp_path / "d"), encoding.encode, []

    def dies(directory: Path, *arguments: Any) -> Any:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(directory.name)
        return encode(directory, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare_part(wanted, "2/2", quiet=True)
        monkeypatch.setattr(prepare, "clean", None)  # it is cleaned once
    command.run(command.Prepare(wanted, part="1/2"))
    said = capsys.readouterr()
    assert "nat-ar: part 1/2 is made; what is missing is of --part 2/2\n" in said.err
    assert said.out == ""
    with pytest.raises(ConfigError, match=r"d\.parts lacks 2 pieces, those of --part 2/2: run the"):
        prepare_part(wanted, None, quiet=True)
    assert not (tmp_path / "d").exists()
    with pytest.raises(ConfigError, match=r"d\.parts was begun in 2 parts, got --part 1/3: go on"):
        prepare_part(wanted, "1/3", quiet=True)
    (tmp_path / "d.parts" / parts.RECORD).unlink()
    assert prepare_part(wanted, "1/3", quiet=True) is None
    assert prepare_part(wanted, "3/3", quiet=True) is None
    (tmp_path / "d.parts" / parts.RECORD).unlink()
    assert_same(prepare_part(wanted, None, quiet=True), whole)


def test_parts_that_run_together_do_not_fight(
    config: DataConfig, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While part 1/2 encodes its first piece, others come."""
    wanted, encode, met = at(config, tmp_path / "d"), encoding.encode, []

    def others(*arguments: Any) -> Any:
        if not met:
            met.append(None)
            with pytest.raises(files.InUseError, match=r"d\.parts, part 1/2, is in use by process"):
                prepare_part(wanted, "1/2", quiet=True)
            with pytest.raises(files.InUseError, match="in use by processes that make parts of it"):
                prepare_part(wanted, None, quiet=True)
            other = dataclasses.replace(wanted, max_tokens=12)
            with pytest.raises(
                ValueError, match=r"begun with another config .*max_tokens: 16 -> 12"
            ):
                prepare_part(other, "2/2", quiet=True)
            met.append(prepare_part(wanted, "2/2", quiet=True))
        return encode(*arguments)

    monkeypatch.setattr(encoding, "encode", others)
    assert_same(prepare_part(wanted, "1/2", quiet=True), whole)
    assert met == [None, None]


def test_whoever_comes_when_all_is_joined_reads_nothing(
    config: DataConfig, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the others have joined since it looked."""
    wanted, enter = at(config, tmp_path / "d"), parts.at_work

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(parts, "at_work", enter)
        prepare.prepare(wanted, quiet=True)
        monkeypatch.setattr(prepare, "clean", None)
        return enter(*arguments)

    monkeypatch.setattr(parts, "at_work", late)
    assert_same(prepare_part(wanted, "1/2", quiet=True), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_an_impossible_corpus_blocks_nothing(
    config: DataConfig, whole: dict[str, Any], tmp_path: Path
) -> None:
    """What failed before all was clean gives way to the mended command."""
    with pytest.raises(ValueError, match="vocabulary"):
        prepare_part(
            at(config, tmp_path / "d", vocabulary=VocabularyConfig(size=9000)), "1/2", quiet=True
        )
    wanted = at(config, tmp_path / "d")
    assert prepare_part(wanted, "1/3", quiet=True) is None
    assert prepare_part(wanted, "2/3", quiet=True) is None
    assert_same(prepare_part(wanted, "3/3", quiet=True), whole)


@pytest.mark.parametrize("name", ["source.values.npy", "kept.npy", "piece.json"])
def test_a_changed_piece_is_noticed(config: DataConfig, tmp_path: Path, name: str) -> None:
    wanted = at(config, tmp_path / "d")
    assert prepare_part(wanted, "1/2", quiet=True) is None
    path = tmp_path / "d.parts" / f"{16:012d}" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"000016.*{name}.*remove .*d\.parts/0"):
        prepare_part(wanted, "2/2", quiet=True)
    assert not (tmp_path / "d").exists()


def test_pieces_are_whole_chunks() -> None:
    """So that examples of what is dropped are those of one process."""
    piece, chunk = SIZES
    assert piece % chunk == 0
