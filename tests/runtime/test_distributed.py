"""Processes start where they are told to, tell each other what only one of them knows, and end together."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
from jax._src import clusters

import processes
from nat_ar.config_json import ConfigError
from nat_ar.runtime import distributed

SLURM = {  # as srun sets them for the third of four tasks on two nodes
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_NODELIST": "node[003,007]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
KUBERNETES = {"JOB_COMPLETION_INDEX": "3", "NAT_AR_PROCESSES": "8"}
ALONE = {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}  # a shell of salloc -n 4


def initialized(environment: dict[str, str], *options: Any) -> list[dict[str, Any]]:
    """The calls of jax.distributed.initialize that entering `joined` makes."""
    calls: list[dict[str, Any]] = []

    class FoundError(Exception):
        pass

    def initialize(**arguments: Any) -> None:
        calls.append(arguments)
        raise FoundError

    with pytest.MonkeyPatch.context() as patch:
        for name in {*SLURM, *OPEN_MPI, *KUBERNETES}:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(jax.distributed, "initialize", initialize)
        patch.setattr(jax.config, "update", lambda *_: None)
        try:
            with distributed.joined(*options):
                pass
        except FoundError:
            pass
    return calls


@pytest.mark.parametrize("environment", [{}, ALONE, {"JOB_COMPLETION_INDEX": "3"}])
def test_a_process_that_is_alone_asks_for_no_other(environment: dict[str, str]) -> None:
    assert initialized(environment) == []
    assert not distributed.are_joined()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (SLURM, ("node003:" + str(12345 % 4096 + 61440), 4, 2, [0])),
        (OPEN_MPI, ("10.96.0.1:" + str(1531576320 // 4096 % 4096 + 61440), 2, 1, [1])),
    ],
)
def test_a_launcher_says_who_belongs_together(environment: dict[str, str], found: Any) -> None:
    """Then JAX finds the rest: address, number, which of them, and the one device of each."""
    assert initialized(environment) == [{"heartbeat_timeout_seconds": 30}]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
        assert detect(None, None, None, None, None, None) == found


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, ("here:1234", 2, 0), (2, 0)),
        (SLURM, ("here:1234", None, None), (4, 2)),
        (OPEN_MPI, ("here:1234", None, None), (2, 1)),
        (KUBERNETES, ("here:1234", None, None), (8, 3)),
        (SLURM, ("here:1234", 8, 7), (8, 7)),
    ],
)
def test_with_an_address_all_devices_are_everyones(
    environment: dict[str, str], options: Any, expected: tuple[int, int]
) -> None:
    [arguments] = initialized(environment, *options)
    assert arguments == {
        "coordinator_address": "here:1234",
        "num_processes": expected[0],
        "process_id": expected[1],
        "cluster_detection_method": "deactivate",
        "heartbeat_timeout_seconds": 30,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, 2, None), "--processes and --process belong to --coordinator"),
        (("here", 2, 0), "HOST:PORT: got 'here'"),
        (("here:1", 2, None), "got 2 and None"),
        (("here:1", 2, 2), "got 2 and 2"),
        (("here:1", None, 0), "got None and 0"),
    ],
)
def test_options_that_do_not_fit_together_are_one_line(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        initialized({}, *options)


def test_importing_opens_no_port() -> None:
    program = """
import os
import nat_ar.commands.train, jax
from nat_ar.runtime import distributed
assert not distributed.are_joined() and distributed.count() == 1 and distributed.is_first()
kinds = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name > "2"
         and os.path.exists(f"/proc/self/fd/{name}")]
print([kind for kind in kinds if kind.startswith("socket")])
"""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux's /proc")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_one_process_asks_itself() -> None:
    assert distributed.from_first(lambda: [1, 2.5, None]) == [1, 2.5, None]
    with pytest.raises(ValueError, match="mine"), distributed.failing_together():
        raise ValueError("mine")
    distributed.barrier("here")
    assert distributed.broadcast({"a": 1}) == {"a": 1}


TALK = """
import argparse, os, sys, time
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from nat_ar.config_json import ConfigError
from nat_ar.runtime import distributed, stuck

parser = argparse.ArgumentParser()
for name in ("--coordinator", "--processes", "--process", "--then"):
    parser.add_argument(name)
