"""The directory of one experiment.

run/config.json      the resolved config; every later verb reads only this
run/facts.json       hashes of data and vocabulary, parameters, versions, format
run/vocabulary/      the SentencePiece models, so that a run translates on its own
run/checkpoints/     the latest and the best step
run/metrics.jsonl    losses, speeds, validations
run/results.jsonl    rows of evaluate and benchmark
run/translations/    what evaluate translated"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.runtime import console, files
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.translation import decodings
from nat_ar.translation.model import Model, abstract_model
from nat_ar.translation.translator import Translator

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
    """SHA-256 of the parameters, as the checkpoint has it"""
    rescorer: "TrainedModel | None" = None
    """the model by which the decoding rescores"""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the model is, wherever it lies: a path alone may hold another one tomorrow."""
        return {"checkpoint_step": self.step, "parameters_hash": self.parameters_hash}

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.model.params))

    @property
    def dtype(self) -> str:
        """Of activations; parameters are float32."""
        return self.config.method.network.dtype


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

    def start(
        self,
        config: ExperimentConfig,
        data: PreparedData,
        *,
        teacher: TrainedModel | None = None,
        start_from: TrainedModel | None = None,
    ) -> None:
        """Makes the directory, or accepts one that the same config made on the same data, with the same models behind
        the paths `teacher` and `start_from`.

        Only training.num_devices may differ: what is trained does not depend on it.
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
            old, new = config_json.to_json(self.config()), config_json.to_json(config)
            old["training"]["num_devices"] = new["training"]["num_devices"]
            changed = [*config_json.differences(old, new)]
            known = self.facts()
            recorded = {name: known.get(name) for name in facts}
            changed += [*config_json.differences(recorded, facts)]
            if changed:
                raise ConfigError(
                    f"{self.directory} holds another experiment: {'; '.join(changed)}. Give the same "
                    "config, or another directory: train --run, study --directory"
                )
            self._check_models(config, known, models)
            return
        files.make_directory(self.directory)
        with files.naming(self.directory / "vocabulary"):
            data.vocabulary.save(self.directory / "vocabulary")
        written = config_json.to_json(config)
        code = {path: files.file_hash(Path(path)) for path in config_json.files_of(written)}
        facts |= {
            **models,
            "places": self._places(config),
            "code": code,
            "config_hash": files.json_hash(written),
        }
        text = json.dumps(files.signed(facts), indent=2) + "\n"
        files.write_text(self.directory / "facts.json", text)
        # Last: a run with a config is complete.
        files.write_text(self.config_path, config_json.dumps(config))

    def _places(self, config: ExperimentConfig) -> dict[str, str]:
        """The paths of a config, which are relative to the working directory -> the same relative to this one."""
        paths = (config.data.directory, config.train_on, config.teacher, config.start_from)
        here = self.directory.resolve()
        return {
            path: os.path.relpath(Path(path).resolve(), here)
            for path in paths
            if path is not None and not os.path.isabs(path)
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
        if self.facts().get("config_hash") not in (None, files.json_hash(config)):
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
        """The model of a checkpoint: "best" (by validation), "latest", or a step. Says where code of its classes, in
        files outside the package, is no longer that of the training."""
        config, vocabulary = self.config(), self.vocabulary()
        for path, digest in self.facts().get("code", {}).items():
            if files.file_hash(Path(path)) != digest:
                console.say(f"warning: {path} has changed since {self.directory} was trained by it")
        with self._checkpoints() as checkpoints:
            step = checkpoints.resolve(checkpoint)
            graphdef, shapes = abstract_model(config.method, vocabulary)
            params = checkpoints.params(step, shapes)
            parameters_hash = checkpoints.params_hash(step, shapes)
        return TrainedModel(config, Model(graphdef, params), vocabulary, step, parameters_hash)

    def parameters_hash(self, checkpoint: str = "best") -> str:
        """That of the model which `load` gives, mostly without reading the parameters."""
        with self._checkpoints() as checkpoints:
            recorded = checkpoints.hashes(checkpoints.resolve(checkpoint)).get("params")
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

    def resolve(self, checkpoint: str = "best") -> int:
        """The step of a checkpoint: "best" (by validation), "latest", or a step. Raises ValueError where it is
        missing."""
        with self._checkpoints() as checkpoints:
            return checkpoints.resolve(checkpoint)

    def progress(self, step: int) -> dict[str, Any]:
        """The training up to a checkpoint: seconds, target tokens, best score."""
        with self._checkpoints() as checkpoints:
            return checkpoints.progress(step)

    def _checkpoints(self) -> contextlib.closing[Checkpoints]:
        return contextlib.closing(Checkpoints(self.checkpoints_directory, is_read_only=True))


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def described(fingerprint: dict[str, Any]) -> str:
    """ "step 400, parameters 1a2b3c4d5e6f": a model in a message."""
    return (
        f"step {fingerprint['checkpoint_step']:,}, parameters {fingerprint['parameters_hash'][:12]}"
    )


def open_translator(
    run: Run | str | Path, decoding: Any | str | None = None, checkpoint: str = "best"
) -> tuple[TrainedModel, Translator]:
    """A run's model and a translator for one of its decodings: text, an object or a Choice; the teacher is loaded where
    the decoding rescores with it."""
    run = Run.of(run)
    loaded = run.load(checkpoint)
    chosen = decodings.choose(loaded.config.method, decoding)
    scorer, rescorer = None, run.rescorer(chosen.decoding)
    if rescorer is not None:
        teacher = rescorer.load()
        if teacher.vocabulary.hash != loaded.vocabulary.hash:
            raise ConfigError(
                f"the teacher {loaded.config.teacher} has another vocabulary than {run.directory}"
            )
        before = run.facts().get("teacher")  # runs of early versions lack it
        if before not in (None, teacher.fingerprint):
            console.say(
                f"warning: {chosen.text} rescores with another model than the one that {run.directory} was trained "
                f"with: {rescorer.directory} held {described(before)}, now {described(teacher.fingerprint)}"
            )
        scorer, loaded = teacher.model, dataclasses.replace(loaded, rescorer=teacher)
    translator = Translator(
        loaded.model,
        loaded.vocabulary,
        decoding=chosen.decoding,
        weights=chosen.weights,
        scorer=scorer,
    )
    return loaded, translator
