"""What all figures share: colours, markers, type, and the way to files.

Drawn without a display and without global state; equal figures are equal files."""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from nat_ar.evaluation.results import Row

SUFFIXES = (".png", ".svg", ".pdf")
DEFAULT_SUFFIXES = SUFFIXES[:2]
"""of a picture whose path has none"""

LEAST_WIDTH = 2.5
"""inches: fewer leave no room for axes and type"""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Okabe and Ito's palette for every kind of colour vision; black is for autoregressive methods."""
AR_MARKERS = ("s", "*", "h", "d", "8", "<", ">")
MARKERS = ("o", "^", "v", "D", "P", "X", "p")
INK, FAINT = "#222222", "#8A8A8A"

Styles = Mapping[str, tuple[str, str]]
"""Method -> (colour, marker)."""
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
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited
    "pdf.fonttype": 42,
}

_STAMPS = {".png": ["Software"], ".svg": ["Date"], ".pdf": ["CreationDate", "Creator", "Producer"]}
"""what files would say of their making"""


def write(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure, without a date in the files. Call it under STYLE."""
    paths = paths_of(path)
    for target in paths:
        figure.savefig(target, dpi=200, metadata=dict.fromkeys(_STAMPS[target.suffix]))
    return paths


def require_width(width: float | None) -> None:
    """Raises ValueError for fewer inches than a figure needs."""
    if width is not None and width < LEAST_WIDTH:
        raise ValueError(f"expected a width of {LEAST_WIDTH} inches or more, got {width}")


def paths_of(path: Path) -> list[Path]:
    """The files that `write` makes for `path`; ValueError for a suffix other than .png, .svg and .pdf."""
    if path.suffix and path.suffix not in SUFFIXES:
        raise ValueError(
            f"picture {path}: expected a name that ends in .png, .svg or .pdf, or no suffix for .png and .svg"
        )
    return [path] if path.suffix else [path.with_suffix(suffix) for suffix in DEFAULT_SUFFIXES]


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """Lines of type of so many points that fit into a width: a letter is about 0.56 of its size wide."""
    letters = int(inches * 72 / (0.56 * size))
    return [part for line in text.splitlines() for part in textwrap.wrap(line, letters)]


def leave_room_below(figure: Figure, share: float) -> None:
    """Keeps the panels of a figure of constrained layout out of this share of its height."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0.0, share, 1.0, 1.0 - share))


def set_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers at 1, 2, 5 of each decade of a logarithmic axis, more where it spans little."""
    subdivisions = (1.0, 2.0, 5.0) if high / low > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(10, subs=subdivisions, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def styles(rows: Iterable[Row]) -> Styles:
    """Of each method among the rows, no two alike: methods of family AR in black, which differ by marker alone,
    then the others in colours, both in the order of their names."""
    families = {row["method"]: row["family"] for row in rows}
    autoregressive = sorted(method for method, family in families.items() if family == "AR")
    others = sorted(families.keys() - {*autoregressive})
    chosen = {method: (INK, AR_MARKERS[i]) for i, method in enumerate(autoregressive)}
    for index, method in enumerate(others):
        lap, column = divmod(index, len(COLOURS))
        chosen[method] = (COLOURS[column], MARKERS[(column + lap) % len(MARKERS)])
    return chosen
