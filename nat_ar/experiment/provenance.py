"""Where a number comes from: the run and the checkpoint behind it, and the command that makes it again."""

import datetime
import shlex
from typing import Any

from nat_ar.experiment.run import Run, TrainedModel


def identity(run: Run, trained: TrainedModel) -> dict[str, Any]:
    """The trained model behind a row of results.jsonl, an export or distilled data."""
    return {
        "name": trained.config.name,
        "run": str(run.directory),
        "method": type(trained.config.method).__name__,
        "family": trained.config.method.family,
        "training_data": run.facts()["training_data"],
        "config_hash": run.config_hash,
        "checkpoint_step": trained.step,
        "parameters": trained.num_parameters,
        "dtype": trained.dtype,
    }


def now() -> str:
    """The date and time in UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command_of(verb: str, *positional: Any, **options: Any) -> str:
    """The command line of a verb with these arguments."""
    return shlex.join(["python", "-m", "nat_ar", *words_of(verb, *positional, **options)])


def words_of(verb: str, *positional: Any, **options: Any) -> list[str]:
    """The words of a command line after `python -m nat_ar`. An option that is None or () is left out; a tuple gives
    an option several values; a bool becomes --name or --no-name."""
    words = [verb, *map(str, positional)]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value not in (None, ()):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{option}", *map(str, values)]
    return words
