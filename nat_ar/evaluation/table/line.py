"""What a line of the table holds: one system under one decoding, its speed-ups and its paired test."""

import dataclasses
from collections.abc import Mapping

from nat_ar.evaluation.metrics import METRICS, Metric, PairedResult
from nat_ar.evaluation.results import Row, SystemResult

BEAM, GREEDY = "Beam(", "Greedy("
SIGNIFICANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; without an interval all three are the same."""

    value: float
    low: float
    high: float


ITSELF = Estimate(1.0, 1.0, 1.0)
"""The speed-up of a baseline over itself."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table."""

    result: SystemResult
    comparison: PairedResult | None
    """Against the teacher's beam search; None for that line itself and where nothing was
    compared."""
    over_beam: Estimate | None
    """Mean latency of the teacher's beam search / that of this line."""
    over_greedy: Estimate | None
    best_over_beam: float | None
    """Throughput of this line at its best batch / that of the teacher's beam search at its own: Smax of
    Kasai et al. 2020 (arXiv:2006.10369)."""
    best_over_greedy: float | None
    is_teacher: bool
    """Is this the teacher's beam search, timed or not?"""

    def score(self, metric: Metric) -> Estimate | None:
        """None where the system was evaluated without the metric, or not at all."""
        score = (self.result.quality or {}).get(metric.name)
        return None if score is None else _estimate(score, "score")

    @property
    def latency(self) -> Estimate | None:
        """Mean milliseconds a sentence at batch 1."""
        speed = self.result.speed
        return None if speed is None else _estimate(speed["latency_ms"], "mean")

    @property
    def mark(self) -> str:
        """BLEU against the teacher: "=" not distinguishable, "+" better, "-" worse, "" unknown."""
        if self.comparison is None:
            return ""
        if self.comparison.p_value >= SIGNIFICANCE:
            return "="
        return "+" if self.comparison.difference > 0 else "-"


@dataclasses.dataclass(frozen=True)
class Table:
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """What the numbers mean and do not mean: signatures, devices, hashes, what is missing."""
    warnings: tuple[str, ...]
    """One line for each number that points to a fault; a LaTeX table leaves them out."""
    commands: tuple[str, ...]
    """The commands that made the rows."""
    metrics: tuple[Metric, ...] = METRICS


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The rows that speed-ups and paired tests refer to."""

    beam: Row | None
    """The speed row of the teacher's beam search under one condition."""
    greedy: Row | None


def _estimate(values: Mapping[str, float | None], name: str) -> Estimate:
    value, low, high = (values[key] for key in (name, "low", "high"))
    assert value is not None
    return Estimate(value, value if low is None else low, value if high is None else high)
