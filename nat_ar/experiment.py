"""What one experiment is (ExperimentConfig), and the directory in which it happens (Run).

run/config.json      the resolved config; every later verb reads only this
run/facts.json       hashes of data and vocabulary, parameters, versions, format
run/vocabulary/      the SentencePiece models, so that a run translates on its own
run/checkpoints/     the latest and the best step
run/metrics.jsonl    losses, speeds, validations
run/results.jsonl    rows of evaluate and benchmark
run/translations/    what evaluate translated"""

import ast
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.methods import base
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.runtime import files
from nat_ar.search import limits
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.loop import TrainingConfig
from nat_ar.translation.translator import BUCKETS, Int8, Model, Translator

FORMAT = 1
INT8 = " int8"
"""Behind a decoding: by weights of 8 bits."""
RESTORE = "restore it, or train again in another directory"


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: data, method, training."""

    name: str
    """how tables call it"""
    data: DataConfig
    """the corpus and where its prepared form lies"""
    method: AnyMethod
    """what is trained, and how it decodes"""
    training: TrainingConfig = TrainingConfig()
    """how it is trained"""
    train_on: str | None = None
    """prepared directory to train on instead of data.directory, such as one made by `distill`"""
    teacher: str | None = None
    """run of an autoregressive model: rescores candidates and teaches in fine-tuning"""
    encoder_from_teacher: bool = False
    """start with the teacher's embeddings and encoder (Gu et al. 2018)"""
    start_from: str | None = None
    """run of the same method whose best parameters this one starts with"""

    def __post_init__(self) -> None:
        longest = self.training.batching.buckets[-1]
        known = self.method.network.max_length
        if known is not None and longest > known:
            raise ConfigError(
                f"the longest bucket must fit the model: training.batching.buckets ends at {longest}, "
                f"method.transformer.max_length is {known}; raise it or drop the bucket"
            )
        widest = limits.length_limit(BUCKETS[-1]) + 1  # and EOS, where a teacher rescores
        if known is not None and known < widest:
            raise ConfigError(
                "the longest translation must fit the model: sources of up to "
                f"{BUCKETS[-1]} tokens are translated and may become {widest}, "
                f"method.transformer.max_length is {known}; raise it"
            )
        if self.encoder_from_teacher and self.teacher is None:
            raise ConfigError("encoder_from_teacher needs a teacher: name its run in `teacher`")
        if self.encoder_from_teacher and self.method.has_own_encoder:
            raise ConfigError(
                f"encoder_from_teacher cannot be: {type(self.method).__name__} does not have the "
                "Transformer encoder of its teacher; set it to False"
            )
        if needs_scorer(self.method, self.method.decoding) and self.teacher is None:
            raise ConfigError(
                f"decoding {self.method.decoding} rescores with a teacher: name its run in `teacher`"
            )

        has_alignments = self.data.aligner is not None or self.data.alignments is not None
        if self.method.needs_fertilities and not has_alignments:
            raise ConfigError(
                f"{type(self.method).__name__} learns fertilities from alignments: set data.aligner "
                "to AlignerConfig(), or name a Pharaoh file in data.alignments"
            )
        if self.method.needs_teacher and self.teacher is None:
            raise ConfigError(
                f"{type(self.method).__name__} as configured learns from an autoregressive teacher: "
                "name its run in `teacher`"
            )

    @property
    def training_directory(self) -> str:
        return self.data.directory if self.train_on is None else self.train_on


def load_file(path: str | Path) -> Any:
    """The value named `config` of a Python config file, with its types checked.

    A config file is code: run only files you trust."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"expected a config file, got {path}, which does not exist")
    module = config_json.run_file(path)
    if not hasattr(module, "config"):
        raise ConfigError(f"{path} must assign its dataclass to the name `config`")
    return config_json.check(module.config, str(path))


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained model with all that translating needs."""

    config: ExperimentConfig
    model: Model
    vocabulary: Vocabulary
    step: int

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

    @property
    def config_path(self) -> Path:
        return self.directory / "config.json"

    @property
    def checkpoints_directory(self) -> Path:
        return self.directory / "checkpoints"

    def start(self, config: ExperimentConfig, data: PreparedData) -> None:
        """Makes the directory, or finds it made by the same config on the same data.

        Raises ConfigError that lists the differing fields otherwise."""
        facts = {
            "format": FORMAT,
            "data_hash": data.hash,
            "vocabulary_hash": data.vocabulary.hash,
            "training_data": data.training_data,
        }
        if self.config_path.exists():
            old, new = self._config_data(), config_json.to_json(config)
            changed = [*config_json.differences(old, new)]
            known = self.facts()
            recorded = {name: known.get(name) for name in facts}
            changed += [*config_json.differences(recorded, facts)]
            if changed:
                raise ConfigError(
                    f"{self.directory} holds another experiment: {'; '.join(changed)}. Give the same "
                    "config, or another --run"
                )
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with files.naming(self.directory / "vocabulary"):
            data.vocabulary.save(self.directory / "vocabulary")
        facts["config_hash"] = files.json_hash(config_json.to_json(config))
        text = json.dumps(files.signed(facts), indent=2) + "\n"
        files.write_text(self.directory / "facts.json", text)
        # Last: a run with a config is complete.
        files.write_text(self.config_path, config_json.dumps(config))

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
        """The run's vocabulary. Raises ConfigError where it is not the one that was trained with."""
        vocabulary = Vocabulary.load(self.directory / "vocabulary")
        expected = self.facts()["vocabulary_hash"]
        if vocabulary.hash != expected:
            raise ConfigError(
                f"{self.directory}/vocabulary has hash {vocabulary.hash[:12]}, the run was trained "
                f"with {expected[:12]}; restore the files"
            )
        return vocabulary

    def load(self, checkpoint: str = "best") -> Loaded:
        """The model of a checkpoint: "best" (by validation), "latest", or a step."""
        config, vocabulary = self.config(), self.vocabulary()
        checkpoints = Checkpoints(self.checkpoints_directory, is_read_only=True)
        step = checkpoints.resolve(checkpoint)
        graphdef, shapes = abstract_model(config.method, vocabulary)
        params = checkpoints.params(step, shapes)
        checkpoints.close()
        return Loaded(config, Model(graphdef, params), vocabulary, step)


