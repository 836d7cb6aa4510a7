"""ensemble RUN RUN ... --run DIRECTORY: autoregressive runs that translate together, as a run of its own."""

import dataclasses
import shlex

from nat_ar.pipeline.ensemble import ensemble
from nat_ar.runtime import console


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Make one run of several autoregressive ones: its probability of a token is the mean of theirs. It translates, is
    evaluated and timed, and teaches, as any run."""

    runs: tuple[str, ...]
    """trained runs of family AR with one vocabulary; their architectures may differ"""
    run: str = dataclasses.field(kw_only=True)
    """directory of the ensemble, which holds copies of their parameters"""
    name: str | None = None
    """of the ensemble in tables; default: the name of the directory"""
    checkpoint: str = "best"
    """of every member: best (by validation), latest, a step, or average:5, the mean of the best five"""


def run(arguments: Ensemble) -> None:
    made = ensemble(
        arguments.runs, arguments.run, name=arguments.name, checkpoint=arguments.checkpoint
    )
    members = ", ".join(
        f"{one['name']} (checkpoint {one['checkpoint_step']:,})" for one in made.facts()["members"]
    )
    where = shlex.quote(str(made.directory))
    console.say(
        f"{made.config().name}: an ensemble of {members}; next: python -m nat_ar evaluate {where}"
    )
