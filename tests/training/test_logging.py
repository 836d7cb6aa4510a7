"""metrics.jsonl reads as if a run had never been interrupted."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.training import logging
from nat_ar.training.logging import RunLog
from nat_ar.types import Batch, SoftTargets


def open_log(run: Path, *, resumed_step: int = 0) -> RunLog:
    return RunLog(run, resumed_step=resumed_step, tensorboard=False)


def test_rows_are_kept_in_order(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write("train", 10, {"token": 2.5})
    log.write("validation", 10, {"score": 0.1})
    log.close()
    assert logging.read(tmp_path) == [
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


def test_tensorboard_without_its_package_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as if it were not installed
    with pytest.raises(ValueError, match="needs the package tensorboardX: pip install"):
        RunLog(tmp_path, resumed_step=0, tensorboard=True)


def test_tensorboard_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, directory: str, *, purge_step: int) -> None:
            assert (directory, purge_step) == (str(tmp_path / "tensorboard"), 3)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def close(self) -> None:
            scalars.append(("closed", 0.0, 0))

    package = type(sys)("tensorboardX")
    package.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboardX", package)
    log = RunLog(tmp_path, resumed_step=2, tensorboard=True)  # steps from 3 on are logged anew
    log.write("train", 3, {"token": 2.5, "learning_rate": 0.1})
    log.close()
    expected = [("train/token", 2.5, 3), ("train/learning_rate", 0.1, 3), ("closed", 0.0, 0)]
    assert scalars == expected
    assert len(logging.read(tmp_path)) == 1
