"""A table as text for a terminal of 80 columns: numbers aligned, what names a system folded into one column."""

import io
import textwrap
from collections.abc import Sequence

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from nat_ar.evaluation.table import columns, notes
from nat_ar.evaluation.table.columns import Column
from nat_ar.evaluation.table.line import Line, Table

WIDTH = 80
NARROW, ROOMY = 10, 26
"""Columns for the name of a system: in 80 columns at least NARROW; where numbers leave less, the table is wider and
they are ROOMY."""


def render(table: Table, names: Sequence[str] = ()) -> str:
    """The table, its notes and warnings, and the commands that made it."""
    shown = columns.choose(table, columns.plus_minus, names)
    grid, width = _grid(table, shown)
    output = io.StringIO()
    console = Console(
        file=output, width=width, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(grid)
    head, *body = [line.rstrip() for line in output.getvalue().splitlines()]
    rule = "─" * width
    text = [head, body[0], rule, *body[1:], rule]
    for note in (*notes.of(table, shown), *table.warnings):
        text += textwrap.wrap(note, width, subsequent_indent="  ")
    text += ["Made by:", *(f"  {command}" for command in table.commands)]
    return "\n".join(text) + "\n"


def _grid(table: Table, shown: Sequence[Column]) -> tuple[Grid, int]:
    """The table without rules, its header two lines high, and its width."""
    numbers = [column for column in shown if not column.is_text]
    headers = [_stacked(column.header) for column in numbers]
    cells = [[column.cell(line) for column in numbers] for line in table.lines]
    widths = [
        max(len(piece) for piece in (*header, *(row[index] for row in cells)))
        for index, header in enumerate(headers)
    ]
    taken = sum(size + 1 for size in widths)
    width = WIDTH if NARROW + taken <= WIDTH else ROOMY + taken
    grid = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False, width=width)
    grid.add_column("\nsystem", ratio=1, overflow="fold")
    for header, size in zip(headers, widths, strict=True):
        lines = "\n".join(piece.rjust(size) for piece in header)
        grid.add_column(Text(lines), width=size, no_wrap=True)
    for line, row in zip(table.lines, cells, strict=True):
        padded = [Text(cell.rjust(size)) for cell, size in zip(row, widths, strict=True)]
        grid.add_row(_system(line, shown), *padded)
    return grid, width


def _stacked(header: str) -> tuple[str, str]:
    """The header on two lines: "× AR" over "beam"."""
    above, _, below = header.rpartition(" ")
    return above, below


def _system(line: Line, shown: Sequence[Column]) -> Group:
    """The name, and below it what else the text columns say: "Argmax(), distilled"."""
    texts = {column.name: column.cell(line) for column in shown if column.is_text}
    row = line.result.identity
    if "system" in texts:
        texts["decoding"] = row["decoding"]
    called = " ".join(texts[key] for key in ("method", "decoding") if key in texts)
    below = [called, *(texts[key] for key in ("data", "timed_on") if key in texts)]
    text = ", ".join(piece for piece in below if piece)
    return Group(Text(row["name"]), *([Padding(Text(text), (0, 0, 0, 2))] if text else []))
