"""From clean texts to the arrays of a split, in chunks: subwords, and which training pairs are kept."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool

from nat_ar.data import arrays, cleaning, length_order, ragged
from nat_ar.data.arrays import RaggedWriter
from nat_ar.data.pair import Report
from nat_ar.data.ragged import Ragged
from nat_ar.data.vocabulary import Vocabulary

T = TypeVar("T")
_CHUNK = 10_000
"""Pairs encoded at a time."""


Progress = Callable[[Iterable[T], str, int | None], Iterable[T]]
"""(pairs, what is done, their number) to the same pairs, with a bar that shows how far they are."""


def write_split(
    directory: Path,
    spool: Path,
    number: int,
    words: Vocabulary,
    report: Report,
    progress: Progress[Any],
    *,
    max_tokens: int,
    max_length_ratio: float | None,
) -> None:
    """Encodes the `number` pairs that a TextWriter wrote into `spool`, and writes texts and arrays. Drops the training
    pairs that are beyond the limits."""
    name = directory.name
    directory.mkdir()
    source_writer = RaggedWriter(directory / "source", ragged.token_type(words.source_size))
    target_writer = RaggedWriter(directory / "target", ragged.token_type(words.target_size))
    is_kept: list[np.ndarray] = []
    sides = arrays.read_texts(spool, "source"), arrays.read_texts(spool, "target")
    pairs = iter(progress(zip(*sides, strict=True), f"encode {name}", number))
    while chunk := list(itertools.islice(pairs, _CHUNK)):
        source_texts, target_texts = zip(*chunk, strict=True)
        sources, targets = words.encode_source(source_texts), words.encode_target(target_texts)
        fits = np.ones(len(chunk), np.bool_)
        if name == "train":
            fits = _fits(
                source_texts,
                sources,
                targets,
                report,
                max_tokens=max_tokens,
                max_length_ratio=max_length_ratio,
            )
        source_writer.append(list(itertools.compress(sources, fits)))
        target_writer.append(list(itertools.compress(targets, fits)))
        is_kept.append(fits)
    source_writer.close()
    target_writer.close()
    if name == "train":
        source, target = (Ragged.load(directory / side) for side in ("source", "target"))
        length_order.write(directory, source, target)
    kept = np.concatenate(is_kept) if is_kept else np.zeros(0, np.bool_)
    arrays.copy_texts(spool, directory, kept)
    cleaning.check_not_empty(name, int(kept.sum()), report)


def _fits(
    texts: Sequence[str],
    sources: list[list[int]],
    targets: list[list[int]],
    report: Report,
    *,
    max_tokens: int,
    max_length_ratio: float | None,
) -> Bool[np.ndarray, "pairs"]:
    """Which training pairs are within the limits. The report counts the others, with their source texts."""
    lengths = np.array([list(map(len, sources)), list(map(len, targets))])
    shorter, longer = lengths.min(axis=0), lengths.max(axis=0)
    is_long = longer > max_tokens
    is_uneven = np.zeros_like(is_long)
    if max_length_ratio is not None:
        is_uneven = ~is_long & (longer > max_length_ratio * shorter)
    for excluded, reason in (
        (is_long, f"longer than {max_tokens} tokens"),
        (is_uneven, f"length ratio over {max_length_ratio}"),
    ):
        for row in np.flatnonzero(excluded).tolist():
            report.drop("train", reason, texts[row][:80])
    return ~is_long & ~is_uneven
