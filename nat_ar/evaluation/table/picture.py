"""The picture of quality against latency, drawn from the same lines as the table.

Up is better, left is faster; whiskers are 95 % intervals. Colour and marker stand for the method; the marker is hollow
for raw training data and full for distilled. One panel for each condition (device, threads, dtype), since
times under different conditions are not comparable. Drawn without a display and without global state."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from nat_ar.evaluation import figures, results
from nat_ar.evaluation.figures import Styles
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.table import placement
from nat_ar.evaluation.table.line import ITSELF, Interval, Line, Table
from nat_ar.evaluation.table.placement import Box

ROOMY = 14
"""Labels that fit into a panel of the usual size; a panel with more grows."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One marker: a line of the table in the units of the axes."""

    label: str
    method: str
    is_distilled: bool
    role: str
    """ "beam" or "greedy" for the two that speed-ups refer to, else "" """
    latency: Interval
    quality: Interval


def save(
    comparison: Table, path: Path, *, title: str = "", metric: Metric | None = None
) -> list[Path]:
    """Writes the picture to `path`, or as both .png and .svg where `path` has no such suffix.

    title: what the data are called; by default their split and test hash. metric: the height of the markers;
    None takes percent of valid translations where every row has it, else BLEU. ValueError where no line has both
    quality and latency."""
    figures.paths_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(figures.STYLE):
        return figures.write(draw(comparison, title=title, metric=metric), path)


def draw(comparison: Table, *, title: str = "", metric: Metric | None = None) -> Figure:
    """The figure: one panel a condition; labels are placed so that they cover little."""
    timed = [line for line in comparison.lines if line.result.quality and line.result.speed]
    if metric is None and any(_height(line, None) is None for line in timed):
        metric = comparison.metrics[0]
    lines = [line for line in timed if _height(line, metric) is not None]
    if not lines:
        raise ValueError(
            "no system has both a quality row and a speed row, so there is nothing to draw; "
            "run `python -m nat_ar evaluate` and `python -m nat_ar benchmark` on one of them"
        )
    conditions = list(dict.fromkeys(line.result.condition for line in lines))
    styles = figures.styles([line.result.identity for line in lines])
    most = max(
        sum(line.result.condition == condition for line in lines) for condition in conditions
    )
    grown = max(1.0, math.sqrt(most / ROOMY))
    size = (7.6 * grown * len(conditions), 5.0 * grown)
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(conditions), squeeze=False, sharey=True)[0]
    labelled = []
    for panel, condition in zip(panels, conditions, strict=True):
        chosen = [line for line in lines if line.result.condition == condition]
        points = _points(chosen, metric)
        _draw_panel(panel, points, styles, metric)
        panel.set_title(_title(chosen, title), loc="left", fontsize=9, color=figures.INK, pad=8)
        labelled.append((panel, points))
    panels[0].set_ylabel("valid translations, %" if metric is None else metric.title)
    if metric is not None and metric.direction == "lower":
        panels[0].set_ylabel(f"{metric.title}, lower is better")
        panels[0].invert_yaxis()  # up is better; the panels share the axis
    _legend(panels[-1], [point for _, points in labelled for point in points], styles)
    canvas.draw()  # settles the layout, which the labels need in pixels
    figure.set_layout_engine("none")
    for panel, points in labelled:
        _place_labels(panel, points, canvas)
    return figure


