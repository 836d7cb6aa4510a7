"""The results of several runs as one table, and as a picture of quality against latency.

Reads only what `evaluate` and `benchmark` wrote: results.jsonl of each run, and the translations and raw
references that its quality rows name; and the configs, to know runs that differ in their seed only. Needs no
model and no accelerator."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from nat_ar.evaluation import bootstrap, metrics, results, seeds, sentence_scores
from nat_ar.evaluation.bootstrap import PairedResult
from nat_ar.evaluation.metrics import METRICS, Metric
from nat_ar.evaluation.results import Row, SystemKey, SystemResult
from nat_ar.evaluation.table import build, formats
from nat_ar.evaluation.table.formats import Format
from nat_ar.evaluation.table.line import BEAM, Table
from nat_ar.experiment import seeds as experiment_seeds
from nat_ar.runtime import console, files


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """A table of systems. As text, the table of the terminal; a notebook shows it as Markdown."""

    table: Table

    def render(self, form: Format = "terminal", columns: Sequence[str] = ()) -> str:
        """The table as text; columns: names such as "bleu_lc", "all", or none for the few that matter most.
        A CSV always has everything."""
        return formats.render(self.table, form, columns)

    def save(self, path: str | Path, columns: Sequence[str] = ()) -> None:
        """Writes the table in the format of the suffix: .txt, .md, .csv or .tex."""
        path = Path(path)
        form = formats.of_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, self.render(form, columns))

    def picture(
        self,
        path: str | Path,
        *,
        title: str = "",
        metric: Metric | None = None,
        width: float | None = None,
        has_title: bool = True,
    ) -> list[Path]:
        """Writes quality against latency to the path, or to .png and .svg where it has no suffix.

        title: the name of the data; by default their split and test hash. metric: the height of the markers; by
        default percent of valid translations where every row has it, else BLEU. width: inches."""
        from nat_ar.evaluation.table import picture  # matplotlib, which the table does not need

        return picture.save(
            self.table, Path(path), title=title, metric=metric, width=width, has_title=has_title
        )

    def __str__(self) -> str:
        return self.render()

    def __repr__(self) -> str:
        names = ", ".join(results.label(line.result.identity) for line in self.table.lines)
        return f"Comparison({names})"

    def _repr_markdown_(self) -> str:
        return self.render("markdown")


def compare(
    runs: str | Path | Sequence[str | Path],
    *,
    teacher: str | None = None,
    split: str = "test",
    n_bootstrap: int = 1000,
    more_metrics: Sequence[Metric | str | Path] = (),
) -> Comparison:
    """Compares the rows of `split` in all run directories, with paired tests against the teacher.

    teacher: name or run directory of the autoregressive run that speed-ups and tests refer to; None takes the
    first one trained on raw data. more_metrics: beside METRICS; Metric objects, or Python files that define
    some. Runs that differ in the seed of their training only are one system. ValueError where rows cannot share a table
    or files are not those that were scored."""
    directories = [runs] if isinstance(runs, str | Path) else runs
    if not directories:
        raise ValueError("no runs to compare; give one run directory or more")
    rows = [row for path in dict.fromkeys(map(Path, directories)) for row in _rows(path)]
    systems = results.join(rows, split=split)
    if not systems:
        splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise ValueError(f"no results on split {split!r}; the runs have: {splits}")
    chosen = metrics.with_more(more_metrics)
    results.check_metric_names(metric.name for metric in chosen)
    measured = [row for system in systems for row in system.qualities]
    chosen += sentence_scores.metrics_of(measured, chosen)
    build.check_comparable(systems, chosen)
    _check_files(measured)
    systems = seeds.merge(systems, experiment_seeds.of_runs(rows))
    reference = build.find_teacher(systems, teacher)
    tests = paired_tests(systems, reference, chosen, n_bootstrap=n_bootstrap)
    return Comparison(build.build(systems, teacher=teacher, tests=tests, metrics=chosen))


def _rows(directory: Path) -> list[Row]:
    """The rows of a run. Quality rows of early versions lack the method's variant: the run's config says it where it is
    still the one that they scored."""
    rows = results.read(directory)
    if all("variant" in row for row in rows if row["kind"] == "quality"):
        return rows
    from nat_ar.experiment.run import Run  # imports JAX, which other rows do not need

    try:
        run = Run(directory)
        variant, config_hash = run.config().method.variant, run.config_hash
    except ValueError:  # rows without their run: the table does not need it
        return rows
    return [
        {"variant": variant, **row} if row["config_hash"] == config_hash else row for row in rows
    ]


def save_captions(
    runs: Sequence[str | Path], paths: Sequence[Path], *, split: str = "test", title: str = ""
) -> str:
    """Writes the captions of the runs (pipeline/replay.py) as tables (.md, .txt, .csv) or pictures, by the suffix of
    each path, and returns the table of a terminal. ValueError where there are none, or the suffix is another."""
    from nat_ar.evaluation import figures  # matplotlib, which the table does not need
    from nat_ar.evaluation.captions import picture, table

    for path in paths:
        if path.suffix not in table.FORMATS:
            figures.paths_of(path)
        files.require_writable(path.parent)
    rows = [row for path in dict.fromkeys(map(Path, runs)) for row in results.read(path)]
    chosen = table.choose(rows, split)
    for path in paths:
        if path.suffix in table.FORMATS:
            table.save(chosen, path)
        else:
            picture.save(chosen, path, title=title)
    return table.terminal(chosen).removesuffix("\n")


def save_curves(
    runs: Sequence[str | Path], path: str | Path, *, width: float | None = None
) -> list[Path]:
    """Writes validation BLEU and training loss of the runs against steps, tokens and hours. Needs no result: the runs
    may still be training. Imported systems, which nobody trained here, are left out, with a line that says so.
    ValueError where another directory has no metrics.jsonl, or none has a row."""
    from nat_ar.evaluation import curves  # matplotlib and JAX, which the table does not need
    from nat_ar.training import logging

    directories = [Path(run) for run in dict.fromkeys(runs)]
    imported = [directory for directory in directories if _is_imported(directory)]
    if imported:
        listed = ", ".join(map(str, imported))
        console.say(f"no curve for {listed}: what another program translated was not trained here")
        directories = [directory for directory in directories if directory not in imported]
    for directory in directories:
        if not (directory / logging.FILE_NAME).is_file():
            raise ValueError(
                f"{directory} has no {logging.FILE_NAME}: expected the directory of a run; train it first"
            )
    names = [directory.name for directory in directories]
    return curves.save(
        [
            curves.Training(
                name if names.count(name) == 1 else str(directory), logging.read(directory)
            )
            for name, directory in zip(names, directories, strict=True)
        ],
        Path(path),
        width=width,
    )


def _is_imported(directory: Path) -> bool:
    """Whether all that a directory has is what other programs translated."""
    if not (directory / results.FILE_NAME).is_file():
        return False
    return all(row["method"] == results.IMPORTED for row in results.read(directory))


def paired_tests(
    systems: Sequence[SystemResult],
    reference: SystemResult | None,
    chosen: Sequence[Metric] = METRICS,
    *,
    n_bootstrap: int = 1000,
) -> dict[SystemKey, dict[str, PairedResult]]:
    """The paired bootstrap of every evaluated system against the beam search of the teacher, over sentences, and over
    seeds where there are several, by `results.system_key` and metric: BLEU, and those of the chosen whose sentence
    scores both have.

    Empty if the teacher's beam search was not evaluated. ValueError where translations are not those that their row
    scored."""
    if (
        reference is None
        or reference.quality is None
        or not reference.quality["decoding"].startswith(BEAM)
    ):
        return {}
    baseline = reference.quality
    references = _references(baseline)
    tokenize = metrics.tokenizer_of(baseline["bleu"]["signature"])
    baseline_texts = [_file(row, "hypotheses") for row in reference.qualities]
    tests: dict[SystemKey, dict[str, PairedResult]] = {}
    for system in systems:
        row = system.quality
        if row is None or results.system_key(row) in (results.system_key(baseline), *tests):
            continue
        for one in system.qualities:
            if _references(one) != references:
                raise ValueError(
                    f"{_path(one, 'references')} and {_path(baseline, 'references')} differ, though the "
                    "test hashes of their rows agree; evaluate again on one and the same test set"
                )
        test = metrics.paired_bootstrap(
            [_file(one, "hypotheses") for one in system.qualities],
            baseline_texts,
            references,
            n_bootstrap=n_bootstrap,
            tokenize=tokenize,
        )
        for scored, now in ((system, test.system), (reference, test.baseline)):
            _check_score(scored, now)
        tests[results.system_key(row)] = {
            METRICS[0].name: test,
            **_sentence_tests(system, reference, chosen, n_bootstrap),
        }
    return tests


def _sentence_tests(
    system: SystemResult, reference: SystemResult, chosen: Sequence[Metric], n_bootstrap: int
) -> dict[str, PairedResult]:
    """Of those of the metrics whose sentence scores every run of both has."""
    tests = {}
    for metric in chosen:
        ours, theirs = (
            [sentence_scores.of_row(row, metric.name) for row in one.qualities]
            for one in (system, reference)
        )
        known = [scores for scores in (*ours, *theirs) if scores is not None]
        if len(known) == len(ours) + len(theirs):
            value = metrics.mean_of(len(known[0]))
            tests[metric.name] = bootstrap.paired(
                known[: len(ours)], known[len(ours) :], value, n_bootstrap
            )
    return tests


def _check_score(system: SystemResult, now: float) -> None:
    """Raises ValueError for translations that score another BLEU (a mean over seeds) than their rows have."""
    before = (system.quality or {})["bleu"]["score"]
    if not math.isclose(before, now, abs_tol=0.01 / len(system.qualities)):
        paths = ", ".join(str(_path(row, "hypotheses")) for row in system.qualities)
        raise ValueError(
            f"{paths} scores BLEU {now:.2f}, its row in {results.FILE_NAME} has {before:.2f}; the file has changed "
            "since, evaluate the run again"
        )


def _check_files(rows: Sequence[Row]) -> None:
    """Raises ValueError for translations or references that are not those that were scored."""
    for row in rows:
        sentence_scores.check_files(row)
        known = [(row[key], row.get(f"{key}_hash")) for key in ("hypotheses", "references")]
        more = "more_references"
        known += zip(row.get(more, ()), row.get(f"{more}_hashes", ()), strict=True)
        for name, expected in known:  # rows of early versions lack the hashes
            path = Path(row["run"]) / name
            if expected is not None and path.is_file() and files.file_hash(path) != expected:
                raise ValueError(
                    f"{path} has changed since its row in {results.FILE_NAME} was written; evaluate the "
                    "run again"
                )


def _path(row: Row, key: str) -> Path:
    """A path of the row: absolute, or relative to its run."""
    return Path(row["run"]) / row[key]


def _references(row: Row) -> list[list[str]]:
    """Each list of references; rows of early versions know one."""
    more = row.get("more_references", ())
    return [_file(row, "references"), *(_lines(row, name, "references") for name in more)]


def _file(row: Row, key: str) -> list[str]:
    return _lines(row, row[key], key)


def _lines(row: Row, name: str, what: str) -> list[str]:
    path = Path(row["run"]) / name
    if not path.is_file():
        raise ValueError(
            f"{path}, the {what} of {row['name']} {row['decoding']}, does not exist; evaluate the run "
            "again"
        )
    return files.read_lines(path)
