"""One table of quality, speed and cost out of the rows of results.jsonl.

A speed-up is a ratio of mean latencies at batch 1 and is printed only where the teacher's beam
search and greedy search were both timed on the same device, threads, dtype and number of
sentences. Rows that were not scored on the same text by the same BLEU do not share a table."""

import collections
import math
from collections.abc import Mapping, Sequence

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import METRICS, Metric, PairedResult, without_bootstrap
from nat_ar.evaluation.results import Joined, Row, System
from nat_ar.evaluation.table import notes
from nat_ar.evaluation.table.line import (
    BEAM,
    GREEDY,
    ITSELF,
    Baselines,
    Estimate,
    Line,
    Table,
)


def build(
    joined: Sequence[Joined],
    *,
    teacher: str | None = None,
    comparisons: Mapping[System, PairedResult] | None = None,
    metrics: Sequence[Metric] = METRICS,
) -> Table:
    """The table of all `joined` rows: the teacher first, then other AR systems, then the rest.

    teacher: name or run directory of the reference AR system; None takes the first AR system
    trained on raw data. comparisons: paired tests against the teacher's beam search, by
    `results.system` of the row. ValueError where rows cannot share a table or the teacher is not
    among them."""
    if not joined:
        raise ValueError("no rows to compare; run `python -m nat_ar evaluate RUN` first")
    check_comparable(joined, metrics)
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
    texts = [
        *notes.quality(lines, reference, metrics),
        *notes.speed(lines, reference, baselines),
    ]
    rows = [row for line in lines for row in (line.joined.quality, line.joined.speed) if row]
    return Table(
        lines=tuple(lines),
        notes=tuple(texts),
        warnings=tuple(notes.warnings(lines)),
        commands=tuple(dict.fromkeys(row["command"] for row in rows)),
        metrics=tuple(metrics),
    )


def check_comparable(joined: Sequence[Joined], metrics: Sequence[Metric] = METRICS) -> None:
    """Raises ValueError, naming the systems, unless split, test text and the signature of every metric are the
    same for all that were scored by it."""
    for metric in metrics:
        groups: dict[tuple[str, str, str], list[str]] = collections.defaultdict(list)
        for row in (pair.quality for pair in joined if pair.quality is not None):
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


def find_teacher(joined: Sequence[Joined], teacher: str | None) -> Joined | None:
    """The beam search row of the reference AR system; its first row where it has no beam search.

    None only where `teacher` is None and no autoregressive system was given."""
    systems = [pair for pair in joined if pair.identity["family"] == "AR"]
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
        and results.same_run(pair.identity, reference.identity)
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
    if row["family"] != "AR":
        return 3
    return 1 if reference is not None and results.same_run(row, reference.identity) else 2
