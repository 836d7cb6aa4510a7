"""evaluate RUN: translates a test with one or more decodings and scores the translations.

References are raw. Each decoding appends a row to the run's results.jsonl and writes its translations to the run's
translations/."""

import dataclasses
from collections.abc import Sequence

from nat_ar.config_json import ConfigError
from nat_ar.data.evaluation_set import EvaluationSet
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import diagnostics, metrics, results, sentence_scores
from nat_ar.evaluation.metrics import METRICS, Metric
from nat_ar.evaluation.speed import machine
from nat_ar.experiment.run import Run
from nat_ar.pipeline import evaluation_sets
from nat_ar.pipeline import replay as replays
from nat_ar.pipeline.evaluate import evaluate
from nat_ar.pipeline.given_scores import GivenScores
from nat_ar.pipeline.imported import evaluate_imported
from nat_ar.runtime import bars, console, distributed
from nat_ar.translation.translator import BATCH_TOKENS


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Translate a test and report BLEU (cased and lower-cased), chrF++, TER and diagnostics against raw references."""

    run_directory: str
    """the trained run"""
    decoding: tuple[str, ...] = ()
    """one or more decodings, such as "Greedy()" "Beam(size=4)"; default: the run's own"""
    split: str = "test"
    """split of the prepared data: validation, test, test_NAME"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, a step, or average:5, the mean of the best five"""
    data: str | None = None
    """prepared directory; default: that of the run's config"""
    test: str | None = None
    """instead of a split: sacrebleu:NAME, such as sacrebleu:wmt14/full, or a Python file that assigns a corpus, such as
    HuggingFace(...), to `config` (docs/metrics.md)"""
    source: str | None = None
    """instead of a split: file of source sentences"""
    reference: tuple[str, ...] = ()
    """files of references of --source, one or several, line by line"""
    imported: str | None = None
    """--import FILE: score the translations of another program, a line a source, as a row of RUN_DIRECTORY, which is
    made: quality only; the test is --data DIRECTORY with --split, --test, or --source with --reference"""
    name: str | None = None
    """of an imported system in tables; default: the name of the directory"""
    metrics: tuple[str, ...] = ()
    """Python files with further METRICS, such as COMET (docs/metrics.md)"""
    scores: tuple[str, ...] = ()
    """NAME=FILE: a number for each translation that was made before, by any other program, such as COMET=scores.txt
    (NAME:lower=FILE where lower is better); or NAME=COMMAND that prints them, such as COMET="python comet.py {source}
    {hypotheses} {references}" (docs/metrics.md)"""
    batch_tokens: int = BATCH_TOKENS
    """padded source tokens per batch of at most 64 sentences; fewer take less memory and change no translation"""
    bleu_tokenizer: Tokenizer | None = None
    """sacreBLEU's tokenizer; default: that of the target language of the run's corpus"""
    policy: tuple[str, ...] = ()
    """replay the test word by word as live captions, one at a time, under these policies, such as "Retranslate()"
    "AppendOnly()" (docs/captions.md)"""
    sentences: int | None = None
    """captions only: the first so many sentences of the test; default: all"""
    pace: float = replays.PACE
    """captions only: words a second of the source, for lags with the time of computing"""
    timed: int | None = None
    """captions only: so many sentences come one at a time, and have times; the others' prefixes share batches, under
    policies that translate each from nothing; default: all (docs/captions.md)"""
    oracle_length: bool = False
    """of the n_best translations score the one nearest in length to the reference (docs/metrics.md)"""
    coordinator: str | None = None
    """HOST:PORT at which process 0 listens, where several processes share the sentences (docs/scale.md)"""
    processes: int | None = None
    """how many processes share them"""
    process: int | None = None
    """which of them this is, from 0"""


def run(arguments: Evaluate) -> None:
    if arguments.imported is not None or arguments.name is not None:
        _score_imported(arguments)
        return
    with distributed.joined(arguments.coordinator, arguments.processes, arguments.process):
        _evaluate(arguments)


