"""Runs that differ in their seed only: how they are called, and how they are known by their configs."""

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.seeds import SeededRun
from nat_ar.runtime import files

NAMES = ("name", "train_on", "teacher", "start_from")
"""Fields of an experiment that may end in the seed: of a run, of the runs that it learns from, and of their data."""


def named(name: str, seed: int | None) -> str:
    """The name or path of one of several runs that differ in the seed; None: there is one only."""
    return name if seed is None else f"{name}_seed{seed}"


def of_runs(rows: Iterable[Row]) -> dict[str, SeededRun | None]:
    """What each run of the rows is but for its seed, by directory; None where its config is lost or has changed since;
    imported systems have none.

    A run is compared as its version wrote it; runs of several versions, as this version reads them."""
    hashes = {row["run"]: row["config_hash"] for row in rows if row["config_hash"] is not None}
    configs = {run: _config(Path(run), known) for run, known in hashes.items()}
    found = {run: None if config is None else seeded(config) for run, config in configs.items()}
    names = collections.Counter(run.name for run in found.values() if run is not None)
    for run, config in configs.items():
        if config is not None and names[seeded(config).name] > 1:
            found[run] = seeded(_as_today(config))
    return found


def seeded(config: dict[str, Any]) -> SeededRun:
    """Of the JSON of an experiment. "_seed3" at the end of its name and of its paths belongs to the seed where that is
    3: a student of one seed may have learnt from the teacher of that seed."""
    seed = config["training"]["seed"]
    ending = named("", seed)
    shared = {key: config[key].removesuffix(ending) for key in NAMES if config.get(key)}
    training = {**config["training"], "seed": None}
    rest = config_json.hash_of_json({**config, **shared, "training": training})
    return SeededRun(shared["name"], seed, rest)


def _config(run: Path, known: str) -> dict[str, Any] | None:
    path = run / "config.json"
    if not path.is_file():
        return None
    try:
        config = files.read_json(path, remedy="restore it")
    except ValueError:  # whoever needs the model says so: the table does not
        return None
    return config if config_json.hash_of_json(config) == known else None


def _as_today(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as this version writes it; as it is where it cannot be read any more."""
    from nat_ar.experiment.config import (
        ExperimentConfig,
    )  # imports JAX, which most tables do not need

    try:
        today: dict[str, Any] = config_json.to_json(config_json.from_json(ExperimentConfig, config))
    except ConfigError:
        return config
    return today
