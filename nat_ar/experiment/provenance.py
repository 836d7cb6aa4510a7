"""Where a number comes from: the run and the checkpoint behind it, and the command that makes it again."""

import datetime
import shlex
from typing import Any

from nat_ar.experiment.run import Run, TrainedModel


def identity(run: Run, trained: TrainedModel) -> dict[str, Any]:
    """The trained model behind a row of results.jsonl, an export or distilled data, and the others that its decoding
    asks."""
    facts, rescorer, drafter = run.facts(), trained.rescorer, trained.drafter
    return {
        "name": trained.config.name,
        "run": str(run.directory),
        "method": type(trained.config.method).__name__,
        "family": trained.config.method.family,
        "training_data": facts["training_data"],
        "config_hash": run.config_hash,
        **trained.fingerprint,
        "averaged_steps": list(trained.averaged_steps) or None,
        "rescorer": _other(
            trained.config.teacher, None if rescorer is None else rescorer.fingerprint
        ),
        "drafter": _other(
            trained.drafter_directory, None if drafter is None else drafter.fingerprint
        ),
        "teacher": _other(trained.config.teacher, facts.get("teacher")),
        "start_from": _other(trained.config.start_from, facts.get("start_from")),
        "members": facts.get("members"),
        "parameters": trained.num_parameters,
        "dtype": trained.dtype,
    }


def version(run: Run, decoding: Any) -> dict[str, Any]:
    """What `results.is_same_model` compares, of the run's best checkpoint under a decoding. `identity` has the same and
    needs a loaded model."""
    rescorer, drafter = run.rescorer(decoding), run.drafter(decoding)
    return {
        "config_hash": run.config_hash,
        "checkpoint_step": run.resolve(),
        "parameters_hash": run.parameters_hash(),
        "rescorer": rescorer and {"parameters_hash": rescorer.parameters_hash()},
        "drafter": drafter and {"parameters_hash": drafter.parameters_hash()},
    }


def _other(path: str | None, fingerprint: dict[str, Any] | None) -> dict[str, Any] | None:
    """Another model that took part: the path by which it was named, and what it was then."""
    return fingerprint and {"run": path, **fingerprint}


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
