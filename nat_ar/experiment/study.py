"""What a study is: a teacher, students and baselines on one corpus."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.prepare import DataConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.evaluation.table import columns
from nat_ar.experiment import seeds
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.methods import base
from nat_ar.methods.base import Method
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.search.verification import DraftedDecoding
from nat_ar.training.config import TrainingConfig
from nat_ar.translation import decodings


@dataclasses.dataclass(frozen=True)
class Entry(config_json.Config):
    """One model of a study, and the decodings by which it enters the table."""

    name: str
    """how the table calls it; the name of its run"""
    method: AnyMethod | Method
    """what is trained"""
    training: TrainingConfig
    """how it is trained"""
    distilled: bool = False
    """train on the teacher's translations instead of the corpus's"""
    encoder_from_teacher: bool = False
    """start with the teacher's embeddings and encoder"""
    decoder_from_teacher: bool = False
    """start with what fits of the teacher's decoder"""
    start_from: str | None = None
    """name of an earlier entry whose parameters this one starts with"""
    decodings: tuple[str, ...] = ()
    """such as ("Greedy()", "Beam(size=4)"); none: the method's own. The drafter of one is another entry, by its name"""
    seeds: tuple[int, ...] | None = None
    """train once with each of these seeds; (): once, with training.seed; None: as the study's `seeds` say"""

    def __post_init__(self) -> None:
        for text in self.decodings:
            decodings.choose(self.method, text)
        _check_seeds(f"{self.name}.seeds", self.seeds or ())


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One training of a study: an entry, or an entry with one of its seeds."""

    entry: Entry
    seed: int | None
    """None: that of the entry's training"""
    experiment: ExperimentConfig
    """what is trained, and on what"""
    directory: Path
    """of the run"""


