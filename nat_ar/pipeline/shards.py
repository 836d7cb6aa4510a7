"""The shards of a distillation: what is translated is kept, so that an interruption loses at most one shard, and the
processes of a job array share the work."""

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from nat_ar import config_json
from nat_ar.data.arrays import PreparedData
from nat_ar.data.references import Tokenizer
from nat_ar.data.text_lines import TextLines
from nat_ar.evaluation import metrics
from nat_ar.evaluation.speed import machine
from nat_ar.runtime import bars, distributed, files, parts
from nat_ar.runtime.parts import Part
from nat_ar.search import limits
from nat_ar.translation import decodings, translator
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator

FORMAT = 1
"""Of shards and card."""
LATER_INPUTS = ("parameters_hash", "rescorer", "spoilt")
"""What early versions did not write: there it is taken to be equal."""
Choose = Literal["first", "best_bleu"]
Spoilt = Literal["drop", "raw", "keep"]
"""What becomes of a pair whose source lost its end, or whose translation reached its length limit."""


def best_of(translation: Translation, reference: str, tokenizer: Tokenizer) -> int:
    """The index of the translation with the highest sentence BLEU; ties go to the first."""
    scores = [
        metrics.sentence_bleu(text, reference, tokenize=tokenizer) for text in translation.texts
    ]
    return scores.index(max(scores))


def check_inputs(directory: Path, old: dict[str, Any], new: dict[str, Any], method: type) -> None:
    """Raises ValueError with the differences between what a directory was distilled from and what is asked for now.
    `method`: the teacher's class, under whose decodings an earlier version may have written another name."""
    old = {**old, "decoding": decodings.renamed(method, old["decoding"] or "")}
    new = {name: new[name] for name in new if name not in LATER_INPUTS or old.get(name) is not None}
    if changed := list(config_json.differences(old, new)):
        raise ValueError(
            f"{directory} was distilled from other inputs ({'; '.join(changed)}): name another "
            "--directory, or remove this one"
        )


