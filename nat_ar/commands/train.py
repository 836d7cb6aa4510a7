"""train CONFIG --run DIRECTORY: trains the model of an experiment, or resumes its training.

nat_ar/pipeline/train.py says what resuming keeps."""

import dataclasses

from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.config import load_experiment as load_config
from nat_ar.pipeline.train import train

__all__ = ["Train", "load_config", "run"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train the model of a config file, or resume its training."""

    config: ExperimentConfig
    """the experiment; every field is an option with a dotted name"""
    run: str | None = None
    """directory of the run; default: runs/NAME"""


def run(arguments: Train) -> None:
    train(arguments.config, arguments.run)
