"""The columns of a table: their headers, and the cell of each line as text."""

import dataclasses
import math
from collections.abc import Callable

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.table.line import ITSELF, Interval, Line, Table
from nat_ar.runtime import durations

MISSING = "n/a"
RangeText = Callable[[Interval | None, int | None], str]
"""A value with its interval as text, and the number of decimals; None: three significant digits."""


@dataclasses.dataclass(frozen=True)
class Column:
    header: str
    cell: Callable[[Line], str]
    is_text: bool = False


def columns(table: Table, range_text: RangeText) -> list[Column]:
    """All columns but those that name the system."""
    chosen = [
        Column("data", lambda line: line.result.identity["training_data"], is_text=True),
        Column("params", lambda line: _quality(line, "parameters", _count)),
        *(
            Column(metric.title, _score(metric, range_text, is_tested=metric == table.metrics[0]))
            for metric in table.metrics
            if metric.in_table
        ),
        Column("passes", lambda line: f"{line.result.identity['steps']:.1f}"),
        Column("p50 ms", lambda line: _speed(line, lambda row: _digits(row["latency_ms"]["p50"]))),
        Column("mean ms", lambda line: range_text(line.latency, None)),
        Column("sent/s (batch)", lambda line: _speed(line, _throughput)),
        Column(
            "× AR beam", lambda line: range_text(line.over_beam, _ratio_decimals(line.over_beam))
        ),
        Column(
            "× AR greedy",
            lambda line: range_text(line.over_greedy, _ratio_decimals(line.over_greedy)),
        ),
        Column(
            "Smax × beam",
            lambda line: MISSING if line.best_over_beam is None else f"{line.best_over_beam:.2f}",
        ),
        Column("training", _training),
        Column("repeat %", lambda line: _quality(line, "repetition", lambda value: f"{value:.2f}")),
    ]
    qualities = [line.result.quality for line in table.lines if line.result.quality is not None]
    for name in ("valid", "mixed"):
        if any(row.get(name) is not None for row in qualities):
            chosen.append(Column(f"{name} %", _percent(name)))
    return chosen


def _score(metric: Metric, range_text: RangeText, *, is_tested: bool) -> Callable[[Line], str]:
    """The score, with its interval where the metric shows one; behind it the mark of the paired test."""

    def cell(line: Line) -> str:
        estimate = line.score(metric)
        if estimate is None:
            text = MISSING
        elif metric.shows_interval:
            text = range_text(estimate, metric.decimals)
        else:
            text = metric.text(estimate.value)
        return f"{text} {line.mark or ' '}" if is_tested else text

    return cell


def _percent(name: str) -> Callable[[Line], str]:
    return lambda line: _quality(line, name, lambda value: f"{value:.1f}")


def _quality(line: Line, key: str, text: Callable[..., str]) -> str:
    quality = line.result.quality
    return MISSING if quality is None or quality.get(key) is None else text(quality[key])


def _speed(line: Line, text: Callable[[Row], str]) -> str:
    return MISSING if line.result.speed is None else text(line.result.speed)


def _throughput(speed: Row) -> str:
    return f"{_digits(speed['throughput'])} ({speed['throughput_batch']})"


def _training(line: Line) -> str:
    quality = line.result.quality
    if quality is None:
        return MISSING
    return f"{_count(quality['train_steps'])}, {durations.text(quality['train_seconds'])}"


def _count(number: int) -> str:
    """850, 1.5k, 20k, 12.8M: three significant digits at most."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _decimals(value: float) -> int:
    """Digits after the point that leave three significant ones."""
    return 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))


def _ratio_decimals(ratio: Interval | None) -> int:
    return 1 if ratio is not None and ratio.value >= 10 else 2


def _digits(value: float) -> str:
    return f"{value:,.{_decimals(value)}f}"


def plus_minus(estimate: Interval | None, decimals: int | None) -> str:
    """ "27.31 ±0.80": half the width of the interval, as sacreBLEU prints it."""
    if estimate is None:
        return MISSING
    digits = _decimals(estimate.value) if decimals is None else decimals
    if estimate == ITSELF:
        return f"{1:.{digits}f}"
    return f"{estimate.value:.{digits}f} ±{(estimate.high - estimate.low) / 2:.{digits}f}"


def brackets(estimate: Interval | None, decimals: int | None) -> str:
    """ "27.31 [26.50, 28.10]"."""
    if estimate is None:
        return MISSING
    digits = _decimals(estimate.value) if decimals is None else decimals
    if estimate == ITSELF:
        return f"{1:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def system_columns(table: Table) -> list[Column]:
    chosen = [
        Column("name", lambda line: line.result.identity["name"], is_text=True),
        Column("method", lambda line: line.result.identity["method"], is_text=True),
        Column("decoding", lambda line: line.result.identity["decoding"], is_text=True),
    ]
    if has_several_conditions(table):
        chosen.append(Column("timed on", timed_on, is_text=True))
    return chosen


def timed_on(line: Line) -> str:
    condition = line.result.condition
    return MISSING if condition is None else results.condition_text(condition)


def has_several_conditions(table: Table) -> bool:
    return len({line.result.condition for line in table.lines} - {None}) > 1
