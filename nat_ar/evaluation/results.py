"""The rows of results.jsonl: what `evaluate` and `benchmark` write and `compare` reads.

One JSON object a line, one line a measurement, only ever appended, each with its checksum. A quality row
scores the translations of one run, checkpoint, decoding and split; a speed row times them under one
condition (device, threads, dtype). `join` pairs them."""

import dataclasses
import json
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.data import references
from nat_ar.runtime import files

FILE_NAME = "results.jsonl"
IMPORTED = "imported"
"""The method of a row whose translations another program made: such a system is never timed here."""

Row = dict[str, Any]
Condition = tuple[str, str, str]
SystemKey = tuple[str, str, str]

IDENTITY_KEYS = (
    "kind",  # "quality", "speed" or "stream"
    "name",  # of the system, e.g. "fertility_distilled"
    "run",  # the run's directory as its command named it; `read` puts the directory it read
    "method",  # name of its class, e.g. "FertilityNat"
    "decoding",  # e.g. "Beam(size=4)"
    "training_data",  # "raw" or "distilled"
    "split",
    "data_hash",  # of the prepared data; of a test that nobody prepared, its own
    "config_hash",
    "checkpoint_step",
    "device",
    "dtype",
    "date",  # ISO 8601, UTC: rows are ordered by it
    "command",
    "sentences",
    "steps",  # mean decoder passes a sentence
)
QUALITY_KEYS = (
    *IDENTITY_KEYS,
    "test_hash",  # sha256 of source and reference text
    "parameters",
    "bleu",  # as metrics.Score; the scores of the other METRICS stand beside it, each under its name
    "domains",  # {domain: {"sentences", "bleu"}}
    "lengths",  # {"1-10": {"sentences", "bleu"}}
    "length_ratio",
    "repetition",  # percent of tokens equal to the one before
    "repetition_sentences",  # percent of sentences with one
    "valid",  # percent, toy language only, else null
    "mixed",
    "hypotheses",  # file, one translation a line, relative to the run
    "references",  # file of raw references, one a line, absolute or relative to the run
    "train_seconds",  # without compilation, unless "train_compile_seconds" is missing or null: an early training
    "train_steps",
    "train_target_tokens",
    "warnings",
)
SPEED_KEYS = (
    *IDENTITY_KEYS,
    "threads",
    "versions",
    "latency_ms",  # batch 1: {"mean", "p50", "p95", "p99", "low", "high"}; interval of the mean
    "throughput",  # sentences/s at the best batch
    "throughput_batch",
    "throughput_curve",  # {batch: sentences/s}
    "split_ms",  # {"tokenizer", "encoder", "decoder", "detokenizer"}
    "compile_seconds",
    "recompilations",
)
LATER_KEYS = (
    "family",  # "AR", "NAT" or "AR+NAT"; `read` looks up that of an earlier row
    "parameters_hash",  # checksum of the checkpoint's parameters; rows of early versions lack it and what follows
    "rescorer",  # {"run", "checkpoint_step", "parameters_hash"} of the model that chose among candidates, or null
    "teacher",  # the same of the models that the run was started with, or null
    "start_from",
)
LATER_SPEED_KEYS = (  # rows of early versions lack them, and p99
    "xla_flags",
    "cores",  # that --threads chose, else null
    "other_work",  # {"busy", "cores"}: cores that other processes kept busy meanwhile; null where nobody knows
    "batch_limit",  # why throughput_curve ends: "batch_sizes", "sentences" or "memory"
    "latency_by_length",  # [{"bucket", "sentences", "output_tokens", "mean"}], milliseconds
    "floor",  # {"flops", "weight_bytes", "arithmetic_ms", "memory_ms", "floor_ms", "bound", "ratio"} or null
    "peaks",  # {"matmul": {dtype: FLOP/s}, "bandwidth": {bytes read: bytes/s}} or null
    "over_reference",  # {"name", "run", "parameters_hash", "decoding", "s1", "s1_low", "s1_high", "smax"} or null
    "profile",  # {"sentences", "traced_ms", "latency_ms", "pieces_ms"} or null
)
LATER_QUALITY_KEYS = (
    "members",  # of an ensemble: [{"run", "name", "checkpoint_step", "parameters_hash"}], or null; speed rows too
    "variant",  # Method.variant; `compare` looks up that of an early row
    "tokenised",  # references that look tokenised and not detokenised
    "lost",  # pairs of the test that could not be used: they were not scored
    "more_references",  # files like "references", where a sentence has several
    "drafter",  # {"run", ...} as rescorer, of the model whose drafts were verified, or null; speed rows have it too
    "verification",  # {"passes", "words_a_pass", "near_ties"} of decodings that verify drafts, or null
    "sentence_scores",  # {metric: how it is shown, file of its sentence scores and hashes} (sentence_scores.keep)
    "averaged_steps",  # the checkpoints whose mean it is, or null; speed rows have it too
)
STREAM_KEYS = (
    *IDENTITY_KEYS,  # "steps" are of an update
    "policy",  # e.g. "Retranslate(mask_k=2)"
    "test_hash",
    "source_unit",  # "word" or "character"
    "target_unit",
    "silent",  # captions without any output, which no lag counts
    "bleu",
    "lags",  # {"laal", "dal", "al", "ap"}: {"score", "low", "high"}
    "pace",  # source units a second at which computing_lags are counted
    "clock",  # "wall" or "processor": whose seconds they have
    "computing_lags",  # as lags
    "erasure",
    "updates",
    "update_ms",  # {"mean", "p50", "p95", "p99", "processor"}
    "threads",
    "other_work",  # as in speed rows
)
LATER_STREAM_KEYS = (
    "timed_sentences",  # that came one at a time, of which computing_lags and update_ms are; rows without it: all
)
KEYS = {"quality": QUALITY_KEYS, "speed": SPEED_KEYS, "stream": STREAM_KEYS}
"""What every row of its kind has, whichever version wrote it."""


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """A system under one decoding: its quality row, and its speed row under one condition."""

    quality: Row | None
    speed: Row | None
    by_seed: tuple[tuple[int, Row], ...] = ()
    """seed and quality row of each run, where runs that differ in the seed only are one system, whose quality is then
    their mean (nat_ar/evaluation/seeds.py)"""

    @property
    def qualities(self) -> tuple[Row, ...]:
        """The quality rows that were measured: one a seed."""
        if self.by_seed:
            return tuple(row for _, row in self.by_seed)
        return () if self.quality is None else (self.quality,)

    @property
    def identity(self) -> Row:
        """One of the two rows, for the keys that both share: name, run, method, decoding, ..."""
        row = self.quality if self.quality is not None else self.speed
        if row is None:
            raise ValueError("expected a quality row or a speed row, got neither")
        return row

    @property
    def condition(self) -> Condition | None:
        """(device, threads, dtype) of the speed row: must be equal to compare two speeds."""
        return None if self.speed is None else condition(self.speed)


