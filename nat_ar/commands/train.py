"""train CONFIG --run DIRECTORY: trains, or goes on training.

The same command after an interruption resumes at the last checkpoint, to the same parameters, data
order and log, bit for bit. A directory with another config is refused."""

import dataclasses

from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.config import load_experiment as load_config
from nat_ar.pipeline.train import train

__all__ = ["Train", "load_config", "run"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train the experiment of a config file, or resume it."""

    config: ExperimentConfig
    """the experiment; every field can be overridden by its dotted name"""
    run: str | None = None
    """directory of the run; default runs/NAME"""


def run(arguments: Train) -> None:
    train(arguments.config, arguments.run)
