"""One table of quality, speed and cost out of the rows of results.jsonl, in four formats.

A speed-up is a ratio of mean latencies at batch 1 and is printed only where the teacher's beam
search and greedy search were both timed on the same device, threads, dtype and number of
sentences. Rows that were not scored on the same text by the same BLEU do not share a table."""

import collections
import csv
import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.metrics import PairedResult
from nat_ar.evaluation.results import Joined, Row, System

Format = Literal["terminal", "markdown", "csv", "latex"]

AUTOREGRESSIVE = "Autoregressive"
BEAM, GREEDY = "Beam(", "Greedy("
SIGNIFICANCE = 0.05
MISSING = "n/a"
SYSTEM_WIDTH = 26


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


ITSELF = Estimate(1.0, 1.0, 1.0)
"""The speed-up of a baseline over itself."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table."""

    joined: Joined
    comparison: PairedResult | None
    """Against the teacher's beam search; None for that line itself and where nothing was
    compared."""
    over_beam: Estimate | None
    """Mean latency of the teacher's beam search / that of this line."""
    over_greedy: Estimate | None
    best_over_beam: float | None
    """Throughput of this line at its best batch / that of the teacher's beam search at its own: Smax of
    Kasai et al. 2020 (arXiv:2006.10369)."""
    best_over_greedy: float | None
    is_teacher: bool
    """Is this the teacher's beam search, timed or not?"""

    @property
    def bleu(self) -> Estimate | None:
        quality = self.joined.quality
        return None if quality is None else _estimate(quality["bleu"], "score")

    @property
    def latency(self) -> Estimate | None:
        """Mean milliseconds a sentence at batch 1."""
        speed = self.joined.speed
        return None if speed is None else _estimate(speed["latency_ms"], "mean")

    @property
    def mark(self) -> str:
        """BLEU against the teacher: "=" not distinguishable, "+" better, "-" worse, "" unknown."""
        if self.comparison is None:
            return ""
        if self.comparison.p_value >= SIGNIFICANCE:
            return "="
        return "+" if self.comparison.difference > 0 else "-"


@dataclasses.dataclass(frozen=True)
class Table:
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """What the numbers mean and do not mean: signatures, devices, hashes, what is missing."""
    commands: tuple[str, ...]
    """The commands that made the rows."""


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The rows that speed-ups and paired tests refer to."""

    beam: Row | None
    """The speed row of the teacher's beam search under one condition."""
    greedy: Row | None


@dataclasses.dataclass(frozen=True)
class Column:
    header: str
    cell: Callable[[Line], str]
    is_text: bool = False


def build(
    joined: Sequence[Joined],
    *,
    teacher: str | None = None,
    comparisons: Mapping[System, PairedResult] | None = None,
) -> Table:
    """The table of all `joined` rows: the teacher first, then other AR systems, then the rest.

    teacher: name or run directory of the reference AR system; None takes the first AR system
    trained on raw data. comparisons: paired tests against the teacher's beam search, by
    `results.system` of the row. ValueError where rows cannot share a table or the teacher is not
    among them."""
    if not joined:
        raise ValueError("no rows to compare; run `python -m nat_ar evaluate RUN` first")
    check_comparable(joined)
    reference = find_teacher(joined, teacher)
    comparisons = comparisons or {}
    conditions = list(dict.fromkeys(pair.condition for pair in joined))
    baselines = {condition: _baselines(joined, reference, condition) for condition in conditions}
    lines = [_line(pair, reference, baselines[pair.condition], comparisons) for pair in joined]
    timed = [condition for condition in conditions if condition is not None]
    timed.sort(key=lambda condition: baselines[condition].beam is None)
    lines.sort(
        key=lambda line: (
            timed.index(line.joined.condition) if line.joined.condition else 0,
            _rank(line, reference),
        )
    )
    notes = [
        *_quality_notes(lines, reference),
        *_speed_notes(lines, reference, baselines),
        *_warnings(lines),
    ]
    rows = [row for line in lines for row in (line.joined.quality, line.joined.speed) if row]
    return Table(tuple(lines), tuple(notes), tuple(dict.fromkeys(row["command"] for row in rows)))


def render(table: Table, form: Format) -> str:
    """The table as text that ends with a newline."""
    return {"terminal": _terminal, "markdown": _markdown, "csv": _csv, "latex": _latex}[form](table)


