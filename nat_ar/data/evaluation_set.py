"""What translations are scored on: sources, with one reference each or several. From prepared data, from files, from
sacreBLEU's test sets, or from a corpus: none but the first needs `prepare`."""

import dataclasses
import difflib
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import prepare, references, text_files, vocabulary
from nat_ar.data.arrays import PreparedData
from nat_ar.data.corpus import Corpus
from nat_ar.data.pair import Report
from nat_ar.data.references import Tokenizer

SACREBLEU = "sacrebleu:"
"""How the names of sacreBLEU's test sets begin."""


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Sources and their raw references, in order."""

    name: str
    """what rows call the split: "test" of prepared data, "files:SOURCE", "sacrebleu:SET/PAIR", "corpus:NAME" """
    source: list[str]
    references: list[list[str]]
    """one list or several, of which each sentence has one reference each"""
    options: Mapping[str, Any]
    """of `evaluate`, by which its command line names the set"""
    domains: list[str] | None = None
    lost: int = 0
    """pairs that could not be read or used, and are not in it"""
    corpus: Corpus | None = None
    """where it is from, if that may judge translations"""
    target_language: str | None = None
    prepared_hash: str | None = None
    """of the prepared data that it is a split of"""

    def __post_init__(self) -> None:
        for place, texts in enumerate(self.references, start=1):
            if len(texts) != len(self.source):
                raise ValueError(
                    f"{self.name}: {len(self.source)} sources and {len(texts)} references"
                    f"{f' in list {place}' if len(self.references) > 1 else ''}: expected one for each source"
                )
            blank = next((row for row, text in enumerate(texts, 1) if not text.strip()), None)
            if blank is not None:
                raise ValueError(
                    f"{self.name}: the reference of line {blank} is blank: remove the line from every file"
                )
        if not self.source:
            raise ValueError(f"{self.name}: expected sentences to translate, got none")

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of source and reference text: equal where two rows may share a table."""
        digest = hashlib.sha256()
        for lines in (self.source, *self.references):
            digest.update("".join(line + "\n" for line in lines).encode())
        return digest.hexdigest()

    def tokenizer(self, known: Corpus | None) -> Tokenizer:
        """sacreBLEU's tokenizer for the references: that of the corpus that the model was trained on, or of the
        set's own language where that corpus does not name its language."""
        own = references.tokenizer_of(self.target_language)
        if self.corpus is not None:
            own = self.corpus.tokenizer
        if known is not None and (known.target_language or known.bleu_tokenizer):
            return known.tokenizer
        return own

    def check_references(self, tokenizer: Tokenizer) -> None:
        """Raises ValueError for references that BLEU cannot score by this tokenizer. Those of prepared data have been
        looked at."""
        if self.prepared_hash is None:
            for texts in self.references:
                references.check(texts, tokenizer, self.name)


def of_prepared(data: PreparedData, split: str) -> EvaluationSet:
    """A split of prepared data. Raises ValueError for the training data, and where there is no such split."""
    if split == "train":
        raise ValueError(
            "expected validation or a test split, got train: the model has seen its targets"
        )
    found = data.split(split)
    return EvaluationSet(
        split,
        list(found.source_text),
        [list(found.target_text)],
        {"split": split},
        domains=list(found.domains) if any(found.domains) else None,
        lost=data.num_lost(split),
        corpus=prepare.config_of(data).corpus,
        prepared_hash=data.hash,
    )


def of_files(source: str | Path, references: Sequence[str | Path]) -> EvaluationSet:
    """Plain UTF-8 files, gzipped or not: one of sources and one or more of references, line n of which translates line
    n. Raises ValueError where one is broken or the counts differ."""
    if not references:
        raise ValueError("expected one file of references or more, got none")
    return EvaluationSet(
        f"files:{Path(source).name}",
        text_files.texts_of(source),
        [text_files.texts_of(path) for path in references],
        {"source": str(source), "reference": tuple(map(str, references))},
    )


def of_sacrebleu(name: str, languages: tuple[str | None, str | None]) -> EvaluationSet:
    """A test set by its name in sacreBLEU, "wmt14/full", or with the pair of languages, "wmt14/full/en-de"; without
    it, `languages` are source and target. With all of its references. sacreBLEU keeps it in ~/.sacrebleu, or where
    $SACREBLEU says, and fetches it from the network once.

    Raises ConfigError for a set or a pair that sacreBLEU does not have, or cannot fetch."""
    import sacrebleu  # takes 0.13 s, and loads lxml
    import sacrebleu.dataset

    known = sacrebleu.dataset.DATASETS
    pair = "-".join(language or "" for language in languages)
    if re.search("/[a-z]+-[a-z]+$", name):
        name, _, pair = name.rpartition("/")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["wmt14/full"]
        raise ConfigError(
            f"sacreBLEU has no test set {name!r}; near it are {', '.join(near)} (`sacrebleu --list` shows all)"
        )
    pairs = sorted(known[name].langpairs)
    if pair not in pairs:
        got = f"got {pair}"
        if pair.startswith("-") or pair.endswith("-"):
            got = "the corpus of the run does not name its languages"
        raise ConfigError(
            f"{name}: expected one of {', '.join(pairs)} behind it, such as {SACREBLEU}{name}/{pairs[0]}; {got}"
        )
    try:
        source = known[name].get_source_file(pair)
        paths = known[name].get_reference_files(pair)
    except (Exception, SystemExit) as error:  # of the network, of archives, of a checksum
        raise ConfigError(
            f"sacreBLEU cannot fetch {name} for {pair}: {type(error).__name__}: {error}; run `sacrebleu -t {name} -l "
            f"{pair} --echo src` where there is a network, and copy its directory (~/.sacrebleu, or $SACREBLEU)"
        ) from error
    full = f"{SACREBLEU}{name}/{pair}"
    return EvaluationSet(
        full,
        text_files.texts_of(source),
        [text_files.texts_of(path) for path in paths],
        {"test": full},
        target_language=pair.partition("-")[2],
    )


def of_corpus(corpus: Corpus, path: str | Path) -> EvaluationSet:
    """The test split of a corpus that the Python file at `path` describes; nothing but that split is read. Pairs that
    the corpus drops are counted as lost. Raises ValueError where there is none."""
    report = Report()
    pairs = list(corpus.read("test", report))
    return EvaluationSet(
        f"corpus:{Path(path).stem}",
        [vocabulary.one_line(pair.source) for pair in pairs],
        [[vocabulary.one_line(pair.target) for pair in pairs]],
        {"test": str(path)},
        domains=[pair.domain for pair in pairs] if any(pair.domain for pair in pairs) else None,
        lost=report.lost["test"],
        corpus=corpus,
        target_language=corpus.target_language,
    )
