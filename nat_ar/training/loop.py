"""From a state to a trained one: steps, logs, validation by decoding, checkpoints, a clean stop.

What happens at a step depends on the step alone, never on when the process was started: an interrupted
run ends with the parameters, the optimizer, the data order and the log of an uninterrupted one."""

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from nat_ar.data import loader
from nat_ar.data.loader import HostBatch, Loader, Place
from nat_ar.runtime import bars, distributed, durations, out_of_memory, stuck
from nat_ar.training import narration, optimizer, step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.config import TrainingConfig
from nat_ar.training.logging import RunLog
from nat_ar.training.meter import Meter
from nat_ar.training.step import TrainState, TrainStep
from nat_ar.types import Batch, SoftTargets

TRAINING = "training"
"""what the bar is at between compilations and validations"""
Validate = Callable[[nnx.State], dict[str, float]]
"""Parameters to numbers, among them "score": higher is better, the best one's checkpoint is kept."""


@dataclasses.dataclass
class Progress:
    """How far a run has come, besides its TrainState; saved with every checkpoint."""

    epoch: int = 0
    position: int = 0
    """the next batch of the epoch"""
    seconds: float = 0.0
    """spent in training steps; neither validation nor compilation is counted"""
    compile_seconds: float = 0.0
    """spent in compiling train steps"""
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
    row_multiple: int | None = None
    """the rows of all batches are a multiple of this; None: a version wrote it that did not say"""

    def advance(self, place: Place) -> None:
        """Counts a step on the batch at `place`."""
        self.epoch = place.epoch + 1 if place.ends_epoch else place.epoch
        self.position = 0 if place.ends_epoch else place.position + 1
        self.target_tokens += place.num_target_tokens
        self.window_tokens += place.num_target_tokens

    def spend(self, seconds: float) -> None:
        """Counts time in training steps."""
        self.seconds += seconds
        self.window_seconds += seconds

    @property
    def spent(self) -> dict[str, float]:
        """What a row of the log says of the whole training up to it."""
        return {"seconds": round(self.seconds, 3), "target_tokens": self.target_tokens}

    def judge(
        self, step: int, score: float, config: TrainingConfig, *, is_last: bool
    ) -> tuple[float, int]:
        """Takes note of a validation; the run is finished at its last step, or when patience is used up. Returns the
        best score and its step."""
        is_better = self.best_score is None or score > self.best_score
        if self.best_score is None or score >= self.best_score:  # ties go to the later step
            self.best_score, self.best_step = score, step
        is_waiting = is_better or not config.validation.has_learnt(self.best_score)
        self.validations_without_gain = 0 if is_waiting else self.validations_without_gain + 1
        self.is_finished = is_last or self._has_stalled(config)
        return self.best_score, self.best_step

    def ended(self, step: int, config: TrainingConfig) -> str:
        """Why a run that is finished ended, and where its best checkpoint is."""
        reason = f"all {step:,} steps are taken"
        if step < config.max_steps:
            number, measure = self.validations_without_gain, config.validation.measure
            reason = (
                f"stopped early at step {step:,}: {number} validations without a better {measure}"
            )
        best = "none" if self.best_score is None else config.validation.text(self.best_score)
        return (
            f"{reason}; best validation {config.validation.measure} {best} at step {self.best_step:,}; "
            f"{durations.text(self.seconds)} of training, {durations.text(self.compile_seconds)} of compilation"
        )

    def reconsider(self, step: int, config: TrainingConfig) -> None:
        """A finished run whose max_steps have grown goes on, unless patience ended it."""
        if self.is_finished:
            self.is_finished = step >= config.max_steps or self._has_stalled(config)

    def _has_stalled(self, config: TrainingConfig) -> bool:
        patience = config.validation.patience
        return patience is not None and self.validations_without_gain >= patience


class Stopped(Exception):  # noqa: N818, not an error
    """The run was asked to stop, and saved itself."""