def check_comparable(joined: Sequence[Joined]) -> None:
    """Raises ValueError, naming the systems, unless split, test text and BLEU are the same for
    all."""
    groups: dict[tuple[str, str, str], list[str]] = collections.defaultdict(list)
    for pair in joined:
        if pair.quality is not None:
            row = pair.quality
            signature = metrics.without_bootstrap(row["bleu"]["signature"])
            groups[row["split"], row["test_hash"], signature].append(_label(row))
    if len(groups) > 1:
        listed = "\n".join(
            f"  split {split!r}, test_hash {test_hash}, BLEU {signature}: {'; '.join(systems)}"
            for (split, test_hash, signature), systems in groups.items()
        )
        raise ValueError(
            "these rows were not scored on the same text by the same BLEU and cannot share a table; "
            f"compare each group by itself or evaluate again:\n{listed}"
        )


def find_teacher(joined: Sequence[Joined], teacher: str | None) -> Joined | None:
    """The beam search row of the reference AR system; its first row where it has no beam search.

    None only where `teacher` is None and no autoregressive system was given."""
    systems = [pair for pair in joined if pair.identity["method"] == AUTOREGRESSIVE]
    if teacher is None:
        raw = [pair for pair in systems if pair.identity["training_data"] == "raw"]
        chosen = raw or systems
        if not chosen:
            return None
        run = (chosen[0].identity["name"], chosen[0].identity["run"])
    else:
        chosen = [
            pair for pair in systems if teacher in (pair.identity["name"], pair.identity["run"])
        ]
        runs = {(pair.identity["name"], pair.identity["run"]) for pair in chosen}
        if len(runs) != 1:
            known = ", ".join(
                sorted({f"{pair.identity['name']} ({pair.identity['run']})" for pair in systems})
            )
            raise ValueError(
                f"teacher {teacher!r} names {len(runs)} autoregressive systems, expected one; "
                f"give the name or run directory of one of: {known or 'none was given'}"
            )
        run = runs.pop()
    own = [pair for pair in chosen if (pair.identity["name"], pair.identity["run"]) == run]
    beams = [pair for pair in own if pair.identity["decoding"].startswith(BEAM)]
    scored = [pair for pair in beams if pair.quality is not None]
    return (scored or beams or own)[0]


def _baselines(
    joined: Sequence[Joined], reference: Joined | None, condition: results.Condition | None
) -> Baselines:
    if reference is None or condition is None:
        return Baselines(None, None)
    own = [
        pair.speed
        for pair in joined
        if pair.speed is not None
        and pair.condition == condition
        and _same_run(pair.identity, reference.identity)
    ]
    beams = [row for row in own if row["decoding"] == reference.identity["decoding"]]
    return Baselines(
        next((row for row in beams if row["decoding"].startswith(BEAM)), None),
        next((row for row in own if row["decoding"].startswith(GREEDY)), None),
    )


def _line(
    pair: Joined,
    reference: Joined | None,
    baselines: Baselines,
    comparisons: Mapping[System, PairedResult],
) -> Line:
    key = results.system(pair.identity)
    is_teacher = reference is not None and key == results.system(reference.identity)
    over_beam = over_greedy = best_over_beam = best_over_greedy = None
    beam, greedy, speed = baselines.beam, baselines.greedy, pair.speed
    if (
        speed is not None
        and beam is not None
        and greedy is not None
        and speed["sentences"] == beam["sentences"] == greedy["sentences"]
    ):
        over_beam, over_greedy = _speed_up(speed, beam), _speed_up(speed, greedy)
        best_over_beam = speed["throughput"] / beam["throughput"]
        best_over_greedy = speed["throughput"] / greedy["throughput"]
    comparison = None if is_teacher else comparisons.get(key)
    return Line(
        pair,
        comparison,
        over_beam,
        over_greedy,
        best_over_beam,
        best_over_greedy,
        is_teacher,
    )


def _speed_up(speed: Row, baseline: Row) -> Estimate:
    """Mean latency of `baseline` / mean latency of `speed`, with a 95 % interval.

    log(ratio) is taken as normal, its variance as the sum of both variances. The systems
    translate the same sentences, so their errors go together and the true interval is not wider
    than this one."""
    ratio = baseline["latency_ms"]["mean"] / speed["latency_ms"]["mean"]
    if speed is baseline:
        return ITSELF
    half = [
        math.log(row["latency_ms"]["high"] / row["latency_ms"]["low"]) / 2
        for row in (speed, baseline)
    ]
    spread = math.exp(math.hypot(*half))
    return Estimate(ratio, ratio / spread, ratio * spread)


