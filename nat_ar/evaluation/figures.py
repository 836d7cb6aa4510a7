"""What all figures share: colours, markers, type, and how a figure becomes files.

Drawn without a display and without global state; equal figures are equal files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Okabe and Ito's palette for every kind of colour vision; black is the autoregressive method's."""
MARKERS = ("o", "^", "v", "D", "P", "X", "p")
INK, FAINT = "#222222", "#8A8A8A"

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


def style_of(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """(colour, marker) of a method, no pair twice; the autoregressive one is first in `methods`."""
    if methods.index(method) == 0:
        return INK, "s"
    lap, place = divmod(methods.index(method) - 1, len(COLOURS))
    return COLOURS[place], MARKERS[(place + lap) % len(MARKERS)]
