"""Prepared data of a dry run: letters and their capitals."""

import itertools
from pathlib import Path

from nat_ar.data import prepare
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig

LETTERS = "abcdef"


def write(directory: Path) -> Path:
    """The prepared directory below `directory`."""
    rows = [" ".join(row) for row in itertools.product(LETTERS, repeat=4)]
    parts = {"train": rows[:200], "validation": rows[200:204], "test": rows[204:208]}
    directory.mkdir(parents=True, exist_ok=True)
    paths: dict[str, tuple[str, ...]] = {}
    for name, part in parts.items():
        path = directory / f"{name}.tsv"
        path.write_text("".join(f"{row}\t{row.upper()}\n" for row in part), "utf-8")
        paths[name] = (str(path),)
    config = DataConfig(
        directory=str(directory / "data"),
        corpus=TextFiles(paths["train"], paths["validation"], paths["test"]),
        vocabulary=VocabularyConfig(size=30, byte_fallback=False),
        aligner=None,
        remove_overlap=False,
    )
    prepare.prepare(config, quiet=True)
    return Path(config.directory)