def _rank(line: Line, reference: Joined | None) -> int:
    row = line.joined.identity
    if line.is_teacher:
        return 0
    if row["method"] != AUTOREGRESSIVE:
        return 3
    return 1 if reference is not None and _same_run(row, reference.identity) else 2


def _same_run(row: Row, other: Row) -> bool:
    return row["name"] == other["name"] and row["run"] == other["run"]


def _estimate(values: Mapping[str, float], name: str) -> Estimate:
    return Estimate(float(values[name]), float(values["low"]), float(values["high"]))


def _label(row: Row) -> str:
    return f"{row['name']} {row['decoding']}"


# Notes


def _quality_notes(lines: Sequence[Line], reference: Joined | None) -> list[str]:
    rows = [line.joined.quality for line in lines if line.joined.quality is not None]
    if not rows:
        return ["No quality: none of these systems was evaluated."]
    first = rows[0]
    notes = [
        f"BLEU {first['bleu']['signature']}; chrF++ {first['chrf']['signature']}. "
        "Ranges are 95 % bootstrap intervals over sentences.",
        f"Text: split {first['split']!r}, {first['sentences']} sentences, "
        f"test hash {_short(first['test_hash'])}; {_by_value(rows, 'data_hash', 'data hash')}; "
        f"{_by_value(rows, 'dtype', 'evaluated in')} on {dates(rows)}.",
    ]
    if any(line.mark for line in lines) and reference is not None:
        notes.append(
            f"Mark after BLEU, against {_label(reference.identity)}: = not distinguishable "
            f"(two-sided paired bootstrap, p >= {SIGNIFICANCE}), + better, - worse."
        )
    elif reference is None:
        notes.append("No paired test: no autoregressive system is among the rows.")
    return notes


def _speed_notes(
    lines: Sequence[Line],
    reference: Joined | None,
    baselines: Mapping[results.Condition | None, Baselines],
) -> list[str]:
    notes = []
    for condition, chosen in baselines.items():
        if condition is None:
            continue
        rows = [
            line.joined.speed
            for line in lines
            if line.joined.speed is not None and line.joined.condition == condition
        ]
        where = condition_text(condition)
        versions = _by_value([{**row, "v": _versions(row)} for row in rows], "v", "versions")
        notes.append(
            f"Speed: {where}; latency at batch 1, text to text, "
            f"{_by_value(rows, 'sentences', 'sentences:')}; {dates(rows)}; {versions}."
        )
        missing = [
            f"{AUTOREGRESSIVE} {start[:-1].lower()}"
            for start, row in ((BEAM, chosen.beam), (GREEDY, chosen.greedy))
            if row is None
        ]
        if missing:
            what = f"the teacher {reference.identity['name']}" if reference else "a teacher"
            notes.append(
                f"Speed-up {MISSING} on {where}: no row of {' and '.join(missing)} of {what} was "
                "timed there; run `python -m nat_ar benchmark` with both."
            )
        elif chosen.beam and chosen.greedy:
            notes.append(
                f"Speed-up on {where}: mean latency of {_label(chosen.beam)} (AR beam) and "
                f"{_label(chosen.greedy)} (AR greedy) over that of the line; the interval takes "
                "the two as independent. Smax: sentences/s of the line by those of AR beam, each at its "
                "own best batch (Kasai et al. 2020)."
            )
            uneven = [
                _label(line.joined.identity)
                for line in lines
                if line.joined.condition == condition and line.over_beam is None
            ]
            if uneven:
                notes.append(
                    f"Speed-up {MISSING} for {', '.join(uneven)}: not timed on as many sentences "
                    "as AR beam and AR greedy."
                )
    untimed = [_label(line.joined.identity) for line in lines if line.joined.speed is None]
    if untimed:
        notes.append(f"Not timed: {', '.join(untimed)}; run `python -m nat_ar benchmark`.")
    return notes


def _warnings(lines: Sequence[Line]) -> list[str]:
    found: dict[str, None] = {}
    for line in lines:
        if line.joined.quality is not None:
            for warning in line.joined.quality["warnings"]:
                found[f"Warning, {_label(line.joined.identity)}: {warning}"] = None
    return list(found)