@dataclasses.dataclass(frozen=True)
class StudyConfig(config_json.Config):
    """A teacher, students and baselines on one corpus."""

    name: str
    """title of the picture"""
    directory: str
    """where everything goes"""
    data: DataConfig
    """the corpus; data.directory is replaced by DIRECTORY/data"""
    teacher: Entry
    """the autoregressive model that distils, rescores and is the baseline of every ratio"""
    entries: tuple[Entry, ...]
    """students and further baselines, trained in this order"""
    distillation: str = "Beam(size=4)"
    """how the teacher translates the training data"""
    word_distributions: int | None = None
    """so many of the teacher's most probable words are kept at each place of its translations, for entries whose
    training has word_distributions; None: none"""
    tests: tuple[str, ...] = ("test",)
    """splits that are evaluated; the first one is the table's, and is timed"""
    speed: SpeedConfig = SpeedConfig()
    """how much text the benchmark takes"""
    columns: tuple[str, ...] = ()
    """columns of its table, by name, or ("all",); none: the few of `compare` (docs/metrics.md)"""
    seeds: tuple[int, ...] = ()
    """train every entry once with each of these seeds, in runs NAME_seed1, NAME_seed2, ..., of which the table has the
    mean; none: once, with the seed of its training"""
    seed_teacher: bool = False
    """train the teacher with each of the seeds too: a student then learns from the teacher of its own seed, which
    distils data of its own; otherwise all learn from the one teacher"""

    def __post_init__(self) -> None:
        names = [self.teacher.name, *(entry.name for entry in self.entries)]
        if len(set(names)) < len(names):
            raise ConfigError(f"entries of a study need different names, got {', '.join(names)}")
        _check_seeds("seeds", self.seeds)
        if self.seed_teacher and not self.seeds:
            raise ConfigError(
                "seed_teacher: expected seeds to train the teacher with, got none; set seeds"
            )
        if self.teacher.method.family != "AR" or self.teacher.distilled:
            kind = f"{type(self.teacher.method).__name__}, distilled={self.teacher.distilled}"
            raise ConfigError(
                "the teacher of a study is autoregressive (family AR) and trained on raw data, "
                f"got {kind}"
            )
        for position, entry in enumerate(self.entries):
            known = names[: position + 1]
            if entry.start_from is not None and entry.start_from not in known:
                raise ConfigError(
                    f"{entry.name}.start_from: expected an earlier entry ({', '.join(known)}), got "
                    f"{entry.start_from!r}"
                )
            _check_start(entry, {e.name: e for e in (self.teacher, *self.entries)}, self.teacher)
            _check_distributions(entry, self.word_distributions)
            _check_drafters(entry, names)
            self._check_seeds_of_others(entry)
        runs = [seeds.named(e.name, s) for e in self._all() for s in self.seeds_of(e)]
        if len(set(runs)) < len(runs):
            raise ConfigError(f"runs of a study need different names, got {', '.join(runs)}")
        _check_drafters(self.teacher, names)
        config_json.require_at_least(1, word_distributions=self.word_distributions)
        decodings.choose(self.teacher.method, self.distillation)
        if not self.tests:
            raise ConfigError("tests: expected at least one split, got none")
        try:
            columns.check(self.columns)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _all(self) -> tuple[Entry, ...]:
        return (self.teacher, *self.entries)

    def seeds_of(self, entry: Entry) -> tuple[int | None, ...]:
        """One for each run of the entry; None: that of its training, and the run has no seed in its name."""
        own = entry.seeds
        if own is None:
            is_seeded = entry.name != self.teacher.name or self.seed_teacher
            own = self.seeds if is_seeded else ()
        return own or (None,)

    def plan(self) -> tuple[PlannedRun, ...]:
        """All trainings, in their order: those of the teacher first."""
        runs = Path(self.directory) / "runs"
        return tuple(
            PlannedRun(
                entry, seed, self.experiment(entry, seed), runs / seeds.named(entry.name, seed)
            )
            for entry in self._all()
            for seed in self.seeds_of(entry)
        )

    def distilled(self, seed: int | None) -> Path:
        """Where the translations by the teacher of this seed go."""
        return Path(seeds.named(str(Path(self.directory) / "distilled"), seed))

    def experiment(self, entry: Entry, seed: int | None = None) -> ExperimentConfig:
        """What an entry trains with one of its `seeds_of`: its config with the directories of the study filled in."""
        root = Path(self.directory)
        is_teacher = entry.name == self.teacher.name
        start = None
        if entry.start_from is not None:
            (before,) = (one for one in self._all() if one.name == entry.start_from)
            start = self._run_beside(before, seed)
        training = entry.training
        if seed is not None:
            training = dataclasses.replace(training, seed=seed)
        distilled = self.distilled(self._seed_beside(self.teacher, seed))
        return ExperimentConfig(
            name=seeds.named(entry.name, seed),
            data=dataclasses.replace(self.data, directory=str(root / "data")),
            method=entry.method,
            training=training,
            train_on=str(distilled) if entry.distilled else None,
            teacher=None if is_teacher else self._run_beside(self.teacher, seed),
            encoder_from_teacher=entry.encoder_from_teacher,
            decoder_from_teacher=entry.decoder_from_teacher,
            start_from=start,
        )

    def _run_beside(self, entry: Entry, seed: int | None) -> str:
        """The run of this entry from which a run with that seed learns."""
        name = seeds.named(entry.name, self._seed_beside(entry, seed))
        return str(Path(self.directory) / "runs" / name)

    def _seed_beside(self, entry: Entry, seed: int | None) -> int | None:
        """The same seed where the entry has it, else its first: it has only one run, or the other run has no seed."""
        known = self.seeds_of(entry)
        return seed if seed in known else known[0]

    def _check_seeds_of_others(self, entry: Entry) -> None:
        """Raises ConfigError for a seed that a seeded teacher, or the entry that this one starts from, lacks."""
        for other in self._all():
            known = self.seeds_of(other)
            if other.name not in (self.teacher.name, entry.start_from) or known == (None,):
                continue
            missing = [s for s in self.seeds_of(entry) if s is not None and s not in known]
            if missing:
                raise ConfigError(
                    f"{entry.name}.seeds: it learns from {other.name} of the same seed, expected some of "
                    f"{known}, got {tuple(missing)} as well"
                )


def _check_seeds(name: str, chosen: tuple[int, ...]) -> None:
    if len(set(chosen)) < len(chosen) or any(seed < 0 for seed in chosen):
        raise ConfigError(f"{name}: expected different seeds from 0 up, got {chosen}")


def _check_distributions(entry: Entry, kept: int | None) -> None:
    """Raises ConfigError where an entry learns from distributions that its data will not have."""
    if entry.training.word_distributions and not (entry.distilled and kept is not None):
        raise ConfigError(
            f"{entry.name}.training.word_distributions needs distilled data with them: expected distilled=True and the "
            f"study's word_distributions, such as 8, got distilled={entry.distilled} and {kept}"
        )


def drafters_of(entry: Entry) -> dict[str, str]:
    """The entries whose drafts decodings of this one verify: text of the decoding -> name."""
    chosen = {text: decodings.choose(entry.method, text).decoding for text in entry.decodings}
    return {
        text: decoding.drafter
        for text, decoding in chosen.items()
        if isinstance(decoding, DraftedDecoding) and decoding.drafter is not None
    }


