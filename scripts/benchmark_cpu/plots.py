"""Throughput against batch and latency against length, from the tables of a run."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator, ScalarFormatter

from nat_ar.evaluation import figures
from nat_ar.evaluation.speed.intervals import Interval
from scripts.benchmark_cpu.report import Row, Section

PLOTS = {
    "throughput": ("decode", "Throughput against batch", "sentences of a batch", "sentences/s"),
    "latency": ("length", "Latency against length, batch 1", "target positions", "ms a sentence"),
}
"""File -> section, title of its table, and labels of the axes."""
INT8 = ", int8"
"""at the end of a system's label"""


def save(sections: Sequence[Section], directory: Path) -> list[Path]:
    """Writes the plots whose tables are there, as .png and .svg."""
    saved = []
    for name, (of, title, across, up) in PLOTS.items():
        rows = next((s.tables[title] for s in sections if s.name == of and title in s.tables), None)
        if rows is None:
            continue
        with matplotlib.rc_context(figures.STYLE):
            figure = Figure(figsize=(6.4, 4.4), layout="constrained")
            _draw(figure.add_subplot(), rows, title, across, up)
            saved += figures.write(figure, directory / name)
    return saved


def _draw(panel: Axes, rows: Sequence[Row], title: str, across: str, up: str) -> None:
    """A line for each system with its 95 % interval; those of left-to-right decoders are black. Systems that share a
    colour differ in the style of their line; one with 8-bit weights looks like its twin, with open marks."""
    counts = collections.Counter[bool]()
    looks: dict[str, tuple[str, str, str]] = {}
    for row in rows:
        points = {
            int("".join(filter(str.isdigit, name))): cell
            for name, cell in row.items()
            if isinstance(cell, Interval)
        }
        at = list(points)
        middle, low, high = zip(*map(dataclasses.astuple, points.values()), strict=True)
        system = str(row["system"])
        of = system.removesuffix(INT8)
        if of not in looks:
            is_ar = of.startswith("AR")
            lap, index = divmod(counts[is_ar], 3 if is_ar else len(figures.COLOURS))
            counts[is_ar] += 1
            looks[of] = (
                figures.INK if is_ar else figures.COLOURS[index],
                ("-", "--", ":")[index if is_ar else lap],
                figures.MARKERS[(index + lap) % len(figures.MARKERS)],
            )
        colour, style, marker = looks[of]
        face, size = (colour, 4) if system == of else ("white", 6)
        panel.plot(at, middle, style, color=colour, marker=marker, ms=size, mfc=face, label=system)
        panel.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    panel.set(xscale="log", yscale="log", xlabel=across, ylabel=up, title=title, xticks=at)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_locator(NullLocator())
    figures.set_log_ticks(panel.yaxis, *panel.get_ylim())
    lines, _ = panel.get_legend_handles_labels()
    band = Patch(facecolor=figures.FAINT, alpha=0.3, label="95 % interval")
    panel.legend(
        handles=[*lines, band],
        fontsize=7,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        handlelength=4,  # dashes must show
    )
