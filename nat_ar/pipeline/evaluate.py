"""Translates a split and scores the translations.

Against raw references; every decoding appends a row to the run's results.jsonl and leaves its
translations in the run's translations/."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import prepare, references
from nat_ar.data.arrays import PreparedData, Split
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import diagnostics, metrics, results
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.speed import machine
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run, open_translator
from nat_ar.runtime import files
from nat_ar.translation.decodings import Choice
from nat_ar.translation.translator import BATCH_TOKENS, Translation

ORACLE = " oracle length"
"""The end of a row's decoding whose translations were chosen by the lengths of the references."""


def evaluate(
    run: Run | str | Path,
    *,
    decoding: Any | str | None = None,
    split: str = "test",
    checkpoint: str = "best",
    data_directory: Path | str | None = None,
    more_metrics: Sequence[Metric | str | Path] = (),
    batch_tokens: int = BATCH_TOKENS,
    bleu_tokenizer: Tokenizer | None = None,
    oracle_length: bool = False,
) -> results.Row:
    """Translates, scores, writes the row to the run's results.jsonl and returns it.

    `decoding` is an object, its text, or None for the run's own.
    more_metrics: beside METRICS; Metric objects, or Python files that define some. bleu_tokenizer: sacreBLEU's, None
    for that of the run's corpus. oracle_length: score, of the n_best translations of a decoding, the one whose number
    of tokens is nearest to the reference's, for what the choice of a length costs; the row's decoding ends in ORACLE.
    Raises ConfigError where the decoding gives one translation, or removes repeats."""
    run = Run.of(run)
    tokenizer = bleu_tokenizer or run.config().data.corpus.tokenizer
    references.require(tokenizer)
    chosen = metrics.with_more(more_metrics, tokenize=tokenizer)
    results.check_metric_names(metric.name for metric in chosen)
    folder = run.directory / "translations"
    run.config()  # a directory that is no run is left alone
    files.require_writable(folder)
    loaded, translator = open_translator(run, decoding, checkpoint)
    asked = shown = translator.choice.text
    if oracle_length:
        _require_lengths(translator.choice)
        shown += ORACLE
    translator.batch_tokens = batch_tokens
    data = PreparedData.load(data_directory or run.find(loaded.config.data.directory))
    test = _test_split(data, split, run)
    found = translator.translate(test.source_text, title=f"evaluate {loaded.config.name}")
    if oracle_length:
        found = of_nearest_length(found, test.target.lengths.tolist())
    texts = [" ".join(translation.texts[0].split("\n")) for translation in found]
    identity = {**provenance.identity(run, loaded), "decoding": shown, "test_hash": test_hash(test)}
    hypotheses = folder / f"{split}.{_file_name(identity)}.txt"
    reference_file = folder / f"{split}.references.{identity['test_hash'][:8]}.txt"
    files.write_text(hypotheses, "".join(text + "\n" for text in texts))
    files.write_text(reference_file, "".join(text + "\n" for text in test.target_text))
    row = {
        "kind": "quality",
        **identity,
        "variant": loaded.config.method.variant,
        "split": split,
        "data_hash": data.hash,
        "lost": data.num_lost(split),
        "device": machine.device_name(),
        "date": provenance.now(),
        "command": provenance.command_of(
            "evaluate",
            run.directory,
            split=split,
            decoding=asked,
            checkpoint=loaded.step,
            metrics=metrics.sources(chosen),
            bleu_tokenizer=bleu_tokenizer,
            oracle_length=oracle_length or None,
        ),
        "hypotheses": str(hypotheses.relative_to(run.directory)),
        "references": str(reference_file.relative_to(run.directory)),
        "hypotheses_hash": files.file_hash(hypotheses),
        "references_hash": files.file_hash(reference_file),
        **_scores(found, texts, test, chosen, tokenizer),
        **_validity(data, test, texts),
        **_training_cost(run, loaded.step),
    }
    results.append(run.directory, row)
    return row


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


def _test_split(data: PreparedData, name: str, run: Run) -> Split:
    """A split with raw references, of the vocabulary that the run was trained with."""
    if name == "train":
        raise ValueError(
            "expected validation or a test split, got train: the model has seen its targets"
        )
    if data.vocabulary.hash != run.facts()["vocabulary_hash"]:
        raise ValueError(
            f"{data.directory} was prepared with another vocabulary than {run.directory} was trained "
            "with; name the run's own prepared directory with --data"
        )
    return data.split(name)


def _file_name(identity: dict[str, Any]) -> str:
    """The decoding, and digits of all that decides what it translates to: no two settings, checkpoints or tests share a
    file, whatever characters tell them apart."""
    rescorer = identity["rescorer"] and identity["rescorer"]["parameters_hash"]
    decisive = [identity[key] for key in ("parameters_hash", "decoding", "test_hash")]
    label = re.sub(r"[^A-Za-z0-9.-]+", "_", identity["decoding"]).strip("_")
    return f"{label}.{files.json_hash([*decisive, rescorer])[:8]}"


def test_hash(split: Split) -> str:
    """SHA-256 of source and reference text: equal where two rows may share a table."""
    digest = hashlib.sha256()
    for lines in (split.source_text, split.target_text):
        digest.update("".join(line + "\n" for line in lines).encode())
    return digest.hexdigest()


def _scores(
    found: Sequence[Translation],
    texts: Sequence[str],
    test: Split,
    chosen: Sequence[Metric],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    targets = test.target_text
    words, target_words = ([*references.words(lines, tokenizer)] for lines in (texts, targets))
    repeated, expected = diagnostics.repetition(words), diagnostics.repetition(target_words)
    ratio = diagnostics.length_ratio(words, target_words)
    warnings = diagnostics.warnings(
        length_ratio=ratio,
        repetition=repeated.tokens,
        reference_repetition=expected.tokens,
        empty=sum(not text.strip() for text in texts),
        sentences=len(texts),
    )
    counts = {
        "translations reached their length limit": sum(t.is_cut for t in found),
        "sources were longer than the longest bucket": sum(t.is_shortened for t in found),
        "sources got no translation with a finite score": sum(t.is_missing for t in found),
    }
    warnings += [f"{count} {what}" for what, count in counts.items() if count]
    domains = test.domains if any(test.domains) else None
    return {
        "sentences": len(texts),
        "tokenised": references.num_tokenised(targets),
        **{
            metric.name: dataclasses.asdict(metric.compute(texts, targets, test.source_text))
            for metric in chosen
        },
        "domains": None
        if domains is None
        else metrics.bleu_by_group(texts, targets, domains, tokenize=tokenizer),
        "lengths": metrics.bleu_by_length(texts, targets, tokenize=tokenizer),
        "length_ratio": ratio,
        "repetition": repeated.tokens,
        "repetition_sentences": repeated.sentences,
        "steps": sum(t.passes for t in found) / max(len(found), 1),
        "warnings": warnings,
    }


def _validity(data: PreparedData, test: Split, texts: Sequence[str]) -> dict[str, Any]:
    """Percent of valid and of mixed translations, if the corpus can judge them."""
    corpus = prepare.config_of(data).corpus
    verdicts = [corpus.judge(s, t) for s, t in zip(test.source_text, texts, strict=True)]
    judged = [verdict for verdict in verdicts if verdict is not None]
    if not judged:
        return {"valid": None, "mixed": None}
    return {
        "valid": 100 * sum(verdict.valid for verdict in judged) / len(judged),
        "mixed": 100 * sum(verdict.mixed for verdict in judged) / len(judged),
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