def _check_drafters(entry: Entry, names: Sequence[str]) -> None:
    """Raises ConfigError for a decoding whose drafter is no other entry."""
    for text, drafter in drafters_of(entry).items():
        if drafter not in names or drafter == entry.name:
            others = ", ".join(name for name in names if name != entry.name)
            raise ConfigError(
                f"{entry.name}.decodings: {text} has a drafter: expected another entry of the study ({others}), got "
                f"{drafter!r}"
            )


def _check_start(entry: Entry, entries: dict[str, Entry], teacher: Entry) -> None:
    """Raises ConfigError where parameters that the entry takes over would not fit: before any training."""
    if entry.encoder_from_teacher and teacher.method.has_own_encoder:
        raise ConfigError(
            f"{entry.name} starts from the teacher's encoder: expected a teacher with the Transformer encoder "
            f"of its student, got {teacher.name}, which is {type(teacher.method).__name__}"
        )
    if entry.encoder_from_teacher and not entry.method.has_own_encoder:
        for size in (
            "d_model",
            "d_hidden",
            "num_heads",
            "num_encoder_layers",
            "norm",
            "attention",
            "positions",
            "encoder_attention",
        ):
            expected = getattr(teacher.method.network, size)
            got = getattr(entry.method.network, size)
            if got != expected:
                raise ConfigError(
                    f"{entry.name} starts from the teacher's encoder: expected transformer.{size} "
                    f"{expected} as in {teacher.name}, got {got}"
                )
    if entry.decoder_from_teacher:
        try:
            base.check_decoder(entry.method, teacher.method)
        except ValueError as error:
            raise ConfigError(
                f"{entry.name}.decoder_from_teacher, of {teacher.name}: {error}"
            ) from error
    if entry.start_from is not None:
        start = entries[entry.start_from]
        mine = (type(entry.method).__name__, entry.method.network)
        theirs = (type(start.method).__name__, start.method.network)
        if mine != theirs:
            raise ConfigError(
                f"{entry.name} starts from {start.name}: expected its method and transformer, "
                f"{theirs}, got {mine}"
            )


def load_study(path: str | Path) -> StudyConfig:
    """The study of a Python config file. Raises ConfigError where it holds something else."""
    config = load_file(path)
    if not isinstance(config, StudyConfig):
        raise ConfigError(f"{path} holds a {type(config).__name__}; `study` takes a StudyConfig")
    return config


def only(config: StudyConfig, names: Sequence[str]) -> StudyConfig:
    """The study with the named entries and those that they start from. Decodings by the drafts of entries that are left
    out are left out too.

    Raises ConfigError for a name that the study does not have."""
    entries = {entry.name: entry for entry in config.entries}
    wanted = set(names) - {config.teacher.name}
    unknown = sorted(wanted - set(entries))
    if unknown:
        raise ConfigError(
            f"--only: expected entries of the study ({', '.join(entries)}), got {', '.join(unknown)}"
        )
    for entry in reversed(config.entries):  # an entry starts from an earlier one
        if entry.name in wanted and entry.start_from in entries:
            wanted.add(entry.start_from)
    chosen = [entry for entry in config.entries if entry.name in wanted]
    known = {config.teacher.name, *wanted}
    teacher, *entries_left = (
        _without_drafters_but(known, entry) for entry in (config.teacher, *chosen)
    )
    return dataclasses.replace(config, teacher=teacher, entries=tuple(entries_left))


def _without_drafters_but(known: set[str], entry: Entry) -> Entry:
    drafters = drafters_of(entry)
    kept = tuple(text for text in entry.decodings if drafters.get(text, entry.name) in known)
    return dataclasses.replace(entry, decodings=kept)


def with_int8(config: StudyConfig) -> StudyConfig:
    """The study with each decoding once more behind it, with weights of 8 bits: what they cost and gain (CPUs only)."""

    def doubled(entry: Entry) -> Entry:
        chosen = [decodings.choose(entry.method, text) for text in entry.decodings or (None,)]
        texts = (
            text
            for choice in chosen
            for text in (choice.text, dataclasses.replace(choice, weights="int8").text)
        )
        return dataclasses.replace(entry, decodings=tuple(dict.fromkeys(texts)))

    entries = tuple(map(doubled, config.entries))
    return dataclasses.replace(config, teacher=doubled(config.teacher), entries=entries)
