"""Services that draw a run's numbers while it trains, beside metrics.jsonl. A file each, imported only when asked."""

import importlib
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from nat_ar.runtime import extras

Name = Literal["tensorboard", "wandb", "trackio"]
PACKAGES: dict[Name, str] = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "trackio": "trackio",
}
"""what pip and Python call the package of each"""


@runtime_checkable
class Tracker(Protocol):
    """Where rows of metrics.jsonl go as well."""

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """The numbers of one row; `kind` is "train" or "validation"."""

    def close(self) -> None:
        """Nothing more will come."""


def require(name: Name) -> Any:
    """The package of a tracker. ConfigError where it is not installed."""
    return extras.require(
        PACKAGES[name],
        f'training.tracker="{name}"',
        "set the tracker to None (metrics.jsonl has the same numbers)",
    )


def start(name: Name, run: Path, *, resumed_step: int) -> Tracker:
    """The tracker of a run. Rows after `resumed_step`, which an interrupted process may have sent, are sent again.
    ConfigError where its package is not installed."""
    module = importlib.import_module(f"{__name__}.{name}")
    tracker: Tracker = module.start(require(name), run, resumed_step=resumed_step)
    return tracker
