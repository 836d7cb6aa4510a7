"""study CONFIG: a teacher, its distilled data, students, baselines -> one table and one picture.

A study may be killed at any moment: the same command continues it. nat_ar/pipeline/study.py lists what it
writes."""

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import prepare
from nat_ar.evaluation import figures
from nat_ar.evaluation.speed import machine
from nat_ar.experiment import sweep
from nat_ar.experiment.study import Entry, StudyConfig, load_study, only, with_int8
from nat_ar.experiment.sweep import Sweep
from nat_ar.pipeline.study import study
from nat_ar.runtime import bars, distributed, files, stuck

Words = list[str]
EVERY_ENTRY = ("training", "method")
"""Beginnings of the dotted names that are options of every entry, as they are of `train`."""
UNSAID = (
    *(
        "directory",
        "corpus_file",
        "only",
        "teacher_from",
        "untimed",
        "publish",
        "picture",
        "width",
        "title",
    ),
    *("mesh", "coordinator", "processes", "process", "stuck_after"),
)
"""Options that the command in the reports does not repeat as they are: none of them decides what is measured, or it
names a place."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Run the stages of a study whose results are missing or out of date, and print its table.

    --training.* and --method.* are options of every entry and the teacher, as `train` has them (--training.max-steps
    100); with the name of an entry before them, of that entry only (--nat.training.max-steps 100,
    --teacher.method.transformer.dropout-rate 0.2), and then all its fields are options (--nat.seeds 1 2)."""

    config: StudyConfig
    """the study; its fields are options with dotted names"""
    path: str
    """its Python file"""
    corpus_file: tuple[str, ...] = ()
    """tab-separated files (source, target), plain or gzipped, to read instead of the corpus: one, with its hold-out, or
    three, training, validation and test"""
    only: tuple[str, ...] = ()
    """entries to run, besides the teacher and the entries that they start from; default: all"""
    sweep: tuple[str, ...] = ()
    """FIELD=a,b,c with the dotted name of an option of entries: instead of each entry (or of the one that is named
    before the field) one for each value, called NAME_FIELD_a and so on; several sweeps: every combination"""
    teacher_from: str | None = None
    """a run, such as docs/results/multi30k_en_de/teacher, to copy instead of training the teacher"""
    int8: bool = False
    """behind each row of the table, the same decoding with weights of 8 bits (a CPU only)"""
    untimed: bool = False
    """leave out the benchmark: a later run of the command, on a machine that does nothing else, adds it"""
    publish: str | None = None
    """directory to which table.md, the picture and the examples are also written, such as docs/results/toy, and in its
    systems/ what `compare` reads of each run"""
    picture: str | None = None
    """a further file for the picture: .png, .svg or .pdf"""
    width: float | None = None
    """width of the pictures in inches, such as 3.3 for a column of a paper"""
    no_title: bool = False
    """leave the title out of the pictures, for a caption"""
    mesh: str | None = None
    """the devices that share each batch of every training, as --mesh of `train`"""
    coordinator: str | None = None
    """HOST:PORT at which process 0 listens, where several processes do every stage together but the benchmark, which is
    process 0's (docs/scale.md); SLURM and Open MPI say it themselves"""
    processes: int | None = None
    """how many processes that is"""
    process: int | None = None
    """which of them this is, from 0"""
    stuck_after: float = stuck.AFTER
    """seconds without a step of training, where one is expected, after which they all end; 0: never"""
    overrides: tuple[str, ...] = ()
    """the words of the command line that changed the config, as the reports give them"""


