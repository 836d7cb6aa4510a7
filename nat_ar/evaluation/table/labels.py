"""What stands beside the markers of a picture: names, or numbers that its legend explains, and the upright names of the
lines that speed-ups refer to. Placed when the layout is settled, in pixels."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nat_ar.evaluation import figures
from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.evaluation.table import placement
from nat_ar.evaluation.table.placement import Box

NAMED = 12
"""Most markers of a panel that all have their names beside them."""


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
    number: int | None = None
    """what stands beside the marker instead of the label"""

    @property
    def text(self) -> str:
        return self.label if self.number is None else str(self.number)


def is_on_front(point: Point, points: Sequence[Point], *, lower_is_better: bool) -> bool:
    """Whether none of the points is faster and at least as good, or as fast and better."""
    sign = -1 if lower_is_better else 1

    def beats(other: Point) -> bool:
        gain = sign * (other.quality.value - point.quality.value)
        saved = point.latency.value - other.latency.value
        return gain >= 0 and saved >= 0 and (gain > 0 or saved > 0)

    return not any(map(beats, points))


def numbered(
    points: Sequence[Point], *, most: int, lower_is_better: bool, first: int = 1
) -> list[Point]:
    """The points, unchanged if they are at most `most`. Else those that are neither on the Pareto front nor what
    speed-ups refer to get numbers from `first` on, in the order of the sequence."""
    if len(points) <= most:
        return list(points)
    numbers = itertools.count(first)
    return [
        point
        if point.role or is_on_front(point, points, lower_is_better=lower_is_better)
        else dataclasses.replace(point, number=next(numbers))
        for point in points
    ]


def name_lines(
    panels: Sequence[tuple[Axes, Sequence[Point]]],
    canvas: FigureCanvasAgg,
    size: float,
    *,
    marker: float,
) -> list[list[Box]]:
    """Writes "AR beam" and "AR greedy" beside their lines, where no marker is; the boxes of each panel. Panels, which
    share their vertical axis, get room below their markers where there is none."""
    texts = [
        [
            panel.text(
                0,
                0,
                f"AR {point.role}",
                rotation=90,
                ha="center",
                va="center",
                fontsize=size,
                color=figures.FAINT,
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # leaders pass behind
            )
            for point in points
            if point.role
        ]
        for panel, points in panels
    ]
    placed: list[list[Box]] = []
    for has_more_room in (False, True):
        placed, is_free = [], True
        for (panel, points), names in zip(panels, texts, strict=True):
            boxes: list[Box] = []
            for point, text in zip((p for p in points if p.role), names, strict=True):
                extent = text.get_window_extent(canvas.get_renderer())
                box, overlap = _beside_line(panel, points, point, boxes, extent, marker)
                is_free = is_free and not overlap
                boxes.append(box)
                centre = (box.left + box.right) / 2, (box.bottom + box.top) / 2
                text.set_position(tuple(panel.transData.inverted().transform(centre)))
            placed.append(boxes)
        if is_free or has_more_room:
            break
        panel = panels[0][0]
        below, above = panel.get_ylim()
        tallest = max(box.top - box.bottom for boxes in placed for box in boxes)
        share = 1.3 * tallest / panel.get_window_extent().height
        ticks = panel.get_yticks()  # none in the room that nothing was measured in
        panel.set_ylim(below - share / (1 - share) * (above - below), above)
        panel.set_yticks([tick for tick in ticks if min(below, above) <= tick <= max(below, above)])
    return placed


def _beside_line(
    panel: Axes,
    points: Sequence[Point],
    point: Point,
    taken: Sequence[Box],
    extent: Any,
    marker: float,
) -> tuple[Box, float]:
    """The lowest free place on either side of the point's line, or the one that covers least; and what it covers."""
    area, pixels = panel.get_window_extent(), _pixels(panel)
    lines = [panel.transData.transform((p.latency.value, 0))[0] for p in points if p.role]
    obstacles = [box for p in points for box in footprint(panel, p, marker)]
    obstacles += [Box(x - pixels, area.y0, x + pixels, area.y1) for x in lines]
    obstacles += taken
    if point.role == "beam":
        level = panel.transData.transform((1, point.quality.value))[1]
        obstacles.append(Box(area.x0, level - pixels, area.x1, level + pixels))
    x = panel.transData.transform((point.latency.value, 0))[0]
    half_width, half_height = extent.width / 2, extent.height / 2
    best: tuple[float, Box] | None = None
    for height, side in itertools.product(range(25), (-1, 1)):
        lowest = area.y0 + half_height + 3 * pixels
        room = area.height - extent.height - 6 * pixels
        across, up = x + side * (half_width + 2.5 * pixels), lowest + room * height / 24
        box = Box(-half_width, -half_height, half_width, half_height).shifted(across, up)
        covered = sum(box.overlap(other) for other in obstacles)
        if best is None or covered < best[0]:
            best = covered, box
    assert best is not None
    return best[1], best[0]


