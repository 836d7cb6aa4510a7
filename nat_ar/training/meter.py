"""The terms of the steps between two rows of the log, checked to be finite.

Terms are read one step late: the host prepares a step while the device computes the one before."""

import collections
import math

import jax

from nat_ar.training import step as train_step
from nat_ar.training.logging import RunLog
from nat_ar.types import Batch, Mean


class NonFiniteLossError(ArithmeticError):
    """A term of the loss, or the gradient, is not finite."""


class Meter:
    """Sums terms over a window of steps."""

    def __init__(
        self, window: dict[str, list[float]], skipped: list[int], log: RunLog, *, max_skipped: int
    ) -> None:
        """`window` (term -> [total, count]) and `skipped` (steps that were not finite) belong to the run's progress,
        which a checkpoint saves: both change in place."""
        self.window, self.skipped = window, skipped
        self.log, self.max_skipped = log, max_skipped
        self.is_stop_agreed = False
        """whether, by a step that is settled, any process was asked to stop: the same in all of them"""
        self.pending: collections.deque[tuple[int, dict[str, Mean], Batch]] = collections.deque()

    def add(self, step: int, terms: dict[str, Mean], batch: Batch) -> None:
        """The terms of a step that may still be running. Waits for the step before it."""
        self.pending.append((step, terms, batch))
        self.settle(keep=1)

    def settle(self, keep: int = 0) -> None:
        """Waits for all steps but the last `keep`, and adds their terms to the window.

        A step that is not finite is left out, its batch kept beside the log. Raises NonFiniteLossError after
        `max_skipped` of them."""
        while len(self.pending) > keep:
            step, terms, batch = self.pending.popleft()
            values = {
                name: (float(mean.total), float(mean.count))
                for name, mean in jax.device_get(terms).items()
            }
            wishes, _ = values.pop(train_step.STOP_WISHES, (0.0, 0.0))
            self.is_stop_agreed |= wishes > 0
            broken = [name for name, value in values.items() if not all(map(math.isfinite, value))]
            if broken:
                shown = ", ".join(f"{name} is {values[name][0]}" for name in broken)
                self._skip(step, shown, batch)
                continue
            for name, (total, count) in values.items():
                before = self.window.get(name, [0.0, 0.0])
                self.window[name] = [before[0] + total, before[1] + count]

    def _skip(self, step: int, shown: str, batch: Batch) -> None:
        where = self.log.keep_batch(step, batch)
        if len(self.skipped) >= self.max_skipped:
            raise NonFiniteLossError(
                f"step {step}: {shown}; the batch is in {where}, the last checkpoint is good. Lower "
                "optimizer.peak_learning_rate, raise warmup_steps, set clip_norm, or let "
                "training.skip_non_finite batches pass (they change nothing), and run the same "
                "command, with another --run where the config has changed"
            )
        self.skipped.append(step)
        self.log.say(f"warning: step {step} is skipped: {shown}; its batch is in {where}")

    def means(self) -> dict[str, float]:
        """The mean of each term over the window, which starts anew."""
        values = {
            name: total / max(count, 1.0) for name, (total, count) in sorted(self.window.items())
        }
        self.window.clear()
        return values