@contextlib.contextmanager
def directory(
    shards: Path, inputs: dict[str, Any], method: type, part: Part | None = None
) -> Iterator[None]:
    """Makes the directory of the shards, continues one that was made with the same inputs, or takes over one in which
    nothing is translated yet. Without a part it is removed when its work is done. Raises ConfigError where another
    process is at it, or at the same part."""

    def begin(is_alone: bool) -> None:
        path, record = shards / "inputs.json", shards / parts.RECORD
        has_work = any(other not in (path, record) for other in shards.glob("*.json"))
        if path.exists() and (has_work or not is_alone):
            check_inputs(shards, read_json(path), inputs, method)
        else:
            record.unlink(missing_ok=True)
            write_json(path, inputs)

    with parts.at_work(shards, part, begin):
        yield
        if part is None:
            shutil.rmtree(shards, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Work:
    """What there is to translate, in pieces: validation is number 0, then the shards of the training split."""

    directory: Path
    data: PreparedData
    choose: Choose
    shard_sentences: int
    tokenizer: Tokenizer

    @property
    def _spans(self) -> list[range]:
        """The training sentences of each shard."""
        number, step = len(self.data.split("train")), self.shard_sentences
        return [range(first, min(first + step, number)) for first in range(0, number, step)]

    def _path(self, rows: range | None) -> Path:
        """Where a shard goes; that of validation has no rows."""
        name = "validation" if rows is None else f"{rows.start:09d}"
        return self.directory / f"{name}.json"

    def missing(self) -> list[int]:
        """The numbers of the pieces that are not made."""
        pieces = [None, *self._spans]
        return [k for k, rows in enumerate(pieces) if not self._path(rows).exists()]

    def make(
        self, teacher: Callable[[], Translator], part: Part | None = None, *, title: str
    ) -> None:
        """Translates the pieces of a part, or all, that are not there yet. The teacher is asked for where there is
        something to do. Processes that compute together share the sentences of each piece, and the first writes it."""
        there = distributed.from_first(self.missing)
        missing = [k for k in there if part is None or part.has(k)]
        spans, train = self._spans, self.data.split("train")
        texts = train.lines("source"), train.lines("target")
        if 0 in missing:
            self._validate(teacher())
        own = [k for k in range(1, len(spans) + 1) if part is None or part.has(k)]
        number = sum(len(spans[k - 1]) for k in own)
        waiting = sum(len(spans[k - 1]) for k in missing if k)
        bar = bars.Bar(
            total=number,
            initial=number - waiting,
            unit="sentence",
            desc=f"distill {title}" + (f" {part}" if part else ""),
        )
        with bar:
            for k in (k for k in missing if k):
                self._translate(teacher(), texts, spans[k - 1], title=f"shard {k}/{len(spans)}")
                bar.update(len(spans[k - 1]))

    def _validate(self, teacher: Translator) -> None:
        """BLEU of the teacher under the same decoding, of its first translations whatever `choose` is."""
        validation = self.data.split("validation")
        found = teacher.translate(validation.source_text, title="validation")

        def write() -> None:
            texts = [translation.texts[0] for translation in found]
            bleu = metrics.bleu(texts, validation.target_text, tokenize=self.tokenizer)
            write_json(self._path(None), {**bleu.as_row(), "sentences": len(validation)})

        distributed.from_first(write)

    def _translate(
        self, teacher: Translator, texts: tuple[TextLines, TextLines], rows: range, *, title: str
    ) -> None:
        """The training sources in `rows`. `texts`: all of them and their raw targets."""
        began = time.perf_counter()
        sources, targets = (list(side.part(rows.start, rows.stop)) for side in texts)
        found = teacher.translate(sources, title=title)

        def write() -> None:
            lengths = self.data.split("train").source.part(rows.start, rows.stop).lengths
            shard = _shard(found, targets, lengths, rows, self.choose, self.tokenizer)
            write_json(self._path(rows), {**shard, "seconds": time.perf_counter() - began})

        distributed.from_first(write)

    def validation(self) -> dict[str, Any]:
        """The teacher's BLEU on validation."""
        return read_json(self._path(None))

    def read(self) -> "Translated":
        """What all shards hold, of which one at a time is in memory."""
        return Translated([(self._path(rows), rows) for rows in self._spans])


class Translated:
    """The translations of all shards in order, by the rows of their sources, and what the shards say together."""

    def __init__(self, shards: Sequence[tuple[Path, range]]) -> None:
        """Reads each shard once. Raises ValueError for one that is damaged, or of other rows."""
        self._shards = shards
        self._latest = -1, list[str]()
        self.seconds = 0.0
        self.cut = self.shortened = self.empty = 0
        self.spoilt: set[int] = set()
        """rows; shards of an early version do not say which, and only count them"""
        self.devices: set[str] = set()
        for path, rows in shards:
            shard = _read_shard(path, rows)
            self.seconds += shard["seconds"]
            self.cut += shard["cut"]
            self.shortened += shard["shortened"]
            self.empty += sum(not text.strip() for text in shard["texts"])
            self.spoilt.update(shard.get("spoilt", ()))
            self.devices.add(shard["device"])

    def __len__(self) -> int:
        return self._shards[-1][1].stop

    def __getitem__(self, row: int, /) -> str:
        k = row // len(self._shards[0][1])
        return self._texts(k)[row - self._shards[k][1].start]

    def __iter__(self) -> Iterator[str]:
        for k in range(len(self._shards)):
            yield from self._texts(k)

    def _texts(self, k: int) -> list[str]:
        if self._latest[0] != k:
            self._latest = k, _read_shard(*self._shards[k])["texts"]
        return self._latest[1]


def _shard(
    found: Sequence[Translation],
    targets: Sequence[str],
    lengths: Int[np.ndarray, "rows"],
    rows: range,
    choose: Choose,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """What is kept of the translations of the training sources in `rows`, of so many tokens, and with these raw
    targets."""
    texts, num_cut, spoilt = [], 0, []
    several = zip(rows, found, targets, lengths.tolist(), strict=True)
    for row, translation, target, length in several:
        best = 0
        if choose == "best_bleu":
            best = best_of(translation, target, tokenizer)
        texts.append(translation.texts[best])
        source_tokens = min(length, translator.BUCKETS[-1] - 1) + 1
        is_cut = len(translation.tokens[best]) >= limits.length_limit(source_tokens)
        num_cut += is_cut
        if is_cut or translation.is_shortened:
            spoilt.append(row)
    return {
        "first": rows.start,
        "texts": texts,
        "cut": num_cut,
        "spoilt": spoilt,
        "shortened": sum(translation.is_shortened for translation in found),
        "device": machine.device_name(),
    }


def _read_shard(path: Path, rows: range) -> dict[str, Any]:
    shard = read_json(path)
    found = range(shard["first"], shard["first"] + len(shard["texts"]))
    if found != rows:
        raise ValueError(
            f"{path}: expected the translations of training sentences {rows.start} to "
            f"{rows.stop - 1}, got {found.start} to {found.stop - 1}; remove it and distil again"
        )
    return shard


def write_json(path: Path, value: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(files.signed(value), ensure_ascii=False))


def read_json(path: Path) -> dict[str, Any]:
    return files.read_json(path, remedy="remove it and distil again", is_signed=True)
