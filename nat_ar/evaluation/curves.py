"""Training curves of several runs: validation BLEU and training loss against steps, target tokens and hours.

Read from metrics.jsonl alone, so that runs need not have ended. A small mark is the best validation of a run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nat_ar.evaluation import figures

NARROW = 6.0
"""inches, below which axes stand below each other"""
PATTERNS = ("-", "--", ":", "-.")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What rows of metrics.jsonl say, in the units of an axis."""

    key: str
    title: str
    unit: float = 1.0


ACROSS = (
    Quantity("step", "steps"),
    Quantity("target_tokens", "target tokens"),
    Quantity("seconds", "hours of training", 1 / 3600),
)
UP = {
    "validation": Quantity("score", "validation BLEU"),
    "train": Quantity("objective", "training loss"),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """The rows of a run's metrics.jsonl, under the name of the run."""

    name: str
    rows: Sequence[dict[str, Any]]

    def points(self, kind: str, across: Quantity) -> tuple[list[float], list[float]]:
        """The curve of the rows of this kind; empty for files of early versions, whose rows have only steps."""
        up = UP[kind]
        chosen = [
            row
            for row in self.rows
            if row["kind"] == kind and row.get(across.key) is not None and up.key in row
        ]
        return [row[across.key] * across.unit for row in chosen], [row[up.key] for row in chosen]


def save(trainings: Sequence[Training], path: Path, *, width: float | None = None) -> list[Path]:
    """Writes the picture to `path`, or as both .png and .svg where `path` has no such suffix. ValueError where no run
    has a row, and for a width without room for the axes."""
    figures.paths_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(figures.STYLE):
        return figures.write(draw(trainings, width=width), path)


def draw(trainings: Sequence[Training], *, width: float | None = None) -> Figure:
    """The figure; `width` in inches, with type of 7 points or more at any. A quantity that no run has gets no axis, and
    a line below names the runs that lack one."""
    figures.require_width(width)
    known = [a for a in ACROSS if any(t.points(kind, a)[0] for t in trainings for kind in UP)]
    if not known:
        raise ValueError(
            f"{', '.join(training.name for training in trainings)}: no curve to draw, metrics.jsonl has no rows; train "
            "for training.log_every steps first"
        )
    is_narrow = width is not None and width < NARROW
    size = 7.0 if is_narrow else 8.0
    figure = Figure(layout="constrained")
    canvas = FigureCanvasAgg(figure)
    if width is not None and is_narrow:
        figure.set_size_inches(width, 1.5 * len(known))
        grid = figure.subplots(len(known), 2, squeeze=False, sharey="col").T
    else:
        figure.set_size_inches(width or 3.4 * len(known), 4.8)
        grid = figure.subplots(2, len(known), squeeze=False, sharey="row", sharex="col")
    handles = []
    for index, training in enumerate(trainings):
        lap, column = divmod(index, len(figures.COLOURS))
        style: dict[str, Any] = {
            "color": figures.COLOURS[column],
            "linestyle": PATTERNS[lap % len(PATTERNS)],
            "linewidth": 1.2,
        }
        handles.append(Line2D([], [], label=training.name, **style))
        for panels, kind in zip(grid, UP, strict=True):
            for panel, across in zip(panels, known, strict=True):
                _draw_curve(panel, *training.points(kind, across), style, kind)
    for panels, kind in zip(grid, UP, strict=True):
        for panel, across in zip(panels, known, strict=True):
            is_outer = panel is panels[0] or is_narrow
            _dress(
                panel, across.title, UP[kind].title if is_outer else "", size, is_narrow=is_narrow
            )
            if not is_narrow and kind == "validation":
                panel.set_xlabel("")
    best = Line2D([], [], color=figures.FAINT, marker="o", markersize=4, linestyle="", label="best")
    _below(figure, canvas, [*handles, best], _lacking(trainings, known), size)
    return figure


def _draw_curve(
    panel: Axes, across: list[float], up: list[float], style: dict[str, Any], kind: str
) -> None:
    if not across:
        return
    is_single = len(across) == 1
    panel.plot(across, up, marker="." if is_single else "", **style)
    if kind == "validation":
        best = max(range(len(up)), key=lambda index: (up[index], index))  # ties go to the later
        panel.plot(across[best], up[best], marker="o", markersize=4, color=style["color"])


def _dress(panel: Axes, across: str, up: str, size: float, *, is_narrow: bool) -> None:
    panel.set_xlabel(across, fontsize=size)
    panel.set_ylabel(up, fontsize=size)
    panel.set_xlim(left=0)
    panel.tick_params(length=3, labelsize=size)
    for axis, most in ((panel.xaxis, 3 if is_narrow else 5), (panel.yaxis, 5)):
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_plain))
    panel.grid(color="#E8E8E8", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines["top"].set_visible(False)


def _plain(value: float, _: int) -> str:
    """0.4, 20, 20k, 1.5M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _lacking(trainings: Sequence[Training], known: Sequence[Quantity]) -> str:
    """Which runs have no curve against which quantity."""
    parts = []
    for across in ACROSS:
        names = [t.name for t in trainings if not any(t.points(kind, across)[0] for kind in UP)]
        if names and (across in known or len(names) < len(trainings)):
            parts.append(f"{across.title} unknown: {', '.join(names)}")
    return "; ".join(parts)


def _below(
    figure: Figure, canvas: FigureCanvasAgg, handles: Sequence[Line2D], note: str, size: float
) -> None:
    """The legend and the note, with room of their own under the panels."""
    width, height = figure.get_size_inches()
    room = width * figure.dpi
    for columns in range(min(len(handles), 5), 0, -1):
        legend = figure.legend(
            handles=handles,
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=(0.01, 0.0),
            frameon=False,
            fontsize=size,
            borderaxespad=0.2,
        )
        extent = legend.get_window_extent(canvas.get_renderer())
        if columns == 1 or extent.width < 0.97 * room:
            break
        legend.remove()
    needed = extent.height / figure.dpi + 0.08
    lines = figures.wrapped(note, width, size)
    total = height + needed + 0.0185 * size * len(lines)
    figure.set_size_inches(width, total)
    if lines:
        figure.text(0.02, needed / total, "\n".join(lines), fontsize=size, va="bottom", ha="left")
    figures.leave_room_below(figure, (total - height) / total)
