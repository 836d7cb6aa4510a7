"""Plain text: a corpus of tab-separated columns or of a file a language, and lines to translate."""

import dataclasses
import gzip
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import corpus, file_kind, hold_out, vocabulary
from nat_ar.data.corpus import Corpus
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair, Report
from nat_ar.runtime import files


@dataclasses.dataclass(frozen=True)
class NamedTest(config_json.Config):
    """A further test, e.g. out of the domain; becomes the split "test_<name>"."""

    name: str
    """the split becomes "test_" and this name"""
    paths: tuple[str, ...]
    """as `TextFiles.train`"""


@dataclasses.dataclass(frozen=True)
class TextFiles(Corpus):
    """Plain UTF-8 files, gzipped or not: one file of tab-separated columns, or a source and a target file
    with equal line counts.

    There is no quoting; further columns are ignored; CRLF and a byte order mark are removed. Unequal line counts,
    unreadable files and files that are no UTF-8 text as a whole are errors. Lines that are not UTF-8, lack a column, or
    have an empty or over-long side are dropped; the report counts and names them."""

    train: tuple[str, ...]
    """one path: tab-separated columns. Two: the source file and the target file."""
    validation: tuple[str, ...] = ()
    """as `train`; empty: held out of training by `hold_out`"""
    test: tuple[str, ...] = ()
    """as `train`; empty: held out of training by `hold_out`, or no test"""
    more_tests: tuple[NamedTest, ...] = ()
    """further test splits"""
    hold_out: HoldOut | None = None
    """how to hold validation and test out of training if they have no files"""
    columns: tuple[int, int] = (0, 1)
    """source and target column of tab-separated files, counted from 0; (1, 0) reverses the direction"""
    max_characters: int = 2000
    """pairs with a longer side are dropped"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, max_characters=self.max_characters)
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        for name, paths in [*sets.items(), *((test.name, test.paths) for test in self.more_tests)]:
            optional = name in ("validation", "test")
            if len(paths) > 2 or (not paths and not optional):
                raise ConfigError(
                    f"TextFiles: {name}: expected one path (tab-separated) or two (source, target), "
                    f"got {paths}"
                )
        if self.columns[0] == self.columns[1] or min(self.columns) < 0:
            raise ConfigError(
                f"TextFiles: columns {self.columns}: expected two different columns, counted from 0"
            )
        corpus.check_test_names([test.name for test in self.more_tests])
        hold_out.check(
            self.hold_out, {"validation": bool(self.validation), "test": bool(self.test)}
        )

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """Raises ValueError at once for a missing file, and while reading for a broken one."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        named |= {f"test_{test.name}": test.paths for test in self.more_tests}
        paths_of = {split: paths for split, paths in named.items() if paths}
        report.provenance["files"] = [
            {"path": path, "sha256": _hash(path)}
            for path in dict.fromkeys(itertools.chain.from_iterable(paths_of.values()))
        ]
        if self.hold_out is None:
            return {split: self._read(paths, split, report) for split, paths in paths_of.items()}
        rest = {
            split: self._read(paths, split, report)
            for split, paths in paths_of.items()
            if split != "train"
        }
        return (
            hold_out.split_off(lambda r: self._read(self.train, "train", r), self.hold_out, report)
            | rest
        )

    def _read(self, paths: tuple[str, ...], split: str, report: Report) -> Iterator[Pair]:
        rows: Iterable[tuple[bytes, bytes] | None]
        rows = self._table(paths[0], split, report) if len(paths) == 1 else _parallel(*paths)
        for number, sides in enumerate(rows, start=1):
            report.count(f"{split}: read")
            if sides is None:  # counted by _table
                continue
            try:
                source, target = sides[0].decode(), sides[1].decode()
            except UnicodeDecodeError as error:
                report.drop(split, "not UTF-8", f"{paths[0]}:{number}: {error.reason}")
                continue
            fault = corpus.fault(source, target, self.max_characters)
            if fault is None:
                yield Pair(source, target)
            else:
                report.drop(split, fault[0], f"{paths[0]}:{number}: {fault[1]}")

    def _table(self, path: str, split: str, report: Report) -> Iterator[tuple[bytes, bytes] | None]:
        """Both sides of every line; None for a line with too few columns, which the report counts."""
        first, second = self.columns
        needed, has_columns = max(self.columns) + 1, False
        for number, line in enumerate(lines_of(path), start=1):
            columns = line.split(b"\t")
            if len(columns) < needed:
                report.drop(
                    split,
                    "too few columns",
                    f"{path}:{number}: {len(columns)} columns, expected at least {needed}",
                )
                yield None
            else:
                has_columns = True
                yield columns[first], columns[second]
        if report.counts[f"{split}: dropped, too few columns"] and not has_columns:
            raise ValueError(
                f"{path}: no line has {needed} columns between TABs, such as {_first_line(path)[:60]!r}; write the "
                "columns with TABs between them, or name two files, one a language"
            )


def _first_line(path: str) -> str:
    return next(lines_of(path), b"").decode(errors="replace")


def _parallel(source: str, target: str) -> Iterator[tuple[bytes, bytes]]:
    counts = [0, 0]
    for sides in itertools.zip_longest(lines_of(source), lines_of(target)):
        counts = [count + (side is not None) for count, side in zip(counts, sides, strict=True)]
        if counts[0] == counts[1]:
            yield sides
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source} has {counts[0]} lines and {target} has {counts[1]}: expected equal counts; "
            "line n of one must translate line n of the other"
        )


def lines_of(path: str) -> Iterator[bytes]:
    """Lines of a plain or gzipped file, without their ends (LF or CRLF) and without a byte order mark. Raises
    ValueError for a file that is no UTF-8 text as a whole, or a broken archive."""
    try:
        with _open(path) as file:
            file_kind.check(_start(path), path)
            for number, line in enumerate(file):
                if number == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: broken gzip file: {error}") from error


def texts_of(path: str | Path) -> list[str]:
    """The lines of a file as texts of one line each. Raises ValueError for a line that is not UTF-8 too."""
    texts = []
    for number, line in enumerate(lines_of(str(path)), start=1):
        try:
            texts.append(vocabulary.one_line(line.decode()))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number}: not UTF-8: {error.reason}") from error
    return texts


def _open(path: str) -> io.BufferedReader | gzip.GzipFile:
    """Opens plain or gzipped files, told apart by their first two bytes, not by their names."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path) if is_gzip else open(path, "rb")


def _start(path: str) -> bytes:
    with _open(path) as file:
        return file.read(file_kind.LOOKED_AT)


def _hash(path: str) -> str:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    return files.file_hash(Path(path))


def lines_to_translate(text: bytes, name: str) -> tuple[list[str], int]:
    """The lines of a text, and how many of them are not UTF-8: there U+FFFD replaces the invalid bytes.

    Only LF and CRLF end a line; any other line break becomes a space. Byte order marks are removed. Raises ValueError,
    with the `name` of the file, where the text as a whole is none."""
    file_kind.check(text[: file_kind.LOOKED_AT], name)
    lines, num_broken = [], 0
    for line in text.removesuffix(b"\n").split(b"\n") if text else []:
        line = line.removesuffix(b"\r")
        decoded = line.decode("utf-8", errors="replace")
        num_broken += decoded.encode() != line
        lines.append(vocabulary.one_line(decoded.removeprefix("\ufeff")))
    return lines, num_broken