def append(run: Path, row: Row) -> None:
    """Adds one line to the run's results.jsonl; NumPy scalars become numbers.

    ValueError if a key of its kind is missing or a number is not finite."""
    lacking = [key for key in LATER_KEYS if key not in row]
    problem = _problem(row) or (f"a new row lacks {', '.join(lacking)}" if lacking else "")
    if problem:
        raise ValueError(f"row for {run / FILE_NAME}: {problem}")
    plain = json.loads(json.dumps(row, allow_nan=False, default=_plain))
    line = json.dumps(files.signed(plain), ensure_ascii=False)
    files.append_line(run / FILE_NAME, line)


def check_metric_names(names: Iterable[str]) -> None:
    """Raises ValueError for a metric that is called like another key of a row."""
    taken = sorted({*names} & {*QUALITY_KEYS, *LATER_KEYS, *LATER_QUALITY_KEYS} - {"bleu"})
    if taken:
        raise ValueError(f"a metric needs a name of its own, rows have another {', '.join(taken)}")


def read(run: Path) -> list[Row]:
    """All rows of a run in the order of the file, with "run" the directory that was read and "family" looked up
    if an early version wrote the row.

    ValueError names the file, and the number of a broken line."""
    path = run / FILE_NAME
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; expected a run directory with results of "
            "`python -m nat_ar evaluate` and `python -m nat_ar benchmark`"
        )
    rows = []
    for number, line in enumerate(files.read_lines(path), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not a JSON object: {error}") from error
        problem = _problem(row)
        if problem:
            raise ValueError(f"{path}:{number}: {problem}")
        try:
            row = files.without_checksum(row)
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: {error}; remove the line and measure again"
            ) from error
        if "family" not in row:
            try:
                row = _named_as_today(row)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
        rows.append({**row, "run": str(run)})
    return rows


def _named_as_today(row: Row) -> Row:
    """A row of a version that wrote no family, with it and with today's names of method and decoding.

    Raises ValueError for a method that no class of the catalogue is or was called."""
    from nat_ar.methods import catalogue  # imports JAX, which other rows do not need
    from nat_ar.translation import decodings

    for method in typing.get_args(catalogue.AnyMethod):
        if row["method"] in config_json.names_of(method):
            return {
                **row,
                "method": method.__name__,
                "family": method.family,
                "decoding": decodings.renamed(method, row["decoding"]),
            }
    raise ValueError(
        f"the row has no family, and {row['method']!r} is no method of nat_ar/methods/catalogue.py; measure the "
        "run again"
    )


def coverage(quality: Row) -> str:
    """How much of its test a row scored: "2000 sentences", "48 of 50 sentences"."""
    sentences, lost = quality["sentences"], quality.get("lost") or 0  # early rows do not know
    whole = f"of {sentences + lost} " if lost else ""
    return f"{sentences} {whole}sentences"


def tokenised(quality: Row) -> str | None:
    """The warning of a test whose references are not detokenised. None for other tests, for early rows, which do not
    know, and for corpora whose own grammar judges translations: there such text is what is meant."""
    number, sentences = quality.get("tokenised") or 0, quality["sentences"]
    if quality["valid"] is not None or number <= references.MOST_TOKENISED * sentences:
        return None
    return f"{number:,} of {sentences:,} references look tokenised (' .', '@@ ', '&apos;')"


