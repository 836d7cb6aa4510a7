"""Translates a test and scores the translations.

Against raw references; every decoding appends a row to the run's results.jsonl and leaves its
translations in the run's translations/."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data.evaluation_set import EvaluationSet
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.speed import machine
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run, checkpoint_name
from nat_ar.experiment.translators import open_translator
from nat_ar.pipeline import evaluation_sets, given_scores, scoring
from nat_ar.pipeline.given_scores import GivenScores
from nat_ar.runtime import devices, distributed, files
from nat_ar.translation import decodings
from nat_ar.translation.decodings import Choice
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import BATCH_TOKENS

ORACLE = " oracle length"
"""The end of a row's decoding whose translations were chosen by the lengths of the references."""


def evaluate(
    run: Run | str | Path,
    *,
    decoding: Any | str | None = None,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: Path | str | None = None,
    test: EvaluationSet | str | None = None,
    more_metrics: Sequence[Metric | str | Path] = (),
    batch_tokens: int = BATCH_TOKENS,
    bleu_tokenizer: Tokenizer | None = None,
    oracle_length: bool = False,
    scores: Sequence[str] = (),
) -> results.Row:
    """Translates, scores, writes the row to the run's results.jsonl and returns it.

    `decoding` is an object, its text, or None for the run's own. test: instead of a split of prepared data, text such
    as "sacrebleu:wmt14/full" (evaluation_sets.named), or `evaluation_set.of_files(source, references)`.
    more_metrics: beside METRICS; Metric objects, or Python files that define some. bleu_tokenizer: sacreBLEU's, None
    for that of the run's corpus. oracle_length: score, of the n_best translations of a decoding, the one whose number
    of tokens is nearest to the (first) reference's, for what the choice of a length costs; the row's decoding ends in
    ORACLE. Raises ConfigError where the decoding gives one translation, or removes repeats. scores: of each translation
    by another program, "COMET=FILE" or a command (given_scores). A file is of translations that were made before: with
    one, nothing is translated, and the row of before is written again with the scores.

    Processes that compute together (runtime.distributed) all call it alike and share the batches; the first scores and
    writes, and all return the row."""
    run = Run.of(run)
    test, options = evaluation_sets.of_run(
        run, split=split, data_directory=data_directory, test=test
    )
    tokenizer = bleu_tokenizer or test.tokenizer(run.config().data.corpus)
    chosen = scoring.choose_metrics(more_metrics, test, tokenizer)
    given = [GivenScores.of(text) for text in scores]
    given_scores.check(given, chosen)
    files.require_writable(run.directory / scoring.FOLDER)
    if not all(one.is_command for one in given):
        if more_metrics or bleu_tokenizer is not None:
            raise ConfigError(
                "a file of scores is added to a row that is there, and nothing else is: leave out --metrics and "
                "--bleu-tokenizer"
            )
        choice = decodings.choose(run.config().method, decoding)
        shown = choice.text + (ORACLE if oracle_length else "")

        def added() -> results.Row:
            row = _row_of_before(run, shown, run.parameters_hash(checkpoint), test)
            return given_scores.add(run.directory, row, test, given)

        return distributed.from_first(added)
    if bleu_tokenizer is None:
        test.check_references(tokenizer)
    pinned = distributed.from_first(lambda: run.pinned(checkpoint))
    loaded, translator = open_translator(run, decoding, pinned)
    asked = shown = translator.choice.text
    if oracle_length:
        _require_lengths(translator.choice)
        shown += ORACLE
    translator.batch_tokens = batch_tokens
    translator.devices, translator.is_shared = devices.local(), True
    identity = {
        **provenance.identity(run, loaded),
        "decoding": shown,
        "test_hash": test.hash,
    }
    distributed.require_same(identity, "all processes evaluate one model on one test")
    found = translator.translate(test.source, title=f"evaluate {loaded.config.name}")
    if oracle_length and distributed.is_first():
        lengths = [len(row) for row in loaded.vocabulary.encode_target(test.references[0])]
        found = of_nearest_length(found, lengths)

    def written() -> results.Row:
        texts = [" ".join(translation.texts[0].split("\n")) for translation in found]
        scored = scoring.write_and_score(
            run.directory, _file_name(identity), texts, test, chosen, tokenizer
        )
        row = {
            "kind": "quality",
            **identity,
            "variant": loaded.config.method.variant,
            "split": test.name,
            "data_hash": test.prepared_hash or test.hash,
            "lost": test.lost,
            "device": machine.device_name(),
            "date": provenance.now(),
            "command": provenance.command_of(
                "evaluate",
                run.directory,
                **test.options,
                **options,
                decoding=asked,
                checkpoint=checkpoint_name(loaded.averaged_steps or (loaded.step,)),
                metrics=metrics.sources(chosen),
                bleu_tokenizer=bleu_tokenizer,
                oracle_length=oracle_length or None,
            ),
            **scored,
            "steps": sum(t.passes for t in found) / max(len(found), 1),
            "verification": _verification(found),
            "warnings": [*scored["warnings"], *_warnings(found)],
            **_training_cost(run, loaded.step),
        }
        results.append(run.directory, row)
        return given_scores.add(run.directory, row, test, given) if given else row

    return distributed.from_first(written)