given = parser.parse_args()
distributed.HEARTBEAT, distributed.PATIENCE = 10, 3.0

def fail(text):
    raise ConfigError(text)

def caught(work):
    try:
        return work()
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"

def together(index):
    with distributed.failing_together():
        if distributed.index() == index:
            fail(f"I am {index}")

after = 3.0 if given.then == "stick" else stuck.AFTER
with distributed.joined(given.coordinator, int(given.processes), int(given.process), stuck_after=after):
    me = distributed.index()
    told = distributed.from_first(lambda: {"first": me, "third": 1 / 3})
    assert told == {"first": 0, "third": 1 / 3}
    answers = [caught(lambda: distributed.from_first(lambda: fail("no room")))]
    answers += [caught(lambda: together(index)) for index in (0, 1, 2)]
    mesh = Mesh(jax.devices(), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    array = jax.make_array_from_callback((4,), rows, lambda index: np.arange(4)[index])
    answers.append(distributed.gathered(array).tolist())
    answers.append(distributed.broadcast(np.float32([me, 1 / 3])).tolist())
    print(answers, flush=True)
    if given.then == f"fail {me}":
        fail("the disk is full")
    if given.then == "die" and me == 0:
        time.sleep(2)  # the other waits by now
        os.kill(os.getpid(), 9)
    if given.then == "stick":
        stuck.steps.began(7 - me)
        if me == 1:
            time.sleep(600)
    if given.then != "end":
        distributed.barrier("never")
    elif me == 0:
        time.sleep(2)
"""
ANSWERS = (
    "['ConfigError: no room', 'ConfigError: I am 0', 'ProcessError: process 1: I am 1', None, "
    "[0, 1, 2, 3], [0.0, 0.3333333432674408]]",
    "['ProcessError: process 0: no room', 'ProcessError: process 0: I am 0', 'ConfigError: I am 1', None, "
    "[0, 1, 2, 3], [0.0, 0.3333333432674408]]",
)
HERE = re.escape(socket.gethostname())


@pytest.mark.slow
def test_processes_tell_each_other_and_end_together(tmp_path: Path) -> None:
    with processes.job(["-c", TALK, "--then", "end"], tmp_path, devices=2) as job:
        assert job.end() == [0, 0], job.said(0) + job.said(1)
        for index, answers in enumerate(ANSWERS):
            assert answers in job.said(index)
            assert not job.errors(index)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_alone_ends_the_others(tmp_path: Path, failing: int) -> None:
    """That one by its own error, which is Python's here; the other in a line that has process, host and reason."""
    with processes.job(["-c", TALK, "--then", f"fail {failing}"], tmp_path, devices=2) as job:
        statuses = job.end()
        assert statuses[1 - failing] == 2, job.said(0) + job.said(1)
        assert statuses[failing] != 0
        assert "ConfigError: the disk is full" in job.said(failing)
        [line] = job.errors(1 - failing)
        expected = rf"process {failing} of 2 \({HERE}\) has ended: the disk is full"
        assert re.fullmatch(f"nat-ar: error: {expected}", line)


@pytest.mark.slow
def test_a_process_that_takes_no_step_ends_all_and_is_named(tmp_path: Path) -> None:
    """It lives, and gives signs of it; the other waits."""
    with processes.job(["-c", TALK, "--then", "stick"], tmp_path, devices=2) as job:
        assert job.end(seconds=120) == [2, 2], job.said(0) + job.said(1)
        expected = rf"process 1 of 2 \({HERE}\) is stuck: no step for [3-9] s since step 6, .* wait at step 7; "
        for index in (0, 1):
            [line] = job.errors(index)
            assert re.match(f"nat-ar: error: {expected}", line)


@pytest.mark.slow
def test_the_loss_of_the_coordinator_ends_the_others_in_a_line(tmp_path: Path) -> None:
    """That of another process is tested with a training, in tests/pipeline/test_processes.py."""
    with processes.job(["-c", TALK, "--then", "die"], tmp_path, devices=2) as job:
        job.processes[0].wait(120)
        clock = time.monotonic()
        assert job.processes[1].wait(60) != 0
        assert time.monotonic() - clock < 60
        [line] = job.errors(1)
        assert re.match(rf"nat-ar: error: process 0 of 2 \({HERE}\), .* is gone: it was", line)
