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
from matplotlib.ticker import FuncFormatter

from nat_ar.evaluation import figures, results
from nat_ar.evaluation.figures import Styles
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.table import labels
from nat_ar.evaluation.table.labels import Point
from nat_ar.evaluation.table.line import ITSELF, Interval, Line, Table

ROOMY = 14
"""Labels that fit into a panel of the usual size; a panel with more grows."""
NARROW = 5.0
"""Inches to a panel below which type and markers are small, and the legend stands below."""
NAMED_IF_NARROW = 6
"""Most markers of a narrow panel that all have their names beside them."""
DASHES = (0, (4, 3))
ACROSS = "mean latency at batch 1, ms a sentence (log scale)"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large things are drawn: lengths in inches; type, that of titles and axes (`large`), and markers in points."""

    width: float
    height: float
    type: float
    large: float
    marker: float


def save(
    comparison: Table,
    path: Path,
    *,
    title: str = "",
    metric: Metric | None = None,
    width: float | None = None,
    has_title: bool = True,
) -> list[Path]:
    """Writes the picture to `path`, or as both .png and .svg where `path` has no suffix.

    title: what the data are called; by default their split and test hash. metric: the height of the markers;
    None takes percent of valid translations where every row has it, else BLEU. width: of the picture in inches, such
    as 3.3 for a column of a paper; type is 7 points or more at any width. ValueError where no line has both quality
    and latency, and for a width that has no room for the axes."""
    figures.paths_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(figures.STYLE):
        figure = draw(comparison, title=title, metric=metric, width=width, has_title=has_title)
        return figures.write(figure, path)


def draw(
    comparison: Table,
    *,
    title: str = "",
    metric: Metric | None = None,
    width: float | None = None,
    has_title: bool = True,
) -> Figure:
    """The figure: one panel a condition; labels are placed so that they cover little. Where a panel has more markers
    than names fit, those on the Pareto front and the references of speed-ups are named, and the legend says what the
    numbers of the others mean."""
    figures.require_width(width)
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
    by_condition = [[x for x in lines if x.result.condition == one] for one in conditions]
    is_narrow = width is not None and width / len(conditions) < NARROW
    lower_is_better = metric is not None and metric.direction == "lower"
    points = _numbered(
        [_points(chosen, metric) for chosen in by_condition],
        most=NAMED_IF_NARROW if is_narrow else labels.NAMED,
        lower_is_better=lower_is_better,
    )
    untimed = [
        (line.result.identity["name"], height)
        for line in comparison.lines
        if line.result.identity["method"] == results.IMPORTED
        and (height := _height(line, metric)) is not None
    ]
    entries = _legend_entries([point for chosen in points for point in chosen], styles)
    entries += [
        Line2D(
            [],
            [],
            color=figures.INK,
            linewidth=1.0,
            linestyle=_dots(place),
            label=f"{name}, untimed",
        )
        for place, (name, _) in enumerate(untimed)
    ]
    sizes = _sizes(points, width, is_narrow)
    figure = Figure(figsize=(sizes.width, sizes.height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(conditions), squeeze=False, sharey=True)[0]
    for panel, chosen, of_panel in zip(panels, by_condition, points, strict=True):
        _draw_panel(panel, of_panel, styles, metric, sizes)
        for place, (_, height) in enumerate(untimed):
            panel.axhline(
                height.value, color=figures.INK, linewidth=1.0, linestyle=_dots(place), zorder=1
            )
        inches = sizes.width / len(conditions) - 0.5  # without what stands beside the panel
        text = "\n".join(figures.wrapped(ACROSS, inches, sizes.large))
        panel.set_xlabel(text, fontsize=sizes.large)
        if has_title:
            text = "\n".join(figures.wrapped(_title(chosen, title), inches, sizes.large))
            panel.set_title(text, loc="left", fontsize=sizes.large, color=figures.INK, pad=8)
    name = "valid translations, %" if metric is None else metric.title
    if lower_is_better:
        name += ", lower is better"
        panels[0].invert_yaxis()  # up is better; the panels share the axis
    panels[0].set_ylabel(name, fontsize=sizes.large)
    _draw_legend(figure, panels[-1], entries, canvas, sizes, is_below=is_narrow)
    canvas.draw()  # settles the layout, which the labels need in pixels
    figure.set_layout_engine("none")
    pairs = list(zip(panels, points, strict=True))
    upright = labels.name_lines(pairs, canvas, sizes.type, marker=sizes.marker)
    for (panel, of_panel), boxes in zip(pairs, upright, strict=True):
        labels.place(panel, of_panel, canvas, size=sizes.type, marker=sizes.marker, upright=boxes)
    return figure


def _sizes(points: Sequence[Sequence[Point]], width: float | None, is_narrow: bool) -> Sizes:
    """Without the legend's height. A picture whose width is free grows with the number of its labels."""
    if is_narrow and width is not None:
        return Sizes(width, 2.7, type=7.0, large=7.0, marker=4.5)
    most = max(sum(point.number is None for point in chosen) for chosen in points)
    grown = max(1.0, math.sqrt(most / ROOMY))
    has_numbers = any(point.number for chosen in points for point in chosen)
    free = 7.6 * grown * len(points) + (1.8 if has_numbers else 0.0)
    return Sizes(width or free, 5.0 * grown, type=8.0, large=9.0, marker=8.0)


