"""One table of quality, speed and cost out of the rows of results.jsonl.

A speed-up is a ratio of mean latencies at batch 1 and is printed only where the teacher's beam
search and greedy search were both timed on the same device, threads, dtype and number of
sentences. Rows that were not scored on the same text by the same BLEU do not share a table."""

import collections
import math
from collections.abc import Mapping, Sequence

from nat_ar.evaluation import published, results
from nat_ar.evaluation.bootstrap import PairedResult
from nat_ar.evaluation.metrics import METRICS, Metric, without_bootstrap
from nat_ar.evaluation.published import Published
from nat_ar.evaluation.results import Row, SystemKey, SystemResult
from nat_ar.evaluation.table import notes
from nat_ar.evaluation.table.line import (
    BEAM,
    GREEDY,
    ITSELF,
    Baselines,
    Interval,
    Line,
    Table,
)


def build(
    systems: Sequence[SystemResult],
    *,
    teacher: str | None = None,
    tests: Mapping[SystemKey, Mapping[str, PairedResult]] | None = None,
    metrics: Sequence[Metric] = METRICS,
) -> Table:
    """The table of all results: the teacher first, then other AR systems, then the rest.

    teacher: name or run directory of the reference AR system; None takes the first AR system trained on raw
    data. tests: paired ones against the teacher's beam search, by `results.system_key` and metric. ValueError if rows
    cannot share a table or the teacher is not among them."""
    if not systems:
        raise ValueError("no rows to compare; run `python -m nat_ar evaluate RUN` first")
    check_comparable(systems, metrics)
    reference = find_teacher(systems, teacher)
    tests = tests or {}
    conditions = list(dict.fromkeys(system.condition for system in systems))
    baselines = {condition: _baselines(systems, reference, condition) for condition in conditions}
    lines = [
        _line(system, reference, baselines[system.condition], tests, metrics[0])
        for system in systems
    ]
    timed = [condition for condition in conditions if condition is not None]
    timed.sort(key=lambda condition: baselines[condition].beam is None)
    lines.sort(
        key=lambda line: (
            timed.index(line.result.condition) if line.result.condition else 0,
            _rank(line, reference),
        )
    )
    texts = [
        *notes.quality(lines, reference, metrics),
        *notes.speed(lines, reference, baselines),
    ]
    rows = [row for line in lines for row in (*line.result.qualities, line.result.speed) if row]
    return Table(
        lines=tuple(lines),
        notes=tuple(texts),
        warnings=tuple(notes.warnings(lines)),
        commands=tuple(dict.fromkeys(row["command"] for row in rows)),
        metrics=tuple(metrics),
    )


def check_comparable(systems: Sequence[SystemResult], metrics: Sequence[Metric] = METRICS) -> None:
    """Raises ValueError, naming the systems, unless split, test text and the signature of every metric are the
    same for all that were scored by it."""
    for metric in metrics:
        groups: dict[tuple[str, str, str], list[str]] = collections.defaultdict(list)
        for row in (system.quality for system in systems if system.quality is not None):
            if row.get(metric.name) is not None:
                signature = without_bootstrap(row[metric.name]["signature"])
                groups[row["split"], row["test_hash"], signature].append(results.label(row))
        if len(groups) > 1:
            listed = "\n".join(
                f"  split {split!r}, test_hash {test_hash}, {metric.title} {signature}: "
                f"{'; '.join(systems)}"
                for (split, test_hash, signature), systems in groups.items()
            )
            raise ValueError(
                f"these rows were not scored on the same text by the same {metric.title} and cannot share a "
                f"table; compare each group by itself or evaluate again:\n{listed}"
            )


def find_teacher(systems: Sequence[SystemResult], teacher: str | None) -> SystemResult | None:
    """The beam search of the reference AR system, or its first result if it has no beam search.

    None only if `teacher` is None and there is no AR system."""
    autoregressive = [system for system in systems if system.identity["family"] == "AR"]
    if teacher is None:
        raw = [one for one in autoregressive if one.identity["training_data"] == "raw"]
        chosen = raw or autoregressive
        if not chosen:
            return None
    else:
        known = [one for one in autoregressive if teacher in _known_as(one)]
        # A directory is that of its checkpoint; a mean of several has a name of its own.
        chosen = [one for one in known if not results.mean_of(one.identity)] or known
        if len({_run_key(one) for one in chosen}) != 1:
            names = sorted({"{} ({})".format(*_run_key(one)) for one in autoregressive})
            raise ValueError(
                f"teacher {teacher!r} names {len({_run_key(one) for one in chosen})} autoregressive systems, "
                "expected one; give the name or run directory of one of: "
                f"{', '.join(names) or 'none was given'}"
            )
    own = [one for one in chosen if _run_key(one) == _run_key(chosen[0])]
    beams = [one for one in own if one.identity["decoding"].startswith(BEAM)]
    scored = [one for one in beams if one.quality is not None]
    return (scored or beams or own)[0]


