"""Preparing by a job array: the training pairs are encoded in pieces by several processes.

The first part to come reads the corpus, cleans it and learns the vocabulary, and the others wait for it; then each
encodes its pieces, and whoever makes the last one joins them, encodes the other splits and aligns. All of it lies
beside the directory until it is joined:

    DIRECTORY.parts/inputs.json         what is prepared
    DIRECTORY.parts/clean/              clean texts of every split, vocabulary, report
    DIRECTORY.parts/000000000/, ...     arrays of the pairs from that one on, and which of them are kept"""

import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nat_ar import config_json
from nat_ar.data import arrays, encoding, prepare
from nat_ar.data.encoding import Piece
from nat_ar.data.pair import Report
from nat_ar.data.prepare import Cleaned, DataConfig
from nat_ar.data.progress import Progress
from nat_ar.data.ragged import Ragged
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.runtime import bars, files, parts
from nat_ar.runtime.parts import Part

FORMAT = 1
PIECE = 20 * encoding.CHUNK
"""Pairs encoded together: whole chunks, so that the report has the examples of one process."""


def prepare_part(
    config: DataConfig, part: str | None, *, quiet: bool = False
) -> dict[str, Any] | None:
    """Makes a part, "2/8", of the prepared directory, and the directory itself once all parts are made; returns its
    manifest, and None until then. Without a part: `prepare.prepare`, or the joining of parts that are made.

    Raises ValueError as that does, ConfigError where parts are missing and none is given, and InUseError where another
    process makes the same."""
    own = None if part is None else Part.parse(part)
    directory = Path(config.directory)
    place = directory.with_name(directory.name + ".parts")
    if (directory / arrays.MANIFEST).exists() or (own is None and not place.exists()):
        manifest = prepare.prepare(config, quiet=quiet)
        shutil.rmtree(place, ignore_errors=True)
        return manifest
    files.check_new_directory(directory, but=f"no {arrays.MANIFEST}")
    work = _Work(config, place, Progress(quiet))

    def join() -> dict[str, Any]:
        with work.entered(None):
            if work.is_joined():
                manifest = prepare.prepare(config, quiet=quiet)
            else:
                parts.require_all(place, work.missing(), "pieces")
                work.make(None)
                manifest = work.join()
            shutil.rmtree(place, ignore_errors=True)
            return manifest

    if own is None:
        return join()
    with work.entered(own):
        work.make(own)
        missing = work.missing()
    if missing and not work.is_joined():
        named = parts.named(missing, own.of)
        bars.say(f"nat-ar: part {own} is made; what is missing is of --part {named}")
        return None
    with contextlib.suppress(files.InUseError):
        return join()
    bars.say(f"nat-ar: part {own} is made; another process joins them all")
    return None


class _Work:
    """The directory of the parts."""

    def __init__(self, config: DataConfig, place: Path, show: Progress) -> None:
        self.config, self.place, self.show = config, place, show
        self.clean = place / "clean"

    def is_joined(self) -> bool:
        """By another process, maybe since this one has looked."""
        return (Path(self.config.directory) / arrays.MANIFEST).exists()

    @contextlib.contextmanager
    def entered(self, part: Part | None) -> Iterator[None]:
        """With a corpus that is cleaned. Raises ValueError where it is another one."""
        with parts.at_work(self.place, part, self._begin):
            yield

    def _begin(self, _: bool) -> None:
        if self.is_joined():
            return
        path = self.place / "inputs.json"
        wanted = {
            "format": FORMAT,
            "piece": PIECE,
            "reader": prepare.reader(self.config),
            "config": prepare.decisive(config_json.to_json(self.config), type(self.config.corpus)),
        }
        if path.exists() and self.clean.exists():
            found = files.read_json(path, remedy=f"remove {self.place}", is_signed=True)
            if changed := list(config_json.differences(found, wanted)):
                raise ValueError(
                    f"{self.place} was begun with another config ({'; '.join(changed)}): name another directory, or "
                    "remove this one"
                )
            return
        (self.place / parts.RECORD).unlink(missing_ok=True)
        _write_json(path, wanted)
        with files.new_directory(self.clean) as partial:
            cleaned = prepare.clean(self.config, partial, self.show)
            fields = ("sentences", "read", "seconds")
            told = {name: getattr(cleaned, name) for name in fields}
            _write_json(partial / "cleaned.json", {**told, "report": cleaned.report.to_json()})

    def _cleaned(self) -> Cleaned:
        path = self.clean / "cleaned.json"
        told = files.read_json(path, remedy=f"remove {self.place}", is_signed=True)
        report = Report.of_json(told.pop("report"))
        return Cleaned(self.clean, report=report, **told)

    def _pieces(self) -> list[tuple[Path, int]]:
        """Of each piece its place, and the number of its pairs."""
        number = self._cleaned().sentences["train"]
        return [
            (self.place / f"{first:012d}", min(PIECE, number - first))
            for first in range(0, number, PIECE)
        ]

    def missing(self) -> list[int]:
        """The numbers of the pieces that are not made."""
        if not self.clean.exists():  # all are joined
            return []
        return [k for k, (path, _) in enumerate(self._pieces()) if not path.exists()]

    def make(self, part: Part | None) -> None:
        """Encodes the pieces of a part, or all, that are not there yet."""
        missing = {k for k in self.missing() if part is None or part.has(k)}
        if not missing:
            return
        words = Vocabulary.load(self.clean / "vocabulary")
        spool = self.clean / "spool" / "train"
        pairs = zip(*(arrays.read_texts(spool, side) for side in ("source", "target")), strict=True)
        pieces, limits = self._pieces(), (self.config.max_tokens, self.config.max_length_ratio)
        for k, (path, number) in enumerate(pieces[: max(missing) + 1]):
            some = itertools.islice(pairs, number)
            if k not in missing:
                next(itertools.islice(some, number, number), None)  # passed over
                continue
            shown = self.show.bar(some, f"encode piece {k + 1}/{len(pieces)}", number)
            report, began = Report(), time.monotonic()
            with files.new_directory(path) as partial:
                np.save(
                    partial / "kept.npy", encoding.encode(partial, shown, words, report, limits)
                )
                hashes = {file.name: files.file_hash(file) for file in sorted(partial.iterdir())}
                _write_json(
                    partial / "piece.json",
                    {
                        "report": report.to_json(),
                        "files": hashes,
                        "seconds": time.monotonic() - began,
                    },
                )

    def _checked(self, path: Path) -> dict[str, Any]:
        """What a piece says of itself. Raises ValueError where it is not what it was."""
        told = files.read_json(path / "piece.json", remedy=f"remove {path}", is_signed=True)
        for name, expected in told["files"].items():
            if files.file_hash(path / name) != expected:
                raise ValueError(
                    f"{path / name} has changed since it was written; remove {path}, and run the same command"
                )
        return told

    def join(self) -> dict[str, Any]:
        """The prepared directory, of which all pieces are made; returns its manifest."""
        places = [path for path, _ in self._pieces()]
        told = [self._checked(path) for path in places]
        cleaned = self._cleaned()
        cleaned.seconds["encode"] = sum(one["seconds"] for one in told)
        pieces = (
            Piece(
                Ragged.load(path / "source"),
                Ragged.load(path / "target"),
                np.load(path / "kept.npy"),
                Report.of_json(one["report"]),
            )
            for path, one in zip(places, told, strict=True)
        )
        with arrays.new_directory(Path(self.config.directory)) as partial:
            return prepare.write(self.config, partial, cleaned, self.show, pieces=pieces)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(files.signed(value), ensure_ascii=False))
