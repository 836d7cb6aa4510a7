"""The directory of one experiment.

run/config.json      the resolved config; every later verb reads only this
run/facts.json       hashes of data and vocabulary, parameters, versions, format
run/vocabulary/      the SentencePiece models, so that a run translates on its own
run/checkpoints/     the latest and the best steps
run/metrics.jsonl    losses, speeds, validations
run/results.jsonl    rows of evaluate and benchmark
run/translations/    what evaluate translated"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.experiment import seeds
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.runtime import console, distributed, files, out_of_memory
from nat_ar.search.verification import DraftedDecoding
from nat_ar.training.checkpoint import AVERAGE, Checkpoints
from nat_ar.translation import decodings
from nat_ar.translation.model import Model, abstract_model, dtype_of

FORMAT = 1
RESTORE = "restore it, or train again in another directory"


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model with all that translating needs."""

    config: ExperimentConfig
    model: Model
    vocabulary: Vocabulary
    step: int
    parameters_hash: str
    """checksum of the parameters, as the checkpoint has it"""
    rescorer: "TrainedModel | None" = None
    """the model by which the decoding rescores"""
    drafter: "TrainedModel | None" = None
    """the model whose drafts the decoding verifies"""
    drafter_directory: str | None = None
    """where it lies"""
    averaged_steps: tuple[int, ...] = ()
    """the checkpoints whose mean it is, first to last; `step` is the last. Empty: one checkpoint"""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the model is, wherever it lies: a path alone may hold another one tomorrow."""
        return {"checkpoint_step": self.step, "parameters_hash": self.parameters_hash}

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.model.params))

    @property
    def dtype(self) -> str:
        """Of activations when it translates here."""
        return dtype_of(self.config.method)


@dataclasses.dataclass(frozen=True)
class Run:
    """The directory of one experiment."""

    directory: Path

    @classmethod
    def of(cls, run: "Run | str | Path") -> "Run":
        """The run itself, or that of a directory."""
        return run if isinstance(run, Run) else cls(Path(run))

    @property
    def config_path(self) -> Path:
        return self.directory / "config.json"

    @property
    def checkpoints_directory(self) -> Path:
        return self.directory / "checkpoints"

    @contextlib.contextmanager
    def started(
        self, config: ExperimentConfig, data: PreparedData, **models: TrainedModel | None
    ) -> Iterator[None]:
        """The run, made or found again by `start`, which this process alone writes to until the block ends, or those
        alone that train together: then the first of them makes it. An error before the first checkpoint leaves nothing
        of it behind, unless there are batches to look at."""
        with distributed.held_by_first(self._started(config, data, **models)):
            with distributed.failing_together():
                if not self.config_path.exists():
                    raise ConfigError(
                        f"{self.directory} is not there, which the first process has made: name a directory that all "
                        "processes see"
                    )
            yield

    @contextlib.contextmanager
    def _started(
        self, config: ExperimentConfig, data: PreparedData, **models: TrainedModel | None
    ) -> Iterator[None]:
        is_new = not self.directory.exists()
        files.make_directory(self.directory)
        try:
            with files.locked(self.directory):
                self.start(config, data, **models)
                yield
        except BaseException:
            if is_new and not self.has_work():
                shutil.rmtree(self.directory)
            raise

    def has_work(self) -> bool:
        """Whether anything was trained that another experiment must not replace."""
        checkpoints = self.checkpoints_directory
        saved = checkpoints.is_dir() and any(
            path.name.isdecimal() for path in checkpoints.iterdir()
        )
        return saved or any((self.directory / name).exists() for name in ("damaged", "non_finite"))

    def start(
        self,
        config: ExperimentConfig,
        data: PreparedData,
        *,
        teacher: TrainedModel | None = None,
        start_from: TrainedModel | None = None,
    ) -> None:
        """Makes the directory, or accepts one that the same config made on the same data, with the same models behind
        the paths `teacher` and `start_from`, wherever these lie today; or takes over one without a checkpoint.

        training.num_devices may differ, and training.max_steps may have grown where the learning rate of a step does
        not depend on it: what is trained does not depend on them.
        Raises ConfigError with the differing fields for any other."""
        facts = {
            "format": FORMAT,
            "data_hash": data.hash,
            "vocabulary_hash": data.vocabulary.hash,
            "training_data": data.training_data,
        }
        models = {
            role: model.fingerprint
            for role, model in (("teacher", teacher), ("start_from", start_from))
            if model is not None
        }
        if self.config_path.exists():
            # Both as this version writes them: fields and classes may have got other names since the run was started.
            before, known = self.config(), self.facts()
            as_before, moved = self._as_before(before, config, known, models)
            old, new = config_json.to_json(before), config_json.to_json(as_before)
            old["training"]["num_devices"] = new["training"]["num_devices"]
            changed = [*config_json.differences(old, new)]
            recorded = {name: known.get(name) for name in facts}
            changed += [*config_json.differences(recorded, facts)]
            if not changed:
                self._check_models(config, known, models)
                if as_before.training.max_steps < config.training.max_steps:
                    self._describe(config, known)
                elif moved:
                    self._write_facts({**known, "places": {**known.get("places", {}), **moved}})
                return
            if self.has_work():
                raise ConfigError(
                    f"{self.directory} holds another experiment: {'; '.join(changed)}. Give the same "
                    "config, or another directory: train --run, study --directory"
                    f"{_advice(before, config, self.directory)}"
                )
            self.config_path.unlink()
            shutil.rmtree(self.directory / "vocabulary", ignore_errors=True)
        self.begin(config, data.vocabulary, {**facts, **models})

    def begin(
        self, config: ExperimentConfig, vocabulary: Vocabulary, facts: dict[str, Any]
    ) -> None:
        """Makes the directory, with all but a checkpoint."""
        files.make_directory(self.directory)
        with files.naming(self.directory / "vocabulary"):
            vocabulary.save(self.directory / "vocabulary")
        self._describe(config, facts)

    def _describe(self, config: ExperimentConfig, facts: dict[str, Any]) -> None:
        """Writes facts, then the config: a run with a config is complete. Where both replace others, facts know either
        config until the last moment, so that a crash between them leaves a run."""
        written = config_json.to_json(config)
        code = {path: files.file_hash(Path(path)) for path in config_json.files_of(written)}
        facts = {"code": code, **facts, "places": self._places(config)}
        former = facts.pop("config_hash", None)
        facts.pop("former_config_hash", None)
        facts["config_hash"] = files.json_hash(written)
        if former is None:
            self._write_facts(facts)
            files.write_text(self.config_path, config_json.dumps(config))
            return
        held = files.json_hash(self._config_data())
        self._write_facts({**facts, "former_config_hash": held})
        files.write_text(self.config_path, config_json.dumps(config))
        self._write_facts(facts)

    def _write_facts(self, facts: dict[str, Any]) -> None:
        text = json.dumps(files.signed(facts), indent=2) + "\n"
        files.write_text(self.directory / "facts.json", text)

    def _as_before(
        self,
        before: ExperimentConfig,
        config: ExperimentConfig,
        known: dict[str, Any],
        models: dict[str, Any],
    ) -> tuple[ExperimentConfig, dict[str, str]]:
        """The config, with what may differ from that of the run as it was: other names of the same places, other places
        of what the hashes in facts identify, and more steps. And the places that the run does not know yet, by the
        paths of its config."""
        here = self.directory.resolve()
        moved: dict[str, str] = {}

        def named_before(old: str | None, new: str | None, *, is_known: bool) -> str | None:
            if old is None or new is None or old == new:
                return new
            if not _is_same(self.find(old), Path(new)):
                if not is_known:
                    return new
                moved[old] = os.path.relpath(Path(new).resolve(), here)
            return old

        data = named_before(
            before.data.directory, config.data.directory, is_known=config.train_on is None
        )
        places = {
            "train_on": named_before(before.train_on, config.train_on, is_known=True),
            **{
                role: named_before(
                    getattr(before, role),
                    getattr(config, role),
                    is_known=role in models and models[role] == known.get(role),
                )
                for role in ("teacher", "start_from")
            },
        }
        training, steps = config.training, before.training.max_steps
        if training.max_steps > steps and not training.optimizer.ends_with_training():
            training = dataclasses.replace(training, max_steps=steps)
        as_before = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, directory=data or config.data.directory),
            training=training,
            **places,  # type: ignore[arg-type]
        )
        return as_before, moved

    def _places(self, config: ExperimentConfig) -> dict[str, str]:
        """The paths of a config -> the same, relative to this directory."""
        paths = (config.data.directory, config.train_on, config.teacher, config.start_from)
        here = self.directory.resolve()
        return {
            path: os.path.relpath(Path(path).resolve(), here) for path in paths if path is not None
        }

    def find(self, path: str) -> Path:
        """What a path of the run's config names, from whichever directory the run is used, also where it was moved
        together with what it names. As it is written where nothing is found."""
        here = self.directory.resolve()
        place = self.facts().get("places", {}).get(path)
        known = [] if place is None else [here / place]
        # Runs of early versions know no places: they mostly lie below the directory in which they were started.
        above = [parent / path for parent in here.parents]
        found = [way for way in (*known, Path(path), *above) if way.exists()]
        return Path(path) if not found or _is_same(found[0], Path(path)) else found[0].resolve()

    def _check_models(
        self, config: ExperimentConfig, known: dict[str, Any], models: dict[str, Any]
    ) -> None:
        """Raises ConfigError where a model that the training takes something from is not the one it began with."""
        for role, model in models.items():
            before = known.get(role)  # runs of early versions lack it
            is_used = role != "teacher" or config.learns_from_teacher
            if is_used and before is not None and before != model:
                raise ConfigError(
                    f"{role} {getattr(config, role)} is another model than the one that {self.directory} began with: "
                    f"{described(before)} -> {described(model)}. Restore it, or train in another --run"
                )

    def _config_data(self) -> Any:
        if not self.config_path.exists():
            raise ConfigError(f"{self.directory} is no run: it has no config.json; train one first")
        config = files.read_json(self.config_path, remedy=RESTORE)
        # A run of an early version does not know the hash of its config.
        facts = self.facts()
        known = (facts.get("config_hash"), facts.get("former_config_hash"))
        if known[0] is not None and files.json_hash(config) not in known:
            raise ConfigError(
                f"{self.config_path} has changed since the run was started, and it describes what was "
                f"trained: {RESTORE}"
            )
        return config

    @property
    def config_hash(self) -> str:
        """Of the config as the version that started the run wrote it: rows of any version know the run by it."""
        return config_json.hash_of_json(self._config_data())

    def config(self) -> ExperimentConfig:
        return config_json.from_json(ExperimentConfig, self._config_data(), str(self.config_path))

    def dtype(self) -> str:
        """Of activations when it translates here."""
        return dtype_of(self.config().method)

    def facts(self) -> dict[str, Any]:
        facts = files.read_json(self.directory / "facts.json", remedy=RESTORE)
        if facts.get("format") != FORMAT:
            raise ConfigError(
                f"{self.directory} has format {facts.get('format')}, this version reads {FORMAT}; "
                "retrain it, or use the version that wrote it"
            )
        return facts

    def vocabulary(self) -> Vocabulary:
        """The run's vocabulary. Raises ConfigError if its files are not those of the training."""
        vocabulary = Vocabulary.load(self.directory / "vocabulary")
        expected = self.facts()["vocabulary_hash"]
        if vocabulary.hash != expected:
            raise ConfigError(
                f"{self.directory}/vocabulary has hash {vocabulary.hash[:12]}, the run was trained "
                f"with {expected[:12]}; restore the files"
            )
        return vocabulary

    def load(self, checkpoint: str = "best") -> TrainedModel:
        """The model of a checkpoint: "best" (by validation), "latest", or a step; "average:5" is the mean of the best
        five, "average:300,400" that of these steps. Says where code of its classes, in files outside the package, is
        no longer that of the training."""
        config, vocabulary = self.config(), self.vocabulary()
        for path, digest in self.facts().get("code", {}).items():
            if files.file_hash(Path(path)) != digest:
                console.say(f"warning: {path} has changed since {self.directory} was trained by it")
        with out_of_memory.explained("free some"), self._checkpoints() as checkpoints:
            steps = checkpoints.chosen(checkpoint)
            graphdef, shapes = abstract_model(config.method, vocabulary)
            params, parameters_hash = checkpoints.translating(steps, shapes)
        return TrainedModel(
            config,
            Model(graphdef, params),
            vocabulary,
            steps[-1],
            parameters_hash,
            averaged_steps=steps if len(steps) > 1 else (),
        )

    def parameters_hash(self, checkpoint: str = "best") -> str:
        """That of the model which `load` gives, mostly without reading the parameters."""
        with self._checkpoints() as checkpoints:
            steps = checkpoints.chosen(checkpoint)
            recorded = checkpoints.hashes(steps[0]).get("params") if len(steps) == 1 else None
        return self.load(checkpoint).parameters_hash if recorded is None else recorded

    def rescorer(self, decoding: Any) -> "Run | None":
        """The run of the model by which a decoding rescores; None where it does not. Raises ConfigError where there is
        no such run."""
        config = self.config()
        if not decodings.needs_scorer(config.method, decoding):
            return None
        if config.teacher is None:
            raise ConfigError(
                f"{decodings.decoding_text(decoding)} rescores with a teacher, but {self.directory} was trained "
                "without one; choose another decoding"
            )
        return Run(self.find(config.teacher))

    def drafter(self, decoding: Any) -> "Run | None":
        """The run whose drafts a decoding verifies: one beside this run, by its name, of the same seed if there are
        several, or else the first of them; or the run at a path."""
        if not isinstance(decoding, DraftedDecoding) or decoding.drafter is None:
            return None
        here, name = self.directory.parent, decoding.drafter
        names = [name, seeds.named(name, self.config().training.seed)]
        names += sorted(
            path.name for path in here.iterdir() if path.name.startswith(f"{name}_seed")
        )
        known = [Run(here / one) for one in names if Run(here / one).config_path.exists()]
        return known[0] if known else Run(self.find(name))

    def resolve(self, checkpoint: str = "best") -> int:
        """The step of a checkpoint that `load` knows; of an average the last. Raises ValueError where it is missing."""
        with self._checkpoints() as checkpoints:
            return checkpoints.chosen(checkpoint)[-1]

    def pinned(self, checkpoint: str = "best") -> str:
        """The name, by its steps, of what a checkpoint is today: "best" may be another tomorrow."""
        with self._checkpoints() as checkpoints:
            return checkpoint_name(checkpoints.chosen(checkpoint))

    def progress(self, step: int) -> dict[str, Any]:
        """The training up to a checkpoint: seconds, target tokens, best score."""
        with self._checkpoints() as checkpoints:
            return checkpoints.progress(step)

    def _checkpoints(self) -> contextlib.closing[Checkpoints]:
        return contextlib.closing(Checkpoints(self.checkpoints_directory, is_read_only=True))


