"""Trackio: project nat_ar, a run for each run directory. Its own environment variables say where it
writes."""

from pathlib import Path
from typing import Any


class Trackio:
    def __init__(self, package: Any, run: Path, *, resumed_step: int) -> None:
        """Runs are known by the name of their directory: one that is resumed goes on there."""
        self._run = package.init(
            "nat_ar",
            name=run.resolve().name,
            resume="allow" if resumed_step else "never",
            embed=False,
        )

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


start = Trackio
