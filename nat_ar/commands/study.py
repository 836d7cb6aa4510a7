"""study CONFIG: a teacher, its distilled data, students, baselines -> one table and one picture.

A study may be killed at any moment: the same command continues it. nat_ar/pipeline/study.py lists what it
writes."""

import dataclasses
import shlex
from pathlib import Path

from nat_ar.data import prepare
from nat_ar.experiment.study import load_study, only
from nat_ar.pipeline.study import study


@dataclasses.dataclass(frozen=True)
class Study:
    """Run the stages of a study whose results are missing or out of date, and print its table."""

    path: str
    """Python file that assigns a StudyConfig to `config`"""
    directory: str | None = None
    """directory for everything that the study writes; default: that of the config"""
    corpus_file: tuple[str, ...] = ()
    """tab-separated files (source, target), plain or gzipped, to read instead of the corpus: one, with its hold-out, or
    three, training, validation and test"""
    only: tuple[str, ...] = ()
    """entries to run, besides the teacher and the entries that they start from; default: all"""
    columns: tuple[str, ...] = ()
    """columns of the table, by name, or all; default: those of the config, or a few (docs/metrics.md)"""
    publish: str | None = None
    """directory to which table.md, the picture and the examples are also written, such as docs/results/toy"""


def run(arguments: Study) -> None:
    config = load_study(arguments.path)
    if arguments.only:
        config = only(config, arguments.only)
    if arguments.directory is not None:
        config = dataclasses.replace(config, directory=arguments.directory)
    command = f"python -m nat_ar study {arguments.path}"
    if arguments.corpus_file:
        data = prepare.from_files(config.data, arguments.corpus_file)
        config = dataclasses.replace(config, data=data)
        command += f" --corpus-file {shlex.join(Path(name).name for name in arguments.corpus_file)}"
    if arguments.columns:
        config = dataclasses.replace(config, columns=arguments.columns)
        command += f" --columns {shlex.join(arguments.columns)}"
    if arguments.only:
        command += f" --only {shlex.join(arguments.only)}"
    study(config, command=command, publish=arguments.publish)
