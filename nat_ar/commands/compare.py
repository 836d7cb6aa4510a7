"""compare: the results of several runs as one table, and as a picture of quality against latency.

Reads only what `evaluate` and `benchmark` wrote: results.jsonl of each run, and the translations
and raw references that its quality rows name. Needs no model and no accelerator."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nat_ar.evaluation import figures, metrics
from nat_ar.evaluation.metrics import METRICS, Metric
from nat_ar.evaluation.table import formats
from nat_ar.pipeline.compare import compare


@dataclasses.dataclass(frozen=True)
class Compare:
    """Print one table of several runs."""

    runs: tuple[str, ...]
    """run directories, each with a results.jsonl"""
    format: Literal["terminal", "markdown", "csv", "latex"] = "terminal"
    """how the table is printed"""
    output: tuple[str, ...] = ()
    """files to write the table to as well, in the format of their suffix: .txt, .md, .csv or .tex"""
    teacher: str | None = None
    """name or directory of the run that speed-ups and paired tests refer to; its beam and greedy
    search are AR beam and AR greedy. By default the first autoregressive run trained on raw
    data."""
    split: str = "test"
    """the split whose results are compared"""
    picture: str | None = None
    """file for the picture of quality against latency; .png or .svg, or no suffix for both"""
    title: str = ""
    """name of the data in the picture; by default the split and its hash"""
    metrics: tuple[str, ...] = ()
    """Python files with further METRICS, each of which becomes a column (docs/metrics.md)"""
    picture_metric: str | None = None
    """name of the metric that the picture shows; by default percent of valid translations where every row has
    it, else bleu"""
    n_bootstrap: int = 1000
    """resamples of the paired test"""


def run(arguments: Compare) -> None:
    """Prints the table and writes the files that `arguments` names."""
    for name in arguments.output:
        formats.of_path(Path(name))
    if arguments.picture is not None:
        figures.paths_of(Path(arguments.picture))
    chosen = metrics.with_more(arguments.metrics)
    height = None if arguments.picture_metric is None else _named(arguments.picture_metric, chosen)
    comparison = compare(
        arguments.runs,
        teacher=arguments.teacher,
        split=arguments.split,
        n_bootstrap=arguments.n_bootstrap,
        more_metrics=chosen[len(METRICS) :],
    )
    print(comparison.render(arguments.format), end="")
    for name in arguments.output:
        comparison.save(name)
    if arguments.picture is not None:
        comparison.picture(arguments.picture, title=arguments.title, metric=height)


def _named(name: str, chosen: Sequence[Metric]) -> Metric:
    for metric in chosen:
        if metric.name == name:
            return metric
    known = ", ".join(metric.name for metric in chosen)
    raise ValueError(f"picture_metric: expected one of {known}, got {name!r}")
