"""The record of a run: metrics.jsonl, the console, and a tracker where one is wanted. Of several processes the first
keeps it."""

import datetime
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nat_ar.runtime import bars, distributed, files
from nat_ar.training import tracking
from nat_ar.types import Batch

FILE_NAME = "metrics.jsonl"


class RunLog:
    """Appends rows to metrics.jsonl. A resumed run first forgets what came after its checkpoint, so that
    the file reads as if nothing had happened."""

    def __init__(self, run: Path, *, resumed_step: int, tracker: tracking.Name | None) -> None:
        self.path = run / FILE_NAME
        self._is_kept = distributed.is_first()
        self._forget_after(resumed_step)
        self._tracker: tracking.Tracker | None = None
        if self._is_kept and tracker is not None:
            self._tracker = tracking.start(tracker, run, resumed_step=resumed_step)

    def _forget_after(self, step: int) -> None:
        if not self._is_kept or not self.path.exists():
            return
        lines = files.read_lines(self.path)  # whole ones: a kill may cut the last
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        files.write_text(self.path, "".join(line + "\n" for line in kept))

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """One row: {"kind": "train" | "validation", "step": ..., "time": when it was written, names and numbers}."""
        if not self._is_kept:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {"kind": kind, "step": step, "time": now, **values}
        files.append_line(self.path, json.dumps(row))
        if self._tracker is not None:
            self._tracker.write(kind, step, values)

    def say(self, text: str) -> None:
        """A line on the console."""
        if self._is_kept:
            bars.say(text)

    def keep_batch(self, step: int, batch: Batch) -> Path:
        """Puts a batch aside for inspection: the arrays `source`, `target` and, where it has them,
        `fertilities`, `soft.tokens` and `soft.weights` of an .npz file, which is returned. All processes must ask."""
        path = self.path.parent / "non_finite" / f"step_{step}.npz"
        leaves, _ = jax.tree_util.tree_flatten_with_path(distributed.gathered(batch))
        if not self._is_kept:
            return path
        path.parent.mkdir(exist_ok=True)
        arrays = {
            jax.tree_util.keystr(way, simple=True, separator="."): array for way, array in leaves
        }
        np.savez_compressed(path, allow_pickle=False, **arrays)
        return path

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()


def read(run: Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in files.read_lines(run / FILE_NAME)]