def _by_value(rows: Sequence[Row], key: str, title: str) -> str:
    """ "data hash 1a2b (ar), 3c4d (student)"; without names where all rows agree."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        value = _short(str(row[key])) if key.endswith("_hash") else str(row[key])
        if row["name"] not in names[value]:
            names[value].append(row["name"])
    if len(names) == 1:
        return f"{title} {next(iter(names))}"
    return f"{title} " + ", ".join(f"{value} ({', '.join(who)})" for value, who in names.items())


def _versions(row: Row) -> str:
    versions = row["versions"]
    if isinstance(versions, dict):
        return ", ".join(f"{name} {version}" for name, version in versions.items())
    return str(versions)


def condition_text(condition: results.Condition) -> str:
    device, threads, dtype = condition
    return f"{device}, {threads} thread{'' if threads == '1' else 's'}, {dtype}"


def dates(rows: Sequence[Row]) -> str:
    days = sorted({row["date"][:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _short(digest: str) -> str:
    return digest[:12]


# Cells


def _columns(
    table: Table, range_text: Callable[[Estimate | None, int | None], str]
) -> list[Column]:
    """All columns but those that say which system it is. `range_text` writes a value with its
    interval; its second argument is the number of decimals, None for three significant digits."""
    columns = [
        Column("data", lambda line: line.joined.identity["training_data"], is_text=True),
        Column("params", lambda line: _quality(line, "parameters", _count)),
        Column("BLEU", lambda line: f"{range_text(line.bleu, 2)} {line.mark or ' '}"),
        Column(
            "chrF++", lambda line: _quality(line, "chrf", lambda score: f"{score['score']:.1f}")
        ),
        Column("passes", lambda line: f"{line.joined.identity['steps']:.1f}"),
        Column("p50 ms", lambda line: _speed(line, lambda row: _digits(row["latency_ms"]["p50"]))),
        Column("mean ms", lambda line: range_text(line.latency, None)),
        Column("sent/s (batch)", lambda line: _speed(line, _throughput)),
        Column(
            "× AR beam", lambda line: range_text(line.over_beam, _ratio_decimals(line.over_beam))
        ),
        Column(
            "× AR greedy",
            lambda line: range_text(line.over_greedy, _ratio_decimals(line.over_greedy)),
        ),
        Column(
            "Smax × beam",
            lambda line: MISSING if line.best_over_beam is None else f"{line.best_over_beam:.2f}",
        ),
        Column("training", _training),
        Column("repeat %", lambda line: _quality(line, "repetition", lambda value: f"{value:.2f}")),
    ]
    qualities = [line.joined.quality for line in table.lines if line.joined.quality is not None]
    for name in ("valid", "mixed"):
        if any(row[name] is not None for row in qualities):
            columns.append(Column(f"{name} %", _percent(name)))
    return columns


def _percent(name: str) -> Callable[[Line], str]:
    return lambda line: _quality(line, name, lambda value: f"{value:.1f}")


def _quality(line: Line, key: str, text: Callable[..., str]) -> str:
    quality = line.joined.quality
    return MISSING if quality is None or quality[key] is None else text(quality[key])


def _speed(line: Line, text: Callable[[Row], str]) -> str:
    return MISSING if line.joined.speed is None else text(line.joined.speed)


def _throughput(speed: Row) -> str:
    return f"{_digits(speed['throughput'])} ({speed['throughput_batch']})"


def _training(line: Line) -> str:
    quality = line.joined.quality
    if quality is None:
        return MISSING
    return f"{_count(quality['train_steps'])}, {_duration(quality['train_seconds'])}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _count(number: int) -> str:
    """850, 1.5k, 20k, 12.8M: three significant digits at most."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _decimals(value: float) -> int:
    """Digits after the point that leave three significant ones."""
    return 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))


def _ratio_decimals(ratio: Estimate | None) -> int:
    return 1 if ratio is not None and ratio.value >= 10 else 2


def _digits(value: float) -> str:
    return f"{value:,.{_decimals(value)}f}"


def _plus_minus(estimate: Estimate | None, decimals: int | None) -> str:
    """ "27.31 ±0.80": half the width of the interval, as sacreBLEU prints it."""
    if estimate is None:
        return MISSING
    places = _decimals(estimate.value) if decimals is None else decimals
    if estimate == ITSELF:
        return f"{1:.{places}f}"
    return f"{estimate.value:.{places}f} ±{(estimate.high - estimate.low) / 2:.{places}f}"


def _brackets(estimate: Estimate | None, decimals: int | None) -> str:
    """ "27.31 [26.50, 28.10]"."""
    if estimate is None:
        return MISSING
    places = _decimals(estimate.value) if decimals is None else decimals
    if estimate == ITSELF:
        return f"{1:.{places}f}"
    return f"{estimate.value:.{places}f} [{estimate.low:.{places}f}, {estimate.high:.{places}f}]"


