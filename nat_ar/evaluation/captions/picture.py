"""The picture of captions: quality against lag, and flicker against lag.

Up is better on the left, down on the right; both are faster to the left. A line joins what one system says under one
policy as more words are held back; its entry in the legend has the time of an update."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nat_ar.evaluation import figures
from nat_ar.evaluation.results import Row

PATTERNS = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2)))
AR_COLOURS = (figures.INK, figures.FAINT, "#5B3A8C")
BAND = 0.2
"""erasure below which Arivazhagan et al. (2020) call captions stable"""


def save(rows: Sequence[Row], path: Path, *, title: str = "") -> list[Path]:
    """Writes the picture to `path`, or as both .png and .svg where `path` has no such suffix."""
    figures.paths_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(figures.STYLE):
        return figures.write(draw(rows, title=title), path)


def draw(rows: Sequence[Row], *, title: str = "") -> Figure:
    """The figure: a colour for each system, black first for autoregressive ones; marker and line for the policy."""
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_size_inches(9.0, 4.2)
    quality, flicker = figure.subplots(1, 2)
    colours = _colours(rows)
    kinds = list(dict.fromkeys(_policy(row) for row in rows))
    handles = []
    lines = itertools.groupby(
        sorted(rows, key=lambda row: (row["family"] != "AR", _line(row), _lag(row))), key=_line
    )
    for _, group in lines:
        points = list(group)
        kind = kinds.index(_policy(points[0]))
        style: dict[str, Any] = {
            "color": colours[points[0]["name"], points[0]["run"]],
            "marker": figures.MARKERS[kind % len(figures.MARKERS)],
            "markersize": 4.5,
            "linestyle": PATTERNS[kind % len(PATTERNS)],
            "linewidth": 1.2,
        }
        lags = [_lag(row) for row in points]
        quality.plot(lags, [row["bleu"]["score"] for row in points], **style)
        flicker.plot(lags, [row["erasure"] for row in points], **style)
        times = sorted(row["update_ms"]["processor"] for row in points)
        label = f"{points[0]['name']} {points[0]['decoding']} {_policy(points[0])}"
        handles.append(Line2D([], [], label=f"{label}: {_span(times)} ms", **style))
    unit = rows[0]["source_unit"]
    _dress(quality, f"LAAL, {unit}s", "BLEU of the last text")
    _dress(flicker, f"LAAL, {unit}s", "normalised erasure")
    flicker.axhline(BAND, color=figures.FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
    flicker.set_ylim(bottom=-0.02)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=7.5,
        title="processor time of an update at batch 1",
        title_fontsize=7.5,
    )
    return figure


def _colours(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Of each system, by its name and run."""
    chosen: dict[tuple[str, str], str] = {}
    for is_ar, palette in ((True, AR_COLOURS), (False, figures.COLOURS)):
        systems = [(row["name"], row["run"]) for row in rows if (row["family"] == "AR") is is_ar]
        for index, system in enumerate(dict.fromkeys(systems)):
            chosen[system] = palette[index % len(palette)]
    return chosen


def _policy(row: Row) -> str:
    return str(row["policy"]).partition("(")[0]


def _line(row: Row) -> tuple[str, ...]:
    return row["name"], row["run"], row["decoding"], _policy(row)


def _lag(row: Row) -> float:
    return float(row["lags"]["laal"]["score"])


def _span(values: Sequence[float]) -> str:
    low, high = f"{values[0]:.1f}", f"{values[-1]:.1f}"
    return low if low == high else f"{low} to {high}"


def _dress(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#E8E8E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
