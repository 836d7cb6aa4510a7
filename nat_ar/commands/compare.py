"""compare: the results of several runs as one table, and as a picture of quality against latency.

Reads only what `evaluate` and `benchmark` wrote: results.jsonl of each run, and the translations
and raw references that its quality rows name. Needs no model and no accelerator."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nat_ar import config_json
from nat_ar.evaluation import figures, metrics
from nat_ar.evaluation.metrics import METRICS, Metric
from nat_ar.evaluation.table import columns, formats
from nat_ar.pipeline.compare import compare, save_captions, save_curves
from nat_ar.runtime import console, files


@dataclasses.dataclass(frozen=True)
class Compare:
    """Print one table of several runs."""

    runs: tuple[str, ...]
    """run directories, each with a results.jsonl"""
    format: Literal["terminal", "markdown", "csv", "latex"] = "terminal"
    """format in which the table is printed"""
    output: tuple[str, ...] = ()
    """files to which the table is also written, in the format of their suffix: .txt, .md, .csv or .tex"""
    columns: tuple[str, ...] = ()
    """names of columns, or all; default: a few (docs/metrics.md lists them); a CSV has everything"""
    teacher: str | None = None
    """name or directory of the baseline of speed-ups and paired tests; default: the first AR run trained on raw data"""
    split: str = "test"
    """the split whose results are compared"""
    picture: str | None = None
    """file for the picture of quality against latency: .png, .svg or .pdf; without a suffix, .png and .svg"""
    curves: str | None = None
    """file for a picture of validation BLEU and training loss against steps, target tokens and hours"""
    captions: tuple[str, ...] = ()
    """files for the captions that evaluate --policy replayed, in place of the table of translations: .md, .txt, .csv,
    and .png, .svg or .pdf for quality against lag; their table is printed"""
    width: float | None = None
    """width of the pictures in inches, such as 3.3 for a column of a paper"""
    title: str = ""
    """name of the data in the picture; default: the split and its hash"""
    no_title: bool = False
    """leave the title out of the picture, for a caption"""
    metrics: tuple[str, ...] = ()
    """Python files with further METRICS, each of which becomes a column (docs/metrics.md)"""
    picture_metric: str | None = None
    """metric that the picture shows; default: percentage of valid translations if every row has it, else bleu"""
    n_bootstrap: int = 1000
    """resamples of the paired bootstrap test"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, n_bootstrap=self.n_bootstrap)


def run(arguments: Compare) -> None:
    """Writes the files that `arguments` names, and prints the table."""
    for name in arguments.output:
        formats.of_path(Path(name))
        files.require_writable(Path(name).parent)
    for path in (arguments.picture, arguments.curves):
        if path is not None:
            figures.paths_of(Path(path))
            files.require_writable(Path(path).parent)
    if arguments.captions:
        paths = [Path(name) for name in arguments.captions]
        console.show(
            save_captions(arguments.runs, paths, split=arguments.split, title=arguments.title)
        )
        return
    chosen = metrics.with_more(arguments.metrics)
    if arguments.curves is not None:  # first: runs that are still training have no results
        save_curves(arguments.runs, arguments.curves, width=arguments.width)
    comparison = compare(
        arguments.runs,
        teacher=arguments.teacher,
        split=arguments.split,
        n_bootstrap=arguments.n_bootstrap,
        more_metrics=chosen[len(METRICS) :],
    )
    columns.check(arguments.columns, comparison.table.metrics)
    height = None
    if arguments.picture_metric is not None:
        height = _named(arguments.picture_metric, comparison.table.metrics)
    for name in arguments.output:
        comparison.save(name, arguments.columns)
    console.show(comparison.render(arguments.format, arguments.columns).removesuffix("\n"))
    if arguments.picture is not None:
        comparison.picture(
            arguments.picture,
            title=arguments.title,
            metric=height,
            width=arguments.width,
            has_title=not arguments.no_title,
        )


def _named(name: str, chosen: Sequence[Metric]) -> Metric:
    for metric in chosen:
        if metric.name == name:
            return metric
    known = ", ".join(metric.name for metric in chosen)
    raise ValueError(f"picture_metric: expected one of {known}, got {name!r}")
