"""train CONFIG --run DIRECTORY: trains, or goes on training.

The same command after an interruption resumes at the last checkpoint, to the same parameters, data
order and log, bit for bit. A directory with another config is refused."""

import dataclasses
from pathlib import Path

from nat_ar.config_json import ConfigError
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.experiment.run import Run
from nat_ar.pipeline.train import train


def load_config(path: str) -> ExperimentConfig:
    config = load_file(path)
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(
            f"{path} holds a {type(config).__name__}; `train` takes an ExperimentConfig"
        )
    return config


@dataclasses.dataclass(frozen=True)
class Train:
    """Train the experiment of a config file, or resume it."""

    config: ExperimentConfig
    """the experiment; every field can be overridden by its dotted name"""
    run: str | None = None
    """directory of the run; default runs/NAME"""


def run(arguments: Train) -> None:
    config = arguments.config
    directory = Path(arguments.run or f"runs/{config.name}")
    train(config, Run(directory))
