"""train CONFIG --run DIRECTORY: trains the model of an experiment, or resumes its training.

nat_ar/pipeline/train.py says what resuming keeps, nat_ar/runtime/distributed.py how several processes train
together."""

import dataclasses
import shlex

from nat_ar.evaluation.speed import machine
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.config import load_experiment as load_config
from nat_ar.pipeline.train import train
from nat_ar.runtime import bars, distributed, stuck

__all__ = ["Train", "load_config", "run"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train the model of a config file, or resume its training."""

    config: ExperimentConfig
    """the experiment; every field is an option with a dotted name"""
    run: str | None = None
    """directory of the run; default: runs/NAME"""
    mesh: str | None = None
    """the devices that share each batch: data=8, or data=-1 for all. data=8,fsdp=4: 32 devices, each four of which hold
    one copy of parameters and optimizer together. Default: as training.num_devices says"""
    coordinator: str | None = None
    """HOST:PORT at which process 0 listens, where several processes train together; SLURM and Open MPI say it
    themselves"""
    processes: int | None = None
    """how many processes train together"""
    process: int | None = None
    """which of them this is, from 0"""
    stuck_after: float = stuck.AFTER
    """seconds without a step, where one is expected, after which processes that train together all end, with a line
    that says which is stuck; 0: never"""


def run(arguments: Train) -> None:
    place = (arguments.coordinator, arguments.processes, arguments.process)
    with distributed.joined(*place, stuck_after=arguments.stuck_after):
        dtypes = [arguments.config.method.network.dtype]
        bars.say(machine.summary(dtypes))
        trained = train(arguments.config, arguments.run, mesh=arguments.mesh)
        where = shlex.quote(str(trained.directory))
        following = f"next: python -m nat_ar evaluate {where}"
        if arguments.config.method.family == "AR":
            to = shlex.quote(f"{arguments.config.data.directory}_distilled")
            following += f", or python -m nat_ar distill {where} --directory {to}"
        bars.say(following)
