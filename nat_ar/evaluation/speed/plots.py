"""Two pictures of the rows of one benchmark: latency against length, and throughput against batch size.

Every line is a system; all were measured together. Colours and markers are those of figures.py."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from nat_ar.evaluation import figures, results
from nat_ar.evaluation.results import Row


def save(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Writes latency_by_length and throughput, each as .png and .svg. ValueError without rows, and for rows of early
    versions, which have no latency by length."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(figures.STYLE):
        for name, draw in (("latency_by_length", draw_latency), ("throughput", draw_throughput)):
            written += figures.write(draw(rows), directory / name)
    return written


def draw_latency(rows: Sequence[Row]) -> Figure:
    """Mean latency of the sentences of each bucket of source lengths, against the mean length of their translations."""
    if any("latency_by_length" not in row for row in rows):
        raise ValueError(
            "a row of an early version has no latency by length; time the systems again"
        )

    def points(row: Row) -> list[tuple[float, float]]:
        return [(one["output_tokens"], one["mean"]) for one in row["latency_by_length"]]

    figure, panel = _draw(rows, points)
    panel.set_xlabel("tokens of the translation, mean of each bucket of source lengths")
    panel.set_ylabel("mean latency at batch 1, ms a sentence")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    return figure


def draw_throughput(rows: Sequence[Row]) -> Figure:
    """Sentences a second at each batch size; both scales are logarithmic."""

    def points(row: Row) -> list[tuple[float, float]]:
        return sorted((float(size), rate) for size, rate in row["throughput_curve"].items())

    figure, panel = _draw(rows, points)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    sizes = sorted({size for row in rows for size, _ in points(row)})
    panel.set_xticks(sizes)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figures.set_log_ticks(panel.yaxis, *panel.get_ylim())
    panel.set_xlabel("sentences in a batch")
    panel.set_ylabel("sentences/s")
    return figure


def _draw(
    rows: Sequence[Row], points: Callable[[Row], list[tuple[float, float]]]
) -> tuple[Figure, Axes]:
    """A line for each row; systems of one method share its colour and differ by the pattern of the line."""
    if not rows:
        raise ValueError("expected rows of a benchmark to draw, got none")
    styles = figures.styles(rows)
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    patterns = ("-", "--", ":", "-.")
    drawn = dict.fromkeys(styles, 0)
    for row in rows:
        colour, marker = styles[row["method"]]
        pattern = patterns[drawn[row["method"]] % len(patterns)]
        drawn[row["method"]] += 1
        horizontal, vertical = zip(*points(row), strict=True)
        panel.plot(
            horizontal,
            vertical,
            color=colour,
            marker=marker,
            linestyle=pattern,
            markersize=5,
            linewidth=1.4,
            label=f"{row['name']}, {row['decoding']}",
        )
    panel.grid(color="#E8E8E8", linewidth=0.8)
    panel.set_axisbelow(True)
    where, dates = results.condition_text(results.condition(rows[0])), results.dates(rows)
    panel.set_title(f"{rows[0]['split']}; {where}; {dates}", loc="left", fontsize=9)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    return figure, panel
