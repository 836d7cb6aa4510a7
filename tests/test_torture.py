"""A short turn of scripts/torture.sh; and that each of its tests can fail."""

import dataclasses
import itertools
import os
import typing
from pathlib import Path
from typing import Any

import pytest

from nat_ar.data.vocabulary import Vocabulary
from nat_ar.experiment.config import load_file
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.length_nat import LengthNat
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator
from scripts.torture import batch_invariance, faults, inputs, kills, models, tiny_study
from scripts.torture.faults import FAULTS, Fault

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tiny_study.write with data and an evaluated teacher."""
    directory = tiny_study.write(tmp_path_factory.mktemp("torture") / "study", byte_fallback=True)
    faults.finish(directory)
    return directory


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_damage_ends_with_one_clear_line(fault: Fault, finished: Path, tmp_path: Path) -> None:
    faults.run(fault, finished, tmp_path)


def test_a_fault_that_nobody_notices_is_noticed(finished: Path, tmp_path: Path) -> None:
    harmless = faults.at_once(lambda directory: (directory / "notes.txt").write_text("mine"))
    with pytest.raises(AssertionError, match="parameters, a bit of 64 bytes: exit status 0"):
        faults.run(dataclasses.replace(FAULTS[0], apply=harmless), finished, tmp_path)


@pytest.mark.parametrize(
    "apply",
    [
        faults.flipped("*.bin"),
        faults.sprinkled("*.bin"),
        faults.sprinkled("short.json"),
        faults.halved("*.bin"),
        faults.halved("empty"),
        faults.removed("*.bin"),
        faults.edited("short.json", lambda fields: fields),
    ],
)
def test_a_fault_that_changes_nothing_is_an_error(apply: faults.Apply, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "short.json").write_text('{"a": 1}')
    with pytest.raises(AssertionError, match="change"), apply(tmp_path):
        pass


def test_prepare_survives_kills(tmp_path: Path) -> None:
    """`train` and `study`: tests/pipeline/test_train.py, test_study.py."""
    directory = tiny_study.write(tmp_path / "study")
    tally = kills.torture(kills.VICTIMS[0], directory, tmp_path / "cache", kills=2, seed=1)
    assert tally.kills == 2
    assert tally.completed >= 1


def test_a_directory_may_vanish_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.partial", "10.orbax-checkpoint-tmp"):
        (tmp_path / "run" / name).mkdir(parents=True)
    scandir = os.scandir

    def looked_at_too_late(path: Any) -> Any:
        if str(path).endswith("-tmp"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", looked_at_too_late)
    found = {path.name for path, _ in kills.half_written(tmp_path / "run")}
    assert found == {"a.partial", "10.orbax-checkpoint-tmp"}


def test_every_method_can_be_killed(tmp_path: Path) -> None:
    directory = tiny_study.write(tmp_path / "study")
    victims = kills.method_victims()
    configs = [load_file(directory / victim.words[1]) for victim in victims]
    found = [(config.method, config.training) for config in configs]
    assert {type(method) for method, _ in found} == set(typing.get_args(AnyMethod))
    assert len(set(found)) == len(found) > len(typing.get_args(AnyMethod))


def test_another_outcome_is_noticed(tmp_path: Path) -> None:
    numbers = itertools.count()
    victim = dataclasses.replace(kills.VICTIMS[0], outcome=lambda made: next(numbers))
    with pytest.raises(AssertionError, match="two undisturbed runs differ"):
        kills.torture(victim, tiny_study.write(tmp_path / "study"), tmp_path, kills=1, seed=1)


@pytest.mark.skipif(not faults.has_namespaces(), reason="this user may not mount")
def test_a_full_disk_is_named_and_left_behind(tmp_path: Path) -> None:
    directory = tiny_study.write(tmp_path / "study")
    prepare = kills.VICTIMS[0]
    assert kills.Process(prepare.words, directory, tmp_path).wait(300)
    expected = prepare.outcome(directory / "data")
    (directory / "data").rename(directory / "reference")
    said = faults.on_a_full_disk(prepare, directory, tmp_path, room=8, expected=expected)
    assert said == (
        "nat-ar: error: data cannot be written: [Errno 28] No space left on device; make room, and run the "
        "same command"
    )


def test_no_value_of_a_config_is_a_traceback(finished: Path) -> None:
    run, refused = inputs.fuzz_configs(finished, number=60, seed=0)
    assert run == 60
    assert refused > 30


def test_hostile_text_has_a_line_each(finished: Path) -> None:
    with inputs.opened(finished / "teacher"):
        found = inputs.translate_lines(finished / "teacher", list(inputs.PIECES))
    assert len(found) == len(inputs.PIECES)
    with pytest.raises(ValueError, match="looks like a binary file: it has bytes of value 0"):
        inputs.translate_lines(finished / "teacher", [b"a b", b"\x00"])


def test_a_translation_that_depends_on_its_batch_is_noticed(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def translate(self: Translator, sentences: list[str], **_: Any) -> list[Translation]:
        return [Translation([""], [0.0], [[self.max_rows]], 1) for _ in sentences]

    monkeypatch.setattr(Translator, "translate", translate)
    vocabulary = Vocabulary.load(finished / "data" / "vocabulary")
    method = LengthNat(models.TRANSFORMER)
    with pytest.raises(AssertionError, match=r"LengthNat, LengthBeam\(.*\), 1 a batch: 'a'"):
        batch_invariance.check(method, method.decoding, vocabulary, ["a", "b"], seed=0)
