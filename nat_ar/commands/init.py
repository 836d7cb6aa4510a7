"""init NAME --source FILE --target FILE: a config file for a study on one's own sentences."""

import dataclasses
import shlex

from nat_ar.pipeline import init
from nat_ar.runtime import console


@dataclasses.dataclass(frozen=True)
class Init:
    """Write NAME.py, a commented study of two files of sentences: a teacher, its distilled data and a student."""

    name: str
    """of the study, and of its file without .py"""
    source: str = dataclasses.field(kw_only=True)
    """file of source sentences, one a line"""
    target: str = dataclasses.field(kw_only=True)
    """file of their translations, as many lines"""
    source_language: str | None = None
    """code such as "en"; default: as the file is called, en.txt or train.en"""
    target_language: str | None = None
    """likewise; BLEU's tokenizer follows from it"""


def run(arguments: Init) -> None:
    path = init.write(
        arguments.name,
        arguments.source,
        arguments.target,
        languages=(arguments.source_language, arguments.target_language),
    )
    console.show(f"wrote {path}; next: python -m nat_ar study {shlex.quote(str(path))}")
