"""Event files for TensorBoard, in RUN/tensorboard."""

from pathlib import Path
from typing import Any


class TensorBoard:
    def __init__(self, package: Any, run: Path, *, resumed_step: int) -> None:
        # What an interrupted process logged after its checkpoint is logged again: TensorBoard drops the first.
        self._writer = package.SummaryWriter(str(run / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


start = TensorBoard
