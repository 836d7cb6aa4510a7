"""Trackers are loaded when asked for, and get what their packages expect."""

import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.training import tracking
from nat_ar.training.config import TrainingConfig

NAMES = typing.get_args(tracking.Name)


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_without_its_package_is_a_clear_error(
    name: tracking.Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tracking.PACKAGES[name]
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    message = f'tracker="{name}" needs the package {package}, .*nat-ar.{name}'
    with pytest.raises(ConfigError, match=message):
        tracking.start(name, tmp_path, resumed_step=0)


def test_training_alone_loads_no_tracker() -> None:
    program = "import sys; import nat_ar.training.loop; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert not {*tracking.PACKAGES.values()} & {*loaded.stdout.split()}


def test_tensorboard_forgets_what_comes_after_the_resumed_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the rows of an interrupted run are drawn twice."""
    seen: list[Any] = []

    class SummaryWriter:
        def __init__(self, directory: str, *, purge_step: int) -> None:
            seen.append((directory, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

        def close(self) -> None:
            seen.append("closed")

    package: Any = types.ModuleType("tensorboardX")
    package.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", package)
    tracking.start("tensorboard", tmp_path, resumed_step=0).close()
    tracker = tracking.start("tensorboard", tmp_path, resumed_step=20)
    tracker.write("train", 21, {"token": 2.5, "learning_rate": 0.1})
    tracker.close()
    directory = str(tmp_path / "tensorboard")
    assert seen == [
        *((directory, 1), "closed", (directory, 21)),
        *(("train/token", 2.5, 21), ("train/learning_rate", 0.1, 21), "closed"),
    ]


class Service:
    """What wandb and trackio have in common: `init` returns a run with `log` and `finish`."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []

    def init(self, project: str, **settings: Any) -> "Service":
        self.started.append({"project": project, **settings})
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.logged.append(({}, -1))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_where_the_service_knows_it(
    name: tracking.Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, run = Service(), tmp_path / "mine"
    run.mkdir()
    package: Any = types.ModuleType(name)
    package.init = service.init
    monkeypatch.setitem(sys.modules, name, package)
    for resumed_step in (0, 20, 0):
        tracker = tracking.start(name, run, resumed_step=resumed_step)
        tracker.write("validation", resumed_step + 1, {"score": 3.0})
        tracker.close()
    assert service.logged[:2] == [({"validation/score": 3.0}, 1), ({}, -1)]
    first, resumed, anew = service.started
    assert first["project"] == "nat_ar"
    assert first["name"] == "mine"
    if name == "wandb":
        assert first["id"] == resumed["id"] != anew["id"]
    else:
        assert [x["resume"] for x in service.started] == ["never", "allow", "never"]


@pytest.mark.parametrize(("before", "now"), [(True, "tensorboard"), (False, None)])
def test_configs_that_knew_tensorboard_only_are_read(before: bool, now: str | None) -> None:
    data = config_json.to_json(TrainingConfig())
    del data["tracker"]
    found = config_json.from_json(TrainingConfig, {**data, "tensorboard": before})
    assert found.tracker == now


def test_another_tracker_is_refused() -> None:
    data = {**config_json.to_json(TrainingConfig()), "tracker": "notebook"}
    with pytest.raises(ConfigError, match=r"tracker.*'tensorboard', 'wandb', 'trackio'"):
        config_json.from_json(TrainingConfig, data)
