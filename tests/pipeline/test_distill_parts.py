"""A job array distils what one process does, byte for byte, whoever is killed and whoever comes last."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nat_ar.commands import distill as command
from nat_ar.commands.distill import Distill
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData, Split
from nat_ar.pipeline import shards
from nat_ar.pipeline.distill import distill
from nat_ar.runtime import files, parts
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator


class Teacher:
    """Translator.translate by an A and capitals. `before` is called before the translation of that number, from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.translated: list[tuple[str, ...]] = []
        self.before: dict[int, Callable[[], None]] = {}
        monkeypatch.setattr(Translator, "translate", lambda _, *words, **more: self(*words, **more))

    def __call__(self, sentences: Sequence[str], **_: Any) -> list[Translation]:
        self.before.pop(len(self.translated) + 1, lambda: None)()
        self.translated.append(tuple(sentences))
        return [
            Translation(["A " + text.upper()], [0.0], [[9] * len(text)], 1) for text in sentences
        ]


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Teacher:
    return Teacher(monkeypatch)


@pytest.fixture(scope="module")
def whole(
    tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """The manifest of one process, and what it translated: validation and eight shards of up to five sentences."""
    with pytest.MonkeyPatch.context() as patch:
        teacher = Teacher(patch)
        run, place = tiny_runs.autoregressive, tmp_path_factory.mktemp("whole")
        manifest = distill(run, place / "d", shard_sentences=5)
    assert manifest is not None
    assert [len(sentences) for sentences in teacher.translated] == [12, *[5] * 7, 1]
    return manifest, teacher.translated


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 3, 12])
def test_any_number_of_parts_makes_the_same_bytes(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path, number: int
) -> None:
    """In any order, and the last one joins; of twelve parts three have nothing to do."""
    order = random.Random(number).sample(range(1, number + 1), number)
    found = [
        distill(tiny_runs.autoregressive, tmp_path / "d", shard_sentences=5, part=f"{one}/{number}")
        for one in order
    ]
    joined = [manifest for manifest in found if manifest is not None]
    assert len(joined) == 1 or number > 9  # one with nothing to do may come still later
    manifest, translated = whole
    assert found[-1] is not None
    assert found[-1]["files"] == manifest["files"]
    assert found[-1]["data_hash"] == manifest["data_hash"]
    timed = ("seconds", "sentences_per_second", "date", "command")
    cards = [
        {name: value for name, value in one["distilled"].items() if name not in timed}
        for one in (found[-1], manifest)
    ]
    assert cards[0] == cards[1]
    assert sorted(teacher.translated) == sorted(translated)  # each once
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    late = distill(tiny_runs.autoregressive, tmp_path / "d", shard_sentences=5, part=f"1/{number}")
    assert late == found[-1]