def _system_columns(table: Table) -> list[Column]:
    columns = [
        Column("name", lambda line: line.joined.identity["name"], is_text=True),
        Column("method", lambda line: line.joined.identity["method"], is_text=True),
        Column("decoding", lambda line: line.joined.identity["decoding"], is_text=True),
    ]
    if _has_several_conditions(table):
        columns.append(Column("timed on", _timed_on, is_text=True))
    return columns


def _timed_on(line: Line) -> str:
    condition = line.joined.condition
    return MISSING if condition is None else condition_text(condition)


def _has_several_conditions(table: Table) -> bool:
    return len({line.joined.condition for line in table.lines} - {None}) > 1


# Formats


def _terminal(table: Table) -> str:
    """Aligned text of about 160 columns: below a system's name stand its method and decoding."""
    several = _has_several_conditions(table)
    columns = _columns(table, _plus_minus)
    rows = []
    for line in table.lines:
        row = line.joined.identity
        below = [f"{row['method']} {row['decoding']}", *([_timed_on(line)] if several else [])]
        wrapped = [piece for text in below for piece in textwrap.wrap(text, SYSTEM_WIDTH - 2)]
        system = [*textwrap.wrap(row["name"], SYSTEM_WIDTH), *(f"  {piece}" for piece in wrapped)]
        rows.append((system, [column.cell(line) for column in columns]))
    headers = [column.header.split(" ", 1) for column in columns]
    width = max(len("system"), *(len(piece) for system, _ in rows for piece in system))
    widths = [
        max(*(len(piece) for piece in header), *(len(cells[index]) for _, cells in rows))
        for index, header in enumerate(headers)
    ]

    def aligned(first: str, cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(size) if column.is_text else cell.rjust(size)
            for cell, size, column in zip(cells, widths, columns, strict=True)
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
    for note in table.notes:
        text += textwrap.wrap(note, max(len(rule), 100), subsequent_indent="  ")
    text += ["Made by:", *(f"  {command}" for command in table.commands)]
    return "\n".join(text) + "\n"


def _markdown(table: Table) -> str:
    columns = [*_system_columns(table), *_columns(table, _brackets)]

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"

    text = [
        row([column.header for column in columns]),
        "|" + "|".join(" :-- " if column.is_text else " --: " for column in columns) + "|",
        *(row([column.cell(line) for column in columns]) for line in table.lines),
        "",
        *(f"- {escape_markdown(note)}" for note in table.notes),
        "",
        "```bash",
        *table.commands,
        "```",
    ]
    return "\n".join(text) + "\n"


def escape_markdown(text: str) -> str:
    return re.sub(r"([*_<>|])", r"\\\1", text)


def _latex(table: Table) -> str:
    """A booktabs table; notes stand in small print below it, commands as comments."""
    columns = [*_system_columns(table), *_columns(table, _brackets)]
    layout = "".join("l" if column.is_text else "r" for column in columns)

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
        row([column.header for column in columns]),
        r"\midrule",
        *(row([column.cell(line) for column in columns]) for line in table.lines),
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
    """Every number unrounded, one column each; an empty cell is a number that was not measured."""
    records = [_record(line) for line in table.lines]
    output = io.StringIO()
    writer = csv.DictWriter(output, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return output.getvalue()


def _record(line: Line) -> dict[str, object]:
    identity = line.joined.identity
    quality, speed = line.joined.quality or {}, line.joined.speed or {}
    latency = speed.get("latency_ms", {})
    shared = ("name", "run", "method", "training_data", "decoding", "split", "config_hash")
    record = {key: identity[key] for key in (*shared, "checkpoint_step", "data_hash")}
    record |= {key: quality.get(key) for key in ("test_hash", "sentences", "parameters")}
    for name in ("bleu", "chrf", "ter"):
        score = quality.get(name) or {}
        record |= {name: score.get("score")}
        record |= {f"{name}_{key}": score.get(key) for key in ("low", "high", "signature")}
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
    for key in ("flops", "weight_bytes", "floor_ms"):  # rows of early versions do not know them
        record[f"sentence_{key}"] = floor.get(key)
    numbers = ("train_steps", "train_seconds", "train_target_tokens", "length_ratio")
    record |= {key: quality.get(key) for key in (*numbers, "repetition", "valid", "mixed")}
    record |= {key: speed.get(key) for key in ("device", "threads", "dtype")}
    record |= {"evaluated": quality.get("date"), "evaluate_command": quality.get("command")}
    return record | {"timed": speed.get("date"), "benchmark_command": speed.get("command")}
