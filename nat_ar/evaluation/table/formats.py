"""A table as text: aligned for a terminal, Markdown, LaTeX, and CSV with every number unrounded."""

import csv
import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.table import columns
from nat_ar.evaluation.table.line import Line, Table

Format = Literal["terminal", "markdown", "csv", "latex"]
FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".txt": "terminal",
    ".md": "markdown",
    ".csv": "csv",
    ".tex": "latex",
}
SYSTEM_WIDTH = 26


def render(table: Table, form: Format) -> str:
    """The table as text that ends with a newline."""
    return {"terminal": _terminal, "markdown": _markdown, "csv": _csv, "latex": _latex}[form](table)


def of_path(path: Path) -> Format:
    """The format of a file by its suffix. Raises ValueError for a suffix without one."""
    if path.suffix not in FORMAT_OF_SUFFIX:
        raise ValueError(
            f"output {path}: expected a name that ends in {', '.join(FORMAT_OF_SUFFIX)}"
        )
    return FORMAT_OF_SUFFIX[path.suffix]


def _terminal(table: Table) -> str:
    """Aligned text of about 160 columns; method and decoding are in lines below the system's name."""
    several = columns.has_several_conditions(table)
    shown = columns.columns(table, columns.plus_minus)
    rows = []
    for line in table.lines:
        row = line.result.identity
        below = [
            f"{row['method']} {row['decoding']}",
            *([columns.timed_on(line)] if several else []),
        ]
        wrapped = [piece for text in below for piece in textwrap.wrap(text, SYSTEM_WIDTH - 2)]
        system = [*textwrap.wrap(row["name"], SYSTEM_WIDTH), *(f"  {piece}" for piece in wrapped)]
        rows.append((system, [column.cell(line) for column in shown]))
    headers = [column.header.split(" ", 1) for column in shown]
    width = max(len("system"), *(len(piece) for system, _ in rows for piece in system))
    widths = [
        max(*(len(piece) for piece in header), *(len(cells[index]) for _, cells in rows))
        for index, header in enumerate(headers)
    ]

    def aligned(first: str, cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(size) if column.is_text else cell.rjust(size)
            for cell, size, column in zip(cells, widths, shown, strict=True)
        ]
        return "  ".join([first.ljust(width), *padded]).rstrip()

    rule = "─" * (width + sum(size + 2 for size in widths))
    text = [
        aligned("", [header[0] if len(header) > 1 else "" for header in headers]),
        aligned("system", [header[-1] for header in headers]),
        rule,
    ]
    for system, cells in rows:
        text += [aligned(system[0], cells), *system[1:]]
    text.append(rule)
    for note in (*table.notes, *table.warnings):
        text += textwrap.wrap(note, max(len(rule), 100), subsequent_indent="  ")
    text += ["Made by:", *(f"  {command}" for command in table.commands)]
    return "\n".join(text) + "\n"


def _markdown(table: Table) -> str:
    shown = [
        *columns.system_columns(table),
        *columns.columns(table, columns.brackets),
    ]

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"

    text = [
        row([column.header for column in shown]),
        "|" + "|".join(" :-- " if column.is_text else " --: " for column in shown) + "|",
        *(row([column.cell(line) for column in shown]) for line in table.lines),
        "",
        *(f"- {escape_markdown(note)}" for note in (*table.notes, *table.warnings)),
        "",
        "```bash",
        *table.commands,
        "```",
    ]
    return "\n".join(text) + "\n"


def escape_markdown(text: str) -> str:
    return re.sub(r"([*_<>|])", r"\\\1", text)


def _latex(table: Table) -> str:
    """A booktabs table; notes in small print below it, commands as comments; no warnings."""
    shown = [
        *columns.system_columns(table),
        *columns.columns(table, columns.brackets),
    ]
    layout = "".join("l" if column.is_text else "r" for column in shown)

    def row(cells: Sequence[str]) -> str:
        return " & ".join(_escape_latex(cell.strip()) for cell in cells) + r" \\"

    text = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        *(f"% {command}" for command in table.commands),
        r"\begin{table*}",
        r"\centering",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        row([column.header for column in shown]),
        r"\midrule",
        *(row([column.cell(line) for column in shown]) for line in table.lines),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\raggedright\scriptsize",
        *(f"{_escape_latex(note)}\\par" for note in table.notes),
        r"\end{table*}",
    ]
    return "\n".join(text) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _escape_latex(text: str) -> str:
    """Text for LaTeX; a lone mark (=, +, -) at the end becomes a mathematical sign."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r" ([=+-])$", r" $\1$", escaped)


def _csv(table: Table) -> str:
    """Every number unrounded in a column of its own; the cell of a number that was not measured is empty."""
    records = [_record(line, table.metrics) for line in table.lines]
    output = io.StringIO()
    writer = csv.DictWriter(output, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return output.getvalue()


def _record(line: Line, metrics: Sequence[Metric]) -> dict[str, object]:
    identity = line.result.identity
    quality, speed = line.result.quality or {}, line.result.speed or {}
    latency = speed.get("latency_ms", {})
    shared = ("name", "run", "method", "training_data", "decoding", "split", "config_hash")
    record = {key: identity[key] for key in (*shared, "checkpoint_step", "data_hash")}
    record |= {key: quality.get(key) for key in ("test_hash", "sentences", "parameters")}
    for metric in metrics:
        score = quality.get(metric.name) or {}
        record |= {metric.name: score.get("score")}
        record |= {f"{metric.name}_{key}": score.get(key) for key in ("low", "high", "signature")}
    comparison, floor = line.comparison, speed.get("floor") or {}
    percentiles = ("p50", "p95", "p99", "mean", "low", "high")
    record |= {
        "teacher_difference": None if comparison is None else comparison.difference,
        "teacher_p_value": None if comparison is None else comparison.p_value,
        "teacher_mark": line.mark,
        "decoder_passes": identity["steps"],
        **{f"latency_{key}_ms": latency.get(key) for key in percentiles},
        "throughput": speed.get("throughput"),
        "throughput_batch": speed.get("throughput_batch"),
    }
    for name, estimate in (("over_beam", line.over_beam), ("over_greedy", line.over_greedy)):
        record |= {
            name: None if estimate is None else estimate.value,
            f"{name}_low": None if estimate is None else estimate.low,
            f"{name}_high": None if estimate is None else estimate.high,
        }
    record |= {"smax_over_beam": line.best_over_beam, "smax_over_greedy": line.best_over_greedy}
    for key in ("flops", "weight_bytes", "floor_ms"):  # missing in rows of early versions
        record[f"sentence_{key}"] = floor.get(key)
    numbers = ("train_steps", "train_seconds", "train_target_tokens", "length_ratio")
    record |= {key: quality.get(key) for key in (*numbers, "repetition", "valid", "mixed")}
    record |= {key: speed.get(key) for key in ("device", "threads", "dtype")}
    record |= {"evaluated": quality.get("date"), "evaluate_command": quality.get("command")}
    return record | {"timed": speed.get("date"), "benchmark_command": speed.get("command")}