def parse(path: str, words: Words, fill: Callable[..., Any]) -> Study:
    """The study with all options set: its own first, then --only, every entry's, one entry's, sweeps."""
    config = load_study(path)
    own, every, single = _divided(config, words)
    arguments: Study = fill(
        Study(config, path), own, fixed=("path", "overrides", "teacher", "entries")
    )
    config = arguments.config
    if arguments.only:
        config = only(config, arguments.only)

    def changed(entry: Entry) -> Entry:
        mine = single.get(entry.name, [])
        for given in (every, mine):
            if given:
                entry = _filled(entry, given, fill)
        return entry

    config = dataclasses.replace(
        config, teacher=changed(config.teacher), entries=tuple(map(changed, config.entries))
    )

    def with_value(entry: Entry, field: str, value: str) -> Entry:
        return _filled(entry, [f"--{field}", *shlex.split(value)], fill, has_flags=False)

    sweeps = [Sweep.of(text, config) for text in arguments.sweep]
    config = sweep.swept(config, sweeps, with_value)
    if arguments.int8:
        config = with_int8(config)
    said = [
        word
        for group in _groups(words)
        if _name(group[0]).removeprefix("no_") not in UNSAID
        for word in group
    ]
    return dataclasses.replace(arguments, config=config, overrides=tuple(said))


def _divided(config: StudyConfig, words: Words) -> tuple[Words, Words, dict[str, Words]]:
    """The words for the study itself, for every entry, and for one entry each, without its name."""
    own: Words = []
    every: Words = []
    single: dict[str, Words] = {}
    aliases = {"teacher": config.teacher.name}
    aliases |= {entry.name: entry.name for entry in (config.teacher, *config.entries)}
    fields = {field.name for field in dataclasses.fields(config)} - {"teacher"}
    for option, *values in _groups(words):
        name = _name(option)
        head = name.partition(".")[0]
        named = [alias for alias in aliases if name.startswith(f"{_plain(alias)}.")]
        if named and head not in fields:
            longest = max(named, key=len)
            short = f"--{option[len(longest) + 3 :]}"  # two dashes before it, a point behind it
            single.setdefault(aliases[longest], []).extend([short, *values])
        elif head in EVERY_ENTRY and "." in name:
            every += [option, *values]
        else:
            if head not in fields and name.partition(".")[2].partition(".")[0] in EVERY_ENTRY:
                raise ConfigError(
                    f"{option}: expected an entry of the study ({', '.join(aliases)}), got {head!r}"
                )
            own += [option, *values]
    return own, every, single


def _groups(words: Iterable[str]) -> list[Words]:
    """Each option with its values."""
    groups: list[Words] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def _name(option: str) -> str:
    """The dotted name of an option: --training.max-steps=7 is training.max_steps."""
    return _plain(option.partition("=")[0].removeprefix("--"))


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _filled(entry: Entry, words: Sequence[str], fill: Callable[..., Any], **how: Any) -> Entry:
    """Raises ValueError that names the entry."""
    try:
        filled: Entry = fill(entry, words, fixed=("name",), **how)
    except ValueError as error:
        raise ValueError(f"entry {entry.name}: {error}") from error
    return filled


def run(arguments: Study) -> None:
    config = arguments.config
    if arguments.picture is not None and arguments.untimed:
        raise ConfigError("--picture draws quality against speed: leave it out, or --untimed")
    if arguments.picture is not None:
        figures.paths_of(Path(arguments.picture))
        files.require_writable(Path(arguments.picture).parent)
    figures.require_width(arguments.width)
    command = f"python -m nat_ar study {arguments.path}"
    if arguments.corpus_file:
        data = prepare.from_files(config.data, arguments.corpus_file)
        config = dataclasses.replace(config, data=data)
        command += f" --corpus-file {shlex.join(Path(name).name for name in arguments.corpus_file)}"
    if arguments.overrides:
        command += f" {shlex.join(arguments.overrides)}"
    if arguments.only:
        command += f" --only {shlex.join(arguments.only)}"
    if arguments.teacher_from:
        command += f" --teacher-from {shlex.quote(arguments.teacher_from)}"
    place = (arguments.coordinator, arguments.processes, arguments.process)
    with distributed.joined(*place, stuck_after=arguments.stuck_after):
        entries = (config.teacher, *config.entries)
        bars.say(machine.summary(entry.method.network.dtype for entry in entries))
        study(
            config,
            command=command,
            is_timed=not arguments.untimed,
            publish=arguments.publish,
            picture=arguments.picture,
            width=arguments.width,
            has_title=not arguments.no_title,
            mesh=arguments.mesh,
            teacher_from=arguments.teacher_from,
        )
