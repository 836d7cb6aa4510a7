"""What `evaluate` is asked to score on, as its command line says it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import evaluation_set
from nat_ar.data.arrays import PreparedData
from nat_ar.data.corpus import Corpus
from nat_ar.data.evaluation_set import SACREBLEU, EvaluationSet
from nat_ar.experiment.config import load_file
from nat_ar.experiment.run import Run


def outside(
    *,
    test: str | None = None,
    source: str | None = None,
    reference: Sequence[str] = (),
    languages: tuple[str | None, str | None] = (None, None),
) -> EvaluationSet | None:
    """A set that nobody prepared: `test`, as `named` reads it, or files; None where neither is given.

    Raises ConfigError for both, and for a source without references."""
    if (source is None) != (not reference):
        raise ConfigError("expected --source with --reference, got one of the two")
    if test is not None and source is not None:
        raise ConfigError("expected --test, or --source with --reference, got both")
    if source is not None:
        return evaluation_set.of_files(source, reference)
    return None if test is None else named(test, languages)


def named(text: str, languages: tuple[str | None, str | None] = (None, None)) -> EvaluationSet:
    """ "sacrebleu:wmt14/full", for the pair of `languages` or with one ("sacrebleu:wmt14/full/en-de"); or a Python file
    that assigns a corpus, such as HuggingFace(...), to `config`: its test split.

    Raises ConfigError for any other text."""
    if text.startswith(SACREBLEU):
        return evaluation_set.of_sacrebleu(text.removeprefix(SACREBLEU), languages)
    if not text.endswith(".py"):
        raise ConfigError(
            f"test: expected {SACREBLEU}NAME, such as {SACREBLEU}wmt14/full, or a Python file that assigns a corpus to "
            f"`config`, got {text!r}; a split of prepared data is --split"
        )
    corpus = load_file(text)
    if not isinstance(corpus, Corpus):
        raise ConfigError(
            f"{text}: expected a corpus in `config`, such as HuggingFace(...), got {type(corpus).__name__}"
        )
    return evaluation_set.of_corpus(corpus, text)


def of_run(
    run: Run, *, split: str, data_directory: Path | str | None, test: EvaluationSet | str | None
) -> tuple[EvaluationSet, dict[str, Any]]:
    """`test`, or its name, or None: a split of the run's prepared data or of another directory; and the options by
    which a command line names that directory."""
    config = run.config().data
    if isinstance(test, str):
        test = named(test, (config.corpus.source_language, config.corpus.target_language))
    if test is not None:
        return test, {}
    directory = data_directory or run.find(config.directory)
    found = prepared(directory, split, run.facts()["vocabulary_hash"])
    return found, {"data": data_directory}


def prepared(directory: Path | str, split: str, vocabulary_hash: str | None) -> EvaluationSet:
    """A split of a prepared directory, of the vocabulary that a run was trained with; None: whatever its vocabulary."""
    data = PreparedData.load(directory)
    if split != "train" and vocabulary_hash not in (None, data.vocabulary.hash):
        raise ValueError(
            f"{data.directory} was prepared with another vocabulary than the run was trained with; name the run's own "
            "prepared directory with --data, or the files themselves with --source and --reference"
        )
    return evaluation_set.of_prepared(data, split)
