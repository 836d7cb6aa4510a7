import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nat_ar.data import arrays, checked, prepare
from nat_ar.data.arrays import PreparedData, RaggedWriter
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair
from nat_ar.data.prepare import DataConfig
from nat_ar.data.ragged import Ragged
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.runtime import files


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it, copy it, never write into it."""
    directory = tmp_path_factory.mktemp("prepared")
    table = directory / "numbers.tsv"
    table.write_text("".join(f"{n} and {n + 1}\t{n} und {n + 1}\n" for n in range(300)))
    corpus = TextFiles(
        train=(str(table),), hold_out=HoldOut(10, 20, by="line"), bleu_tokenizer="13a"
    )
    words = VocabularyConfig(size=300, kind="bpe")
    prepare.prepare(DataConfig(str(directory / "data"), corpus, words))
    return directory / "data"


@pytest.mark.parametrize("rows", [[[5, 6], [], [7]], [[]], []])
def test_a_ragged_writer_writes_what_from_rows_holds(tmp_path: Path, rows: list[list[int]]) -> None:
    writer = RaggedWriter(tmp_path / "source", np.dtype(np.uint16))
    for row in rows:
        writer.append([row])
    written = writer.close()
    expected = Ragged.from_rows(rows, np.uint16)
    assert written.values.dtype == np.uint16
    np.testing.assert_array_equal(written.values, expected.values)
    np.testing.assert_array_equal(written.offsets, expected.offsets)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "source.offsets.npy",
        "source.values.npy",
    ]


def test_pairs_come_back_from_text_files(tmp_path: Path) -> None:
    pairs = [Pair("  a \xa0", "b\t", "domain", "d.1"), Pair("ü", "𝄞"), Pair("x", "y")]
    writer = arrays.TextWriter(tmp_path / "train")
    for pair in pairs[:2]:
        writer.append(pair)
    with pytest.raises(UnicodeEncodeError):
        writer.append(Pair("fine", "\ud800"))  # half a surrogate pair: no side is written
    writer.append(pairs[2])
    writer.close()
    for side in ("source", "target"):
        texts = list(arrays.read_texts(tmp_path / "train", side))
        assert texts == [getattr(pair, side) for pair in pairs]
    assert files.read_lines(tmp_path / "train" / "source.txt") == ["  a \xa0", "ü", "x"]


def test_texts_are_copied_without_pairs_that_are_not_kept(tmp_path: Path) -> None:
    writer = arrays.TextWriter(tmp_path / "all")
    for pair in (Pair("a", "A"), Pair("b\u2028", "B", "news"), Pair("c", "C", "web", "7")):
        writer.append(pair)
    writer.close()
    (tmp_path / "some").mkdir()
    arrays.copy_texts(tmp_path / "all", tmp_path / "some", np.array([True, False, True]))
    lines = {path.name: files.read_lines(path) for path in (tmp_path / "some").iterdir()}
    assert lines == {
        "source.txt": ["a", "c"],
        "target.txt": ["A", "C"],
        "domains.txt": ["", "web"],
        "documents.txt": ["", "7"],
    }


def test_a_new_directory_is_complete_or_not_there(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with (  # noqa: PT012  the block must have begun
        pytest.raises(KeyboardInterrupt),
        arrays.new_directory(directory) as partial,
    ):
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.partial").mkdir()  # as a killed run leaves it
    (tmp_path / "data.partial" / "half").touch()
    with arrays.new_directory(directory) as partial:
        (partial / "whole").touch()
        assert not directory.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in directory.iterdir()] == ["whole"]
    with (
        pytest.raises(ValueError, match=r"data holds files, but no manifest\.json"),
        arrays.new_directory(directory),
    ):
        pass


def test_no_manifest_or_another_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json is missing: not a prepared directory"):
        PreparedData.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"manifest\.json cannot be used: .*; remove the directory"
    ):
        PreparedData.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="format 0, expected 1: prepare the data again"):
        PreparedData.load(tmp_path)


def test_missing_and_cut_files_are_named(prepared: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(prepared, tmp_path / "data")
    (directory / "test/target.offsets.npy").write_bytes(b"four")
    with pytest.raises(ValueError, match=r"test/target\.offsets\.npy has 4 bytes, expected \d+"):
        PreparedData.load(directory)
    (directory / "test/target.offsets.npy").unlink()
    with pytest.raises(ValueError, match=r"test/target\.offsets\.npy is missing"):
        PreparedData.load(directory)


@pytest.mark.parametrize(
    "name", ["test/target.txt", "vocabulary/joint.model", "train/source.values.npy"]
)
def test_a_changed_file_is_found(prepared: Path, tmp_path: Path, name: str) -> None:
    directory = shutil.copytree(prepared, tmp_path / "data")
    flip_last_bit(directory / name)
    with pytest.raises(ValueError, match=f"{name} has changed since it was prepared"):
        PreparedData.load(directory)


def flip_last_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_changed_manifest_is_found(prepared: Path, tmp_path: Path) -> None:
    """Every seventh byte in its turn: another number, another name, no JSON any more."""
    content = (prepared / arrays.MANIFEST).read_bytes()
    places = range(0, len(content), 7)
    found = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / arrays.MANIFEST).write_bytes(changed)
        try:
            read = arrays.read_manifest(tmp_path)
        except ValueError:
            found += 1
        else:  # white space, or the name of the checksum
            assert {**read, "checksum": 0} == {**arrays.read_manifest(prepared), "checksum": 0} or (
                b'"checksum"' not in changed
            )
    assert found > 0.9 * len(places)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "train/../../outside.txt"])
def test_a_manifest_cannot_name_files_outside(prepared: Path, tmp_path: Path, name: str) -> None:
    manifest = arrays.read_manifest(prepared)
    manifest["files"][name] = {"bytes": 0, "sha256": ""}
    (tmp_path / arrays.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="names a file outside its directory"):
        PreparedData.load(tmp_path)


def test_a_directory_may_be_moved(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData.load(prepared)
    shutil.copytree(prepared, tmp_path / "moved")
    moved = PreparedData.load(tmp_path / "moved")
    assert moved.hash == data.hash
    assert moved.split("test").target_text == data.split("test").target_text


def damaged(path: Path, *, is_noticed: bool) -> None:
    """Changes a byte; unless it is noticed, the file says that it was written when it was."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    later = stat.st_mtime_ns + is_noticed * 10**9
    os.utime(path, ns=(stat.st_atime_ns, later))


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_small_file_is_hashed_whatever_its_time(
    prepared: Path, tmp_path: Path, is_noticed: bool
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    assert "modified" not in arrays.read_manifest(prepared)
    damaged(tmp_path / "data/train/source.values.npy", is_noticed=is_noticed)
    with pytest.raises(ValueError, match=r"source\.values\.npy has changed since it was prepared"):
        PreparedData.load(tmp_path / "data")


@pytest.fixture
def large(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in which all files count as large, and the manifest knows when they were written."""
    monkeypatch.setattr(checked, "LARGE", 1)
    directory = tmp_path / "data"
    shutil.copytree(prepared, directory)
    arrays.write_times(directory, arrays.read_manifest(directory))
    return directory


def test_a_large_file_is_hashed_where_it_was_written_since(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    file_hash = files.file_hash

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_hash(path)

    monkeypatch.setattr(files, "file_hash", counted)
    PreparedData.load(large)
    assert hashed == []
    path = large / "train/target.txt"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    PreparedData.load(large)
    assert hashed == [path]
    damaged(path, is_noticed=True)
    with pytest.raises(ValueError, match=r"target\.txt has changed since it was prepared"):
        PreparedData.load(large)


def test_prepare_looks_at_all_of_a_large_file(large: Path) -> None:
    config = prepare.config_of(PreparedData.load(large))
    config = dataclasses.replace(config, directory=str(large))
    path = large / "train/target.values.npy"
    damaged(path, is_noticed=False)
    PreparedData.load(large)  # it cannot know
    with pytest.raises(ValueError, match=r"target\.values\.npy has changed since it was prepared"):
        prepare.prepare(config, quiet=True)
    PreparedData.load(large, check="sizes")
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ValueError, match=r"target\.values\.npy has \d+ bytes, expected"):
        PreparedData.load(large, check="sizes")


def test_prepare_learns_when_the_files_of_a_copy_were_written(large: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(large, copy, copy_function=shutil.copyfile)
    before = arrays.read_manifest(copy)
    times = checked.times(copy, before["files"])
    assert before["modified"] != times
    config = dataclasses.replace(prepare.config_of(PreparedData.load(copy)), directory=str(copy))
    assert prepare.prepare(config, quiet=True) == {**before, "modified": times}
    assert arrays.read_manifest(copy) == {**before, "modified": times}


def test_the_first_training_pairs_alone(prepared: Path) -> None:
    data = PreparedData.load(prepared)
    fewer = data.with_training_pairs(3)
    train, whole = fewer.split("train"), data.split("train")
    assert len(train) == len(train.target) == 3 < len(whole)
    assert (train.source_text, train.target_text) == (whole.source_text[:3], whole.target_text[:3])
    assert fewer.split("test") == data.split("test")
    assert len(data.with_training_pairs(10**6).split("train")) == len(whole)


def test_an_unknown_split_is_named(prepared: Path) -> None:
    data = PreparedData.load(prepared)
    assert data.splits == ("train", "validation", "test")
    with pytest.raises(ValueError, match="no split 'valid'; there are train, validation, test"):
        data.split("valid")