def open_translator(
    run: Run, decoding: str | None = None, checkpoint: str = "best"
) -> tuple[Loaded, Translator]:
    """A run's model and a translator for one of its decodings; the teacher is loaded where the decoding
    rescores with it."""
    loaded = run.load(checkpoint)
    chosen = parse_decoding(loaded.config.method, decoding)
    scorer = None
    if needs_scorer(loaded.config.method, chosen):
        if loaded.config.teacher is None:
            raise ConfigError(
                f"{chosen} rescores with a teacher, but {run.directory} was trained without one; "
                "choose another decoding"
            )
        teacher = Run(Path(loaded.config.teacher)).load()
        if teacher.vocabulary.hash != loaded.vocabulary.hash:
            raise ConfigError(
                f"the teacher {loaded.config.teacher} has another vocabulary than {run.directory}"
            )
        scorer = teacher.model
    translator = Translator(loaded.model, loaded.vocabulary, decoding=chosen, scorer=scorer)
    return loaded, translator


def vocabulary_sizes(vocabulary: Vocabulary) -> base.VocabularySizes:
    return base.VocabularySizes(vocabulary.source_size, vocabulary.target_size, vocabulary.joint)


def abstract_model(method: AnyMethod, vocabulary: Vocabulary) -> tuple[nnx.GraphDef, nnx.State]:
    """The model's structure and the shapes of its parameters; nothing is computed."""
    sizes = vocabulary_sizes(vocabulary)
    model = nnx.eval_shape(lambda: method.build(sizes, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)


def parse_decoding(method: AnyMethod, text: str | None) -> Any:
    """A decoding of the method, written as in Python: "Beam(size=4, length_penalty=0.6)".

    With " int8" behind it, by weights of 8 bits. None: the method's default. Raises ConfigError that lists what
    the method has."""
    if text is None:
        return method.decoding
    if text.endswith(INT8):
        return Int8(parse_decoding(method, text.removesuffix(INT8)))
    classes = {name: cls for cls in decodings_of(method) for name in config_json.names_of(cls)}
    known = dict.fromkeys(classes.values())
    choices = ", ".join(f"{cls.__name__}({_signature(cls)})" for cls in known)
    wanted = f"expected a decoding of {type(method).__name__}: {choices}; got {text!r}"
    try:
        call = ast.parse((text if "(" in text else text + "()").strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ConfigError(wanted)
        cls = classes[call.func.id]
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return config_json.check(cls(**given), text)
    except ConfigError:
        raise
    except (SyntaxError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(wanted) from error


def decoding_text(decoding: Any) -> str:
    """A decoding as `parse_decoding` reads it and tables show it: the first field, which says how much is
    searched, and what differs from the defaults. "Beam(size=4)", "NoisyParallel(samples=8, seed=1)"."""
    if isinstance(decoding, Int8):
        return decoding_text(decoding.decoding) + INT8
    fields = dataclasses.fields(decoding)
    values = [(field, getattr(decoding, field.name)) for field in fields]
    shown = [
        f"{field.name}={value!r}"
        for index, (field, value) in enumerate(values)
        if index == 0 or value != field.default
    ]
    return f"{type(decoding).__name__}({', '.join(shown)})"


def _signature(cls: type) -> str:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return ", ".join(f"{field.name}={field.default!r}" for field in fields)


def needs_scorer(method: AnyMethod, decoding: Any) -> bool:
    """Whether the decoding chooses by another model's scores: the teacher's."""
    decoding = decoding.decoding if isinstance(decoding, Int8) else decoding
    return getattr(decoding, "rescore", False) and not method.rescores_itself


def decodings_of(method: AnyMethod) -> tuple[type, ...]:
    """The classes of decoding that a method has."""
    annotation = config_json.field_types(type(method))["decoding"]  # type: ignore[arg-type]
    return typing.get_args(annotation) or (annotation,)
