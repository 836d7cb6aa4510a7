"""The results of several runs as one table.

Reads only what `evaluate` and `benchmark` wrote: results.jsonl of each run, and the translations
and raw references that its quality rows name. Needs no model and no accelerator."""

import math
from collections.abc import Sequence
from pathlib import Path

from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.metrics import Metric, PairedResult
from nat_ar.evaluation.results import Joined, Row, System
from nat_ar.evaluation.table import build
from nat_ar.evaluation.table.line import BEAM, Table
from nat_ar.runtime import files


def compare(
    runs: Sequence[Path],
    *,
    teacher: str | None = None,
    split: str = "test",
    n_bootstrap: int = 1000,
    more_metrics: Sequence[Metric | str | Path] = (),
) -> Table:
    """The table of the rows of `split` in all `runs`, paired tests against the teacher included."""
    if not runs:
        raise ValueError("no runs to compare; give one run directory or more")
    rows = [row for path in dict.fromkeys(runs) for row in results.read(path)]
    joined = results.join(rows, split=split)
    if not joined:
        splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise ValueError(f"no results on split {split!r}; the runs have: {splits}")
    chosen = metrics.with_more(more_metrics)
    results.check_metric_names(metric.name for metric in chosen)
    build.check_comparable(joined, chosen)
    _check_files([pair.quality for pair in joined if pair.quality is not None])
    reference = build.find_teacher(joined, teacher)
    comparisons = paired_tests(joined, reference, n_bootstrap=n_bootstrap)
    return build.build(joined, teacher=teacher, comparisons=comparisons, metrics=chosen)


def paired_tests(
    joined: Sequence[Joined], reference: Joined | None, *, n_bootstrap: int = 1000
) -> dict[System, PairedResult]:
    """The paired bootstrap of every evaluated system against the beam search of the teacher.

    Empty where no teacher's beam search was evaluated. ValueError where translations are not
    those that their row scored."""
    if (
        reference is None
        or reference.quality is None
        or not reference.quality["decoding"].startswith(BEAM)
    ):
        return {}
    baseline = reference.quality
    references = _file(baseline, "references")
    tokenize = metrics.tokenizer_of(baseline["bleu"]["signature"])
    baseline_text = _file(baseline, "hypotheses")
    tests: dict[System, PairedResult] = {}
    for pair in joined:
        row = pair.quality
        if row is None or results.system(row) in (results.system(baseline), *tests):
            continue
        if _file(row, "references") != references:
            raise ValueError(
                f"{_path(row, 'references')} and {_path(baseline, 'references')} differ, though the "
                "test hashes of their rows agree; evaluate again on one and the same test set"
            )
        test = metrics.paired_bootstrap(
            _file(row, "hypotheses"),
            baseline_text,
            references,
            n_bootstrap=n_bootstrap,
            tokenize=tokenize,
        )
        for scored, now in ((row, test.system), (baseline, test.baseline)):
            if not math.isclose(scored["bleu"]["score"], now, abs_tol=0.01):
                raise ValueError(
                    f"{_path(scored, 'hypotheses')} scores BLEU {now:.2f}, its row in "
                    f"{results.FILE_NAME} says {scored['bleu']['score']:.2f}; the file was changed "
                    "since, evaluate the run again"
                )
        tests[results.system(row)] = test
    return tests


def _check_files(rows: Sequence[Row]) -> None:
    """Raises ValueError for translations or references that are not those that were scored."""
    for row in rows:
        for key in ("hypotheses", "references"):
            expected = row.get(f"{key}_hash")  # rows of early versions do not know it
            path = _path(row, key)
            if expected is not None and path.is_file() and files.file_hash(path) != expected:
                raise ValueError(
                    f"{path} has changed since its row in {results.FILE_NAME} was written; evaluate the "
                    "run again"
                )


def _path(row: Row, key: str) -> Path:
    """A path of the row: absolute, or relative to its run."""
    return Path(row["run"]) / row[key]


def _file(row: Row, key: str) -> list[str]:
    path = _path(row, key)
    if not path.is_file():
        raise ValueError(
            f"{path}, the {key} of {row['name']} {row['decoding']}, does not exist; evaluate the run "
            "again"
        )
    return files.read_lines(path)