def wilson(percent: float, sentences: int) -> Interval:
    """A share with its 95 % Wilson score interval (Wilson 1927), all in percent."""
    z = 1.96
    share = percent / 100
    centre = (share + z * z / (2 * sentences)) / (1 + z * z / sentences)
    half = (
        z
        * math.sqrt(share * (1 - share) / sentences + z * z / (4 * sentences**2))
        / (1 + z * z / sentences)
    )
    return Interval(percent, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


def _height(line: Line, metric: Metric | None) -> Interval | None:
    """The score, or without a metric the percentage of valid translations; None where the row lacks it."""
    if metric is not None:
        return line.score(metric)
    row = line.result.quality or {}
    return None if row.get("valid") is None else wilson(float(row["valid"]), row["sentences"])


def _points(lines: Sequence[Line], metric: Metric | None) -> list[Point]:
    """Of the lines that have both coordinates."""
    points = []
    for line in lines:
        latency, height = line.latency, _height(line, metric)
        if latency is None or height is None:
            continue
        role = ""
        if line.over_beam == ITSELF:
            role = "beam"
        elif line.over_greedy == ITSELF:
            role = "greedy"
        row = line.result.identity
        is_distilled = row["training_data"] == "distilled"
        points.append(
            Point(_label(line, lines), row["method"], is_distilled, role, latency, height)
        )
    return points


def _label(line: Line, lines: Sequence[Line]) -> str:
    """The name, and as much of the decoding as distinguishes it from other lines of that name."""
    row = line.result.identity
    same_name = [
        other.result.identity["decoding"]
        for other in lines
        if other.result.identity["name"] == row["name"]
    ]
    if len(same_name) == 1:
        return row["name"]
    head = row["decoding"].partition("(")[0]
    same_head = [decoding for decoding in same_name if decoding.partition("(")[0] == head]
    return f"{row['name']}, {head if len(same_head) == 1 else row['decoding']}"


def _draw_panel(
    panel: Axes, points: Sequence[Point], styles: Styles, metric: Metric | None
) -> None:
    panel.set_xscale("log")
    for point in points:
        colour, marker = styles[point.method]
        latency, quality = point.latency, point.quality
        panel.errorbar(
            latency.value,
            quality.value,
            xerr=_whiskers(latency),
            yerr=_whiskers(quality),
            color=colour,
            marker=marker,
            markersize=8,
            markerfacecolor=colour if point.is_distilled else "white",
            markeredgewidth=1.6,
            elinewidth=1.1,
            capsize=2.5,
            zorder=3,
        )
        if point.role:
            panel.axvline(
                latency.value, color=figures.FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
            )
            panel.annotate(
                f"AR {point.role}",
                (latency.value, 0.01),
                xycoords=("data", "axes fraction"),
                xytext=(-3, 2),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="bottom",
                fontsize=8,
                color=figures.FAINT,
            )
        if point.role == "beam":
            panel.axhline(
                quality.value, color=figures.FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
            )
    low = min(point.latency.low for point in points)
    high = max(point.latency.high for point in points)
    room = max((high / low) ** 0.18, 1.25)
    panel.set_xlim(low / room, high * room)
    panel.margins(y=0.14)
    if metric is None:  # percent: nothing is above 100
        panel.set_ylim(top=min(panel.get_ylim()[1], 106.0))
    panel.grid(axis="y", color="#E8E8E8", linewidth=0.8, zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(length=3)
    panel.set_xlabel("mean latency at batch 1, ms a sentence (log scale)")
    _set_log_ticks(panel.xaxis, low / room, high * room)
    beam = next((point.latency.value for point in points if point.role == "beam"), None)
    panel.spines["top"].set_visible(beam is not None)
    if beam is not None:
        _draw_speed_up_axis(panel, beam, low / room, high * room)


def _draw_speed_up_axis(panel: Axes, beam: float, low: float, high: float) -> None:
    """Adds the upper axis: how many times faster than AR beam each latency is."""

    def flip(values: Any) -> Any:
        """Latency to ratio, and ratio to latency; matplotlib also calls it with 0."""
        return beam / np.maximum(values, 1e-9)

    top = panel.secondary_xaxis("top", functions=(flip, flip))
    _set_log_ticks(top.xaxis, beam / high, beam / low)
    top.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    top.tick_params(length=3, labelsize=8, colors=figures.FAINT, pad=1)
    top.set_xlabel("times faster than AR beam", fontsize=8, color=figures.FAINT, labelpad=3)


def _set_log_ticks(axis: matplotlib.axis.Axis, low: float, high: float) -> None:
    """Ticks at 1, 2, 5 of each decade, more on an axis that spans little."""
    subdivisions = (1.0, 2.0, 5.0) if high / low > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(10, subs=subdivisions, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _whiskers(estimate: Interval) -> np.ndarray:
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return np.maximum([[below], [above]], 0.0)


def _legend(panel: Axes, points: Sequence[Point], styles: Styles) -> None:
    entries = []
    for method, (colour, marker) in styles.items():
        entries.append(_key(marker, colour, colour, method))
    for is_distilled, face, label in (
        (False, "white", "raw data"),
        (True, figures.FAINT, "distilled data"),
    ):
        if any(point.is_distilled == is_distilled for point in points):
            entries.append(_key("o", figures.FAINT, face, label))
    panel.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
        borderaxespad=0.0,
        handletextpad=0.4,
    )


def _key(marker: str, colour: str, face: str, label: str) -> Line2D:
    return Line2D(
        [], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, label=label
    )


def _title(lines: Sequence[Line], title: str) -> str:
    rows = [line.result.quality for line in lines if line.result.quality is not None]
    speeds = [line.result.speed for line in lines if line.result.speed is not None]
    data = title or f"{rows[0]['split']} (hash {rows[0]['test_hash'][:12]})"
    return (
        f"{data}, {rows[0]['sentences']:,} sentences\n"
        f"{results.condition_text(results.condition(speeds[0]))}; "
        f"{results.dates(speeds)}"
    )


def _place_labels(panel: Axes, points: Sequence[Point], canvas: FigureCanvasAgg) -> None:
    """Puts each label beside its marker, with a thin leader if it had to move away."""
    panel.set_autoscale_on(False)  # leaders must not change the limits
    pixels = canvas.figure.dpi / 72  # a point of type
    to_pixels, to_data = panel.transData, panel.transData.inverted()
    anchors, texts, boxes = [], [], []
    for point in points:
        x, y = to_pixels.transform((point.latency.value, point.quality.value))
        anchors.append((float(x), float(y)))
        weight = "bold" if point.role else "normal"
        text = panel.text(0, 0, point.label, fontsize=8, ha="center", va="center", weight=weight)
        extent = text.get_window_extent(canvas.get_renderer())
        texts.append(text)
        width, height = extent.width / 2 + 3 * pixels, extent.height / 2 + pixels
        boxes.append(Box(-width, -height, width, height))
    area = panel.get_window_extent()
    frame = Box(area.x0 + 2, area.y0 + 2, area.x1 - 2, area.y1 - 2)
    footprints = [_footprint(panel, point, pixels) for point in points]
    obstacles = [box for footprint in footprints for box in footprint]
    for point, (x, y) in zip(points, anchors, strict=True):
        if point.role:  # its dashed line and the label of that line
            obstacles.append(Box(x - 1, frame.bottom, x + 1, frame.top))
            obstacles.append(Box(x - 14 * pixels, frame.bottom, x, frame.bottom + 52 * pixels))
        if point.role == "beam":
            obstacles.append(Box(frame.left, y - 1, frame.right, y + 1))
    centres = placement.place(boxes, anchors, obstacles, frame)
    for index, (text, centre) in enumerate(zip(texts, centres, strict=True)):
        text.set_position(tuple(to_data.transform(centre)))
        here, (x, y) = boxes[index].shifted(*centre), anchors[index]
        if min(here.distance(box) for box in footprints[index]) > 5 * pixels:
            nearest = (min(max(x, here.left), here.right), min(max(y, here.bottom), here.top))
            ends = to_data.transform([(x, y), nearest])
            panel.plot(ends[:, 0], ends[:, 1], color=figures.FAINT, linewidth=0.7, zorder=2)


def _footprint(panel: Axes, point: Point, pixels: float) -> list[Box]:
    """The boxes that a marker and its two whiskers cover."""
    x, y = panel.transData.transform((point.latency.value, point.quality.value))
    left, bottom = panel.transData.transform((point.latency.low, point.quality.low))
    right, top = panel.transData.transform((point.latency.high, point.quality.high))
    bottom, top = sorted((bottom, top))  # the axis is inverted where lower is better
    radius, cap = 6 * pixels, 3 * pixels
    return [
        Box(x - radius, y - radius, x + radius, y + radius),
        Box(left - cap, y - cap, right + cap, y + cap),
        Box(x - cap, bottom - cap, x + cap, top + cap),
    ]
