"""What goes wrong in one of two processes ends both, once, and what they train from other runs is what one trains."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import processes
from nat_ar.data.batching import BatchingConfig
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.pipeline.train import train
from nat_ar.runtime import distributed
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.training import logging
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.config import TrainingConfig, ValidationConfig

PROGRAM = """
import argparse, json, runpy
from nat_ar.runtime import distributed

parser = argparse.ArgumentParser()
for name in ("--coordinator", "--processes", "--process", "--test", "--place", "--ar", "--nat"):
    parser.add_argument(name)
given = parser.parse_args()
with distributed.joined(given.coordinator, int(given.processes), int(given.process)):
    found = runpy.run_path(given.test)["work"](given.place, given.ar, given.nat)
    print("found " + json.dumps(found), flush=True)
"""
TRAINING = TrainingConfig(
    max_steps=3,
    batching=BatchingConfig(batch_tokens=128, buckets=(16,), row_multiple=8),
    log_every=1,
    validation=ValidationConfig(every_steps=1, sentences=3, keep_best=9),
)


def work(place: str, autoregressive: str, length_nat: str) -> dict[str, str]:
    """What each process hears, training by training."""
    ar, nat = Run.of(autoregressive).config(), Run.of(length_nat).config()
    plain = dataclasses.replace(
        ar, method=dataclasses.replace(ar.method, decoding=Greedy()), training=TRAINING
    )
    taught = dataclasses.replace(
        nat,
        method=dataclasses.replace(nat.method, decoding=LengthBeam(size=2, rescore=True)),
        training=dataclasses.replace(TRAINING, max_steps=2),
        teacher=autoregressive,
        start_from=length_nat,
    )
    huge = dataclasses.replace(TRAINING.optimizer, peak_learning_rate=1e30, warmup_steps=1)
    diverging = dataclasses.replace(TRAINING, optimizer=huge, skip_non_finite=1)

    def attempt(config: ExperimentConfig, name: str) -> str:
        try:
            train(config, f"{place}/{name}")
        except (ValueError, ArithmeticError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return "trained"

    found = {
        "taught": attempt(taught, "taught"),
        "not finite": attempt(dataclasses.replace(plain, training=diverging), "not_finite"),
    }
    with pytest.MonkeyPatch.context() as patch:
        if distributed.is_first():
            patch.setattr(shutil, "disk_usage", with_room_for(2))
        found["full"] = attempt(plain, "plain")
    distributed.from_first(lambda: damage(Path(f"{place}/plain/checkpoints/2/training")))
    found["damaged"] = attempt(plain, "plain")
    return found


def with_room_for(number: int) -> Callable[[Any], Any]:
    """A disk that is full after so many checkpoints."""
    usage, asked = shutil.disk_usage, []

    def answer(path: Any) -> Any:
        asked.append(path)
        return usage(path) if len(asked) <= number else usage(path)._replace(free=0)

    return answer


def damage(directory: Path) -> None:
    """Its arrays lose half of their bytes."""
    for path in directory.rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(scope="module")
def both(tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one process of two devices, and of two of one: the folder, what each heard, and what it said."""
    found = {}
    place = tmp_path_factory.mktemp("errors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(place / "cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        for number in (1, 2):
            folder = place / str(number)
            words = ["-c", PROGRAM, "--test", __file__, "--place", str(folder)]
            words += ["--ar", str(tiny_runs.autoregressive.directory)]
            words += ["--nat", str(tiny_runs.length_nat.directory)]
            with processes.job(words, folder, number=number, devices=2 // number) as job:
                assert job.end(seconds=480) == [0] * number, job.said(0) + job.said(number - 1)
                said = [job.said(index) for index in range(number)]
            lines = [line for text in said for line in text.splitlines()]
            told = [line.removeprefix("found ") for line in lines if line.startswith("found ")]
            found[str(number)] = {
                "folder": folder,
                "heard": [json.loads(line) for line in told],
                "said": said,
            }
    return found


def hashes(run: Path) -> dict[int, dict[str, str]]:
    """Checksums of every checkpoint that is there."""
    checkpoints = Checkpoints(run / "checkpoints", is_read_only=True)
    found = {step: checkpoints.hashes(step) for step in checkpoints.manager.all_steps()}
    checkpoints.close()
    return found


@pytest.mark.slow
def test_a_run_that_takes_from_others_ends_as_that_of_one_process(both: dict[str, Any]) -> None:
    """It starts from a run, and a teacher chooses its translations at validation."""
    assert [heard["taught"] for number in both for heard in both[number]["heard"]] == [
        "trained"
    ] * 3
    alone, joined = (both[number]["folder"] / "taught" for number in both)
    assert hashes(joined) == hashes(alone)
    assert len({str(found) for found in hashes(joined).values()}) == 2
    clock = ("time", "seconds", "target_tokens_per_second")
    rows = [
        [{key: x for key, x in row.items() if key not in clock} for row in logging.read(run)]
        for run in (alone, joined)
    ]
    assert rows[0] == rows[1]
    assert [row["kind"] for row in rows[1]] == ["train", "validation"] * 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_both_after_the_same_step(both: dict[str, Any]) -> None:
    first, second = (heard["not finite"] for heard in both["2"]["heard"])
    assert first == second
    assert first.startswith("NonFiniteLossError: step 2: ")
    for number in both:
        kept = both[number]["folder"] / "not_finite/non_finite"
        assert sorted(path.name for path in kept.iterdir()) == ["step_1.npz", "step_2.npz"]
    batches = [
        np.load(both[number]["folder"] / "not_finite/non_finite/step_2.npz") for number in both
    ]
    np.testing.assert_array_equal(batches[0]["source"], batches[1]["source"])


@pytest.mark.slow
def test_a_full_disk_ends_both_and_a_damaged_checkpoint_is_set_aside_once(
    both: dict[str, Any],
) -> None:
    """Once there is room, both go on from the checkpoint before it, to the end of one process."""
    folder, said = both["2"]["folder"], both["2"]["said"]
    first, second = (heard["full"] for heard in both["2"]["heard"])
    assert first.startswith("OSError: ")
    assert "the disk has 0.0 MiB left: make room" in first
    assert second == f"ProcessError: process 0: {first.removeprefix('OSError: ')}"
    assert [heard["damaged"] for heard in both["2"]["heard"]] == ["trained"] * 2
    assert [path.name for path in (folder / "plain/damaged").iterdir()] == ["2"]
    assert said[0].count("going on from an older step") == 1
    assert "resumed at step 1" in said[0]
    assert "going on" not in said[1]
    assert hashes(folder / "plain") == hashes(both["1"]["folder"] / "plain")
    assert hashes(folder / "plain").keys() == {1, 2, 3}
