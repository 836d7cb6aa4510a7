"""Weights & Biases: project nat_ar, a run for each run directory. Its own environment variables say where it
writes, and whether it is online."""

import uuid
from pathlib import Path
from typing import Any


class WeightsAndBiases:
    def __init__(self, package: Any, run: Path, *, resumed_step: int) -> None:
        """A run that is resumed goes on there under its id. Steps that were sent before are ignored by the service;
        they have the same numbers."""
        kept = run / "wandb_id"
        if resumed_step and kept.exists():
            identity = kept.read_text("utf-8").strip()
        else:
            identity = uuid.uuid4().hex
            kept.write_text(identity + "\n", "utf-8")
        self._run = package.init(
            project="nat_ar", name=run.resolve().name, id=identity, dir=str(run), resume="allow"
        )

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


start = WeightsAndBiases
