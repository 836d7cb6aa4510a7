"""Fertilities of a prepared directory, from our aligner or from the links of another one: pairs are linked a part of
the corpus at a time, so that it need not fit in memory."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from nat_ar.data import file_kind
from nat_ar.data.alignment import aligner, links, pharaoh
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import RaggedWriter, Split
from nat_ar.data.ragged import Ragged, evenly_spaced
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.runtime import files

PART = 500_000
"""Pairs that are linked together: 28 tokens a side take some 0.5 GB."""


def align(
    config: AlignerConfig,
    words: Vocabulary,
    train: Split,
    validation: Split,
    *,
    progress: Callable[[str], None],
) -> None:
    """Writes the fertilities of both splits, by an aligner estimated on the training split alone: on all of it, or on
    `max_training_pairs`.

    The validation split of distilled data is a copy of the raw one and keeps its fertilities."""
    is_learnt_from = evenly_spaced(len(train), config.max_training_pairs)
    trained = aligner.train(
        train.source.where(is_learnt_from),
        train.target.where(is_learnt_from),
        config,
        source_size=words.source_size,
        target_size=words.target_size,
        progress=progress,
    )
    for split in (train, validation):
        if split.fertilities is None:
            _write(split, (aligner.link(trained, *sides) for sides in _parts(split)))


def _parts(split: Split) -> Iterator[tuple[Ragged, Ragged]]:
    """Source and target of neighbouring pairs."""
    for start in range(0, len(split), PART):
        yield split.source.part(start, start + PART), split.target.part(start, start + PART)


def _write(split: Split, linked: Iterable[Int[np.ndarray, "target_tokens"]]) -> None:
    """Of the links of each part."""
    stem = split.directory / "fertilities"
    with contextlib.closing(RaggedWriter(stem, np.dtype(np.int32))) as writer:
        for sides, found in zip(_parts(split), linked, strict=True):
            writer.extend(links.fertilities(found, *sides))


def read_pharaoh(path: str, train: Split) -> dict[str, str]:
    """Writes the fertilities of the training split by the links of a Pharaoh file; returns its provenance.

    Raises ValueError that names the file, and the line at fault if there is one."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected word alignments in Pharaoh format")
    with open(path, "rb") as file:
        file_kind.check(file.read(file_kind.LOOKED_AT), path)
    try:
        with open(path, encoding="utf-8") as lines:
            _write(train, pharaoh.read(lines, _parts(train), len(train)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {"path": path, "sha256": files.file_hash(Path(path))}
