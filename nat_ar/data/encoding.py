"""From clean texts to the arrays of a split, in chunks: subwords, and which training pairs are kept."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool

from nat_ar.data import arrays, cleaning, length_order, ragged
from nat_ar.data.arrays import RaggedWriter
from nat_ar.data.pair import Report
from nat_ar.data.ragged import Ragged
from nat_ar.data.vocabulary import Vocabulary

T = TypeVar("T")
CHUNK = 10_000
"""Pairs encoded at a time."""


class Piece(NamedTuple):
    """Neighbouring pairs of a split that were encoded by themselves."""

    source: Ragged
    """of those that are kept, and `target` likewise"""
    target: Ragged
    is_kept: Bool[np.ndarray, "pairs"]
    report: Report


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
    sides = arrays.read_texts(spool, "source"), arrays.read_texts(spool, "target")
    pairs = progress(zip(*sides, strict=True), f"encode {name}", number)
    limits = (max_tokens, max_length_ratio) if name == "train" else None
    kept = encode(directory, pairs, words, report, limits)
    _finish(directory, spool, kept, report)


def encode(
    directory: Path,
    pairs: Iterable[tuple[str, str]],
    words: Vocabulary,
    report: Report,
    limits: tuple[int, float | None] | None,
) -> Bool[np.ndarray, "pairs"]:
    """Writes the arrays source and target of those pairs that are within the limits of tokens and of the ratio of
    lengths, if there are any, and says which they are."""
    source_writer, target_writer = _writers(directory, words)
    is_kept: list[np.ndarray] = []
    pairs = iter(pairs)
    while chunk := list(itertools.islice(pairs, CHUNK)):
        source_texts, target_texts = zip(*chunk, strict=True)
        sources, targets = words.encode_source(source_texts), words.encode_target(target_texts)
        fits = np.ones(len(chunk), np.bool_)
        if limits is not None:
            fits = _fits(
                source_texts,
                sources,
                targets,
                report,
                max_tokens=limits[0],
                max_length_ratio=limits[1],
            )
        source_writer.append(list(itertools.compress(sources, fits)))
        target_writer.append(list(itertools.compress(targets, fits)))
        is_kept.append(fits)
    source_writer.close()
    target_writer.close()
    return np.concatenate(is_kept) if is_kept else np.zeros(0, np.bool_)


def join_split(
    directory: Path,
    spool: Path,
    pieces: Iterable[Piece],
    words: Vocabulary,
    report: Report,
) -> None:
    """What `write_split` writes, of all its pieces in order."""
    directory.mkdir()
    source_writer, target_writer = _writers(directory, words)
    is_kept: list[np.ndarray] = []
    for piece in pieces:
        source_writer.extend(piece.source)
        target_writer.extend(piece.target)
        is_kept.append(piece.is_kept)
        report.add(piece.report)
    source_writer.close()
    target_writer.close()
    _finish(directory, spool, np.concatenate(is_kept), report)


def _writers(directory: Path, words: Vocabulary) -> tuple[RaggedWriter, RaggedWriter]:
    return (
        RaggedWriter(directory / "source", ragged.token_type(words.source_size)),
        RaggedWriter(directory / "target", ragged.token_type(words.target_size)),
    )


def _finish(directory: Path, spool: Path, kept: Bool[np.ndarray, "pairs"], report: Report) -> None:
    """The texts of the pairs that are kept, and of the training split the order by length."""
    if directory.name == "train":
        source, target = (Ragged.load(directory / side) for side in ("source", "target"))
        length_order.write(directory, source, target)
    arrays.copy_texts(spool, directory, kept)
    cleaning.check_not_empty(directory.name, int(kept.sum()), report)


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
