"""train CONFIG --run DIRECTORY: trains the model of an experiment, or resumes its training.

nat_ar/pipeline/train.py says what resuming keeps."""

import dataclasses
import shlex

from nat_ar.evaluation.speed import machine
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.config import load_experiment as load_config
from nat_ar.pipeline.train import train
from nat_ar.runtime import bars

__all__ = ["Train", "load_config", "run"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train the model of a config file, or resume its training."""

    config: ExperimentConfig
    """the experiment; every field is an option with a dotted name"""
    run: str | None = None
    """directory of the run; default: runs/NAME"""


def run(arguments: Train) -> None:
    bars.say(machine.summary([arguments.config.method.network.dtype]))
    trained = train(arguments.config, arguments.run)
    where = shlex.quote(str(trained.directory))
    following = f"next: python -m nat_ar evaluate {where}"
    if arguments.config.method.family == "AR":
        to = shlex.quote(f"{arguments.config.data.directory}_distilled")
        following += f", or python -m nat_ar distill {where} --directory {to}"
    bars.say(following)
