"""The columns of a table: their names, headers, and the cell of each line as text."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import METRICS, Metric
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.table.line import ITSELF, Interval, Line, Table
from nat_ar.runtime import durations

MISSING = "n/a"
RangeText = Callable[[Interval | None, int | None], str]
"""A value with its interval as text, and the number of decimals; None: three significant digits."""


@dataclasses.dataclass(frozen=True)
class Column:
    name: str
    """what --columns calls it"""
    header: str
    cell: Callable[[Line], str]
    is_text: bool = False
    is_known: bool = True
    """False: no line has it, and only who names the column sees it"""


FEW = (
    *("system", "data", "*metrics", "seeds", "passes", "accepted", "ms", "beam", "greedy"),
    *("teacher", "published", "valid"),
)
"""The columns of a table unless others are named; *metrics: those that have `in_table`."""
ALL = (
    *(
        "name",
        "method",
        "decoding",
        "data",
        "params",
        "*metrics",
        "seeds",
        "passes",
        "accepted",
        "p50",
        "ms_range",
    ),
    *("throughput", "beam_range", "greedy_range", "smax", "floor", "over_floor", "teacher"),
    *("published", "training", "length", "repeat", "valid", "mixed"),
)
"""The columns of --columns all; *metrics: every one."""
NAMES = tuple(name for name in dict.fromkeys((*FEW, *ALL)) if name != "*metrics")
"""Every column that is no metric. A metric's column has the metric's name."""


def check(names: Sequence[str], metrics: Sequence[Metric] = METRICS) -> None:
    """Raises ValueError for a column that does not exist, and for a metric that is called like one."""
    taken = sorted({metric.name for metric in metrics} & {*NAMES, "all"})
    if taken:
        raise ValueError(f"a metric needs a name of its own, columns are called {', '.join(taken)}")
    known = ("all", *NAMES, *(metric.name for metric in metrics))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"columns: expected some of {', '.join(known)}; got {', '.join(unknown)}")


def choose(table: Table, range_text: RangeText, names: Sequence[str] = ()) -> list[Column]:
    """The columns of these names, in their order; none: FEW; "all" among them: ALL.

    Of FEW and ALL those are left out that no line has. Where systems were timed under several conditions, a column
    says on what. Raises ValueError for a name that is no column's."""
    check(names, table.metrics)
    every = {column.name: column for column in _every(table, range_text)}
    if not names or "all" in names:
        chosen = []
        for name in ALL if names else FEW:
            if name == "*metrics":
                chosen += [every[one.name] for one in table.metrics if names or one.in_table]
            elif every[name].is_known:
                chosen.append(every[name])
    else:
        chosen = [every[name] for name in dict.fromkeys(names)]
    if has_several_conditions(table):
        place = sum(column.name in SYSTEM for column in chosen)
        chosen.insert(place, Column("timed_on", "timed on", timed_on, is_text=True))
    return chosen


def is_tested(table: Table, metric: Metric) -> bool:
    """Whether marks of a paired test stand behind the scores."""
    return metric == table.metrics[0] or any(line.mark(metric) for line in table.lines)


SYSTEM = ("system", "name", "method", "decoding")


