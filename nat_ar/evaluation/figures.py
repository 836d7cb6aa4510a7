"""What all figures share: colours, markers, type, and the way to files.

Drawn without a display and without global state; equal figures are equal files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nat_ar.evaluation.results import Row

SUFFIXES = (".png", ".svg")

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
}


def write(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure, without a date in the files. Call it under STYLE."""
    paths = paths_of(path)
    for target in paths:
        stamp = {"Date": None} if target.suffix == ".svg" else {"Software": None}
        figure.savefig(target, dpi=200, metadata=stamp)
    return paths


def paths_of(path: Path) -> list[Path]:
    """The files that `write` makes for `path`; ValueError for a suffix other than .png and .svg."""
    if path.suffix and path.suffix not in SUFFIXES:
        raise ValueError(f"picture {path}: expected a name that ends in .png or .svg, or no suffix")
    return [path] if path.suffix else [path.with_suffix(suffix) for suffix in SUFFIXES]


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
