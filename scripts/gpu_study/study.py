"""The sections so far and the time that is left, and the first section: what runs where.

Each section is filled row by row, and `save` writes what there is: a run that is cut short at any moment leaves what it
has measured."""

import contextlib
import importlib.metadata
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import flax
import jax
from flax import nnx

from nat_ar.evaluation.speed import machine
from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.evaluation.speed.machine import Peaks
from scripts.benchmark_cpu.report import Row, Section
from scripts.gpu_study import report
from scripts.gpu_study.scale import Scale

SHARE_BEFORE_TRAINING = 0.45
"""Of the time: what is timed with random weights begins nothing new after it."""


class Study:
    """The sections so far, and the time that is left."""

    def __init__(self, output: Path, size: Scale, *, minutes: float, peak: float) -> None:
        """`peak`: FLOP/s of the device's matrix products in bfloat16, to which MFU refers."""
        self.output, self.size, self.peak = output, size, peak
        self.start, self.seconds = time.monotonic(), 60 * minutes
        self.sections: list[Section] = []
        self.peaks: Peaks | None = None
        self.step_seconds: dict[str, float] = {}
        """of the timed train steps, by method"""
        self.alone: dict[str, Interval] = {}
        """sentences/s at batch 1, by the label of the system"""

    @property
    def spent(self) -> float:
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    @property
    def may_measure_more(self) -> bool:
        """Whether something may begin that takes time from the trainings."""
        return self.spent < SHARE_BEFORE_TRAINING * self.seconds

    def save(self) -> None:
        report.write(self.output, self.sections)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Section]:
        """A section; an error ends it with a note, and what was measured stays."""
        print(f"[{self.spent:5.0f} s] {name}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        section = Section(name, signature=dict(self.sections[0].signature) if self.sections else {})
        self.sections.append(section)
        try:
            yield section
        except Exception as error:  # a method or a compiler may fail in any way; the others go on
            self.note(section, f"Ended by {type(error).__name__}: {first_line(error)}")
        section.seconds = time.monotonic() - begin
        self.save()

    def note(self, section: Section, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        section.notes.append(text)
        self.save()


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def versions(study: Study) -> None:
    """First of all: what runs where, since the versions on such a machine are rarely those that one has at hand."""
    with study.stage("machine") as section:
        section.signature = {
            "device": machine.device_name(),
            "dtype": "bfloat16",
            **machine.versions(),
            "flax.__version__": flax.__version__,
            "optax": importlib.metadata.version("optax"),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        if flags := os.environ.get("XLA_FLAGS"):
            section.signature["XLA_FLAGS"] = flags
        for name, value in section.signature.items():
            print(f"{name}: {value}", flush=True)
        print(f"devices: {jax.devices()}; {nnx.__name__} is there", flush=True)
        study.save()
        study.peaks = machine.measure()
        rows: list[Row] = [
            {"what": f"products of {dtype}, TFLOP/s", "measured": rate / 1e12}
            for dtype, rate in study.peaks.matmul.items()
        ]
        rate = study.peaks.bandwidth[max(study.peaks.bandwidth)]
        rows.append({"what": "reading memory, GB/s", "measured": rate / 1e9})
        rows.append({"what": "peak to which MFU refers, TFLOP/s", "measured": study.peak / 1e12})
        section.tables["Peaks"] = rows
