"""A test replayed word by word: the captions of a run under a policy, scored.

Every sentence is captioned by itself at batch 1, as a live one is: quality, lag, flicker and time are of the same
updates. Where `timed` says how many sentences are enough for the time, the prefixes of the others are translated in
batches: the same captions sooner, of policies that translate every prefix from nothing. Each policy appends a row of
kind "stream" to the run's results.jsonl."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.evaluation_set import EvaluationSet
from nat_ar.data.references import Tokenizer
from nat_ar.data.units import Unit, text_of, units_of
from nat_ar.evaluation import latency, metrics, results
from nat_ar.evaluation.latency import LAGS, Number
from nat_ar.evaluation.metrics import Score
from nat_ar.evaluation.speed import machine, other_work
from nat_ar.evaluation.speed.other_work import OtherWork
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run, checkpoint_name
from nat_ar.pipeline import evaluation_sets, stream
from nat_ar.runtime import bars
from nat_ar.streaming import policy as policies
from nat_ar.streaming.caption import Caption, Clock
from nat_ar.streaming.policy import Policy

PACE = 2.5
"""words a second of a speaker (150 a minute)"""
WARM = 16
"""sentences that are captioned once before the clock counts"""
DEFINITION = "SimulEval's formula, detokenised"


def replay(
    run: Run | str | Path,
    policy: Policy | str = "Retranslate()",
    *,
    decoding: Any | str | None = None,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: Path | str | None = None,
    test: EvaluationSet | str | None = None,
    bleu_tokenizer: Tokenizer | None = None,
    sentences: int | None = None,
    pace: float = PACE,
    timed: int | None = None,
) -> results.Row:
    """Captions a test, appends the row to the run's results.jsonl and returns it.

    sentences: the first so many of the test; None: all. pace: units of the source a second, at which lags with the time
    of computing are counted. timed: so many sentences come one at a time, and have times; the prefixes of the others
    share batches, unless the policy needs what was said before. None: all. The others as for `evaluate`. Raises
    ConfigError where the decoding cannot follow the policy."""
    run = Run.of(run)
    config_json.require_above(0, pace=pace)
    config_json.require_at_least(1, timed=timed)
    test, options = evaluation_sets.of_run(
        run, split=split, data_directory=data_directory, test=test
    )
    tokenizer = bleu_tokenizer or test.tokenizer(run.config().data.corpus)
    if bleu_tokenizer is None:
        test.check_references(tokenizer)
    test = first(test, sentences)
    trained, captioner = stream.opened(run, policy, decoding=decoding, checkpoint=checkpoint)
    rows = captioner.translator.vocabulary.encode_source(test.source)
    captioner.warm_up(max(map(len, rows)))
    for source in test.source[:WARM]:
        captioner.replay(source)
    number = len(test.source)
    if timed is not None and captioner.is_independent:
        number = min(timed, number)
    captions = []
    title = f"{trained.config.name} {policies.policy_text(captioner.policy)}"
    with other_work.measured(machine.cores()) as work:
        for source in bars.Bar(test.source[:number], unit="sentence", desc=title, is_ticking=False):
            captions.append(captioner.replay(source))
    if number < len(test.source):
        captions += captioner.replay_together(test.source[number:], title=title)
    busy = work[0] if work else None
    row = {
        "kind": "stream",
        **provenance.identity(run, trained),
        "decoding": captioner.translator.choice.text,
        "policy": policies.policy_text(captioner.policy),
        "split": test.name,
        "test_hash": test.hash,
        "data_hash": test.prepared_hash or test.hash,
        "lost": test.lost,
        "device": machine.device_name(),
        "threads": machine.num_threads(),
        "date": provenance.now(),
        "command": provenance.command_of(
            "evaluate",
            run.directory,
            **test.options,
            **options,
            decoding=captioner.translator.choice.text,
            policy=policies.policy_text(captioner.policy),
            checkpoint=checkpoint_name(trained.averaged_steps or (trained.step,)),
            bleu_tokenizer=bleu_tokenizer,
            sentences=sentences,
            pace=None if pace == PACE else pace,
            timed=timed,
        ),
        "other_work": None if busy is None else dataclasses.asdict(busy),
        **scores(
            captions,
            test,
            tokenizer,
            captioner.source_unit,
            captioner.target_unit,
            pace,
            busy,
            timed=number,
        ),
    }
    results.append(run.directory, row)
    return row


def first(test: EvaluationSet, sentences: int | None) -> EvaluationSet:
    """The first sentences of a test. Raises ConfigError for fewer than one."""
    if sentences is None:
        return test
    if sentences < 1:
        raise ConfigError(f"sentences must be at least 1, got {sentences}")
    return dataclasses.replace(
        test,
        source=test.source[:sentences],
        references=[texts[:sentences] for texts in test.references],
        domains=None if test.domains is None else test.domains[:sentences],
    )


def scores(
    captions: Sequence[Caption],
    test: EvaluationSet,
    tokenizer: Tokenizer,
    source_unit: Unit,
    target_unit: Unit,
    pace: float,
    busy: OtherWork | None,
    *,
    timed: int,
) -> dict[str, Any]:
    """The part of a row that depends on the captions of a test alone. Where other work kept the cores busy, lags with
    computing are by the time of the processor. Captions that say nothing have no lag, and are counted. The first
    `timed` captions have times, and give the lags with computing. Raises ValueError where none of these says
    anything."""
    several = len(test.references) > 1
    texts = [text_of(one.final, target_unit) for one in captions]
    quality = metrics.bleu(
        texts, test.references if several else test.references[0], tokenize=tokenizer
    )
    clock: Clock = "processor" if busy is not None and busy.is_too_much else "wall"
    lengths = [len(units_of(text, target_unit)) for text in test.references[0]]
    said = [(one, length) for one, length in zip(captions, lengths, strict=True) if one.final]
    with_times = [(one, length) for one, length in said if not math.isnan(one.updates[0].seconds)]
    if not with_times:
        raise ValueError(f"none of {timed} captions says anything, and nothing can be scored")
    updates = [update for one in captions for update in one.updates]
    clocked = [update for one in captions[:timed] for update in one.updates]
    milliseconds = 1000 * np.asarray([update.seconds for update in clocked])
    return {
        "sentences": len(captions),
        "silent": len(captions) - len(said),
        "source_unit": source_unit,
        "target_unit": target_unit,
        "bleu": dataclasses.asdict(quality),
        "lags": _lags([(one.delays(), one.source_length, length) for one, length in said]),
        "pace": pace,
        "clock": clock,
        "computing_lags": _lags(
            [
                (one.computing_delays(pace, clock), one.source_length, length)
                for one, length in with_times
            ]
        ),
        "timed_sentences": timed,
        "erasure": latency.normalised_erasure([one.shown for one in captions]),
        "updates": len(updates),
        "steps": sum(update.passes for update in updates) / len(updates),
        "update_ms": {
            "mean": float(milliseconds.mean()),
            **{f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 95, 99)},
            "processor": 1000 * sum(update.processor_seconds for update in clocked) / len(clocked),
        },
    }


def _lags(of_sentences: Sequence[tuple[Sequence[Number], int, int]]) -> dict[str, dict[str, Any]]:
    """The mean of each measure over sentences, with its interval."""
    found: dict[str, Score] = {
        lag.name: metrics.of_sentences([lag.compute(*one) for one in of_sentences], DEFINITION)
        for lag in LAGS
    }
    return {
        name: {"score": score.score, "low": score.low, "high": score.high}
        for name, score in found.items()
    }


def summary(row: results.Row) -> str:
    """The row as text of a few lines."""
    lags = "   ".join(f"{lag.title} {row['lags'][lag.name]['score']:.2f}" for lag in LAGS)
    score, times = row["bleu"], row["update_ms"]
    return "\n".join(
        [
            f"{results.label(row)} {row['policy']} on {row['split']} ({results.coverage(row)}, "
            f"{results.checkpoint_text(row)})",
            f"  BLEU {score['score']:.2f} [{score['low']:.2f}, {score['high']:.2f}]   {lags}   "
            f"NE {row['erasure']:.2f}",
            f"  an update: {row['steps']:.1f} passes, {times['p50']:.1f} ms (p99 {times['p99']:.1f}), "
            f"{times['processor']:.1f} ms of the processor; LAAL with computing "
            f"{row['computing_lags']['laal']['score']:.2f} at {row['pace']:g} {row['source_unit']}s a second",
        ]
    )