def _is_same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return os.path.abspath(path) == os.path.abspath(other)


def _advice(before: ExperimentConfig, config: ExperimentConfig, directory: Path) -> str:
    """What else there is to do where a run should train for longer than its schedule allows."""
    if config.training.max_steps <= before.training.max_steps:
        return ""
    if not config.training.optimizer.ends_with_training():
        return ""
    return (
        f" (the learning rate falls to its end at training.max_steps: to train for longer, start from its parameters, "
        f"with --start-from {directory})"
    )


def require_scorer(teacher: TrainedModel, name: str) -> None:
    """Raises ConfigError where a model that should teach or rescore cannot score translations."""
    method = teacher.config.method
    if method.family == "NAT":
        raise ConfigError(
            f"{name} is {type(method).__name__}, of family NAT, and scores no given translations: expected an "
            "autoregressive run (Autoregressive, DecoderOnly, Recurrent, Joint); name one"
        )


def described(fingerprint: dict[str, Any]) -> str:
    """ "step 400, parameters 1a2b3c4d5e6f": a model in a message."""
    return (
        f"step {fingerprint['checkpoint_step']:,}, parameters {fingerprint['parameters_hash'][:12]}"
    )


def checkpoint_name(steps: Sequence[int]) -> str:
    """ "400" or "average:300,400", as `Run.load` reads it."""
    return (AVERAGE if len(steps) > 1 else "") + ",".join(map(str, steps))