def condition(speed: Row) -> Condition:
    """(device, threads, dtype) of a speed row."""
    return str(speed["device"]), str(speed["threads"]), str(speed["dtype"])


def system_key(row: Row) -> SystemKey:
    """(name, run, decoding): rows of one key are one line of a table."""
    return row["name"], row["run"], row["decoding"]


def condition_text(condition: Condition) -> str:
    device, threads, dtype = condition
    return f"{device}, {threads} thread{'' if threads == '1' else 's'}, {dtype}"


def dates(rows: Sequence[Row]) -> str:
    days = sorted({row["date"][:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def same_run(row: Row, other: Row) -> bool:
    return row["name"] == other["name"] and row["run"] == other["run"]


def label(row: Row) -> str:
    return f"{row['name']} {row['decoding']}"


def join(rows: Sequence[Row], *, split: str = "test") -> list[SystemResult]:
    """Pairs the quality row of each system on `split` with its speed row.

    A system is one name, run and decoding; the mean of several checkpoints of a run is another, and its name says so.
    Only rows of its latest config and parameters count, and of several rows of one kind (and, for speed, one condition)
    the latest, with the sentence scores that earlier ones have for the same translations. A system timed under several
    conditions gives one result for each; a row without a partner stays alone. The order is that of the systems' first
    rows."""
    rows = [_called(row) for row in rows if row["split"] == split and row["kind"] != "stream"]
    by_date = sorted(rows, key=lambda row: row["date"])
    latest = {system_key(row): row for row in by_date}
    quality: dict[SystemKey, Row] = {}
    speed: dict[SystemKey, dict[Condition, Row]] = {}
    for row in by_date:
        key = system_key(row)
        if not is_same_model(row, latest[key]):
            continue
        if row["kind"] == "quality":
            quality[key] = _with_scores_of(quality.get(key), row)
        else:
            speed.setdefault(key, {})[condition(row)] = row
    systems: list[SystemResult] = []
    for key in dict.fromkeys(system_key(row) for row in rows):
        speeds: list[Row | None] = [*speed.get(key, {}).values()]
        systems += [SystemResult(quality.get(key), row) for row in speeds or [None]]
    return systems


def mean_of(row: Row) -> str:
    """What follows the name of a run where its row is of the mean of several of its checkpoints; else nothing."""
    number = len(row.get("averaged_steps") or ())  # early rows do not know
    return f" (mean of {number})" if number else ""


def _called(row: Row) -> Row:
    """The row by the name that no other system of its run has."""
    return {**row, "name": row["name"] + mean_of(row)} if mean_of(row) else row


def _with_scores_of(earlier: Row | None, row: Row) -> Row:
    """The row with what other programs said of the same translations before they were evaluated again."""
    if earlier is None or earlier.get("hypotheses_hash") != row.get("hypotheses_hash"):
        return row
    known = row.get("sentence_scores") or {}
    given = {
        name: kept
        for name, kept in (earlier.get("sentence_scores") or {}).items()
        if name not in row and kept["hypotheses_hash"] == row["hypotheses_hash"]
    }
    scores = {name: earlier[name] for name in given}
    return {**row, **scores, "sentence_scores": {**given, **known}} if given else row


def checkpoint_text(identity: Row) -> str:
    """ "checkpoint 400", or "mean of the checkpoints 300 and 400"."""
    steps = [f"{step:,}" for step in identity.get("averaged_steps") or ()]
    if not steps:
        return f"checkpoint {identity['checkpoint_step']:,}"
    return f"mean of the checkpoints {', '.join(steps[:-1])} and {steps[-1]}"


def is_same_model(row: Row, other: Row) -> bool:
    """Whether two rows are of one config, checkpoint and parameters, with one rescorer and one drafter. A row of an
    early version, which knows no parameters, agrees with any."""
    hashes = [
        (_parameters(row), _parameters(other)),
        *(
            (_parameters(row.get(role)), _parameters(other.get(role)))
            for role in ("rescorer", "drafter")
        ),
    ]
    return all(row[key] == other[key] for key in ("config_hash", "checkpoint_step")) and all(
        one == two or None in (one, two) for one, two in hashes
    )


def _parameters(model: Row | None) -> str | None:
    return None if model is None else model.get("parameters_hash")


def _problem(row: Any) -> str:
    """What is wrong with a row; "" if nothing is."""
    if not isinstance(row, dict):
        return f"expected a JSON object, got {type(row).__name__}"
    if row.get("kind") not in KEYS:
        return f'"kind" is {row.get("kind")!r}; expected one of {", ".join(map(repr, KEYS))}'
    missing = [key for key in KEYS[row["kind"]] if key not in row]
    return f"a {row['kind']} row lacks {', '.join(missing)}" if missing else ""


def _plain(value: Any) -> Any:
    """A NumPy scalar as a number."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a results row cannot hold {type(value).__name__} {value!r}")
