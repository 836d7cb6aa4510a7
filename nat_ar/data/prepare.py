"""From a corpus to a prepared directory (arrays.py), in memory that does not grow with the corpus.

Clean texts are spooled to disk, then encoded in chunks into the arrays' files. Nothing is dropped silently: the
manifest's report counts every reason, with examples."""

import contextlib
import dataclasses
import itertools
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

import nat_ar
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import (
    arrays,
    checked,
    cleaning,
    corpus_code,
    encoding,
    fertilities,
    references,
    vocabulary,
)
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData, Split
from nat_ar.data.catalogue import AnyCorpus
from nat_ar.data.corpus import Corpus
from nat_ar.data.encoding import Piece
from nat_ar.data.pair import Report
from nat_ar.data.progress import Progress, timed
from nat_ar.data.ragged import evenly_spaced
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.runtime import bars, files

READER = 1
"""Changes when the same files and config give other arrays."""


@dataclasses.dataclass(frozen=True)
class DataConfig(config_json.Config):
    """Everything that decides what a prepared directory holds."""

    directory: str
    """where the prepared data go; the only field that does not change them"""
    corpus: AnyCorpus
    """where the pairs come from"""
    vocabulary: VocabularyConfig = VocabularyConfig()
    """how the texts are cut into subwords"""
    aligner: AlignerConfig | None = AlignerConfig()
    """the word aligner that gives fertilities of train and validation; None for methods that need none"""
    alignments: str | None = None
    """Pharaoh file ("0-0 1-2", source-target) with a line for each training pair, between vocabulary
    pieces: replaces the aligner's links of the training split. Its pairs are those of train/source.txt, as a first
    `prepare` without it writes them"""
    max_tokens: int = 200
    """training pairs with a longer side (in pieces) are dropped; validation and test keep all pairs"""
    max_length_ratio: float | None = None
    """training pairs are dropped if one side has more than this many times the pieces of the other"""
    remove_overlap: bool = True
    """drop training pairs whose source or target occurs in validation or a test, compared without case and without what
    a reader cannot tell apart"""
    max_lost: float = 0.05
    """share of the training pairs that may be dropped, for whatever reason; more is an error"""
    may_lose_tests: bool = False
    """validation and tests may lose pairs that are broken, empty or over-long; tables then say of how many"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, any number of pairs could be lost; what was prepared then is not looked at again."""
        return {"max_lost": 0.05, "may_lose_tests": False, **data}

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens {self.max_tokens}: expected at least 1")
        if self.max_length_ratio is not None and self.max_length_ratio < 1:
            raise ConfigError(f"max_length_ratio {self.max_length_ratio}: expected at least 1")
        config_json.require_share("data.max_lost", self.max_lost)


def from_files(config: DataConfig, paths: Sequence[str]) -> DataConfig:
    """The same config for tab-separated files as corpus: one, with the hold-out of the config's corpus, or three,
    training, validation and test. Languages and BLEU's tokenizer stay those of the config."""
    scoring = ("source_language", "target_language", "bleu_tokenizer")
    kept = {name: getattr(config.corpus, name) for name in scoring}
    if len(paths) == 3:
        train, validation, test = paths
        corpus = TextFiles(train=(train,), validation=(validation,), test=(test,), **kept)
        return dataclasses.replace(config, corpus=config.corpus.of(corpus))
    if len(paths) != 1:
        raise ConfigError(
            f"corpus_file: expected one file, or three for training, validation and test, got {len(paths)}"
        )
    hold_out = config.corpus.hold_out
    if hold_out is None:
        raise ConfigError(
            f"corpus_file {paths[0]}: {type(config.corpus).__name__} has no hold_out by which to split one "
            "file; give three, for training, validation and test, or write a config with TextFiles"
        )
    corpus = TextFiles(train=(paths[0],), hold_out=hold_out, **kept)
    return dataclasses.replace(config, corpus=config.corpus.of(corpus))


def config_of(data: PreparedData) -> DataConfig:
    """The config that the data, or the data that they were distilled from, were prepared by."""
    return config_json.from_json(DataConfig, data.manifest["config"], str(data.directory))


def as_begun(config: DataConfig) -> DataConfig:
    """The config, with what was done in a directory that was prepared before `vocabulary.white_space` existed."""
    directory = Path(config.directory)
    if not (directory / arrays.MANIFEST).exists():
        return config
    if "white_space" in arrays.read_manifest(directory)["config"]["vocabulary"]:
        return config
    words = dataclasses.replace(config.vocabulary, white_space="keep")
    return dataclasses.replace(config, vocabulary=words)


