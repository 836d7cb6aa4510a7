"""The prepared directory: token arrays, raw text and vocabulary of every split, and their manifest.

    manifest.json                             config, report, hashes and sizes of all the files below: see checked.py
    vocabulary/joint.model                    or source.model and target.model
    <split>/source.values.npy, .offsets.npy   ids without BOS and EOS; target.* likewise
    <split>/fertilities.values.npy, ...       train and validation, if aligned
    train/order.rows.npy, order.ends.npy      its rows by length: see length_order.py
    train/likely.tokens.npy, likely.nats.npy  distilled data, if asked for: see word_distributions.py
    <split>/source.txt, target.txt            raw text, a sentence a line; references are target.txt
    <split>/domains.txt, documents.txt        an empty line where unknown

Nothing depends on the path: a directory may be moved, and equal data have equal hashes."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from nat_ar.data import checked, length_order
from nat_ar.data.checked import Check
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.pair import Pair
from nat_ar.data.ragged import Ragged
from nat_ar.data.text_lines import TextLines
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.data.word_distributions import WordDistributions
from nat_ar.runtime import files

FORMAT = 1
"""Changes when the layout does; `load` reads this one only."""
MANIFEST = "manifest.json"
TextName = Literal["source", "target", "domains", "documents"]
_TEXTS: tuple[TextName, ...] = typing.get_args(TextName)
"""The text files of a split, in the order of the fields of Pair."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a prepared directory. Arrays are memory-mapped, lists of texts are read when first used, and `lines`
    never are all in memory."""

    name: str
    directory: Path
    source: Ragged
    target: Ragged
    fertilities: Ragged | None
    """target tokens of each source token; a row is as long as its source and sums to the length of its target"""
    distributions: WordDistributions | None = None
    """of a teacher, at every place of the target"""

    @classmethod
    def load(cls, directory: Path) -> "Split":
        aligned = (directory / "fertilities.values.npy").exists()
        return cls(
            name=directory.name,
            directory=directory,
            source=Ragged.load(directory / "source"),
            target=Ragged.load(directory / "target"),
            fertilities=Ragged.load(directory / "fertilities") if aligned else None,
            distributions=WordDistributions.load(directory),
        )

    def __len__(self) -> int:
        """Sentence pairs."""
        return len(self.source)

    @functools.cached_property
    def length_order(self) -> LengthOrder:
        """Its rows by length: from its files, or, where they have none, in memory."""
        return LengthOrder.load(self.directory) or self._computed_order()

    def _computed_order(self) -> LengthOrder:
        return LengthOrder.of_lengths(self.source.lengths, self.target.lengths)

    @functools.cached_property
    def source_text(self) -> list[str]:
        return self._lines("source")

    @functools.cached_property
    def target_text(self) -> list[str]:
        """The references: raw text that never went through the vocabulary."""
        return self._lines("target")

    @functools.cached_property
    def domains(self) -> list[str]:
        """Domain of each pair, "" where unknown."""
        return self._lines("domains")

    @functools.cached_property
    def documents(self) -> list[str]:
        """Document of each pair, "" where unknown."""
        return self._lines("documents")

    def lines(self, name: TextName) -> TextLines:
        """The same texts, one at a time from their file."""
        return TextLines(self.directory / f"{name}.txt", len(self))

    def first(self, number: int) -> "Split":
        """The first pairs alone, at most `number`."""
        fertilities = None if self.fertilities is None else self.fertilities.first(number)
        return _FirstPairs(
            self.name,
            self.directory,
            self.source.first(number),
            self.target.first(number),
            fertilities,
            self.distributions,
        )

    def _lines(self, name: TextName) -> list[str]:
        path = self.directory / f"{name}.txt"
        lines = files.read_lines(path)
        if len(lines) != len(self):
            raise ValueError(f"{path}: {len(lines)} lines, expected {len(self)}; prepare again")
        return lines


class _FirstPairs(Split):
    """A split without its last pairs, whose texts stay in its files."""

    @functools.cached_property
    def length_order(self) -> LengthOrder:
        return self._computed_order()

    def _lines(self, name: TextName) -> list[str]:
        return list(self.lines(name))


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """A prepared directory, checked and open."""

    directory: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary
    _splits: dict[str, Split]

    @classmethod
    def load(cls, directory: Path | str, *, check: Check = "usual") -> "PreparedData":
        """Opens the directory after checking every file, as far as `checked` says.

        Raises ValueError that names the file at fault."""
        directory = Path(directory)
        manifest = read_manifest(directory)
        checked.require(directory, manifest, check)
        return cls(
            directory=directory,
            manifest=manifest,
            vocabulary=Vocabulary.load(directory / "vocabulary"),
            _splits={name: Split.load(directory / name) for name in manifest["splits"]},
        )

    @property
    def hash(self) -> str:
        """SHA-256 over all files (arrays, texts, vocabulary); does not depend on where and when they were made."""
        return self.manifest["data_hash"]

    @property
    def training_data(self) -> Literal["raw", "distilled"]:
        """Whether training targets come from the corpus or from a teacher."""
        return self.manifest["training_data"]

    def num_lost(self, split: str) -> int:
        """Pairs of the raw split that could not be read or used, and are not in it."""
        report = self.manifest["report"]
        if "lost" in report:
            return report["lost"].get(split, 0)
        # An early version counted them under these reasons, and what a corpus leaves out by its own rules likewise.
        faults = ("empty side", "not UTF-8", "too few columns", "longer than")
        starts = tuple(f"{split}: dropped, {fault}" for fault in faults)
        return sum(n for reason, n in report["counts"].items() if reason.startswith(starts))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names: train, validation, and test and test_<name> if the corpus has them."""
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        """The split of that name. Raises ValueError if there is none."""
        if name not in self._splits:
            raise ValueError(
                f"{self.directory}: no split {name!r}; there are {', '.join(self._splits)}"
            )
        return self._splits[name]

    def with_training_pairs(self, number: int) -> "PreparedData":
        """The same data with the first training pairs alone, at most `number`."""
        return dataclasses.replace(
            self, _splits={**self._splits, "train": self.split("train").first(number)}
        )


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a complete prepared directory. Raises ValueError if it is missing or has changed."""
    path = directory / MANIFEST
    if not path.exists():
        raise ValueError(
            f"{path} is missing: not a prepared directory; make it with `python -m nat_ar prepare CONFIG.py`, or "
            "name where it lies"
        )
    manifest = files.read_json(path, remedy="remove the directory and prepare the data again")
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {manifest.get('format')}, expected {FORMAT}: prepare the data again"
        )
    for name in [*manifest["files"], *manifest["splits"]]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(
                f"{path} names a file outside its directory: {name!r}; do not use these data"
            )
    return manifest


def new_directory(directory: Path) -> contextlib.AbstractContextManager[Path]:
    """`files.new_directory` whose error mentions the missing manifest."""
    return files.new_directory(directory, but=f"no {MANIFEST}")


def write_manifest(directory: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Hashes all files in `directory`, writes the manifest and returns it.

    `fields` are all that the files cannot tell: config, report, splits, training_data."""
    listed = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        listed[name] = {"bytes": path.stat().st_size, "sha256": files.file_hash(path)}
    lines = "".join(
        f"{name} {file['sha256']}\n"
        for name, file in listed.items()
        if not length_order.is_part(name)  # follows from the others
    )
    manifest = {
        "format": FORMAT,
        "data_hash": hashlib.sha256(lines.encode()).hexdigest(),
        **fields,
        "files": listed,
    }
    return write_times(directory, manifest)


