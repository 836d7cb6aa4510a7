"""Fertilities of a prepared directory, from our aligner or from the links of another one."""

from collections.abc import Callable
from pathlib import Path

from nat_ar.data import file_kind
from nat_ar.data.alignment import aligner, links, pharaoh
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import Split
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.runtime import files


def align(
    config: AlignerConfig,
    words: Vocabulary,
    train: Split,
    validation: Split,
    *,
    progress: Callable[[str], None],
) -> None:
    """Writes the fertilities of both splits, by an aligner estimated on the training split alone.

    The validation split of distilled data is a copy of the raw one and keeps its fertilities."""
    trained = aligner.train(
        train.source,
        train.target,
        config,
        source_size=words.source_size,
        target_size=words.target_size,
        progress=progress,
    )
    for split in (train, validation):
        if split.fertilities is None:
            linked = aligner.link(trained, split.source, split.target)
            counts = links.fertilities(linked, split.source, split.target)
            counts.save(split.directory / "fertilities")


def read_pharaoh(path: str, train: Split) -> dict[str, str]:
    """Writes the fertilities of the training split by the links of a Pharaoh file; returns its provenance.

    Raises ValueError that names the file, and the line at fault if there is one."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected word alignments in Pharaoh format")
    with open(path, "rb") as file:
        file_kind.check(file.read(file_kind.LOOKED_AT), path)
    try:
        with open(path, encoding="utf-8") as lines:
            linked = pharaoh.read(lines, train.source, train.target)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    counts = links.fertilities(linked, train.source, train.target)
    counts.save(train.directory / "fertilities")
    return {"path": path, "sha256": files.file_hash(Path(path))}
