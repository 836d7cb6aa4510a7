"""SIGKILL at random moments: what a command ends with is what it would have ended with, bit for bit."""

import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nat_ar.data import arrays
from nat_ar.evaluation import results
from nat_ar.experiment.run import Run
from nat_ar.training import logging
from nat_ar.training.checkpoint import Checkpoints
from scripts.torture import models

ROOT = Path(__file__).parents[2]
HALF_WRITTEN = ("*.partial", "*.orbax-checkpoint-tmp*")
"""names of what is being written"""
NO_OUTCOME = {"date", "run", "time"}
"""fields that differ between equal works, besides those in seconds"""


@dataclasses.dataclass(frozen=True)
class Victim:
    """A command, and what its work comes to."""

    name: str
    words: tuple[str, ...]
    """of `python -m nat_ar`, run in a directory of scripts.torture.tiny_study"""
    made: str
    """what it makes there; removed before it starts afresh"""
    outcome: Callable[[Path], Any]
    """of what it made: equal for equal work"""
    before: tuple[tuple[str, ...], ...] = ()
    """commands that must have been run"""


def training(run: Path) -> dict[str, Any]:
    """Hashes of all parameters, averages, optimizer and keys of the kept checkpoints; progress and log."""
    Run(run).load("latest")
    checkpoints = Checkpoints(run / "checkpoints", is_read_only=True)
    steps = sorted(checkpoints.manager.all_steps())
    found = {
        f"step {step}": (checkpoints.hashes(step), _timeless(checkpoints.progress(step)))
        for step in steps
    }
    checkpoints.close()
    return {**found, "log": [_timeless(row) for row in logging.read(run)]}


def prepared(directory: Path) -> dict[str, Any]:
    """Hashes of all files, and the report."""
    manifest = arrays.PreparedData.load(directory).manifest
    card = manifest.get("distilled", {})
    return {"files": manifest["files"], "card": _timeless(card)}


def studied(directory: Path) -> dict[str, Any]:
    """Trainings, distilled data, translations and quality rows of a study."""
    found: dict[str, Any] = {"distilled": prepared(directory / "distilled")}
    for run in sorted((directory / "runs").iterdir()):
        rows = [row for row in results.read(run) if row["kind"] == "quality"]
        found[run.name] = (training(run), [_timeless(row) for row in rows])
        for path in (run / "translations").iterdir():
            found[f"{run.name} {path.name}"] = path.read_bytes()
    return found


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    """Without clocks, dates and places."""
    return {name: x for name, x in row.items() if "second" not in name and name not in NO_OUTCOME}


PREPARE = ("prepare", "study.py")
TRAIN = ("train", "teacher.py", "--run", "teacher")
VICTIMS = (
    Victim("prepare", PREPARE, "data", prepared),
    Victim("train", TRAIN, "teacher", training, before=(PREPARE,)),
    Victim(
        "distill",
        (
            *("distill", "teacher", "--directory", "distilled"),
            *("--shard-sentences", "4", "--word-distributions", "2"),
        ),
        "distilled",
        prepared,
        before=(PREPARE, TRAIN),
    ),
    Victim("study", ("study", "study.py"), "study", studied, before=(PREPARE,)),
)


def method_victims() -> tuple[Victim, ...]:
    """`train` for each of models.with_options and models.TRAININGS, where the data are prepared."""
    return tuple(
        Victim(f"train {name}", ("train", f"{name}.py", "--run", name), name, training)
        for name in (*models.with_options(), *models.TRAININGS)
    )


def settings(cache: Path) -> dict[str, str]:
    """Environment of a command: this checkout, little to compile, and that only once."""
    return {
        "PYTHONPATH": str(ROOT),
        "NAT_AR_COMPILATION_CACHE": str(cache),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
    }


SIGNALLED = """
import os
import sys

from nat_ar import __main__
from nat_ar.training import logging

run, step, number, *words = sys.argv[1:]
write = logging.RunLog.write


def write_and_signal(log, kind, at, values):
    write(log, kind, at, values)
    if (log.path.parent.name, kind, str(at)) == (run, "train", step):
        os.kill(os.getpid(), int(number))


logging.RunLog.write = write_and_signal
__main__.main(words)
"""


def signalled(words: Sequence[str], number: signal.Signals, *, run: str, step: int) -> list[str]:
    """The command line of a process that gets the signal as soon as the log of the run of that name has the
    step: on a slow machine no earlier, on a fast one no later."""
    return [sys.executable, "-c", SIGNALLED, run, str(step), str(int(number)), *words]


class Process:
    """The command as a process of its own, in a directory."""

    def __init__(self, words: Sequence[str], directory: Path, cache: Path) -> None:
        self.said = directory / "said.txt"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nat_ar", *words],
                cwd=directory,
                env={**os.environ, **settings(cache)},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within so many seconds. Raises AssertionError where it failed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        assert status == 0, f"exit status {status}: {self.said.read_text('utf-8', 'replace')}"
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclasses.dataclass
class Tally:
    kills: int = 0
    while_writing: int = 0
    completed: int = 0
    """times that the work was done in spite of kills, and compared"""


def torture(
    victim: Victim,
    directory: Path,
    cache: Path,
    *,
    kills: int,
    seed: int,
) -> Tally:
    """Runs the command to its end undisturbed, then again and again with `kills` kills in all, and compares
    each end with the first. `directory` is one of tiny_study.write. Raises AssertionError for a difference."""
    draw = random.Random(seed)
    for words in (*victim.before, victim.words):
        assert Process(words, directory, cache).wait(600)
    expected = victim.outcome(directory / victim.made)
    start = time.monotonic()
    shutil.rmtree(directory / victim.made)
    assert Process(victim.words, directory, cache).wait(600)  # everything compiled now
    longest = time.monotonic() - start
    assert victim.outcome(directory / victim.made) == expected, "two undisturbed runs differ"
    tally = Tally()
    while tally.kills < kills:
        for suffix in ("", ".partial", ".shards"):
            shutil.rmtree(directory / f"{victim.made}{suffix}", ignore_errors=True)
        while True:
            running = Process(victim.words, directory, cache)
            if tally.kills >= kills:
                ended = running.wait(600)
            else:
                ended = _ended_before(running, directory / victim.made, draw, longest, tally)
            if ended:
                break
            running.kill()
            tally.kills += 1
        assert victim.outcome(directory / victim.made) == expected, (
            f"{victim.name} ended otherwise after {tally.kills} kills; see {directory}"
        )
        tally.completed += 1
    return tally


def _ended_before(
    running: Process, made: Path, draw: random.Random, longest: float, tally: Tally
) -> bool:
    """Waits for a random moment; every other one comes right after something began to be written."""
    if draw.random() < 0.5:
        return running.wait(draw.uniform(0.0, longest))
    known = set(half_written(made))
    deadline = time.monotonic() + draw.uniform(0.5, 1.0) * longest
    while time.monotonic() < deadline:
        if set(half_written(made)) - known:
            tally.while_writing += 1
            return running.wait(draw.choice([0.0, draw.uniform(0.0, 0.02)]))
        if running.wait(0.001):
            return True
    return False


def half_written(made: Path) -> Iterator[tuple[Path, int]]:
    """With the inode: what an earlier kill left has the same name. Directories may vanish meanwhile."""
    inside = [
        Path(place, name) for place, *names in os.walk(made) for name in itertools.chain(*names)
    ]
    for pattern in HALF_WRITTEN:
        beside = made.parent.glob(f"{made.name}{pattern.removeprefix('*')}")
        for path in itertools.chain(beside, (path for path in inside if path.match(pattern))):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_ino