def _numbered(
    points: Sequence[Sequence[Point]], *, most: int, lower_is_better: bool
) -> list[list[Point]]:
    """The points of each panel; numbers go on from panel to panel, since they share the legend."""
    found: list[list[Point]] = []
    first = 1
    for chosen in points:
        found.append(
            labels.numbered(chosen, most=most, lower_is_better=lower_is_better, first=first)
        )
        first += sum(point.number is not None for point in found[-1])
    return found


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
    panel: Axes, points: Sequence[Point], styles: Styles, metric: Metric | None, sizes: Sizes
) -> None:
    panel.set_xscale("log")
    panel.tick_params(length=3, labelsize=sizes.large)
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
            markersize=sizes.marker,
            markerfacecolor=colour if point.is_distilled else "white",
            markeredgewidth=0.2 * sizes.marker,
            elinewidth=1.1,
            capsize=0.3 * sizes.marker,
            zorder=3,
        )
        if point.role:
            panel.axvline(
                latency.value, color=figures.FAINT, linewidth=0.8, linestyle=DASHES, zorder=1
            )
        if point.role == "beam":
            panel.axhline(
                quality.value, color=figures.FAINT, linewidth=0.8, linestyle=DASHES, zorder=1
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
    figures.set_log_ticks(panel.xaxis, low / room, high * room)
    beam = next((point.latency.value for point in points if point.role == "beam"), None)
    panel.spines["top"].set_visible(beam is not None)
    if beam is not None:
        _draw_speed_up_axis(panel, beam, low / room, high * room, sizes)


def _draw_speed_up_axis(panel: Axes, beam: float, low: float, high: float, sizes: Sizes) -> None:
    """Adds the upper axis: how many times faster than AR beam each latency is."""

    def flip(values: Any) -> Any:
        """Latency to ratio, and ratio to latency; matplotlib also calls it with 0."""
        return beam / np.maximum(values, 1e-9)

    top = panel.secondary_xaxis("top", functions=(flip, flip))
    figures.set_log_ticks(top.xaxis, beam / high, beam / low)
    top.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    top.tick_params(length=3, labelsize=sizes.type, colors=figures.FAINT, pad=1)
    top.set_xlabel(
        "times faster than AR beam", fontsize=sizes.type, color=figures.FAINT, labelpad=3
    )


def _dots(place: int) -> tuple[int, tuple[int, int]]:
    """The line of an imported system, whose latency nobody knows: each has dots further apart than the one before."""
    return 0, (1, 1 + 2 * place)


def _whiskers(estimate: Interval) -> np.ndarray:
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return np.maximum([[below], [above]], 0.0)


def _draw_legend(
    figure: Figure,
    panel: Axes,
    entries: Sequence[Line2D],
    canvas: FigureCanvasAgg,
    sizes: Sizes,
    *,
    is_below: bool,
) -> None:
    """Below all panels, or to the right of the last. The figure gets the height that the legend needs."""
    settings: dict[str, Any] = {
        "handles": entries,
        "frameon": False,
        "fontsize": sizes.type,
        "borderaxespad": 0.0,
        "handletextpad": 0.4,
        "columnspacing": 1.0,
        "markerscale": 1.0 if sizes.marker > 6 else 0.75,
    }
    if not is_below:
        settings.update(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        needed = panel.legend(**settings).get_window_extent(canvas.get_renderer()).height
        figure.set_size_inches(sizes.width, max(sizes.height, needed / figure.dpi + 1.2))
        return
    settings.update(loc="lower left", bbox_to_anchor=(0.02, 0.0))
    room = sizes.width * figure.dpi
    for columns in (4, 3, 2, 1):
        legend = figure.legend(ncols=columns, **settings)
        extent = legend.get_window_extent(canvas.get_renderer())
        if columns == 1 or extent.width < 0.96 * room:
            break
        legend.remove()
    needed = extent.height / figure.dpi + 0.05
    height = sizes.height + needed
    figure.set_size_inches(sizes.width, height)
    figures.leave_room_below(figure, needed / height)


def _legend_entries(points: Sequence[Point], styles: Styles) -> list[Line2D]:
    """Methods, training data, whiskers and dashed lines, and what the numbers mean."""
    entries = []
    for method, (colour, marker) in styles.items():
        entries.append(_key(marker, colour, colour, method))
    for is_distilled, face, label in (
        (False, "white", "raw data"),
        (True, figures.FAINT, "distilled data"),
    ):
        if any(point.is_distilled == is_distilled for point in points):
            entries.append(_key("o", figures.FAINT, face, label))
    entries.append(
        Line2D([], [], color=figures.FAINT, linewidth=1.1, marker="|", label="95 % interval")
    )
    roles = [point.role for point in points if point.role]
    if roles:
        text = "level with " + " or ".join(f"AR {role}" for role in dict.fromkeys(roles))
        entries.append(
            Line2D([], [], color=figures.FAINT, linewidth=0.8, linestyle=DASHES, label=text)
        )
    for point in points:
        if point.number is not None:
            colour, marker = styles[point.method]
            face = colour if point.is_distilled else "white"
            entries.append(_key(marker, colour, face, f"{point.number}  {point.label}"))
    return entries


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
