"""A corpus of the Hugging Face hub. The only file that imports `datasets`, and only when such a corpus is read."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import corpus, hold_out
from nat_ar.data.corpus import Corpus
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair, Report
from nat_ar.runtime import files


@dataclasses.dataclass(frozen=True)
class DataFiles(config_json.Config):
    """Local or remote files of one split of a HuggingFace corpus."""

    split: str
    """such as train, validation or test, as `HuggingFace` and its `more_tests` name it"""
    paths: tuple[str, ...]
    """paths or addresses"""


@dataclasses.dataclass(frozen=True)
class NamedSplit(config_json.Config):
    """A further test of a HuggingFace corpus; becomes the split "test_<name>"."""

    name: str
    """the split becomes "test_" and this name"""
    split: str
    """split of the data set"""


@dataclasses.dataclass(frozen=True)
class HuggingFace(Corpus):
    """A data set of the Hugging Face hub, a folder of `save_to_disk`, or json, csv or parquet files.

    Each side is a column, or a field inside one: "en" reads flat columns, "translation.en" the usual
    layout {"translation": {"en": ..., "de": ...}}. Rows with an empty or over-long side are dropped in
    every split; the report counts and names them."""

    path: str
    """name on the hub; a folder with `from_disk`; "json", "csv" or "parquet" with `data_files`"""
    source: str
    """column of the source, such as "en" or "translation.en", in a row"""
    target: str
    """column of the target, such as "de" or "translation.de", in a row"""
    subset: str | None = None
    """configuration of the data set, such as "de-en", if it has several"""
    train: str = "train"
    """split on the hub, or without streaming a slice such as "train[:10%]" of it"""
    validation: str | None = "validation"
    """None: held out of training by `hold_out`"""
    test: str | None = "test"
    """None: held out of training by `hold_out`, or no test"""
    more_tests: tuple[NamedSplit, ...] = ()
    """further test splits"""
    revision: str | None = None
    """branch, tag or commit on the hub; a commit makes the data repeatable"""
    data_files: tuple[DataFiles, ...] = ()
    """files of each split, if `path` is "json", "csv" or "parquet" instead of a name"""
    from_disk: bool = False
    """`path` is a folder that `save_to_disk` wrote"""
    streaming: bool = False
    """read over the network on demand, without a copy in the cache"""
    domain: str | None = None
    """column with the domain of each pair, if there is one"""
    hold_out: HoldOut | None = None
    """how to hold validation and test out of training if they are None"""
    max_characters: int = 2000
    """pairs with a longer side are dropped"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, max_characters=self.max_characters)
        corpus.check_test_names([test.name for test in self.more_tests])
        hold_out.check(
            self.hold_out,
            {"validation": self.validation is not None, "test": self.test is not None},
        )
        if self.from_disk and (self.streaming or self.subset or self.revision or self.data_files):
            raise ConfigError(
                "HuggingFace: from_disk reads the folder `path`; "
                "streaming, subset, revision and data_files do not go with it"
            )

    @property
    def _names(self) -> dict[str, str]:
        """Our splits and what the data set calls them."""
        names = {"train": self.train, "validation": self.validation, "test": self.test}
        names |= {f"test_{test.name}": test.split for test in self.more_tests}
        return {split: name for split, name in names.items() if name is not None}

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """Raises ValueError if the data set, a split or a column is missing."""
        tables = {split: self._table(name, split) for split, name in self._names.items()}
        paths = [path for data_files in self.data_files for path in data_files.paths]
        report.provenance["hugging_face"] = {
            "path": self.path,
            "subset": self.subset,
            "revision": self.revision,
            "files": [
                {
                    "path": path,
                    "sha256": files.file_hash(Path(path)) if Path(path).is_file() else None,
                }
                for path in paths  # a path may be an address or a pattern
            ],
            "splits": {split: _provenance(table) for split, table in tables.items()},
        }
        splits: dict[str, Iterable[Pair]] = {
            split: self._read(table, split, report) for split, table in tables.items()
        }
        if self.hold_out is None:
            return splits
        train = hold_out.split_off(
            lambda r: self._read(tables["train"], "train", r), self.hold_out, report
        )
        return splits | train

    def read(self, split: str, report: Report) -> Iterable[Pair]:
        """As of every corpus; the other splits are not loaded."""
        if self.hold_out is not None or split not in self._names:
            return super().read(split, report)
        return self._read(self._table(self._names[split], split), split, report)

    def _table(self, name: str, split: str) -> Any:
        """The `datasets` table of one split, with our columns only."""
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"{self.path}: reading Hugging Face data needs the package `datasets`, which is not "
                "installed: pip install datasets"
            ) from error
        where = self._where(name)
        try:
            if self.from_disk:
                loaded = datasets.load_from_disk(self.path)
                if isinstance(loaded, datasets.Dataset):
                    loaded = datasets.DatasetDict(train=loaded)
                if name not in loaded:
                    raise ValueError(f"the folder has the splits {', '.join(loaded)}")
                table = loaded[name]
            else:
                data_files = {each.split: list(each.paths) for each in self.data_files}
                table = datasets.load_dataset(
                    self.path,
                    self.subset,
                    split=name,
                    data_files=data_files or None,
                    revision=self.revision,
                    streaming=self.streaming,
                    **self._as_text(),
                )
            available = table.column_names
            if available is None:  # unknown until the first row of the stream
                available = list(next(iter(table), {}))
        except (
            Exception
        ) as error:  # the hub, the network and the file formats raise errors of many classes
            advice = f"; set corpus.{split} to null and use hold_out" if split != "train" else ""
            raise ValueError(f"{where}: cannot be loaded: {_reason(error)}{advice}") from error
        fields = [self.source, self.target] + ([self.domain] if self.domain else [])
        columns = [field if field in available else field.split(".")[0] for field in fields]
        if missing := [
            field for field, c in zip(fields, columns, strict=True) if c not in available
        ]:
            raise ValueError(
                f"{where}: no column {' or '.join(missing)}; the columns are {', '.join(available)}"
            )
        return table.select_columns(list(dict.fromkeys(columns)))

    def _where(self, name: str) -> str:
        """The data set and the split, with its files where it has some."""
        paths = [path for each in self.data_files if each.split == name for path in each.paths]
        return f"{self.path}, split {name!r}" + (f" ({', '.join(paths)})" if paths else "")

    def _rows(self, table: Any, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows and their numbers. A stream is read only here, and fails here."""
        rows, number = iter(table), 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # of many classes, as in _table
                raise ValueError(
                    f"{self._where(self._names[split])}: cannot be read after {number:,} rows: {_reason(error)}"
                ) from error
            yield number, row
            number += 1

    def _as_text(self) -> dict[str, Any]:
        """Options by which a csv file's texts stay as they are: pandas takes "None", "NA" and the like for nothing, and
        numbers, dates and truth values for what they look like."""
        if self.path != "csv":
            return {}
        columns = [self.source, self.target, *([self.domain] if self.domain else [])]
        return {"keep_default_na": False, "converters": dict.fromkeys(columns, str)}

    def _read(self, table: Any, split: str, report: Report) -> Iterator[Pair]:
        for number, row in self._rows(table, split):
            where = f"{self.path}, {split}, row {number}"
            report.count(f"{split}: read")
            source, target = (_field(row, field, where) for field in (self.source, self.target))
            fault = corpus.fault(source, target, self.max_characters)
            if fault is None:
                domain = _field(row, self.domain, where) if self.domain else ""
                yield Pair(source, target, domain)
            else:
                report.drop(split, fault[0], f"{where}: {fault[1]}")


def _reason(error: BaseException) -> str:
    """The error in one line, with the one that it began with: `datasets` says "An error occurred while generating the
    dataset" of every broken file."""
    first: BaseException = error
    while (before := first.__cause__) is not None:
        first = before
    texts = [" ".join(f"{type(e).__name__}: {e}".split()) for e in (error, first)]
    return texts[0] if first is error or str(first) in str(error) else " because of ".join(texts)


def _field(row: dict[str, Any], field: str, where: str) -> str:
    """Text of a column, or of a field inside one; "" if it is null."""
    value: Any = row
    for name in [field] if field in row else field.split("."):
        if not isinstance(value, dict) or name not in value:
            fields = ", ".join(value) if isinstance(value, dict) else repr(value)
            raise ValueError(f"{where}: no field {name!r} of {field!r}; there are {fields}")
        value = value[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: {field!r} is {type(value).__name__}, expected text; a layout such as "
            "{'translation': {'en': ...}} is named 'translation.en'"
        )
    return value


def _provenance(table: Any) -> dict[str, Any]:
    """What identifies the rows: the fingerprint by `datasets`, if any, and the checksums of downloads."""
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
