import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nat_ar import config_json
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.experiment import seeds
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.training.config import TrainingConfig

CONFIG = ExperimentConfig(
    "nat_seed1",
    DataConfig("data", ToyCorpus()),
    Autoregressive(),
    train_on="distilled_seed1",
    teacher="runs/ar_seed1",
)


def with_seed(seed: int, **changes: Any) -> ExperimentConfig:
    """The same experiment with another seed, in its name and its paths too."""
    training = dataclasses.replace(CONFIG.training, seed=seed)
    ends = {"name": "nat", "train_on": "distilled", "teacher": "runs/ar"}
    named = {field: seeds.named(start, seed) for field, start in ends.items()}
    return dataclasses.replace(CONFIG, **{"training": training, **named, **changes})


def seeded(config: ExperimentConfig) -> seeds.SeededRun:
    return seeds.seeded(config_json.to_json(config))


def row_of(run: Path, config: Any) -> dict[str, Any]:
    """Writes config.json; the row that an evaluation of the run has."""
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    return {"run": str(run), "config_hash": config_json.hash_of_json(config)}


def test_the_only_run_has_no_seed_in_its_name() -> None:
    assert (seeds.named("nat", None), seeds.named("runs/nat", 7)) == ("nat", "runs/nat_seed7")


def test_runs_that_differ_in_the_seed_only_are_known_by_their_configs() -> None:
    first, second = seeded(with_seed(1)), seeded(with_seed(2))
    assert (first.name, first.seed) == ("nat", 1)
    assert second == dataclasses.replace(first, seed=2)


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": "runs/ar_seed1"},  # the teacher of another seed
        {"train_on": None},
        {"name": "nta_seed2"},
        {"training": TrainingConfig(seed=2, max_steps=7)},
    ],
)
def test_any_other_difference_is_another_experiment(change: dict[str, Any]) -> None:
    first, other = seeded(with_seed(1)), seeded(with_seed(2, **change))
    assert (other.name, other.rest) != (first.name, first.rest)


def test_a_config_that_is_lost_or_has_changed_is_not_known(tmp_path: Path) -> None:
    data = config_json.to_json(CONFIG)
    rows = [row_of(tmp_path / name, data) for name in ("kept", "changed", "lost", "broken")]
    (tmp_path / "changed" / "config.json").write_text(json.dumps({**data, "name": "x"}), "utf-8")
    (tmp_path / "lost" / "config.json").unlink()
    (tmp_path / "broken" / "config.json").write_text("{", "utf-8")
    kept, *others = seeds.of_runs(rows).values()
    assert kept == seeded(CONFIG)
    assert others == [None, None, None]


def test_a_config_of_an_earlier_version_is_read_as_todays(tmp_path: Path) -> None:
    """A seed that was trained before a field was there belongs to those that were trained after."""
    early, today = config_json.to_json(with_seed(1)), config_json.to_json(with_seed(2))
    del early["training"]["word_distributions"]
    found = seeds.of_runs([row_of(tmp_path / "1", early), row_of(tmp_path / "2", today)])
    first, second = found.values()
    assert first is not None
    assert second is not None
    assert (first.seed, second.seed) == (1, 2)
    assert first.rest == second.rest
