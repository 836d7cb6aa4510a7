"""The picture of quality against latency, drawn from the same lines as the table.

Up is better, left is faster; whiskers are 95 % intervals. Colour and marker tell the method, a
hollow marker raw training data, a full one distilled. One panel for each condition (device,
threads, dtype), since times under different conditions do not compare. Drawn without a display
and without global state."""

import dataclasses
import itertools
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

from nat_ar.evaluation import results
from nat_ar.evaluation.table import build
from nat_ar.evaluation.table.build import Estimate, Line, Table

SUFFIXES = (".png", ".svg")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Okabe and Ito's palette for every kind of colour vision; black is the autoregressive method's."""
MARKERS = ("o", "^", "v", "D", "P", "X", "p")
INK, FAINT = "#222222", "#8A8A8A"
ROOMY = 14
"""So many labels fit into a panel of the usual size; of more, each still gets as much room."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
    "font.size": 9.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "nat_ar",  # equal pictures are equal files
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One marker: what a line of the table says, in the units of the axes."""

    label: str
    method: str
    is_distilled: bool
    role: str
    """ "beam" and "greedy" for the two that speed-ups refer to, else ""."""
    latency: Estimate
    quality: Estimate


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area, in square pixels, that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def distance(self, other: "Box") -> float:
        """Pixels between the nearest edges; 0 where they touch or overlap."""
        across = max(self.left - other.right, other.left - self.right, 0.0)
        return math.hypot(across, max(self.bottom - other.top, other.bottom - self.top, 0.0))

    def shifted(self, x: float, y: float) -> "Box":
        return Box(self.left + x, self.bottom + y, self.right + x, self.top + y)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def save(comparison: Table, path: Path, *, title: str = "") -> list[Path]:
    """Writes the picture to `path`, or as both .png and .svg where `path` has no such suffix.

    title: what the data are called; by default their split and test hash. ValueError where no
    line has both quality and latency."""
    paths_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return write(draw(comparison, title=title), path)


def write(figure: Figure, path: Path) -> list[Path]:
    """The files of a figure, without a date; to be called under STYLE."""
    paths = paths_of(path)
    for target in paths:
        stamp = {"Date": None} if target.suffix == ".svg" else {"Software": None}
        figure.savefig(target, dpi=200, metadata=stamp)
    return paths


def paths_of(path: Path) -> list[Path]:
    """The files that `save` writes for `path`; ValueError where its suffix is not one of ours."""
    if path.suffix and path.suffix not in SUFFIXES:
        raise ValueError(f"picture {path}: expected a name that ends in .png or .svg, or no suffix")
    return [path] if path.suffix else [path.with_suffix(suffix) for suffix in SUFFIXES]


def draw(comparison: Table, *, title: str = "") -> Figure:
    """The figure: one panel a condition, labels placed so that they cover nothing."""
    lines = [line for line in comparison.lines if _is_drawable(line)]
    if not lines:
        raise ValueError(
            "no system has both a quality row and a speed row, so there is nothing to draw; "
            "run `python -m nat_ar evaluate` and `python -m nat_ar benchmark` on one of them"
        )
    conditions = list(dict.fromkeys(line.joined.condition for line in lines))
    others = {line.joined.identity["method"] for line in lines} - {build.AUTOREGRESSIVE}
    methods = [build.AUTOREGRESSIVE, *sorted(others)]
    use_valid = all((line.joined.quality or {})["valid"] is not None for line in lines)
    most = max(
        sum(line.joined.condition == condition for line in lines) for condition in conditions
    )
    grown = max(1.0, math.sqrt(most / ROOMY))
    size = (7.6 * grown * len(conditions), 5.0 * grown)
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(conditions), squeeze=False, sharey=True)[0]
    labelled = []
    for panel, condition in zip(panels, conditions, strict=True):
        chosen = [line for line in lines if line.joined.condition == condition]
        points = [_point(line, chosen, use_valid) for line in chosen]
        _draw_panel(panel, points, methods, use_valid)
        panel.set_title(_title(chosen, title), loc="left", fontsize=9, color=INK, pad=8)
        labelled.append((panel, points))
    panels[0].set_ylabel("valid translations, %" if use_valid else "BLEU (sacreBLEU)")
    _legend(panels[-1], [point for _, points in labelled for point in points], methods)
    canvas.draw()  # settles the layout, which the labels need in pixels
    figure.set_layout_engine("none")
    for panel, points in labelled:
        _place_labels(panel, points, canvas)
    return figure


def wilson(percent: float, sentences: int) -> Estimate:
    """A share with its 95 % Wilson score interval (Wilson 1927), all in percent."""
    z = 1.96
    share = percent / 100
    centre = (share + z * z / (2 * sentences)) / (1 + z * z / sentences)
    half = (
        z
        * math.sqrt(share * (1 - share) / sentences + z * z / (4 * sentences**2))
        / (1 + z * z / sentences)
    )
    return Estimate(percent, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


def place(
    boxes: Sequence[Box],
    anchors: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    frame: Box,
) -> list[tuple[float, float]]:
    """Where to put labels: the centre of each, in pixels.

    boxes: each label's size, centred at (0, 0). anchors: the point that each label names. Every
    label tries 24 directions at growing distances and takes the place that covers least and is
    nearest; three rounds, since a later label may free an earlier one. Deterministic."""
    centres = list(anchors)
    placed: list[Box | None] = [None] * len(boxes)
    for _, index in itertools.product(range(3), range(len(boxes))):
        box, (x, y) = boxes[index], anchors[index]
        others = [other for other in placed[:index] + placed[index + 1 :] if other is not None]
        best = math.inf
        for gap, turn in itertools.product((6, 10, 14, 22, 34, 50, 70, 95), range(24)):
            angle = 2 * math.pi * turn / 24
            centre = (
                x + math.cos(angle) * (gap + box.right),
                y + math.sin(angle) * (gap + box.top),
            )
            here = box.shifted(*centre)
            cost = (
                20 * (box.area - here.overlap(frame))
                + 10 * sum(here.overlap(other) for other in others)
                + 5 * sum(here.overlap(obstacle) for obstacle in obstacles)
                + 8 * gap
                + 2 * abs(math.sin(angle)) * gap
            )
            if cost < best - 1e-9:
                best, centres[index], placed[index] = cost, centre, here
    return centres


def _is_drawable(line: Line) -> bool:
    return line.joined.quality is not None and line.joined.speed is not None


def _point(line: Line, lines: Sequence[Line], use_valid: bool) -> Point:
    quality, latency, bleu = line.joined.quality, line.latency, line.bleu
    if quality is None or latency is None or bleu is None:
        raise ValueError(f"{line.joined.identity['name']} lacks a quality row or a speed row")
    role = ""
    if line.over_beam == build.ITSELF:
        role = "beam"
    elif line.over_greedy == build.ITSELF:
        role = "greedy"
    height = wilson(float(quality["valid"]), quality["sentences"]) if use_valid else bleu
    return Point(
        _label(line, lines),
        quality["method"],
        quality["training_data"] == "distilled",
        role,
        latency,
        height,
    )


def _label(line: Line, lines: Sequence[Line]) -> str:
    """The name, with as much of the decoding as tells it from the other lines of that name."""
    row = line.joined.identity
    same_name = [
        other.joined.identity["decoding"]
        for other in lines
        if other.joined.identity["name"] == row["name"]
    ]
    if len(same_name) == 1:
        return row["name"]
    head = row["decoding"].partition("(")[0]
    same_head = [decoding for decoding in same_name if decoding.partition("(")[0] == head]
    return f"{row['name']}, {head if len(same_head) == 1 else row['decoding']}"


def _draw_panel(
    panel: Axes, points: Sequence[Point], methods: Sequence[str], use_valid: bool
) -> None:
    panel.set_xscale("log")
    for point in points:
        colour, marker = look(point.method, methods)
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
                latency.value, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
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
                color=FAINT,
            )
        if point.role == "beam":
            panel.axhline(
                quality.value, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
            )
    low = min(point.latency.low for point in points)
    high = max(point.latency.high for point in points)
    room = max((high / low) ** 0.18, 1.25)
    panel.set_xlim(low / room, high * room)
    panel.margins(y=0.14)
    if use_valid:
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
    """The upper axis: how many times faster than AR beam each latency is."""

    def flip(values: Any) -> Any:
        """Latency to ratio, and ratio to latency; matplotlib also asks for 0."""
        return beam / np.maximum(values, 1e-9)

    top = panel.secondary_xaxis("top", functions=(flip, flip))
    _set_log_ticks(top.xaxis, beam / high, beam / low)
    top.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    top.tick_params(length=3, labelsize=8, colors=FAINT, pad=1)
    top.set_xlabel("times faster than AR beam", fontsize=8, color=FAINT, labelpad=3)


def _set_log_ticks(axis: matplotlib.axis.Axis, low: float, high: float) -> None:
    """Ticks at 1, 2, 5 of each decade, more where the axis spans little."""
    subdivisions = (1.0, 2.0, 5.0) if high / low > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(10, subs=subdivisions, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def look(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """(colour, marker) of a method, no pair twice; the autoregressive one is first in `methods`."""
    if methods.index(method) == 0:
        return INK, "s"
    lap, place = divmod(methods.index(method) - 1, len(COLOURS))
    return COLOURS[place], MARKERS[(place + lap) % len(MARKERS)]


def _whiskers(estimate: Estimate) -> np.ndarray:
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return np.maximum([[below], [above]], 0.0)


def _legend(panel: Axes, points: Sequence[Point], methods: Sequence[str]) -> None:
    used = [method for method in methods if any(point.method == method for point in points)]
    entries = []
    for method in used:
        colour, marker = look(method, methods)
        entries.append(_key(marker, colour, colour, method))
    for is_distilled, face, label in (
        (False, "white", "raw data"),
        (True, FAINT, "distilled data"),
    ):
        if any(point.is_distilled == is_distilled for point in points):
            entries.append(_key("o", FAINT, face, label))
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
    rows = [line.joined.quality for line in lines if line.joined.quality is not None]
    speeds = [line.joined.speed for line in lines if line.joined.speed is not None]
    data = title or f"{rows[0]['split']} (hash {rows[0]['test_hash'][:12]})"
    return (
        f"{data}, {rows[0]['sentences']:,} sentences\n"
        f"{build.condition_text(results.condition(speeds[0]))}; "
        f"{build.dates(speeds)}"
    )


def _place_labels(panel: Axes, points: Sequence[Point], canvas: FigureCanvasAgg) -> None:
    """Puts each label beside its marker, with a thin leader where it had to move away."""
    panel.set_autoscale_on(False)  # leaders must not move what was measured
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
        if point.role:  # its dashed line and the name of that line
            obstacles.append(Box(x - 1, frame.bottom, x + 1, frame.top))
            obstacles.append(Box(x - 14 * pixels, frame.bottom, x, frame.bottom + 52 * pixels))
        if point.role == "beam":
            obstacles.append(Box(frame.left, y - 1, frame.right, y + 1))
    centres = place(boxes, anchors, obstacles, frame)
    for index, (text, centre) in enumerate(zip(texts, centres, strict=True)):
        text.set_position(tuple(to_data.transform(centre)))
        here, (x, y) = boxes[index].shifted(*centre), anchors[index]
        if min(here.distance(box) for box in footprints[index]) > 5 * pixels:
            nearest = (min(max(x, here.left), here.right), min(max(y, here.bottom), here.top))
            ends = to_data.transform([(x, y), nearest])
            panel.plot(ends[:, 0], ends[:, 1], color=FAINT, linewidth=0.7, zorder=2)


def _footprint(panel: Axes, point: Point, pixels: float) -> list[Box]:
    """What a marker and its two whiskers cover."""
    x, y = panel.transData.transform((point.latency.value, point.quality.value))
    left, bottom = panel.transData.transform((point.latency.low, point.quality.low))
    right, top = panel.transData.transform((point.latency.high, point.quality.high))
    radius, cap = 6 * pixels, 3 * pixels
    return [
        Box(x - radius, y - radius, x + radius, y + radius),
        Box(left - cap, y - cap, right + cap, y + cap),
        Box(x - cap, bottom - cap, x + cap, top + cap),
    ]
