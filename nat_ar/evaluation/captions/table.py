"""The rows of captions as one table: quality, lag, flicker and time of each system under each policy."""

import csv
import dataclasses
import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import other_work
from nat_ar.evaluation.table import formats
from nat_ar.runtime import files


@dataclasses.dataclass(frozen=True)
class Column:
    header: str
    number: Callable[[Row], float]
    decimals: int


def _lag(name: str) -> Callable[[Row], float]:
    return lambda row: row["lags"][name]["score"]


COLUMNS = (
    Column("BLEU", lambda row: row["bleu"]["score"], 2),
    Column("LAAL", _lag("laal"), 2),
    Column("DAL", _lag("dal"), 2),
    Column("AL", _lag("al"), 2),
    Column("AP", _lag("ap"), 2),
    Column("LAAL with computing", lambda row: row["computing_lags"]["laal"]["score"], 2),
    Column("NE", lambda row: row["erasure"], 2),
    Column("passes", lambda row: row["steps"], 1),
    Column("ms", lambda row: row["update_ms"]["p50"], 1),
    Column("ms p99", lambda row: row["update_ms"]["p99"], 1),
    Column("ms of processor", lambda row: row["update_ms"]["processor"], 1),
)
TEXTS = {"system": "name", "decoding": "decoding", "policy": "policy", "data": "training_data"}


def choose(rows: Sequence[Row], split: str) -> list[Row]:
    """The latest caption row of each system, decoding and policy on a split: autoregressive systems first, and
    those of one system in the order of their policies' names.

    Raises ValueError where there is none, and where they are not of one test."""
    chosen: dict[tuple[str, ...], Row] = {}
    of_split = [row for row in rows if row["kind"] == "stream" and row["split"] == split]
    for row in sorted(of_split, key=lambda row: row["date"]):
        chosen[(*results.system_key(row), row["policy"])] = row
    if not chosen:
        raise ValueError(
            f"no captions of split {split!r}; replay some first: python -m nat_ar evaluate RUN --policy "
            '"Retranslate()" "Retranslate(mask_k=2)"'
        )
    first, *_ = chosen.values()
    for row in chosen.values():
        if (row["test_hash"], _signature(row)) != (first["test_hash"], _signature(first)):
            raise ValueError(
                f"{_label(first)} and {_label(row)} were not scored on the same sentences by the same BLEU, and cannot "
                "share a table: replay one of them again"
            )
    order = list(dict.fromkeys((row["name"], row["run"]) for row in rows))
    return sorted(
        chosen.values(),
        key=lambda row: (
            row["family"] != "AR",
            order.index((row["name"], row["run"])),
            row["decoding"],
            row["policy"],
        ),
    )


def _signature(row: Row) -> str:
    return metrics.without_bootstrap(row["bleu"]["signature"])


def _label(row: Row) -> str:
    return f"{results.label(row)} {row['policy']}"


def notes(rows: Sequence[Row]) -> list[str]:
    """What the numbers are, and what they were measured on."""
    first = rows[0]
    unit = first["source_unit"]
    conditions = sorted({results.condition_text(results.condition(row)) for row in rows})
    texts = [
        f"{results.coverage(first)} of {first['split']}, of which a {unit} arrives after the other; BLEU of the last "
        f"text of each caption: {first['bleu']['signature']}.",
        f"LAAL, DAL and AL in {unit}s of the source, AP a share, as SimulEval computes them, of detokenised text; a "
        f"{first['target_unit']} counts from when it, and all before it, stays. With computing: when it is there, at "
        f"{first['pace']:g} {unit}s a second.",
        f"NE: {first['target_unit']}s taken back for each that stays. Passes, ms (median, and 99 of 100) and ms of "
        "processor (mean, all threads) are of an update, at batch 1, from text to text.",
        f"Measured on {'; '.join(conditions)}; {results.dates(rows)}.",
    ]
    few = [row for row in rows if row.get("timed_sentences", row["sentences"]) < row["sentences"]]
    if few:
        texts.append(
            "Times are of the first sentences only, whose captions came one at a time: "
            + ", ".join(f"{row['timed_sentences']} of {_label(row)}" for row in few)
            + "."
        )
    silent = [row for row in rows if row["silent"]]
    if silent:
        texts.append(
            "Without any output, and not in the lags: "
            + ", ".join(f"{row['silent']} of {_label(row)}" for row in silent)
            + "."
        )
    busy = [work for row in rows if (work := other_work.of_row(row)) is not None]
    if busy:
        most = max(busy, key=lambda work: work.busy)
        texts.append(
            f"{most} meanwhile: ms and ms p99 are too high, compare ms of processor; lags with computing are by it."
        )
    return texts


def cells(row: Row) -> list[str]:
    """The row as the table shows it."""
    numbers = [f"{column.number(row):.{column.decimals}f}" for column in COLUMNS]
    return [*(row[key] for key in TEXTS.values()), *numbers]


HEADERS = (*TEXTS, *(column.header for column in COLUMNS))


def markdown(rows: Sequence[Row]) -> str:
    layout = [":--"] * len(TEXTS) + ["--:"] * len(COLUMNS)
    lines = [HEADERS, layout, *map(cells, rows)]
    commands = dict.fromkeys(row["command"] for row in rows)
    text = [
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
        *(f"- {formats.escape_markdown(note)}" for note in notes(rows)),
        "",
        "```bash",
        *commands,
        "```",
    ]
    return "\n".join(text) + "\n"


def terminal(rows: Sequence[Row]) -> str:
    """Columns aligned, as wide as they are, and notes as wide as these."""
    lines = [list(HEADERS), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(
            cell.ljust(width) if index < len(TEXTS) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    width = max(map(len, padded))
    wrapped = [
        line for note in notes(rows) for line in textwrap.wrap(note, width, subsequent_indent="  ")
    ]
    return "\n".join([*padded, "", *wrapped]) + "\n"


def text_csv(rows: Sequence[Row]) -> str:
    """Every number unrounded."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(HEADERS)
    for row in rows:
        writer.writerow(
            [
                *(row[key] for key in TEXTS.values()),
                *(column.number(row) for column in COLUMNS),
            ]
        )
    return output.getvalue()


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    ".md": markdown,
    ".txt": terminal,
    ".csv": text_csv,
}


def save(rows: Sequence[Row], path: Path) -> None:
    """Writes the table in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, FORMATS[path.suffix](rows))
