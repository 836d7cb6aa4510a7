"""A table as text: for a terminal, Markdown, LaTeX, and CSV with every number unrounded."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.table import columns, notes, terminal
from nat_ar.evaluation.table.line import Line, Table

Format = Literal["terminal", "markdown", "csv", "latex"]
FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".txt": "terminal",
    ".md": "markdown",
    ".csv": "csv",
    ".tex": "latex",
}
MANY = 10
"""A LaTeX table of more columns is scaled to the width of the page."""


def render(table: Table, form: Format, names: Sequence[str] = ()) -> str:
    """The table as text that ends with a newline, with the columns of `columns.choose`; a CSV always has everything.

    Raises ValueError for a name that is no column's."""
    columns.check(names, table.metrics)
    if form == "csv":
        return _csv(table)
    return {"terminal": terminal.render, "markdown": _markdown, "latex": _latex}[form](table, names)


def of_path(path: Path) -> Format:
    """The format of a file by its suffix. Raises ValueError for a suffix without one."""
    if path.suffix not in FORMAT_OF_SUFFIX:
        raise ValueError(
            f"output {path}: expected a name that ends in {', '.join(FORMAT_OF_SUFFIX)}"
        )
    return FORMAT_OF_SUFFIX[path.suffix]


def _markdown(table: Table, names: Sequence[str]) -> str:
    shown = columns.choose(table, columns.brackets, names)

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"

    text = [
        row([column.header for column in shown]),
        "|" + "|".join(" :-- " if column.is_text else " --: " for column in shown) + "|",
        *(row([column.cell(line) for column in shown]) for line in table.lines),
        "",
        *(f"- {escape_markdown(note)}" for note in (*notes.of(table, shown), *table.warnings)),
        "",
        "```bash",
        *table.commands,
        "```",
    ]
    return "\n".join(text) + "\n"


def escape_markdown(text: str) -> str:
    return re.sub(r"([*_<>|])", r"\\\1", text)


def _latex(table: Table, names: Sequence[str]) -> str:
    """A booktabs table; notes in small print below it, commands as comments; no warnings."""
    shown = columns.choose(table, columns.brackets, names)
    is_wide = len(shown) > MANY
    layout = "".join("l" if column.is_text else "r" for column in shown)

    def row(cells: Sequence[str]) -> str:
        return " & ".join(_escape_latex(cell.strip()) for cell in cells) + r" \\"

    text = [
        "% needs \\usepackage{booktabs}" + (" and \\usepackage{graphicx}" if is_wide else ""),
        *(f"% {command}" for command in table.commands),
        r"\begin{table*}",
        r"\centering",
        *([r"\resizebox{\textwidth}{!}{%"] if is_wide else []),
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        row([column.header for column in shown]),
        r"\midrule",
        *(row([column.cell(line) for column in shown]) for line in table.lines),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if is_wide else ""),
        r"\par\smallskip\raggedright\scriptsize",
        *(f"{_escape_latex(note)}\\par" for note in notes.of(table, shown)),
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
    several_seeds = any(len(line.result.qualities) > 1 for line in table.lines)
    others = [metric for metric in table.metrics[1:] if columns.is_tested(table, metric)]
    records = [_record(line, table.metrics, others, several_seeds) for line in table.lines]
    output = io.StringIO()
    writer = csv.DictWriter(output, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return output.getvalue()


def _record(
    line: Line, metrics: Sequence[Metric], tested: Sequence[Metric], several_seeds: bool
) -> dict[str, object]:
    """tested: those of the metrics beside the first that have paired tests."""
    identity = line.result.identity
    quality, speed = line.result.quality or {}, line.result.speed or {}
    latency = speed.get("latency_ms", {})
    shared = ("name", "run", "method", "training_data", "decoding", "split", "config_hash")
    record = {key: identity[key] for key in (*shared, "checkpoint_step", "data_hash")}
    record |= {key: quality.get(key) for key in ("test_hash", "sentences", "lost", "parameters")}
    if several_seeds:
        record["seeds"] = " ".join(str(seed) for seed, _ in line.result.by_seed)
    for metric in metrics:
        score = quality.get(metric.name) or {}
        record |= {metric.name: score.get("score")}
        record |= {f"{metric.name}_{key}": score.get(key) for key in ("low", "high", "signature")}
        if several_seeds:
            record[f"{metric.name}_deviation"] = line.deviation(metric)
        if metric in tested:
            record |= _test(line, metric, metric.name)
    floor = speed.get("floor") or {}
    percentiles = ("p50", "p95", "p99", "mean", "low", "high")
    record |= {
        **_test(line, metrics[0], "teacher"),
        "teacher_percent": line.of_teacher,
        "published_percent": None if line.published is None else line.published.percent,
        "published": None if line.published is None else line.published.text,
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
    record |= {"other_work_cores": (speed.get("other_work") or {}).get("busy")}
    record |= {"evaluated": quality.get("date"), "evaluate_command": quality.get("command")}
    return record | {"timed": speed.get("date"), "benchmark_command": speed.get("command")}


def _test(line: Line, metric: Metric, prefix: str) -> dict[str, object]:
    """The paired test of a metric against the teacher's beam search."""
    test = line.tests.get(metric.name)
    return {
        f"{prefix}_difference": None if test is None else test.difference,
        f"{prefix}_p_value": None if test is None else test.p_value,
        f"{prefix}_mark": line.mark(metric),
    }