def test_texts_of_a_corpus_are_never_all_in_memory(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the training split; the others have some thousand sentences."""
    read = Split._lines

    def refused(split: Split, name: Any) -> list[str]:
        assert split.name != "train"
        return read(split, name)

    monkeypatch.setattr(Split, "_lines", refused)
    manifest = distill(tiny_runs.autoregressive, tmp_path / "d", shard_sentences=5)
    assert manifest is not None
    assert manifest["files"] == whole[0]["files"]


def test_translations_are_read_a_shard_at_a_time(
    tiny_runs: Any, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, and by their rows: what is remembered is the last shard that was read."""
    data = PreparedData.load(tiny_runs.data)
    work = shards.Work(tmp_path, data, "first", 5, "13a")
    work.make(lambda: Translator.__new__(Translator), title="toy")
    reads: list[str] = []
    original = shards.read_json
    monkeypatch.setattr(shards, "read_json", lambda path: reads.append(path.name) or original(path))
    found, names = work.read(), [f"{row:09d}.json" for row in range(0, 36, 5)]
    assert (len(found), reads) == (36, names)
    expected = [f"A {text.upper()}" for text in data.split("train").source_text]
    assert [*found] == expected
    assert reads == [*names, *names]
    assert [found[row] for row in (35, 0, 4, 5)] == [expected[row] for row in (35, 0, 4, 5)]
    assert reads[16:] == [names[0], names[1]]


def test_a_killed_part_goes_on_and_what_is_missing_is_named(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, to = tiny_runs.autoregressive, tmp_path / "d"
    teacher.before[3] = die  # validation, one shard, and in the second
    with pytest.raises(KeyboardInterrupt):
        distill(run, to, shard_sentences=5, part="1/2")
    arguments = Distill(str(run.directory), str(to), shard_sentences=5, part="2/2")
    command.run(arguments)
    said = capsys.readouterr()
    assert "nat-ar: part 2/2 is made; what is missing is of --part 1/2\n" in said.err
    assert said.out == ""
    with pytest.raises(ConfigError, match=r"d\.shards lacks 3 pieces, those of --part 1/2: run"):
        distill(run, to, shard_sentences=5)
    before = len(teacher.translated)
    manifest = distill(run, to, shard_sentences=5, part="1/2")
    assert len(teacher.translated) == before + 3
    assert manifest is not None
    assert manifest["files"] == whole[0]["files"]


def test_work_is_dealt_once_and_anew_where_its_record_is_removed(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path
) -> None:
    run, to = tiny_runs.autoregressive, tmp_path / "d"
    assert distill(run, to, shard_sentences=5, part="2/3") is None
    message = r"d\.shards was begun in 3 parts, got --part 1/2: go on with --part I/3, or remove .*parts\.json"
    with pytest.raises(ConfigError, match=message):
        distill(run, to, shard_sentences=5, part="1/2")
    with pytest.raises(ValueError, match="shard_sentences: 5 -> 6"):
        distill(run, to, shard_sentences=6, part="1/3")
    record = tmp_path / "d.shards" / parts.RECORD
    record.unlink()
    assert distill(run, to, shard_sentences=5, part="1/2") is None
    record.unlink()
    manifest = distill(run, to, shard_sentences=5)  # makes what is missing itself
    assert manifest is not None
    assert manifest["files"] == whole[0]["files"]
    assert sorted(teacher.translated) == sorted(whole[1])


def test_an_interrupted_distillation_may_be_finished_in_parts(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path
) -> None:
    run, to = tiny_runs.autoregressive, tmp_path / "d"
    teacher.before[4] = die
    with pytest.raises(KeyboardInterrupt):
        distill(run, to, shard_sentences=5)
    assert distill(run, to, shard_sentences=5, part="2/2") is None
    manifest = distill(run, to, shard_sentences=5, part="1/2")
    assert manifest is not None
    assert manifest["files"] == whole[0]["files"]
    assert sorted(teacher.translated) == sorted(whole[1])


def test_parts_that_run_together_do_not_fight(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path
) -> None:
    """While part 1/2 works, in its third translation, others come."""
    run, to, met = tiny_runs.autoregressive, tmp_path / "d", []

    def others() -> None:
        with pytest.raises(files.InUseError, match=r"d\.shards, part 1/2, is in use by process \d"):
            distill(run, to, shard_sentences=5, part="1/2")
        with pytest.raises(files.InUseError, match="is in use by processes that make parts of it"):
            distill(run, to, shard_sentences=5)
        with pytest.raises(ValueError, match=r"other inputs .*spoilt"):
            distill(run, to, shard_sentences=5, part="2/2", spoilt="keep")
        met.append(distill(run, to, shard_sentences=5, part="2/2"))

    teacher.before[3] = others
    manifest = distill(run, to, shard_sentences=5, part="1/2")
    assert met == [None]
    assert manifest is not None
    assert manifest["files"] == whole[0]["files"]
    assert sorted(teacher.translated) == sorted(whole[1])


def test_who_is_first_says_what_is_made_before_anything_is(
    tiny_runs: Any, teacher: Teacher, tmp_path: Path
) -> None:
    """Part 2/2 with other inputs may not take over from part 1/2 that has begun and translated nothing yet."""

    def other() -> None:
        with pytest.raises(ValueError, match=r"other inputs .*spoilt"):
            distill(run, to, part="2/2", spoilt="keep")
        die()

    run, to = tiny_runs.autoregressive, tmp_path / "d"
    teacher.before[1] = other
    with pytest.raises(KeyboardInterrupt):
        distill(run, to, part="1/2")
    assert distill(run, to, part="2/3", spoilt="keep") is None  # nobody is there, nothing is made


def test_the_last_two_parts_leave_joining_to_one_of_them(
    tiny_runs: Any, teacher: Teacher, whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here another part has just made the last shard, and is still at the directory."""
    run, to = tiny_runs.autoregressive, tmp_path / "d"
    assert distill(run, to, shard_sentences=5, part="2/2") is None
    with files.shared(tmp_path / "d.shards"):
        assert distill(run, to, shard_sentences=5, part="1/2") is None
    assert "part 1/2 is made; another process joins them all" in capsys.readouterr().err
    assert not to.exists()
    manifest = distill(run, to, shard_sentences=5)
    assert manifest is not None
    assert manifest["files"] == whole[0]["files"]
    assert sorted(teacher.translated) == sorted(whole[1])


def test_whoever_comes_when_all_is_joined_translates_nothing(
    tiny_runs: Any, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the others have joined since it looked for the directory."""
    run, to = tiny_runs.autoregressive, tmp_path / "d"
    enter = parts.at_work

    @contextlib.contextmanager
    def late(*arguments: Any) -> Iterator[None]:
        monkeypatch.setattr(parts, "at_work", enter)
        distill(run, to, shard_sentences=5)
        with enter(*arguments):
            yield

    monkeypatch.setattr(parts, "at_work", late)
    manifest = distill(run, to, shard_sentences=5, part="1/2")
    assert manifest == PreparedData.load(to).manifest
    assert len(teacher.translated) == 9
    assert not (tmp_path / "d.shards").exists()


@pytest.mark.parametrize("part", ["0/2", "3/2", "1/0", "1", "1/2/3", "a/b", "-1/2", ""])
def test_a_part_outside_its_range_is_refused(
    tiny_runs: Any, teacher: Teacher, tmp_path: Path, part: str
) -> None:
    with pytest.raises(ConfigError, match=r"--part is I/N, part I of N, from 1/N to N/N"):
        distill(tiny_runs.autoregressive, tmp_path / "d", part=part)
    assert list(tmp_path.iterdir()) == []


def test_validation_is_a_piece_like_any_other(tiny_runs: Any, teacher: Teacher) -> None:
    data = PreparedData.load(tiny_runs.data)
    work = shards.Work(Path("nowhere"), data, "first", 10, "13a")
    assert work.missing() == [0, 1, 2, 3, 4]
    assert [k for k in work.missing() if parts.Part(1, 3).has(k)] == [0, 3]
    assert parts.named([1, 4], 3) == "2/3"
