"""Where sentence pairs come from: plain files, Hugging Face `datasets`, and the corpora of our own.

A corpus is a frozen dataclass, config and reader in one, with a method
`splits(report) -> {"train": pairs, "validation": pairs, "test": pairs, "test_<name>": pairs, ...}`.
The iterables are lazy and each may be consumed once. This is the only file that imports `datasets`,
and only when such a corpus is read."""

import dataclasses
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Shaped

from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.pair import Pair, Report
from nat_ar.data.toy.corpus import ToyCorpus

_TRAIN, _VALIDATION, _TEST = range(3)


def normalised(text: str) -> str:
    """The form in which two sentences count as the same: casefolded, white space collapsed."""
    return " ".join(text.casefold().split())


def key(text: str) -> bytes:
    """8 bytes that stand for the normalised text: sets and arrays of keys fit in memory."""
    return hashlib.blake2b(normalised(text).encode(), digest_size=8).digest()


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Takes validation and test out of the training pairs of a corpus that has no such splits."""

    validation: int = 1000
    """Pairs to hold out; 0 where the corpus names a validation split."""
    test: int = 2000
    """Pairs to hold out; 0 where the corpus names a test split."""
    by: Literal["component", "line"] = "component"
    """component: pairs that share a source or a target, also through others, stay in one split, so that
    nothing leaks. line: single pairs; those of training that overlap are left to `remove_overlap`."""
    seed: int = 0
    """Another seed holds out other pairs."""

    def __post_init__(self) -> None:
        if self.validation < 0 or self.test < 0 or self.validation + self.test == 0:
            raise ValueError(
                f"hold_out: expected pairs for validation or test, got {self.validation} and "
                f"{self.test}; leave hold_out away to hold out nothing"
            )


def held_out(groups: Int[np.ndarray, "pairs"], hold_out: HoldOut) -> Int[np.ndarray, "pairs"]:
    """Split of each pair (0 training, 1 validation, 2 test) from the number of its group.

    Whole groups are drawn at random; one that would overshoot the number asked for is passed over, so
    large groups stay in training."""
    sizes = np.bincount(groups, minlength=1)
    split_of = np.full(len(sizes), _TRAIN, np.int64)
    rest = {_TEST: hold_out.test, _VALIDATION: hold_out.validation}
    for group in np.random.default_rng(hold_out.seed).permutation(len(sizes)):
        for split in rest:
            if 0 < sizes[group] <= rest[split]:
                split_of[group] = split
                rest[split] -= int(sizes[group])
                break
        if not any(rest.values()):
            break
    if any(rest.values()) or np.all(split_of[groups] != _TRAIN):
        raise ValueError(
            f"hold_out asks for {hold_out.validation} validation and {hold_out.test} test pairs of "
            f"{len(groups)} pairs in {np.count_nonzero(sizes)} groups, the largest of {sizes.max()}, "
            f"and something left to train on; {rest[_VALIDATION]} and {rest[_TEST]} of them could "
            "not be found: ask for fewer"
        )
    return split_of[groups]


def _groups(
    source: Shaped[np.ndarray, "pairs"], target: Shaped[np.ndarray, "pairs"], hold_out: HoldOut
) -> Int[np.ndarray, "pairs"]:
    """The group of each pair, from the keys of its sides: what may not be torn apart."""
    if hold_out.by == "line":
        return np.arange(len(source))
    return connected_components(source, target)


def connected_components(
    source: Shaped[np.ndarray, "pairs"], target: Shaped[np.ndarray, "pairs"]
) -> Int[np.ndarray, "pairs"]:
    """The component of each pair, in the graph whose nodes are sources and targets and whose edges are
    pairs; numbered by first appearance, so that the order of the keys does not matter."""
    import scipy.sparse.csgraph  # takes a tenth of a second: not for those who translate

    if not len(source):
        return np.zeros(0, np.int64)
    _, source_nodes = np.unique(source, return_inverse=True)
    _, target_nodes = np.unique(target, return_inverse=True)
    target_nodes = target_nodes + source_nodes.max() + 1
    nodes = int(target_nodes.max()) + 1
    edges = (np.ones(len(source), np.int8), (source_nodes, target_nodes))
    graph = scipy.sparse.coo_array(edges, shape=(nodes, nodes))
    _, components = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, first, inverse = np.unique(components[source_nodes], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _split_off(
    read: Callable[[Report], Iterable[Pair]], hold_out: HoldOut, report: Report
) -> dict[str, Iterable[Pair]]:
    """Splits of the pairs that `read` yields again and again: keys in a first pass, held-out pairs (kept
    in memory) in a second, training pairs in a third. Only the first pass writes into the report."""
    sources, targets = bytearray(), bytearray()
    for pair in read(report):
        sources += key(pair.source)
        targets += key(pair.target)
    groups = _groups(np.frombuffer(sources, "<u8"), np.frombuffer(targets, "<u8"), hold_out)
    split_of = held_out(groups, hold_out)
    report.provenance["hold_out"] = {
        "pairs": len(groups),
        "groups": len(np.unique(groups)),
        "largest_group": int(np.bincount(groups, minlength=1).max()),
    }
    kept: dict[int, list[Pair]] = {_VALIDATION: [], _TEST: []}
    for split, pair in zip(split_of, read(Report()), strict=True):
        if split != _TRAIN:
            kept[int(split)].append(pair)
    splits: dict[str, Iterable[Pair]] = {
        "train": (
            pair for split, pair in zip(split_of, read(Report()), strict=True) if split == _TRAIN
        )
    }
    for name, split in (("validation", _VALIDATION), ("test", _TEST)):
        if kept[split]:
            report.count(f"{name}: held out of training", number=len(kept[split]))
            splits[name] = kept[split]
    return splits


def _check_hold_out(hold_out: HoldOut | None, named: dict[str, bool]) -> None:
    """Each of validation and test is named or held out, not both. `named`: split -> named or not."""
    if hold_out is None:
        return
    for split, number in (("validation", hold_out.validation), ("test", hold_out.test)):
        if number and named[split]:
            raise ValueError(
                f"{split}: named in the corpus and held out of training ({number} pairs); "
                f"set hold_out.{split} to 0 or leave the name away"
            )


def _check_test_names(names: list[str]) -> None:
    """They become folders of the prepared directory."""
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name) or names.count(name) > 1:
            raise ValueError(
                f"more_tests: {name!r}: expected different names of letters, digits, _, . and -"
            )


def _fault(source: str, target: str, max_characters: int) -> tuple[str, str] | None:
    """Why the pair may not stay, in general and in particular; None where it may."""
    if not source.strip() or not target.strip():
        return "empty side", f"empty {'target' if source.strip() else 'source'}"
    if max(len(source), len(target)) > max_characters:
        side = "source" if len(source) > max_characters else "target"
        length = max(len(source), len(target))
        return f"longer than {max_characters} characters", f"{side} of {length} characters"
    return None


@dataclasses.dataclass(frozen=True)
class NamedTest:
    """A further test, e.g. out of the domain; becomes the split "test_<name>"."""

    name: str
    """What follows "test_"."""
    paths: tuple[str, ...]
    """As `TextFiles.train`."""


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Plain UTF-8 files, gzipped or not: one file of tab-separated columns, or a source and a target file
    with equal line counts.

    Tabs separate and nothing quotes; further columns are ignored; CRLF and a byte order mark are taken
    off. Unequal line counts and unreadable files are errors. Lines that are not UTF-8, empty or
    over-long, or lack a column are dropped in every split, counted and named in the report."""

    train: tuple[str, ...]
    """One path: tab-separated columns. Two: the source file and the target file."""
    validation: tuple[str, ...] = ()
    """As `train`; empty: held out of training by `hold_out`."""
    test: tuple[str, ...] = ()
    """As `train`; empty: held out of training by `hold_out`, or no test."""
    more_tests: tuple[NamedTest, ...] = ()
    """Further tests, each with a name of its own."""
    hold_out: HoldOut | None = None
    """How validation and test are held out of training, where they have no files."""
    columns: tuple[int, int] = (0, 1)
    """Source and target column of tab-separated files, counted from 0; (1, 0) turns the direction."""
    max_characters: int = 2000
    """Pairs with a longer side are dropped."""

    def __post_init__(self) -> None:
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        for name, paths in [*sets.items(), *((test.name, test.paths) for test in self.more_tests)]:
            optional = name in ("validation", "test")
            if len(paths) > 2 or (not paths and not optional):
                raise ValueError(
                    f"TextFiles: {name}: expected one path (tab-separated) or two (source, target), "
                    f"got {paths}"
                )
        if self.columns[0] == self.columns[1] or min(self.columns) < 0:
            raise ValueError(
                f"TextFiles: columns {self.columns}: expected two different columns, counted from 0"
            )
        _check_test_names([test.name for test in self.more_tests])
        _check_hold_out(
            self.hold_out, {"validation": bool(self.validation), "test": bool(self.test)}
        )

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """Raises ValueError for a missing file at once, for a broken one while it is read."""
        files = {"train": self.train, "validation": self.validation, "test": self.test}
        files |= {f"test_{test.name}": test.paths for test in self.more_tests}
        files = {split: paths for split, paths in files.items() if paths}
        report.provenance["files"] = [
            {"path": path, "sha256": file_hash(path)}
            for path in dict.fromkeys(itertools.chain.from_iterable(files.values()))
        ]
        if self.hold_out is None:
            return {split: self._read(paths, split, report) for split, paths in files.items()}
        rest = {
            split: self._read(paths, split, report)
            for split, paths in files.items()
            if split != "train"
        }
        return (
            _split_off(lambda r: self._read(self.train, "train", r), self.hold_out, report) | rest
        )

    def _read(self, paths: tuple[str, ...], split: str, report: Report) -> Iterator[Pair]:
        rows: Iterable[tuple[bytes, bytes] | None]
        rows = self._table(paths[0], split, report) if len(paths) == 1 else _parallel(*paths)
        for number, sides in enumerate(rows, start=1):
            report.count(f"{split}: read")
            if sides is None:  # _table has counted why
                continue
            try:
                source, target = sides[0].decode(), sides[1].decode()
            except UnicodeDecodeError as error:
                report.count(f"{split}: dropped, not UTF-8", f"{paths[0]}:{number}: {error.reason}")
                continue
            fault = _fault(source, target, self.max_characters)
            if fault is None:
                yield Pair(source, target)
            else:
                report.count(f"{split}: dropped, {fault[0]}", f"{paths[0]}:{number}: {fault[1]}")

    def _table(self, path: str, split: str, report: Report) -> Iterator[tuple[bytes, bytes] | None]:
        """Both sides of every line; None, counted, where there are too few columns."""
        first, second = self.columns
        needed = max(self.columns) + 1
        for number, line in enumerate(_lines(path), start=1):
            columns = line.split(b"\t")
            if len(columns) < needed:
                report.count(
                    f"{split}: dropped, too few columns",
                    f"{path}:{number}: {len(columns)} columns, expected at least {needed}",
                )
                yield None
            else:
                yield columns[first], columns[second]


