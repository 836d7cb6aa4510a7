"""How a model is trained."""

import dataclasses
from typing import Any, Literal

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.batching import BatchingConfig
from nat_ar.data.subword_regularisation import SubwordRegularisation
from nat_ar.training import tracking
from nat_ar.training.optimizer import OptimizerConfig

LEARNT_BLEU = 1.0
"""Below it the score is made by sacreBLEU's smoothing and by words that are everywhere."""


@dataclasses.dataclass(frozen=True)
class ValidationConfig(config_json.Config):
    """How often a run translates its validation split, and what it concludes."""

    every_steps: int = 1000
    """steps between validations, and between checkpoints"""
    sentences: int = 500
    """the first so many sentences of the validation split are translated"""
    criterion: Literal["bleu", "loss"] = "bleu"
    """what a better validation has: more BLEU, or a lower loss; for patience, and for the best checkpoint"""
    patience: int | None = None
    """stop after so many validations without a better one; None: never. By BLEU they count from the first validation
    that reaches 1: before that BLEU says nothing, and a model that learns may stay there for long"""
    keep_best: int = 1
    """best checkpoints that stay on disk beside the latest, such as 5 for --checkpoint average:5"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, BLEU was the one criterion, and one best checkpoint was kept."""
        return {"criterion": "bleu", "keep_best": 1, **data}

    def score(self, results: dict[str, float]) -> float:
        """Of what a validation measured: higher is better."""
        return results["score"] if self.criterion == "bleu" else -results["loss"]

    @property
    def measure(self) -> str:
        """What the criterion is called."""
        return "BLEU" if self.criterion == "bleu" else "loss"

    def text(self, score: float) -> str:
        """What was measured, as a number."""
        return f"{score:.2f}" if self.criterion == "bleu" else f"{-score:.3f}"

    def has_learnt(self, best_score: float) -> bool:
        """Whether a validation without gain says that there is nothing more to gain."""
        return self.criterion == "loss" or best_score >= LEARNT_BLEU

    def __post_init__(self) -> None:
        for field in ("every_steps", "sentences", "patience", "keep_best"):
            config_json.require_at_least(1, **{f"validation.{field}": getattr(self, field)})


@dataclasses.dataclass(frozen=True)
class TrainingConfig(config_json.Config):
    """Everything between a model and a trained model."""

    seed: int = 1
    """initial parameters, order of the data and dropout follow from it"""
    max_steps: int = 10_000
    """optimizer updates"""
    batching: BatchingConfig = BatchingConfig()
    """how sentences share batches"""
    subword_regularisation: SubwordRegularisation | None = None
    """cut the texts into other subwords every epoch; None: train on the prepared pieces"""
    word_distributions: float = 0.0
    """how much of a word's target is the teacher's distribution at its place, kept with the distilled data (distill
    --word-distributions); the rest is the word itself (Kim & Rush 2016, section 3.3)"""
    accumulation: int = 1
    """parts of a batch run one after the other before an update"""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Adam and its schedule"""
    average_decay: float | None = None
    """decay of an exponential moving average of the parameters, which then translates; None: no average"""
    validation: ValidationConfig = ValidationConfig()
    """translating while training"""
    log_every: int = 100
    """steps between rows of metrics.jsonl"""
    skip_non_finite: int = 0
    """so many batches whose loss or gradient is not finite are left out and reported; one more stops the run"""
    num_devices: int | None = None
    """devices that share each batch; None: all. It may differ when a run goes on (batching.row_multiple), and train
    --mesh says it without a word in the config"""
    tracker: tracking.Name | None = None
    """a service that draws the numbers of metrics.jsonl as well; its package must be installed (tensorboardX, wandb,
    trackio)"""

    max_lost: float = 0.05
    """share of the training pairs that may be left out, longer than the last bucket or such as the method cannot learn;
    more is an error where a run starts"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, all epochs had the prepared pieces, words had no distributions, and TensorBoard was the one tracker."""
        # A run that goes on is not asked about what it loses.
        new = {"subword_regularisation": None, "word_distributions": 0.0, "max_lost": 0.05}
        data = {**new, **data}
        if "tensorboard" in data:
            has_tensorboard = data.pop("tensorboard")
            data["tracker"] = "tensorboard" if has_tensorboard else None
        return data

    def __post_init__(self) -> None:
        config_json.require_seed(self.seed)
        for field in ("max_steps", "accumulation", "log_every", "num_devices"):
            config_json.require_at_least(1, **{f"training.{field}": getattr(self, field)})
        config_json.require_at_least(0, skip_non_finite=self.skip_non_finite)
        multiple = self.batching.row_multiple
        if multiple is not None and multiple % self.accumulation:
            raise ConfigError(
                f"training.accumulation must divide training.batching.row_multiple: got {self.accumulation} and "
                f"{multiple}; set the second to a multiple of the first"
            )
        config_json.require_share("training.word_distributions", self.word_distributions)
        config_json.require_share("training.max_lost", self.max_lost)
        regularised = self.subword_regularisation
        if self.word_distributions and regularised is not None and regularised.target_alpha:
            raise ConfigError(
                "word_distributions are those of the prepared target pieces: set "
                f"subword_regularisation.target_alpha to 0, got {regularised.target_alpha}"
            )
        if self.average_decay is not None and not 0.0 < self.average_decay < 1.0:
            raise ConfigError(f"average_decay must be between 0 and 1, got {self.average_decay}")