def write_times(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the manifest of files whose hashes it has, with the times of large ones, and returns it."""
    if modified := checked.times(directory, manifest["files"]):
        manifest = {**manifest, "modified": modified}
    text = json.dumps(files.signed(manifest), indent=2, ensure_ascii=False) + "\n"
    files.write_text(directory / MANIFEST, text)
    return manifest


class TextWriter:
    """Writes the four text files of a split, a pair at a time. Texts must be single lines."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.pairs = 0
        self._files = [(directory / f"{name}.txt").open("wb") for name in _TEXTS]

    def append(self, pair: Pair) -> None:
        """Raises UnicodeEncodeError, and writes nothing, for text that UTF-8 cannot represent."""
        lines = [field.encode() + b"\n" for field in pair]
        for file, line in zip(self._files, lines, strict=True):
            file.write(line)
        self.pairs += 1

    def close(self) -> None:
        for file in self._files:
            file.close()


def read_texts(directory: Path, name: Literal["source", "target"]) -> Iterator[str]:
    """One side of what a TextWriter wrote, streaming."""
    with (directory / f"{name}.txt").open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line[:-1]


def copy_texts(source: Path, directory: Path, is_kept: Bool[np.ndarray, "pairs"]) -> None:
    """Copies the text files that a TextWriter wrote into `source`, without the lines of pairs that are not kept."""
    for name in _TEXTS:
        path = f"{name}.txt"
        with (source / path).open("rb") as lines, (directory / path).open("wb") as file:
            file.writelines(itertools.compress(lines, is_kept.tolist()))


class RaggedWriter:
    """Writes a Ragged that need not fit in memory; only its row lengths are held, 8 bytes each."""

    def __init__(self, stem: Path, dtype: np.dtype) -> None:
        self._stem = stem
        self._dtype = dtype
        self._raw = stem.with_name(stem.name + ".values.raw")
        self._file = self._raw.open("wb")
        self._lengths: list[np.ndarray] = []

    def append(self, rows: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        self._lengths.append(lengths)
        tokens = itertools.chain.from_iterable(rows)
        np.fromiter(tokens, self._dtype, int(lengths.sum())).tofile(self._file)

    def extend(self, rows: Ragged) -> None:
        """Rows that another writer of this type has written."""
        self._lengths.append(rows.lengths)
        np.asarray(rows.values, self._dtype).tofile(self._file)

    def close(self) -> Ragged:
        """The file in numpy's format, memory-mapped."""
        self._file.close()
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        values = np.zeros(0, self._dtype)
        if offsets[-1]:
            values = np.memmap(self._raw, self._dtype, mode="r", shape=(int(offsets[-1]),))
        Ragged(values, offsets).save(self._stem)
        self._raw.unlink()
        return Ragged.load(self._stem)
