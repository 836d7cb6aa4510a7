"""A run whose state is sharded goes on with any spread of its devices over processes, bit for bit, and on any mesh."""

import shutil
from typing import Any

import pytest

import processes
from nat_ar.experiment.run import Run
from nat_ar.training import logging
from nat_ar.training.checkpoint import Checkpoints

CONFIG = """
import dataclasses
from nat_ar.data.batching import BatchingConfig
from nat_ar.experiment.run import Run
from nat_ar.search.greedy import Greedy
from nat_ar.training.config import TrainingConfig, ValidationConfig

tiny = Run.of({tiny!r}).config()
config = dataclasses.replace(
    tiny,
    name="job",
    method=dataclasses.replace(tiny.method, decoding=Greedy()),
    training=TrainingConfig(
        max_steps=8,
        batching=BatchingConfig(batch_tokens=256, buckets=(16,), row_multiple=8),
        average_decay=0.9,
        log_every=1,
        validation=ValidationConfig(every_steps=4, sentences=2),
    ),
)
"""
TRAIN = """
from nat_ar.training import step
step.LARGE = 64  # the model is tiny
from nat_ar.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def runs(tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """To step 8: at once; by two processes to step 4 and then by one; and after the same four on another mesh."""
    place = tmp_path_factory.mktemp("mesh")
    config = place / "job.py"
    config.write_text(CONFIG.format(tiny=str(tiny_runs.autoregressive.directory)))

    def train(name: str, number: int, mesh: str, steps: int = 8) -> Run:
        words = ["-c", TRAIN, "train", str(config), "--run", str(place / name), "--mesh", mesh]
        words += ["--training.max-steps", str(steps)]
        with processes.job(words, place / "job", number=number, devices=8 // number) as job:
            assert job.end() == [0] * number, job.said(0)
            assert steps == 4 or name == "whole" or "resumed at step 4" in job.said(0)
        return Run(place / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAT_AR_COMPILATION_CACHE", str(place / "cache"))
        whole = train("whole", 1, "fsdp=8")
        four = train("four", 2, "fsdp=8", steps=4)
        for copy in ("spread", "elsewhere"):
            shutil.copytree(four.directory, place / copy)
        spread = train("spread", 1, "fsdp=8")
        elsewhere = train("elsewhere", 2, "data=4,fsdp=2")
    return {"whole": whole, "four": four, "spread": spread, "elsewhere": elsewhere}


def hashes(run: Run) -> dict[str, str]:
    checkpoints = Checkpoints(run.checkpoints_directory, is_read_only=True)
    found = checkpoints.hashes(checkpoints.resolve("latest"))
    checkpoints.close()
    return found


@pytest.mark.slow
def test_two_processes_begin_and_one_ends_as_one_alone(runs: dict[str, Run]) -> None:
    assert hashes(runs["whole"]) == hashes(runs["spread"])
    assert set(hashes(runs["whole"])) == {"params", "training"}
    assert hashes(runs["four"]) != hashes(runs["whole"])


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(runs: dict[str, Run]) -> None:
    """Sums over devices are rounded otherwise there."""
    losses = []
    for name in ("whole", "elsewhere"):
        rows = logging.read(runs[name].directory)
        losses.append([row["objective"] for row in rows if row["kind"] == "train"])
        assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 9))
    assert losses[0][:4] == losses[1][:4]
    assert losses[0][4:] == pytest.approx(losses[1][4:], rel=1e-3)
    assert losses[0][7] < losses[0][0]


@pytest.mark.slow
def test_what_it_saves_translates(runs: dict[str, Run]) -> None:
    """In a process that knows nothing of a mesh; the hash of what is loaded is that of what was saved."""
    for run in runs.values():
        assert run.load("latest").parameters_hash == hashes(run)["params"]


@pytest.mark.slow
def test_files_of_two_processes(runs: dict[str, Run]) -> None:
    """Each has written its own shards."""
    written = [path.name for path in (runs["four"].checkpoints_directory / "4/training").iterdir()]
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= set(written)