def _parallel(source: str, target: str) -> Iterator[tuple[bytes, bytes]]:
    counts = [0, 0]
    for sides in itertools.zip_longest(_lines(source), _lines(target)):
        counts = [count + (side is not None) for count, side in zip(counts, sides, strict=True)]
        if counts[0] == counts[1]:
            yield sides
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source} has {counts[0]} lines and {target} has {counts[1]}: expected equal counts; "
            "line n of one must translate line n of the other"
        )


def _lines(path: str) -> Iterator[bytes]:
    """Lines without their ends (LF or CRLF) and without a byte order mark."""
    try:
        with _open(path) as file:
            for number, line in enumerate(file):
                if number == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: broken gzip file: {error}") from error


def _open(path: str) -> io.BufferedReader | gzip.GzipFile:
    """By its first two bytes, not by its name: plain or gzip."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path) if is_gzip else open(path, "rb")


def file_hash(path: str) -> str:
    """SHA-256 of a file; ValueError where there is none."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """Local or remote files of one split of a HuggingFace corpus."""

    split: str
    """Such as train, validation or test, as `HuggingFace` and its `more_tests` name it."""
    paths: tuple[str, ...]
    """Paths or addresses."""


@dataclasses.dataclass(frozen=True)
class NamedSplit:
    """A further test of a HuggingFace corpus; becomes the split "test_<name>"."""

    name: str
    """What follows "test_"."""
    split: str
    """Split of the data set."""


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """A data set of the Hugging Face hub, a folder of `save_to_disk`, or json, csv or parquet files.

    Each side is a column, or a field inside one: "en" reads flat columns, "translation.en" the usual
    layout {"translation": {"en": ..., "de": ...}}. Rows with an empty or over-long side are dropped in
    every split, counted and named in the report."""

    path: str
    """Name on the hub; a folder with `from_disk`; "json", "csv" or "parquet" with `data_files`."""
    source: str
    """Column of the source, e.g. "en" or "translation.en"."""
    target: str
    """Column of the target, e.g. "de" or "translation.de"."""
    subset: str | None = None
    """Configuration of the data set, e.g. "de-en"."""
    train: str = "train"
    """Split on the hub; without streaming also a slice such as "train[:10%]"."""
    validation: str | None = "validation"
    """None: held out of training by `hold_out`."""
    test: str | None = "test"
    """None: held out of training by `hold_out`, or no test."""
    more_tests: tuple[NamedSplit, ...] = ()
    """Further tests, each with a name of its own."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit makes the data repeatable."""
    data_files: tuple[DataFiles, ...] = ()
    """Files of each split, where `path` is "json", "csv" or "parquet"."""
    from_disk: bool = False
    """`path` is a folder that `save_to_disk` wrote."""
    streaming: bool = False
    """Read over the network as it is needed, without a copy in the cache."""
    domain: str | None = None
    """Column with the domain of each pair, where there is one."""
    hold_out: HoldOut | None = None
    """How validation and test are held out of training, where they are None."""
    max_characters: int = 2000
    """Pairs with a longer side are dropped."""

    def __post_init__(self) -> None:
        _check_test_names([test.name for test in self.more_tests])
        _check_hold_out(
            self.hold_out,
            {"validation": self.validation is not None, "test": self.test is not None},
        )
        if self.from_disk and (self.streaming or self.subset or self.revision or self.data_files):
            raise ValueError(
                "HuggingFace: from_disk reads the folder `path`; "
                "streaming, subset, revision and data_files do not go with it"
            )

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """Raises ValueError where the data set, a split or a column is missing."""
        names = {"train": self.train, "validation": self.validation, "test": self.test}
        names |= {f"test_{test.name}": test.split for test in self.more_tests}
        tables = {
            split: self._table(name, split) for split, name in names.items() if name is not None
        }
        files = [path for data_files in self.data_files for path in data_files.paths]
        report.provenance["hugging_face"] = {
            "path": self.path,
            "subset": self.subset,
            "revision": self.revision,
            "files": [
                {"path": path, "sha256": file_hash(path) if Path(path).is_file() else None}
                for path in files  # a path may be an address or a pattern
            ],
            "splits": {split: _provenance(table) for split, table in tables.items()},
        }
        splits: dict[str, Iterable[Pair]] = {
            split: self._read(table, split, report) for split, table in tables.items()
        }
        if self.hold_out is None:
            return splits
        train = _split_off(lambda r: self._read(tables["train"], "train", r), self.hold_out, report)
        return splits | train

    def _table(self, name: str, split: str) -> Any:
        """The `datasets` table of one split, with our columns only."""
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"{self.path}: reading Hugging Face data needs the package `datasets`, which is not "
                "installed: pip install datasets"
            ) from error
        where = f"{self.path}, split {name!r}"
        try:
            if self.from_disk:
                loaded = datasets.load_from_disk(self.path)
                if isinstance(loaded, datasets.Dataset):
                    loaded = datasets.DatasetDict(train=loaded)
                if name not in loaded:
                    raise ValueError(f"the folder has the splits {', '.join(loaded)}")
                table = loaded[name]
            else:
                data_files = {files.split: list(files.paths) for files in self.data_files}
                table = datasets.load_dataset(
                    self.path,
                    self.subset,
                    split=name,
                    data_files=data_files or None,
                    revision=self.revision,
                    streaming=self.streaming,
                )
        except Exception as error:  # whatever the hub, the network or a file format answers
            advice = f"; set corpus.{split} to null and use hold_out" if split != "train" else ""
            raise ValueError(
                f"{where}: cannot be loaded: {type(error).__name__}: {error}{advice}"
            ) from error
        fields = [self.source, self.target] + ([self.domain] if self.domain else [])
        available = table.column_names
        if available is None:  # a stream whose files do not say
            available = list(next(iter(table), {}))
        columns = [field if field in available else field.split(".")[0] for field in fields]
        if missing := [
            field for field, c in zip(fields, columns, strict=True) if c not in available
        ]:
            raise ValueError(
                f"{where}: no column {' or '.join(missing)}; the columns are {', '.join(available)}"
            )
        return table.select_columns(list(dict.fromkeys(columns)))

    def _read(self, table: Any, split: str, report: Report) -> Iterator[Pair]:
        for number, row in enumerate(table):
            place = f"{self.path}, {split}, row {number}"
            report.count(f"{split}: read")
            source, target = (_field(row, field, place) for field in (self.source, self.target))
            fault = _fault(source, target, self.max_characters)
            if fault is None:
                domain = _field(row, self.domain, place) if self.domain else ""
                yield Pair(source, target, domain)
            else:
                report.count(f"{split}: dropped, {fault[0]}", f"{place}: {fault[1]}")


def _field(row: dict[str, Any], field: str, place: str) -> str:
    """Text of a column, or of a field inside one; "" where it is null."""
    value: Any = row
    for name in [field] if field in row else field.split("."):
        if not isinstance(value, dict) or name not in value:
            fields = ", ".join(value) if isinstance(value, dict) else repr(value)
            raise ValueError(f"{place}: no field {name!r} of {field!r}; found {fields}")
        value = value[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(
            f"{place}: {field!r} is {type(value).__name__}, expected text; a layout such as "
            "{'translation': {'en': ...}} is named 'translation.en'"
        )
    return value


def _provenance(table: Any) -> dict[str, Any]:
    """What identifies the rows: the fingerprint where `datasets` has one, checksums of downloads."""
    info = table.info
    return {
        "version": str(info.version) if info.version else None,
        "licence": info.license or None,
        "fingerprint": getattr(table, "_fingerprint", None),
        "checksums": {
            name: checksum.get("checksum")
            for name, checksum in (info.download_checksums or {}).items()
        },
    }


Corpus = ToyCorpus | DebianCorpus | TextFiles | HuggingFace
