"""Two processes of four devices train as one process of eight does, bit for bit, whatever happens to them."""

import dataclasses
import re
import signal
import socket
import time
from typing import Any

import pytest

import processes
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.experiment.run import Run
from nat_ar.pipeline import train
from nat_ar.runtime import distributed
from nat_ar.training import logging
from nat_ar.training.checkpoint import Checkpoints

CONFIG = """
import dataclasses
from nat_ar.data.batching import BatchingConfig
from nat_ar.experiment.run import Run
from nat_ar.search.greedy import Greedy
from nat_ar.training.config import TrainingConfig, ValidationConfig

tiny = Run.of({tiny!r}).config()
transformer = dataclasses.replace(tiny.method.transformer, dropout_rate=0.1)
config = dataclasses.replace(
    tiny,
    name="job",
    method=dataclasses.replace(tiny.method, transformer=transformer, decoding=Greedy()),
    training=TrainingConfig(
        max_steps=20,
        batching=BatchingConfig(batch_tokens=256, buckets=(16,), row_multiple=16),
        accumulation=2,
        average_decay=0.9,
        skip_non_finite=1,
        log_every=1,
        validation=ValidationConfig(every_steps=4, sentences=2),
    ),
)
"""
TRAIN = """
from nat_ar.runtime import distributed
distributed.HEARTBEAT = 10
from nat_ar.__main__ import main
main()
"""


@dataclasses.dataclass
class Story:
    """What became of a run: process 1 was killed, then, in the second job, asked to stop; the third finished."""

    whole: Run
    """the same experiment, uninterrupted, by one process"""
    stopped_and_killed: Run
    after_kill: list[int]
    seconds_after_kill: float
    errors_after_kill: list[str]
    after_signal: list[int]
    said_after_signal: list[str]
    said_by_last: str


@pytest.fixture(scope="module")
def story(tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("processes")
    config = place / "job.py"
    config.write_text(CONFIG.format(tiny=str(tiny_runs.autoregressive.directory)))

    def words(run: Run) -> list[str]:
        return ["-c", TRAIN, "train", str(config), "--run", str(run.directory)]

    whole, run = Run(place / "whole"), Run(place / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAT_AR_COMPILATION_CACHE", str(place / "cache"))
        with processes.job(words(whole), place / "0", number=1, devices=8) as job:
            assert job.end() == [0], job.said(0)
        with processes.job(words(run), place / "1", devices=4) as job:
            job.wait_for("\nstep 6:")
            job.processes[1].kill()
            clock = time.monotonic()
            after_kill = job.end()
            seconds, errors = time.monotonic() - clock, job.errors(0)
        with processes.job(words(run), place / "2", devices=4) as job:
            job.wait_for("\nstep 10:")
            job.processes[1].send_signal(signal.SIGUSR1)
            after_signal = job.end()
            said = [job.said(index) for index in (0, 1)]
        with processes.job(words(run), place / "3", number=1, devices=8) as job:
            assert job.end() == [0], job.said(0)
            last = job.said(0)
    return Story(whole, run, after_kill, seconds, errors, after_signal, said, last)


@pytest.mark.slow
def test_the_loss_of_a_process_ends_the_other_in_a_line_that_names_it(story: Story) -> None:
    assert story.after_kill == [2, -signal.SIGKILL]
    assert story.seconds_after_kill < 60
    [line] = story.errors_after_kill
    assert f"process 1 of 2 ({socket.gethostname()}) is gone: it was killed" in line


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(story: Story) -> None:
    assert story.after_signal == [130, 130], story.said_after_signal
    assert re.search(
        "resumed at step [48]\n", story.said_after_signal[0]
    )  # it was killed at step 6, or a bit later
    saved = [re.findall(r"saved at step (\d+)", said) for said in story.said_after_signal]
    assert saved[0] == saved[1]
    [step] = saved[0]
    assert 10 < int(step) < 20
    assert f"resumed at step {step}" in story.said_by_last
    # The second says what it must, and nothing of what the first says.
    assert "step 10:" in story.said_after_signal[0]
    assert "step 10:" not in story.said_after_signal[1]


@pytest.mark.slow
def test_the_run_ends_as_an_uninterrupted_one_of_one_process(story: Story) -> None:
    """Its first steps are of two processes and its last of one."""
    ends = [end_of(run) for run in (story.whole, story.stopped_and_killed)]
    assert [row["step"] for row in ends[0]["rows"] if row["kind"] == "train"] == list(range(1, 21))
    assert ends[0] == ends[1]


def test_a_process_with_another_config_is_refused(
    tiny_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As process 1 of two finds it; what it raises reaches the others, see tests/runtime/test_distributed.py."""
    config, data = tiny_runs.autoregressive.config(), PreparedData.load(str(tiny_runs.data))
    train.require_same(config, data)
    told = {"config": config_json.to_json(config), "data": data.hash}
    told["config"]["training"]["seed"] = 7
    monkeypatch.setattr(distributed, "from_first", lambda _: told)
    with pytest.raises(ConfigError, match=r"that of process 0, got .*training\.seed: 7 -> 1"):
        train.require_same(config, data)


def end_of(run: Run) -> dict[str, Any]:
    """All but the clock: checksums of parameters, averages and optimizer, the place in the data, and the log."""
    checkpoints = Checkpoints(run.checkpoints_directory, is_read_only=True)
    hashes, progress = checkpoints.hashes(20), checkpoints.progress(20)
    checkpoints.close()
    return {
        "hashes": hashes,
        "progress": {name: value for name, value in progress.items() if "second" not in name},
        "rows": [
            {name: x for name, x in row.items() if "second" not in name and name != "time"}
            for row in logging.read(run.directory)
        ],
    }