def _row_of_before(
    run: Run, decoding: str, parameters_hash: str, test: EvaluationSet
) -> results.Row:
    """The last row of the model's translations of a test. Raises ConfigError where there is none."""
    asked = {"kind": "quality", "decoding": decoding, "test_hash": test.hash}
    asked |= {"config_hash": run.config_hash, "parameters_hash": parameters_hash}
    has_rows = (run.directory / results.FILE_NAME).is_file()
    rows = results.read(run.directory) if has_rows else []
    known = [row for row in rows if all(row.get(key) == asked[key] for key in asked)]
    if not known:
        raise ConfigError(
            f"{run.directory} has no row of {decoding} on {test.name} by this checkpoint, whose translations a file "
            "could score: run the same command without --scores, score the translations that it writes, and repeat it"
        )
    return sorted(known, key=lambda row: row["date"])[-1]  # of one second, the later line


def _require_lengths(choice: Choice) -> None:
    """Raises ConfigError unless a decoding gives translations of several lengths as they were tried."""
    if choice.decoding.n_best < 2 or choice.decoding.remove_repeats:
        raise ConfigError(
            "oracle_length chooses among several lengths: expected a decoding with n_best, and without remove_repeats, "
            f'which shortens, such as "LengthBeam(size=15, n_best=15)", got {choice.text}'
        )


def of_nearest_length(found: Sequence[Translation], lengths: Sequence[int]) -> list[Translation]:
    """Of the n best translations of each sentence the one nearest to a number of tokens, the better of two."""
    chosen = []
    for translation, length in zip(found, lengths, strict=True):
        distances = [abs(len(tokens) - length) for tokens in translation.tokens]
        best = distances.index(min(distances))
        chosen.append(
            dataclasses.replace(
                translation,
                texts=[translation.texts[best]],
                scores=[translation.scores[best]],
                tokens=[translation.tokens[best]],
            )
        )
    return chosen


def _file_name(identity: dict[str, Any]) -> str:
    """The decoding, and digits of all that decides what it translates to: no two settings, checkpoints or tests share a
    file, whatever characters tell them apart."""
    rescorer = identity["rescorer"] and identity["rescorer"]["parameters_hash"]
    decisive = [identity[key] for key in ("parameters_hash", "decoding", "test_hash")]
    return f"{files.as_name(identity['decoding'])}.{files.json_hash([*decisive, rescorer])[:8]}"


def _warnings(found: Sequence[Translation]) -> list[str]:
    """One line for each kind of translation that is not what was asked for."""
    counts = {
        "sources are blank, and so are their translations": sum(t.is_blank for t in found),
        "translations reached their length limit": sum(t.is_cut for t in found),
        "sources were longer than the longest bucket": sum(t.is_shortened for t in found),
        "sources got no translation with a finite score": sum(t.is_missing for t in found),
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def _verification(found: Sequence[Translation]) -> dict[str, Any] | None:
    """Passes a sentence that verified drafts, the words that each of them accepted, EOS included, and how many of all
    words hung on a near tie; None where there were no drafts."""
    drafted = [t for t in found if t.verified_passes is not None and not t.is_blank]
    if not drafted:
        return None
    passes = sum(t.verified_passes or 0 for t in drafted)
    near_ties = [t.near_ties for t in drafted if t.near_ties is not None]
    return {
        "passes": passes / len(drafted),
        "words_a_pass": sum(len(t.tokens[0]) + 1 for t in drafted) / passes,
        "near_ties": sum(near_ties) if near_ties else None,
    }


def _training_cost(run: Run, step: int) -> dict[str, Any]:
    """Steps, seconds and target tokens up to the checkpoint. Compilation is counted apart: a warm cache would make the
    same training cheaper."""
    progress = run.progress(step)
    return {
        "train_steps": step,
        "train_seconds": progress["seconds"],
        "train_compile_seconds": progress.get("compile_seconds"),
        "train_target_tokens": progress["target_tokens"],
    }