def _run_key(system: SystemResult) -> tuple[str, str]:
    return system.identity["name"], system.identity["run"]


def _known_as(system: SystemResult) -> set[str]:
    """Names and directories of its run, or of its runs of all seeds."""
    return {row[key] for row in (system.identity, *system.qualities) for key in ("name", "run")}


def _baselines(
    systems: Sequence[SystemResult],
    reference: SystemResult | None,
    condition: results.Condition | None,
) -> Baselines:
    if reference is None or condition is None:
        return Baselines(None, None)
    own = [
        system.speed
        for system in systems
        if system.speed is not None
        and system.condition == condition
        and results.same_run(system.identity, reference.identity)
    ]
    beams = [row for row in own if row["decoding"] == reference.identity["decoding"]]
    return Baselines(
        next((row for row in beams if row["decoding"].startswith(BEAM)), None),
        next((row for row in own if row["decoding"].startswith(GREEDY)), None),
    )


def _line(
    system: SystemResult,
    reference: SystemResult | None,
    baselines: Baselines,
    tests: Mapping[SystemKey, Mapping[str, PairedResult]],
    metric: Metric,
) -> Line:
    key = results.system_key(system.identity)
    is_teacher = reference is not None and key == results.system_key(reference.identity)
    over_beam = over_greedy = best_over_beam = best_over_greedy = None
    beam, greedy, speed = baselines.beam, baselines.greedy, system.speed
    if (
        speed is not None
        and beam is not None
        and greedy is not None
        and speed["sentences"] == beam["sentences"] == greedy["sentences"]
    ):
        over_beam, over_greedy = _speed_up(speed, beam), _speed_up(speed, greedy)
        best_over_beam = speed["throughput"] / beam["throughput"]
        best_over_greedy = speed["throughput"] / greedy["throughput"]
    of_teacher = None
    if reference is not None and reference.identity["decoding"].startswith(BEAM):
        of_teacher = _percent_of(system.quality, reference.quality, metric)
    return Line(
        system,
        {} if is_teacher else tests.get(key, {}),
        over_beam,
        over_greedy,
        best_over_beam,
        best_over_greedy,
        is_teacher,
        of_teacher,
        _published(system.identity, system.quality),
    )


def _published(identity: Row, quality: Row | None) -> Published | None:
    variant = (quality or {}).get("variant")  # rows of early versions lack it
    if variant is None:
        return None
    return published.find(variant, identity["training_data"], identity["decoding"])


def _percent_of(quality: Row | None, reference: Row | None, metric: Metric) -> float | None:
    if quality is None or reference is None:
        return None
    ours, theirs = quality[metric.name]["score"], reference[metric.name]["score"]
    return 100 * ours / theirs if theirs else None


def _speed_up(speed: Row, baseline: Row) -> Interval:
    """Mean latency of `baseline` / mean latency of `speed`, with a 95 % interval.

    log(ratio) is taken as normal with the sum of both variances. The systems translate the same sentences, so
    their errors are correlated and the true interval is not wider."""
    ratio = baseline["latency_ms"]["mean"] / speed["latency_ms"]["mean"]
    if speed is baseline:
        return ITSELF
    half = [
        math.log(row["latency_ms"]["high"] / row["latency_ms"]["low"]) / 2
        for row in (speed, baseline)
    ]
    spread = math.exp(math.hypot(*half))
    return Interval(ratio, ratio / spread, ratio * spread)


def _rank(line: Line, reference: SystemResult | None) -> int:
    row = line.result.identity
    if line.is_teacher:
        return 0
    if row["family"] != "AR":
        return 3
    return 1 if reference is not None and results.same_run(row, reference.identity) else 2