def _evaluate(arguments: Evaluate) -> None:
    bars.say(machine.summary([Run.of(arguments.run_directory).dtype()]))
    given = map(GivenScores.of, arguments.scores)
    if len(arguments.decoding) > 1 and not all(one.is_command for one in given):
        raise ConfigError(
            "a file of --scores is of one decoding's translations: expected one --decoding with it, got "
            f"{len(arguments.decoding)}"
        )
    chosen = metrics.with_more(arguments.metrics)
    corpus = Run.of(arguments.run_directory).config().data.corpus
    test = evaluation_sets.outside(
        test=arguments.test,
        source=arguments.source,
        reference=arguments.reference,
        languages=(corpus.source_language, corpus.target_language),
    )
    if arguments.policy:
        if distributed.count() > 1:
            raise ConfigError("captions are replayed by one process: leave out --coordinator")
        _replay(arguments, test)
        return
    for text in arguments.decoding or (None,):
        row = evaluate(
            arguments.run_directory,
            decoding=text,
            split=arguments.split,
            checkpoint=arguments.checkpoint,
            data_directory=arguments.data,
            test=test,
            more_metrics=chosen[len(METRICS) :],
            batch_tokens=arguments.batch_tokens,
            bleu_tokenizer=arguments.bleu_tokenizer,
            oracle_length=arguments.oracle_length,
            scores=arguments.scores,
        )
        if distributed.is_first():
            console.show(summary(row, chosen))


def _replay(arguments: Evaluate, test: EvaluationSet | None) -> None:
    """A row for each decoding under each policy."""
    for text in arguments.decoding or (None,):
        for policy in arguments.policy:
            row = replays.replay(
                arguments.run_directory,
                policy,
                decoding=text,
                split=arguments.split,
                checkpoint=arguments.checkpoint,
                data_directory=arguments.data,
                test=test,
                bleu_tokenizer=arguments.bleu_tokenizer,
                sentences=arguments.sentences,
                pace=arguments.pace,
                timed=arguments.timed,
            )
            console.show(replays.summary(row))


def _score_imported(arguments: Evaluate) -> None:
    if arguments.imported is None:
        raise ConfigError("--name is that of an imported system: expected --import FILE with it")
    if len(arguments.decoding) > 1:
        raise ConfigError(
            f"--import takes one --decoding, in your words, got {len(arguments.decoding)}"
        )
    test = evaluation_sets.outside(
        test=arguments.test, source=arguments.source, reference=arguments.reference
    )
    options = {}
    if test is None:
        if arguments.data is None:
            raise ConfigError(
                "--import needs the test that was translated: --data DIRECTORY (of `prepare`) with --split, --test, or "
                "--source with --reference"
            )
        test = evaluation_sets.prepared(arguments.data, arguments.split, None)
        options["data"] = arguments.data
    chosen = metrics.with_more(arguments.metrics)
    row = evaluate_imported(
        arguments.run_directory,
        arguments.imported,
        test,
        name=arguments.name,
        decoding=(arguments.decoding or (results.IMPORTED,))[0],
        more_metrics=chosen[len(METRICS) :],
        scores=arguments.scores,
        bleu_tokenizer=arguments.bleu_tokenizer,
        options=options,
    )
    console.show(summary(row, chosen))


def summary(row: results.Row, chosen: Sequence[Metric] = METRICS) -> str:
    """The row as text of a few lines."""
    scored = [*chosen, *sentence_scores.metrics_of([row], chosen)]
    quality = "   ".join(
        metric.summary(row[metric.name]) for metric in scored if metric.name in row
    )
    made, passes = "imported", ""
    if row["method"] != results.IMPORTED:
        made = results.checkpoint_text(row)
        passes = f"   decoder passes {row['steps']:.1f}"
    lines = [
        f"{row['name']} {row['decoding']} on {row['split']} ({results.coverage(row)}, {made})",
        f"  {quality}   length ratio {row['length_ratio']:.3f}   "
        f"repetition {row['repetition']:.2f} %{passes}",
        f"  {row['bleu']['signature']}",
    ]
    if row["valid"] is not None:
        lines.append(f"  valid {row['valid']:.1f} %   mixed {row['mixed']:.1f} %")
    groups = {"domain": row["domains"] or {}, "length": row["lengths"] or {}}
    for kind, scores in groups.items():
        if scores:
            shown = ", ".join(
                f"{name} {s['bleu']:.1f} ({s['sentences']})" for name, s in scores.items()
            )
            lines.append(f"  BLEU by {kind}: {shown}")
    warnings = [
        diagnostics.with_cause(text, row["family"], row["training_data"])
        for text in row["warnings"]
    ]
    if (of_references := results.tokenised(row)) is not None:
        warnings.insert(0, of_references)
    lines += [f"  warning: {text}" for text in warnings]
    return "\n".join([*lines, *(["  (see docs/metrics.md)"] if warnings else [])])
