"""What one experiment is, and how a config file is read."""

import dataclasses
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.prepare import DataConfig
from nat_ar.experiment import ready
from nat_ar.methods.base import Method
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ensemble import Ensemble
from nat_ar.search import limits
from nat_ar.training.config import TrainingConfig
from nat_ar.translation import decodings
from nat_ar.translation.translator import BUCKETS


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(config_json.Config):
    """One experiment: data, method, training."""

    name: str
    """how tables call it"""
    data: DataConfig
    """the corpus and where its prepared form lies"""
    method: AnyMethod | Ensemble | Method
    """what is trained, and how it decodes; an Ensemble is made of trained runs"""
    training: TrainingConfig = TrainingConfig()
    """how it is trained"""
    train_on: str | None = None
    """prepared directory to train on instead of data.directory, such as one made by `distill`"""
    teacher: str | None = None
    """run of an autoregressive model: rescores candidates and teaches in fine-tuning"""
    encoder_from_teacher: bool = False
    """start with the teacher's embeddings and encoder (Gu et al. 2018)"""
    decoder_from_teacher: bool = False
    """start with what fits of the teacher's decoder (Guo et al. 2020, arXiv:1911.08717); the log names what does not"""
    start_from: str | None = None
    """run of the same method whose best parameters this one starts with"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, students had decoders of their own."""
        return {"decoder_from_teacher": False, **data}

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
        if self.decoder_from_teacher and self.teacher is None:
            raise ConfigError("decoder_from_teacher needs a teacher: name its run in `teacher`")
        if self.encoder_from_teacher and self.method.has_own_encoder:
            raise ConfigError(
                f"encoder_from_teacher cannot be: {type(self.method).__name__} does not have the "
                "Transformer encoder of its teacher; set it to False"
            )
        if decodings.needs_scorer(self.method, self.method.decoding) and self.teacher is None:
            raise ConfigError(
                f"decoding {self.method.decoding} rescores with a teacher: name its run in `teacher`"
            )

        if decodings.needs_drafter(self.method, self.method.decoding):
            raise ConfigError(
                f"decoding {self.method.decoding} needs another run, which no validation has at hand: set decoding to "
                "Greedy(), whose words are the same, and name the drafter where you translate"
            )
        has_alignments = self.data.aligner is not None or self.data.alignments is not None
        if self.method.needs_fertilities and not has_alignments:
            raise ConfigError(
                f"{type(self.method).__name__} learns fertilities from alignments: set data.aligner "
                "to AlignerConfig(), or name a Pharaoh file in data.alignments"
            )
        if self.training.word_distributions and not self.method.learns_distributions:
            raise ConfigError(
                f"training.word_distributions cannot be: {type(self.method).__name__} as configured has no loss that "
                "compares each position with a distribution; set it to 0"
            )
        if self.method.needs_fertilities and self.training.subword_regularisation is not None:
            raise ConfigError(
                f"training.subword_regularisation cannot be: {type(self.method).__name__} learns fertilities, which "
                "count the prepared pieces; set it to None"
            )
        if self.method.needs_teacher and self.teacher is None:
            raise ConfigError(
                f"{type(self.method).__name__} as configured learns from an autoregressive teacher: "
                "name its run in `teacher`"
            )

    @property
    def learns_from_teacher(self) -> bool:
        """Whether training takes anything from the teacher: parameters, its loss, or its choice of the best step."""
        return (
            self.encoder_from_teacher
            or self.decoder_from_teacher
            or self.method.needs_teacher
            or decodings.needs_scorer(self.method, self.method.decoding)
        )

    @property
    def training_directory(self) -> str:
        return self.data.directory if self.train_on is None else self.train_on


def load_experiment(path: str | Path) -> "ExperimentConfig":
    """The experiment of a Python config file. Raises ConfigError where it holds something else."""
    config = load_file(path)
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(
            f"{path} holds a {type(config).__name__}; `train` takes an ExperimentConfig"
        )
    return config


def load_file(path: str | Path) -> Any:
    """The value named `config` of a Python config file, or of a ready config ("toy"), with its types checked.

    A config file is code: run only files you trust."""
    file = Path(path) if Path(path).is_file() else ready.file_of(path)
    if file is None:
        raise ConfigError(
            f"expected a config file, got {path}, which does not exist; configs that come with nat_ar are called "
            f"{', '.join(ready.names())}"
        )
    module = config_json.run_file(file)
    if not hasattr(module, "config"):
        raise ConfigError(f"{path} must assign its dataclass to the name `config`")
    return config_json.check(module.config, str(path))