def place(
    panel: Axes,
    points: Sequence[Point],
    canvas: FigureCanvasAgg,
    *,
    size: float,
    marker: float,
    upright: Sequence[Box],
) -> None:
    """Puts each label beside its marker, with a thin leader if it had to move away; never on the boxes of upright
    names."""
    panel.set_autoscale_on(False)  # leaders must not change the limits
    pixels = canvas.figure.dpi / 72  # a point of type
    to_pixels, to_data = panel.transData, panel.transData.inverted()
    anchors, texts, boxes = [], [], []
    for point in points:
        x, y = to_pixels.transform((point.latency.value, point.quality.value))
        anchors.append((float(x), float(y)))
        weight = "bold" if point.role else "normal"
        text = panel.text(0, 0, point.text, fontsize=size, ha="center", va="center", weight=weight)
        extent = text.get_window_extent(canvas.get_renderer())
        texts.append(text)
        width, height = extent.width / 2 + 3 * pixels, extent.height / 2 + pixels
        boxes.append(Box(-width, -height, width, height))
    area = panel.get_window_extent()
    frame = Box(area.x0 + 2, area.y0 + 2, area.x1 - 2, area.y1 - 2)
    footprints = [footprint(panel, point, marker) for point in points]
    obstacles = [box for boxes_of_one in footprints for box in boxes_of_one]
    for point, (x, y) in zip(points, anchors, strict=True):
        if point.role:
            obstacles.append(Box(x - 1, frame.bottom, x + 1, frame.top))
        if point.role == "beam":
            obstacles.append(Box(frame.left, y - 1, frame.right, y + 1))
    centres = placement.place(boxes, anchors, obstacles, frame, forbidden=upright)
    for index, (text, centre) in enumerate(zip(texts, centres, strict=True)):
        text.set_position(tuple(to_data.transform(centre)))
        here, (x, y) = boxes[index].shifted(*centre), anchors[index]
        if min(here.distance(box) for box in footprints[index]) > 5 * pixels:
            nearest = (min(max(x, here.left), here.right), min(max(y, here.bottom), here.top))
            ends = to_data.transform([(x, y), nearest])
            panel.plot(ends[:, 0], ends[:, 1], color=figures.FAINT, linewidth=0.7, zorder=2)


def footprint(panel: Axes, point: Point, marker: float) -> list[Box]:
    """The boxes that a marker, of that many points, and its two whiskers cover."""
    pixels = _pixels(panel)
    x, y = panel.transData.transform((point.latency.value, point.quality.value))
    left, bottom = panel.transData.transform((point.latency.low, point.quality.low))
    right, top = panel.transData.transform((point.latency.high, point.quality.high))
    bottom, top = sorted((bottom, top))  # the axis is inverted where lower is better
    radius, cap = 0.75 * marker * pixels, 0.375 * marker * pixels
    return [
        Box(x - radius, y - radius, x + radius, y + radius),
        Box(left - cap, y - cap, right + cap, y + cap),
        Box(x - cap, bottom - cap, x + cap, top + cap),
    ]


def _pixels(panel: Axes) -> float:
    """Of a point of type."""
    figure = panel.get_figure()
    assert figure is not None
    return figure.dpi / 72