def prepare(config: DataConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Makes the prepared directory and returns its manifest; at once if it was made with the same config before.

    An interrupted run leaves nothing under `config.directory`; the next one starts again. What was prepared `as_begun`
    stays so. Raises ValueError if the
    directory was prepared with another config (naming the fields that differ), and for broken files, empty splits and
    impossible vocabularies."""
    directory = Path(config.directory)
    if (directory / arrays.MANIFEST).exists():
        if (begun := as_begun(config)) != config and not quiet:
            bars.say(
                f"nat-ar: {directory} was prepared by an earlier version, which kept white space as it is, and goes on "
                'so; to have vocabulary.white_space "collapse", name a new directory'
            )
        return made_before(directory, begun)
    show = Progress(quiet)
    with arrays.new_directory(directory) as partial:
        manifest = write(config, partial, clean(config, partial, show), show)
    return manifest


@dataclasses.dataclass
class Cleaned:
    """What a corpus is before it is encoded: the first half of preparing it."""

    place: Path
    """holds the clean texts of each split (`spool`) and the vocabulary (`vocabulary`)"""
    sentences: dict[str, int]
    """pairs of each split"""
    read: dict[str, int]
    """the same with those that were lost"""
    report: Report
    seconds: dict[str, float]
    """of each stage so far"""


def clean(config: DataConfig, place: Path, show: Progress) -> Cleaned:
    """Reads the corpus and learns the vocabulary."""
    report = Report()
    seconds: dict[str, float] = {}
    spool = place / "spool"
    with timed(seconds, "read"):
        sentences = cleaning.spool(
            config.corpus,
            spool,
            report,
            removes_overlap=config.remove_overlap,
            progress=show.bar,
        )
        read = {name: number + report.lost[name] for name, number in sentences.items()}
        _check_lost(config, read, report)
    with timed(seconds, "vocabulary"):
        limit = config.vocabulary.max_training_sentences
        is_learnt_from = evenly_spaced(sentences["train"], limit)
        with show.line(f"vocabulary: {config.vocabulary.kind} of {config.vocabulary.size}"):
            source, target = (
                itertools.compress(arrays.read_texts(spool / "train", side), is_learnt_from)
                for side in ("source", "target")
            )
            vocabulary.train(source, target, place / "vocabulary", config.vocabulary)
    return Cleaned(place, sentences, read, report, seconds)


def write(
    config: DataConfig,
    partial: Path,
    cleaned: Cleaned,
    show: Progress,
    *,
    pieces: Iterable[Piece] | None = None,
) -> dict[str, Any]:
    """The second half: fills a prepared directory, and returns its manifest. `pieces`: the training pairs, encoded
    before. Clean texts inside the directory are removed."""
    report, seconds, spool = cleaned.report, cleaned.seconds, cleaned.place / "spool"
    words = Vocabulary.load(cleaned.place / "vocabulary")
    if cleaned.place != partial:
        shutil.copytree(cleaned.place / "vocabulary", partial / "vocabulary")
    with timed(seconds, "encode"):
        for name, number in cleaned.sentences.items():
            if name == "train" and pieces is not None:
                encoding.join_split(partial / name, spool / name, pieces, words, report)
            else:
                write_split(partial / name, spool / name, number, words, config, report, show)
    if cleaned.place == partial:
        shutil.rmtree(spool)
    _check_lost(config, cleaned.read, report)
    _check_references(config.corpus, partial, cleaned.sentences)
    with timed(seconds, "align"):
        write_fertilities(config, partial, words, report, show)
    return arrays.write_manifest(
        partial,
        {
            "training_data": "raw",
            **description(config, partial, list(cleaned.sentences), words, report, seconds),
        },
    )


def decisive(config: dict[str, Any], corpus: type[Corpus]) -> dict[str, Any]:
    """The fields of a config that decide what the directory holds."""
    scoring = {"bleu_tokenizer"}
    if not corpus.reads_by_language:
        scoring |= {"source_language", "target_language"}
    read = {name: value for name, value in config["corpus"].items() if name not in scoring}
    permissions = ("directory", "max_lost", "may_lose_tests")
    return {**config, **dict.fromkeys(permissions), "corpus": read}


def _check_lost(config: DataConfig, read: dict[str, int], report: Report) -> None:
    """Raises ValueError where a test is not whole, or training lost more than the config allows. `read`: the pairs of
    each split, with those that were lost."""
    for split, number in read.items():
        lost = report.lost[split]
        if split != "train" and lost and not config.may_lose_tests:
            raise ValueError(
                f"{split} would lose {lost:,} pairs ({report.reasons(split)}), and a score would not be of the whole: "
                "mend or remove them, or set data.may_lose_tests to True, and tables say of how many"
            )
        if split == "train" and lost > config.max_lost * number:
            raise ValueError(
                f"training would lose {lost:,} of {number:,} pairs, {lost / number:.0%} "
                f"({report.reasons(split)}): expected at most {config.max_lost:.0%}; mend them or change "
                "the limit that drops them, or allow it by data.max_lost"
            )


def _check_references(corpus: Corpus, partial: Path, splits: Iterable[str]) -> None:
    """Raises ValueError for references that BLEU cannot score; a tokenizer that the config names is its own choice."""
    references.require(corpus.tokenizer)
    for name in splits:
        if name != "train" and corpus.bleu_tokenizer is None:
            references.check(Split.load(partial / name).target_text, corpus.tokenizer, name)


def made_before(directory: Path, config: DataConfig) -> dict[str, Any]:
    """The manifest of a directory that was made by the same config, all of whose files are looked at."""
    data = PreparedData.load(directory, check="whole")
    manifest, old = data.manifest, data.manifest["config"]
    with contextlib.suppress(ConfigError):  # a class of a notebook, or one that has changed
        old = config_json.to_json(config_of(data))
    corpus = type(config.corpus)
    new = config_json.to_json(config)
    if changes := list(config_json.differences(decisive(old, corpus), decisive(new, corpus))):
        raise ValueError(
            f"{directory} was prepared with another config ({'; '.join(changes)}): "
            "name a new directory or remove this one"
        )
    if manifest["training_data"] != "raw":
        raise ValueError(f"{directory} holds distilled data: name a new directory")
    if changed := [*_changed_inputs(manifest, config)]:
        raise ValueError(
            f"{directory} was prepared from what has changed since ({'; '.join(changed)}): name a new directory, "
            "remove this one, or restore them"
        )
    if checked.times(directory, manifest["files"]) != manifest.get("modified", {}):
        with contextlib.suppress(
            OSError
        ):  # a copy, or made by an early version; it may be for reading only
            manifest = arrays.write_times(directory, manifest)
    return manifest


def _changed_inputs(manifest: dict[str, Any], config: DataConfig) -> Iterator[str]:
    """The raw files, and the code that reads them, that are not what they were. A file that is gone has not changed."""
    provenance = manifest["report"]["provenance"]
    recorded = [*provenance.get("files", ()), *provenance.get("hugging_face", {}).get("files", ())]
    recorded += [provenance["alignments"]] if "alignments" in provenance else []
    for file in recorded:
        path = Path(file["path"])
        if (
            file["sha256"] is not None
            and path.is_file()
            and files.file_hash(path) != file["sha256"]
        ):
            yield f"{path}, SHA-256 {file['sha256'][:12]} -> {files.file_hash(path)[:12]}"
    old, new = manifest.get("reader"), reader(config)
    if old is not None and old != new:
        yield f"the code that reads the corpus, {old} -> {new}"


def reader(config: DataConfig) -> str:
    """The version of the code that makes arrays of raw files: this file's neighbours, and a corpus from outside."""
    outside = corpus_code.hash_of(type(config.corpus))
    return str(READER) if outside is None else f"{READER}, {outside[:12]}"


def description(
    config: DataConfig,
    partial: Path,
    names: list[str],
    words: Vocabulary,
    report: Report,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The fields of a manifest that raw and distilled data share."""
    splits = {}
    for name in names:
        split = Split.load(partial / name)
        report.count(f"{name}: kept", number=len(split))
        splits[name] = {
            "sentences": len(split),
            "source_tokens": len(split.source.values),
            "target_tokens": len(split.target.values),
            "longest_source": int(split.source.lengths.max()),
            "longest_target": int(split.target.lengths.max()),
            "fertilities": split.fertilities is not None,
        }
    return {
        "config": config_json.to_json(config),
        "reader": reader(config),
        "config_hash": config_json.hash_of(dataclasses.replace(config, directory="")),
        "vocabulary": {
            "hash": words.hash,
            "joint": words.joint,
            "source_size": words.source_size,
            "target_size": words.target_size,
        },
        "splits": splits,
        "report": report.to_json(),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "versions": {
            "nat_ar": nat_ar.__version__,
            "numpy": np.__version__,
            "sentencepiece": sentencepiece.__version__,
        },
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_split(
    directory: Path,
    spool: Path,
    number: int,
    words: Vocabulary,
    config: DataConfig,
    report: Report,
    show: Progress,
) -> None:
    encoding.write_split(
        directory,
        spool,
        number,
        words,
        report,
        show.bar,
        max_tokens=config.max_tokens,
        max_length_ratio=config.max_length_ratio,
    )


def write_fertilities(
    config: DataConfig, partial: Path, words: Vocabulary, report: Report, show: Progress
) -> None:
    """Of training and validation; tests are not looked at."""
    train, validation = (Split.load(partial / name) for name in ("train", "validation"))
    if config.aligner is not None:
        with show.line("alignment") as line:
            fertilities.align(
                config.aligner, words, train, validation, progress=line.set_description_str
            )
    if config.alignments is not None:
        report.provenance["alignments"] = fertilities.read_pharaoh(config.alignments, train)
