"""The lines of a table: a system under one decoding, its speed-ups and its paired test."""

import dataclasses
from collections.abc import Mapping

from nat_ar.evaluation import seeds
from nat_ar.evaluation.bootstrap import PairedResult
from nat_ar.evaluation.metrics import METRICS, Metric
from nat_ar.evaluation.published import Published
from nat_ar.evaluation.results import Row, SystemResult
from nat_ar.evaluation.speed import other_work
from nat_ar.evaluation.speed.intervals import Interval

BEAM, GREEDY = "Beam(", "Greedy("
"""Beginnings of the decodings that speed-ups refer to, as text."""
SIGNIFICANCE = 0.05


ITSELF = Interval(1.0, 1.0, 1.0)
"""The speed-up of a baseline over itself."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table."""

    result: SystemResult
    tests: Mapping[str, PairedResult]
    """of this line against the teacher's beam search, by the name of the metric; empty for that line itself"""
    over_beam: Interval | None
    """mean latency of the teacher's beam search / mean latency of this line"""
    over_greedy: Interval | None
    best_over_beam: float | None
    """throughput of this line / that of the teacher's beam search, each at its own best batch: Smax of Kasai et al.
    2020 (arXiv:2006.10369)"""
    best_over_greedy: float | None
    is_teacher: bool
    """this is the teacher's beam search, timed or not"""
    of_teacher: float | None = None
    """score by the table's first metric, in percent of the teacher's beam search"""
    published: Published | None = None
    """what a paper reports of this variant, training data and decoding"""

    def score(self, metric: Metric) -> Interval | None:
        """None where the system was evaluated without the metric, or not at all."""
        score = (self.result.quality or {}).get(metric.name)
        return None if score is None else _interval(score, "score")

    def deviation(self, metric: Metric) -> float | None:
        """Sample standard deviation of the score over seeds; None with fewer than two."""
        return seeds.deviation(self.result.qualities, metric.name)

    @property
    def latency(self) -> Interval | None:
        """Mean milliseconds a sentence at batch 1."""
        speed = self.result.speed
        return None if speed is None else _interval(speed["latency_ms"], "mean")

    @property
    def floor(self) -> Row | None:
        """What the machine's peaks allow a sentence; None where it was not measured."""
        return None if self.result.speed is None else self.result.speed.get("floor")

    @property
    def is_disturbed(self) -> bool:
        """It was timed beside too much other work."""
        return self.result.speed is not None and other_work.of_row(self.result.speed) is not None

    def mark(self, metric: Metric) -> str:
        """Against the teacher: "=" not distinguishable, "+" better, "-" worse, "" unknown."""
        test = self.tests.get(metric.name)
        if test is None:
            return ""
        if test.p_value >= SIGNIFICANCE:
            return "="
        return "+" if (test.difference > 0) == (metric.direction == "higher") else "-"


@dataclasses.dataclass(frozen=True)
class Table:
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """what the numbers mean and where they come from: signatures, devices, hashes, missing measurements"""
    warnings: tuple[str, ...]
    """one line for each number that points to a fault; a LaTeX table leaves them out"""
    commands: tuple[str, ...]
    """the commands that made the rows"""
    metrics: tuple[Metric, ...] = METRICS


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The rows that speed-ups and paired tests refer to."""

    beam: Row | None
    """the speed row of the teacher's beam search under one condition"""
    greedy: Row | None


def _interval(values: Mapping[str, float | None], name: str) -> Interval:
    """Of a score or a latency as a row has it; without an interval, low and high are the value."""
    value, low, high = (values[key] for key in (name, "low", "high"))
    assert value is not None
    return Interval(value, value if low is None else low, value if high is None else high)