def _every(table: Table, range_text: RangeText) -> list[Column]:
    """All columns of the table, in no order that matters."""

    def text(name: str, cell: Callable[[Line], str]) -> Column:
        return Column(name, name, cell, is_text=True)

    def is_known(key: str) -> bool:
        return any((line.result.quality or {}).get(key) is not None for line in table.lines)

    def percent(name: str) -> Column:
        return Column(name, f"{name} %", _percent(name), is_known=is_known(name))

    def beam_range(line: Line) -> str:
        return range_text(line.over_beam, _ratio_decimals(line.over_beam))

    def greedy_range(line: Line) -> str:
        return range_text(line.over_greedy, _ratio_decimals(line.over_greedy))

    has_floors = any(line.floor is not None for line in table.lines)
    return [
        text("system", lambda line: results.label(line.result.identity)),
        text("name", lambda line: line.result.identity["name"]),
        text("method", lambda line: line.result.identity["method"]),
        text("decoding", lambda line: line.result.identity["decoding"]),
        text("data", lambda line: line.result.identity["training_data"] or MISSING),
        Column("params", "params", lambda line: _quality(line, "parameters", _count)),
        *(
            Column(
                metric.name,
                metric.title,
                _score(metric, range_text, is_tested=is_tested(table, metric)),
            )
            for metric in table.metrics
        ),
        Column(
            "seeds",
            "seeds",
            _seeds(table.metrics[0]),
            is_known=any(len(line.result.qualities) > 1 for line in table.lines),
        ),
        Column("passes", "passes", _passes),
        Column(
            "accepted",
            "words a pass",
            lambda line: _quality(line, "verification", lambda row: f"{row['words_a_pass']:.2f}"),
            is_known=is_known("verification"),
        ),
        Column(
            "p50",
            "p50 ms",
            lambda line: _timed(line, _speed(line, lambda row: _digits(row["latency_ms"]["p50"]))),
        ),
        Column(
            "ms",
            "ms",
            lambda line: _timed(line, _speed(line, lambda row: _digits(row["latency_ms"]["mean"]))),
        ),
        Column("ms_range", "mean ms", lambda line: _timed(line, range_text(line.latency, None))),
        Column("throughput", "sent/s (batch)", lambda line: _speed(line, _throughput)),
        Column("beam", "× AR beam", lambda line: _ratio(line.over_beam)),
        Column("beam_range", "× AR beam", beam_range),
        Column("greedy", "× AR greedy", lambda line: _ratio(line.over_greedy)),
        Column("greedy_range", "× AR greedy", greedy_range),
        Column(
            "smax",
            "Smax × beam",
            lambda line: MISSING if line.best_over_beam is None else f"{line.best_over_beam:.2f}",
        ),
        Column(
            "floor",
            "floor ms",
            lambda line: MISSING if line.floor is None else _digits(line.floor["floor_ms"]),
            is_known=has_floors,
        ),
        Column(
            "over_floor",
            "× floor",
            lambda line: MISSING if line.floor is None else _digits(line.floor["ratio"]),
            is_known=has_floors,
        ),
        Column(
            "teacher",
            "% of teacher",
            lambda line: MISSING if line.of_teacher is None else f"{line.of_teacher:.1f}",
            is_known=any(line.of_teacher is not None for line in table.lines),
        ),
        Column(
            "published",
            "% in papers",
            _published,
            is_known=any(line.published is not None for line in table.lines),
        ),
        Column("training", "training", _training),
        Column(
            "length",
            "length ratio",
            lambda line: _quality(line, "length_ratio", lambda value: f"{value:.3f}"),
        ),
        Column(
            "repeat",
            "repeat %",
            lambda line: _quality(line, "repetition", lambda value: f"{value:.2f}"),
        ),
        percent("valid"),
        percent("mixed"),
    ]


def _passes(line: Line) -> str:
    steps = line.result.identity["steps"]
    return MISSING if steps is None else f"{steps:.1f}"


def _ratio(estimate: Interval | None) -> str:
    if estimate is None:
        return MISSING
    return f"{estimate.value:.{_ratio_decimals(estimate)}f}"


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
        return f"{text} {line.mark(metric) or ' '}" if is_tested else text

    return cell


def _seeds(metric: Metric) -> Callable[[Line], str]:
    """How many runs that differ in the seed the scores are means of, and the standard deviation over them."""

    def cell(line: Line) -> str:
        number, deviation = len(line.result.qualities), line.deviation(metric)
        return f"{number}" if deviation is None else f"{number}, ±{metric.text(deviation)}"

    return cell


def _percent(name: str) -> Callable[[Line], str]:
    return lambda line: _quality(line, name, lambda value: f"{value:.1f}")


def _quality(line: Line, key: str, text: Callable[..., str]) -> str:
    quality = line.result.quality
    return MISSING if quality is None or quality.get(key) is None else text(quality[key])


def _speed(line: Line, text: Callable[[Row], str]) -> str:
    return MISSING if line.result.speed is None else text(line.result.speed)


def _timed(line: Line, latency: str) -> str:
    """The latency with a mark where it was taken beside other work."""
    return f"{latency} !" if line.is_disturbed else latency


def _throughput(speed: Row) -> str:
    return f"{_digits(speed['throughput'])} ({speed['throughput_batch']})"


def _published(line: Line) -> str:
    percent = None if line.published is None else line.published.percent
    return MISSING if percent is None else f"{percent:.1f}"


def _training(line: Line) -> str:
    quality = line.result.quality
    if quality is None or quality["train_steps"] is None:
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


def timed_on(line: Line) -> str:
    condition = line.result.condition
    return MISSING if condition is None else results.condition_text(condition)


def has_several_conditions(table: Table) -> bool:
    return len({line.result.condition for line in table.lines} - {None}) > 1
