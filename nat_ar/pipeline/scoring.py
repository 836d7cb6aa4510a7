"""From translations of an evaluation set to the part of a quality row that depends on nothing else, and the files that
`compare` reads. The same for a run of ours and for what another program translated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.data import references
from nat_ar.data.evaluation_set import EvaluationSet
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import diagnostics, metrics, results, sentence_scores
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.table import columns
from nat_ar.runtime import files

FOLDER = "translations"
"""of a directory with results: what was translated, and the references"""


def choose_metrics(
    more: Sequence[Metric | str | Path], test: EvaluationSet, tokenizer: Tokenizer
) -> tuple[Metric, ...]:
    """METRICS for this tokenizer, and more of them. Raises ValueError, before any work, for one that rows or tables
    have another meaning for, that takes one reference where there are several, or whose package is missing."""
    references.require(tokenizer)
    chosen = metrics.with_more(more, tokenize=tokenizer)
    results.check_metric_names(metric.name for metric in chosen)
    columns.check((), chosen)
    for metric in chosen:
        metric.require_references(len(test.references))
    return chosen


def write_and_score(
    directory: Path,
    file_name: str,
    texts: Sequence[str],
    test: EvaluationSet,
    chosen: Sequence[Metric],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """The translations as files of the directory, then every metric, BLEU by domain and by length, and what points to a
    fault."""
    written = _write(directory, texts, test, file_name)
    several = len(test.references) > 1
    against: metrics.References = test.references if several else test.references[0]
    computed = {metric: metric.compute(texts, against, test.source) for metric in chosen}
    return {
        **written,
        **{metric.name: score.as_row() for metric, score in computed.items()},
        "sentence_scores": sentence_scores.keep(
            directory, written["hypotheses"], written["hypotheses_hash"], computed
        ),
        **_diagnosis(texts, test, against, tokenizer),
    }


def _write(
    directory: Path, texts: Sequence[str], test: EvaluationSet, file_name: str
) -> dict[str, Any]:
    """Writes translations and references below the directory; the fields of a row that name them."""
    folder = directory / FOLDER
    files.make_directory(folder)
    hypotheses = folder / f"{files.as_name(test.name)}.{file_name}.txt"
    files.write_text(hypotheses, _text(texts))
    paths = []
    for number, lines in enumerate(test.references, start=1):
        more = "" if number == 1 else f".{number}"
        paths.append(folder / f"{files.as_name(test.name)}.references.{test.hash[:8]}{more}.txt")
        files.write_text(paths[-1], _text(lines))
    first, *others = (str(path.relative_to(directory)) for path in paths)
    digest, *digests = map(files.file_hash, paths)
    return {
        "hypotheses": str(hypotheses.relative_to(directory)),
        "references": first,
        "more_references": others,
        "hypotheses_hash": files.file_hash(hypotheses),
        "references_hash": digest,
        "more_references_hashes": digests,
    }


def _text(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _diagnosis(
    texts: Sequence[str], test: EvaluationSet, against: metrics.References, tokenizer: Tokenizer
) -> dict[str, Any]:
    """BLEU by domain and by length, and what points to a fault."""
    words, *targets = ([*references.words(lines, tokenizer)] for lines in (texts, *test.references))
    nearest = [
        min(candidates, key=lambda reference: abs(len(reference) - len(ours)))
        for ours, candidates in zip(words, zip(*targets, strict=True), strict=True)
    ]
    repeated = diagnostics.repetition(words)
    expected = diagnostics.repetition([sentence for lines in targets for sentence in lines])
    ratio = diagnostics.length_ratio(words, nearest)
    return {
        "sentences": len(texts),
        "tokenised": max(map(references.num_tokenised, test.references)),
        "domains": None
        if test.domains is None
        else metrics.bleu_by_group(texts, against, test.domains, tokenize=tokenizer),
        "lengths": metrics.bleu_by_length(texts, against, tokenize=tokenizer),
        "length_ratio": ratio,
        "repetition": repeated.tokens,
        "repetition_sentences": repeated.sentences,
        **_validity(texts, test),
        "warnings": diagnostics.warnings(
            length_ratio=ratio,
            repetition=repeated.tokens,
            reference_repetition=expected.tokens,
            empty=sum(not text.strip() for text in texts),
            sentences=len(texts),
        ),
    }


def _validity(texts: Sequence[str], test: EvaluationSet) -> dict[str, Any]:
    """Percent of valid and of mixed translations, if the corpus can judge them."""
    verdicts = []
    if test.corpus is not None:
        pairs = zip(test.source, texts, strict=True)
        verdicts = [test.corpus.judge(source, text) for source, text in pairs]
    judged = [verdict for verdict in verdicts if verdict is not None]
    if not judged:
        return {"valid": None, "mixed": None}
    return {
        "valid": 100 * sum(verdict.valid for verdict in judged) / len(judged),
        "mixed": 100 * sum(verdict.mixed for verdict in judged) / len(judged),
    }