class StopRequest:
    """True once SIGINT, SIGTERM, SIGUSR1 (a scheduler's warning) or SIGHUP (the terminal is gone) came; the second
    SIGINT interrupts at once. A SIGHUP that the process was told to ignore, as by nohup, stays ignored."""

    def __init__(self) -> None:
        self.is_set = False

    def __enter__(self) -> "StopRequest":
        self._previous: dict[signal.Signals, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
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
    train_step_at: Callable[[int], TrainStep],
    batches: Loader,
    validate: Validate,
    *,
    config: TrainingConfig,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: RunLog,
    teacher_params: Any = None,
) -> TrainState:
    """Trains from `progress` to config.max_steps, or until validation stops gaining. `train_step_at(n)` takes the
    update after n others.

    Raises Stopped after SIGINT, SIGTERM, SIGUSR1 or SIGHUP (a checkpoint is written first; of several processes that
    train together any may get the signal, and all stop after the same step) and NonFiniteLossError as soon as a
    term is not finite and config.skip_non_finite batches have been skipped (the last checkpoint is the last good
    state). Such batches are kept in non_finite/ beside the log. Raises MemoryError where the device has too
    little."""
    rate = optimizer.schedule(config.optimizer, max_steps=config.max_steps)
    number = int(state.step)
    if progress.is_finished or number >= config.max_steps:
        return state

    def put(item: tuple[Place, HostBatch]) -> tuple[Place, Batch]:
        place, batch = item
        source, target, fertilities, soft = step.place(mesh, tuple(batch), is_batch=True)
        soft = None if soft is None else SoftTargets(*soft)
        return place, Batch(source, target, fertilities, soft)

    def save(score: float | None) -> None:
        with stuck.steps.none_expected():
            checkpoints.save(state, dataclasses.asdict(progress), score=score)

    teacher_params = step.place(mesh, teacher_params, is_batch=False)
    meter = Meter(progress.window, progress.skipped, log, max_skipped=config.skip_non_finite)
    own_rows = functools.partial(step.own_rows, mesh)
    stream = loader.prefetch(batches.batches(progress.epoch, progress.position, own_rows), put)
    compilations = narration.Compilations(batches.plan)
    validations: list[float] = []  # seconds that each has taken
    bar = bars.Bar(total=config.max_steps, initial=number, unit="step", desc=TRAINING)
    lower = (
        f"lower training.batching.batch_tokens (now {config.batching.batch_tokens:,}) or raise "
        f"training.accumulation (now {config.accumulation})"
    )
    clock = time.perf_counter()
    with (
        out_of_memory.explained(lower),
        StopRequest() as stop,
        bar,
        contextlib.closing(stream),
        stuck.steps.expected(),
    ):
        for place, batch in stream:
            update = train_step_at(number)
            # Where processes train together, a wish to stop goes through the step: all find it settled a step later.
            wishes = (step.stop_wishes(mesh, stop.is_set),) if distributed.are_joined() else ()
            compiling = compilations.announced(update, batch)
            if compiling is not None:
                meter.settle()  # what is still running is no compilation
                log.say(compiling)
                bar.set_description_str(compiling)
                before = time.perf_counter()
                progress.spend(before - clock)
                with stuck.steps.none_expected():
                    step.compile_everywhere(update, state, batch, teacher_params, *wishes)
            stuck.steps.began(number + 1)
            state, terms = update(state, batch, teacher_params, *wishes)
            if compiling is not None:
                bar.set_description_str(TRAINING)
                clock = time.perf_counter()
                progress.compile_seconds += clock - before  # the step itself runs after the call
            number += 1
            meter.add(number, terms, batch)
            progress.advance(place)
            is_last = number >= config.max_steps
            is_logged = is_last or number % config.log_every == 0
            is_validation = is_last or number % config.validation.every_steps == 0
            # Read once a step: what is saved must have been settled.
            is_stopping = meter.is_stop_agreed if wishes else stop.is_set
            if is_logged or is_validation or is_stopping:
                meter.settle()
            now = time.perf_counter()
            progress.spend(now - clock)
            clock = now
            speed = progress.window_tokens / max(progress.window_seconds, 1e-9)
            bar.set_postfix_str(f"{speed:,.0f} target tokens/s", refresh=False)
            bar.update()

            if is_logged:
                values = meter.means()
                values["learning_rate"] = float(rate(number - 1))
                values["epoch"] = place.epoch
                values["target_tokens_per_second"] = speed
                log.write("train", number, {**values, **progress.spent})
                left = narration.seconds_left(
                    number,
                    config.max_steps,
                    seconds=progress.seconds,
                    every_steps=config.validation.every_steps,
                    validations=validations,
                )
                log.say(narration.of_step(number, values, seconds_left=left))
                progress.window_tokens, progress.window_seconds = 0, 0.0
            if is_validation:
                log.say(f"step {number:,}: validating")
                bar.set_description_str("validating")
                with stuck.steps.none_expected():
                    results = validate(state.translating)
                bar.set_description_str(TRAINING)
                log.write("validation", number, {**results, **progress.spent})
                score = config.validation.score(results)
                best_score, best_step = progress.judge(number, score, config, is_last=is_last)
                save(score)  # before anything is said: speaking can fail
                is_by_loss = config.validation.criterion == "loss"
                best = ("by loss: " if is_by_loss else "") + config.validation.text(best_score)
                log.say(narration.of_validation(number, results, best, best_step))
                if progress.is_finished:
                    log.say(progress.ended(number, config))
                    return state
                validations.append(time.perf_counter() - clock)
                clock = time.perf_counter()  # validation is not counted
            if is_stopping:
                save(None)
                raise Stopped(f"saved at step {number:,}; the same command goes on from there")
    return state
