"""study CONFIG: a teacher, its distilled data, students, baselines -> one table and one picture.

Every stage leaves a complete result or none, and is passed over when its result is there and its inputs
have not changed. So a study may be killed at any moment and started again by the same command, and ends
with the same table:

    DIRECTORY/data, DIRECTORY/distilled     prepared directories, raw and by the teacher
    DIRECTORY/runs/NAME                     a run for each entry
    DIRECTORY/table.{txt,md,csv,tex}, picture.{png,svg}, examples.md"""

import dataclasses
import shlex
from pathlib import Path

from nat_ar.data import prepare
from nat_ar.experiment.study import load_study, only
from nat_ar.pipeline.study import study


@dataclasses.dataclass(frozen=True)
class Study:
    """Run all stages of a study, or those that are missing, and print its table."""

    path: str
    """Python file that assigns a StudyConfig to `config`"""
    directory: str | None = None
    """where everything goes; default: the config's directory"""
    corpus_file: str | None = None
    """tab-separated file (source, target), plain or gzipped, to read in place of the config's corpus and
    split by the same hold-out"""
    only: tuple[str, ...] = ()
    """names of entries: the teacher, these, and those that they start from; none: all"""
    publish: str | None = None
    """also write table.md, picture and examples to this directory, such as docs/results/toy"""


def run(arguments: Study) -> None:
    config = load_study(arguments.path)
    if arguments.only:
        config = only(config, arguments.only)
    if arguments.directory is not None:
        config = dataclasses.replace(config, directory=arguments.directory)
    command = f"python -m nat_ar study {arguments.path}"
    if arguments.corpus_file is not None:
        data = prepare.from_file(config.data, arguments.corpus_file)
        config = dataclasses.replace(config, data=data)
        command += f" --corpus-file {Path(arguments.corpus_file).name}"
    if arguments.only:
        command += f" --only {shlex.join(arguments.only)}"
    study(config, command=command, publish=arguments.publish)
