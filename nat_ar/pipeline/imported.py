"""The translations of another program as a row of quality: what was timed elsewhere is no speed row here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import text_files
from nat_ar.data.evaluation_set import EvaluationSet
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.metrics import Metric
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run
from nat_ar.pipeline import given_scores, scoring
from nat_ar.pipeline.given_scores import GivenScores
from nat_ar.runtime import files

UNKNOWN = (
    *("family", "training_data", "config_hash", "checkpoint_step", "parameters_hash", "parameters"),
    *(
        "rescorer",
        "drafter",
        "teacher",
        "start_from",
        "members",
        "device",
        "dtype",
        "steps",
        "variant",
    ),
    *("train_seconds", "train_compile_seconds", "train_steps", "train_target_tokens"),
)
"""Keys of a row that are null: nothing of ours has translated."""


def evaluate_imported(
    directory: str | Path,
    hypotheses: str | Path,
    test: EvaluationSet,
    *,
    name: str | None = None,
    decoding: str = results.IMPORTED,
    more_metrics: Sequence[Metric | str | Path] = (),
    scores: Sequence[str] = (),
    bleu_tokenizer: Tokenizer | None = None,
    options: dict[str, Any] | None = None,
) -> results.Row:
    """Scores the lines of a file, detokenised translations of the sources in their order, writes the row to the
    directory's results.jsonl and returns it.

    name: of the system in tables, by default that of the directory. decoding: how it translated, in words. scores: of
    each line by another program, "COMET=FILE" or a command (given_scores). options:
    further ones of the command line that the row repeats. Raises ConfigError where the directory is a run of ours,
    and ValueError where the lines are not as many as the sources."""
    directory = Path(directory)
    if Run(directory).config_path.exists():
        raise ConfigError(
            f"{directory} is a run of ours: name a directory of its own for the imported system, such as "
            f"{directory.parent / (name or 'imported')}"
        )
    tokenizer = bleu_tokenizer or test.tokenizer(test.corpus)
    chosen = scoring.choose_metrics(more_metrics, test, tokenizer)
    given = [GivenScores.of(text) for text in scores]
    given_scores.check(given, chosen)
    if bleu_tokenizer is None:
        test.check_references(tokenizer)
    texts = text_files.texts_of(hypotheses)
    if len(texts) != len(test.source):
        raise ValueError(
            f"{hypotheses} has {len(texts)} lines and {test.name} {len(test.source)} sources: expected a translation "
            "for each source, in order, a blank line where there is none"
        )
    files.require_writable(directory / scoring.FOLDER)
    digest = files.json_hash([texts, test.hash])
    row = {
        "kind": "quality",
        "name": name or directory.resolve().name,
        "run": str(directory),
        "method": "imported",
        "decoding": decoding,
        **dict.fromkeys(UNKNOWN),
        "split": test.name,
        "test_hash": test.hash,
        "data_hash": test.prepared_hash or test.hash,
        "lost": test.lost,
        "date": provenance.now(),
        "command": provenance.command_of(
            "evaluate",
            directory,
            **{"import": str(hypotheses)},
            name=name,
            **test.options,
            **(options or {}),
            decoding=decoding,
            metrics=metrics.sources(chosen),
            bleu_tokenizer=bleu_tokenizer,
        ),
        **scoring.write_and_score(
            directory, f"{files.as_name(decoding)}.{digest[:8]}", texts, test, chosen, tokenizer
        ),
    }
    results.append(directory, row)
    return given_scores.add(directory, row, test, given) if given else row
