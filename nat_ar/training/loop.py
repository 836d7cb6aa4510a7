"""From a state to a trained one: steps, logs, validation by decoding, checkpoints, a clean stop.

What happens at a step depends on the step alone, never on when the process was started: an interrupted
run ends with the parameters, the optimizer, the data order and the log of an uninterrupted one."""

import collections
import contextlib
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import tqdm
from flax import nnx
from jax.sharding import Mesh

from nat_ar.data import loader
from nat_ar.data.loader import HostBatch, Loader
from nat_ar.runtime import out_of_memory
from nat_ar.training import optimizer, step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.config import TrainingConfig
from nat_ar.training.logging import RunLog
from nat_ar.training.step import TrainState, TrainStep
from nat_ar.types import Batch, Mean

Validate = Callable[[nnx.State], dict[str, float]]
"""Parameters to numbers, among them "score": higher is better, the best one's checkpoint is kept."""


@dataclasses.dataclass
class Progress:
    """Where a run stands, besides its TrainState; saved with every checkpoint."""

    epoch: int = 0
    position: int = 0
    """the next batch of the epoch"""
    seconds: float = 0.0
    """spent in training steps, validation not counted"""
    target_tokens: int = 0
    """real target tokens trained on"""
    best_score: float | None = None
    best_step: int = 0
    validations_without_gain: int = 0
    is_finished: bool = False
    skipped: list[int] = dataclasses.field(default_factory=list)
    """steps whose loss or gradient was not finite, and which changed nothing"""
    window: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """term -> [total, count] since the last row of the log"""
    window_tokens: int = 0
    window_seconds: float = 0.0


class Stopped(Exception):  # noqa: N818, not an error
    """The run was asked to stop, and saved itself."""


class NonFiniteLossError(ArithmeticError):
    """A term of the loss, or the gradient, is not a number any more."""


class _StopRequest:
    """True once SIGINT or SIGTERM came; the second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False

    def __enter__(self) -> "_StopRequest":
        self._previous: dict[signal.Signals, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        except ValueError:  # not the main thread: nobody can send us signals
            pass
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_set = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def run(
    state: TrainState,
    progress: Progress,
    train_step: TrainStep,
    batches: Loader,
    validate: Validate,
    *,
    config: TrainingConfig,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: RunLog,
    teacher_params: Any = None,
) -> TrainState:
    """Trains from `progress` to config.max_steps, or until validation stops gaining.

    Raises Stopped after SIGINT or SIGTERM (a checkpoint is written first) and NonFiniteLossError as soon as a
    term is not finite and config.skip_non_finite batches have been skipped (the last checkpoint is the last good
    state). Such batches are kept in non_finite/ beside the log. Raises MemoryError where the device has too
    little."""
    rate = optimizer.schedule(config.optimizer, max_steps=config.max_steps)
    number = int(state.step)
    if progress.is_finished or number >= config.max_steps:
        return state

    def put(item: tuple[int, int, HostBatch]) -> tuple[int, int, Batch, int]:
        epoch, position, batch = item
        placed = Batch(*step.place(mesh, tuple(batch), is_batch=True))
        return epoch, position, placed, batch.num_target_tokens

    teacher_params = step.place(mesh, teacher_params, is_batch=False)
    window = progress.window
    pending: collections.deque[tuple[int, dict[str, Mean], Batch]] = collections.deque()

    def settle(keep: int) -> None:
        """Adds the finished steps' terms to the window; `keep` steps may still be running."""
        while len(pending) > keep:
            at, terms, batch = pending.popleft()
            values = {
                name: (float(mean.total), float(mean.count))
                for name, mean in jax.device_get(terms).items()
            }
            broken = [name for name, value in values.items() if not all(map(math.isfinite, value))]
            if broken:
                shown = ", ".join(f"{name} is {values[name][0]}" for name in broken)
                where = log.keep_batch(at, batch)
                if len(progress.skipped) >= config.skip_non_finite:
                    raise NonFiniteLossError(
                        f"step {at}: {shown}; the batch is in {where}, the last checkpoint is good. Lower "
                        "optimizer.peak_learning_rate, raise warmup_steps, set clip_norm, or let "
                        "training.skip_non_finite batches pass (they change nothing), and run the same "
                        "command, with another --run where the config has changed"
                    )
                progress.skipped.append(at)
                log.say(f"warning: step {at} is skipped: {shown}; its batch is in {where}")
                continue
            for name, (total, count) in values.items():
                before = window.get(name, [0.0, 0.0])
                window[name] = [before[0] + total, before[1] + count]

    def save(score: float | None) -> None:
        checkpoints.save(state, dataclasses.asdict(progress), score=score)

    stream = loader.prefetch(batches.batches(progress.epoch, progress.position), put)
    bar = tqdm.tqdm(
        total=config.max_steps,
        initial=number,
        unit="step",
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    clock = time.perf_counter()
    lower = (
        f"lower training.batching.batch_tokens (now {config.batching.batch_tokens:,}) or raise "
        f"training.accumulation (now {config.accumulation})"
    )
    with out_of_memory.explained(lower), _StopRequest() as stop, bar, contextlib.closing(stream):
        for epoch, position, batch, num_tokens in stream:
            state, terms = train_step(state, batch, teacher_params)
            number += 1
            pending.append((number, terms, batch))
            settle(keep=1)
            is_last = number >= config.max_steps
            is_validation = is_last or number % config.validation.every_steps == 0
            ends_epoch = position + 1 == len(batches.plan)
            progress.epoch = epoch + 1 if ends_epoch else epoch
            progress.position = 0 if ends_epoch else position + 1
            progress.target_tokens += num_tokens
            progress.window_tokens += num_tokens
            is_stopping = stop.is_set  # asked once a step: what is saved must have been settled
            if is_validation or is_stopping or number % config.log_every == 0:
                settle(keep=0)
            now = time.perf_counter()
            progress.seconds += now - clock
            progress.window_seconds += now - clock
            clock = now
            speed = progress.window_tokens / progress.window_seconds
            bar.set_postfix_str(f"{speed:,.0f} target tokens/s", refresh=False)
            bar.update()

            if number % config.log_every == 0 or is_last:
                values = {
                    name: total / max(count, 1.0) for name, (total, count) in sorted(window.items())
                }
                values["learning_rate"] = float(rate(number - 1))
                values["epoch"] = epoch
                values["target_tokens_per_second"] = speed
                log.write("train", number, values)
                window.clear()
                progress.window_tokens, progress.window_seconds = 0, 0.0
            if is_validation:
                translating = state.translating
                results = validate(translating)
                score = results["score"]
                is_better = progress.best_score is None or score > progress.best_score
                if is_better or score == progress.best_score:  # of equals the later one is kept
                    progress.best_score, progress.best_step = score, number
                progress.validations_without_gain = (
                    0 if is_better else progress.validations_without_gain + 1
                )
                patience = config.validation.patience
                has_stalled = patience is not None and progress.validations_without_gain >= patience
                progress.is_finished = is_last or has_stalled
                log.write("validation", number, results)
                log.say(
                    f"step {number:,}: validation BLEU {score:.2f} (best {progress.best_score:.2f} "
                    f"at step {progress.best_step:,}), {progress.seconds / 60:.1f} min of training"
                )
                save(score)
                if progress.is_finished:
                    return state
                clock = time.perf_counter()
            if is_stopping:
                save(None)
                raise Stopped(f"saved at step {number:,}; the same command goes on from there")
    return state
