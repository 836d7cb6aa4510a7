"""metrics.jsonl reads as if a run had never been interrupted."""

import datetime
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.training import logging, tracking
from nat_ar.training.logging import RunLog
from nat_ar.types import Batch, SoftTargets


def open_log(run: Path, *, resumed_step: int = 0) -> RunLog:
    return RunLog(run, resumed_step=resumed_step, tracker=None)


def test_rows_are_kept_in_order(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write("train", 10, {"token": 2.5})
    log.write("validation", 10, {"score": 0.1})
    log.close()
    rows = logging.read(tmp_path)
    for row in rows:
        written = datetime.datetime.fromisoformat(row.pop("time"))
        assert abs(datetime.datetime.now(datetime.UTC) - written) < datetime.timedelta(hours=1)
    assert rows == [
        {"kind": "train", "step": 10, "token": 2.5},
        {"kind": "validation", "step": 10, "score": 0.1},
    ]


def test_rows_after_the_resumed_step_are_forgotten(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for step in (10, 20, 30):
        log.write("train", step, {"token": 1 / step})
    log.write("validation", 20, {"score": 1.0})
    log.close()
    open_log(tmp_path, resumed_step=20).write("train", 21, {})
    assert [row["step"] for row in logging.read(tmp_path)] == [10, 20, 20, 21]
    open_log(tmp_path, resumed_step=0)  # no checkpoint: the run starts again
    assert logging.read(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_line_that_was_cut_is_no_row(tmp_path: Path) -> None:
    """Wherever a kill cuts the last line."""
    first, last = '{"kind": "train", "step": 1}\n', '{"kind": "train", "step": 2, "token": 0.5}\n'
    for length in range(len(last)):
        (tmp_path / logging.FILE_NAME).write_text(first + last[:length])
        open_log(tmp_path, resumed_step=5).write("train", 3, {})
        assert [row["step"] for row in logging.read(tmp_path)] == [1, 3]


def test_a_batch_is_kept_with_all_its_arrays(tmp_path: Path) -> None:
    words = jnp.ones((1, 2), jnp.int32)
    soft = SoftTargets(jnp.ones((1, 2, 3), jnp.int32), jnp.full((1, 2, 3), 0.5))
    path = open_log(tmp_path).keep_batch(4, Batch(words, words, soft=soft))
    with np.load(path) as kept:
        assert sorted(kept) == ["soft.tokens", "soft.weights", "source", "target"]
        assert kept["soft.weights"].tolist() == [[[0.5] * 3] * 2]


def test_the_console_is_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_log(tmp_path).say("step 5")
    assert capsys.readouterr() == ("", "step 5\n")


class Counter:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.is_closed = False

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        self.rows.append((kind, step, values))

    def close(self) -> None:
        self.is_closed = True


def test_a_tracker_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, started = Counter(), []

    def start(name: str, run: Path, *, resumed_step: int) -> Counter:
        started.append((name, run, resumed_step))
        return counter

    monkeypatch.setattr(tracking, "start", start)
    log = RunLog(tmp_path, resumed_step=7, tracker="wandb")
    log.write("train", 8, {"token": 2.5, "learning_rate": 0.1})
    log.close()
    assert started == [("wandb", tmp_path, 7)]
    assert counter.rows == [("train", 8, {"token": 2.5, "learning_rate": 0.1})]
    assert counter.is_closed
    assert len(logging.read(tmp_path)) == 1
