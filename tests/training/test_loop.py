"""An interrupted run ends as an uninterrupted one, whatever interrupts it and wherever. The model is a
vector of numbers; the train step, the data, the checkpoints and the log are the real ones."""

import dataclasses
import functools
import math
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.batching import BatchingConfig, BatchPlan
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.loader import Loader, Pairs
from nat_ar.data.ragged import Ragged
from nat_ar.losses import cross_entropy
from nat_ar.methods.base import Teacher
from nat_ar.runtime import bars
from nat_ar.special_tokens import NUM_SPECIAL, PAD
from nat_ar.training import logging, loop, optimizer, step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.logging import RunLog
from nat_ar.training.loop import Progress
from nat_ar.training.meter import NonFiniteLossError
from nat_ar.training.step import TrainState, TrainStep
from nat_ar.types import Batch, Loss, Mean

CONFIG = TrainingConfig(
    max_steps=20,  # 3 batches an epoch: the run ends in the middle of the seventh
    batching=BatchingConfig(batch_tokens=16, buckets=(4,)),
    average_decay=0.9,
    validation=ValidationConfig(every_steps=8),
    log_every=3,
)
MESH = step.data_mesh(1)
ROWS = Ragged.from_rows([[NUM_SPECIAL + i] * (1 + i % 3) for i in range(10)])


class Bag(nnx.Module):
    """Each token has a weight, which should be that of the source's tokens plus noise."""

    def __init__(self) -> None:
        self.weights = nnx.Param(jnp.linspace(-1.0, 1.0, NUM_SPECIAL + len(ROWS)))

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: Teacher | None = None,
    ) -> Loss:
        assert rngs is not None
        noise = jax.random.normal(rngs.dropout(), batch.target.shape)
        errors = self.weights[...][batch.target] - 0.1 * batch.source - noise
        squares = cross_entropy.masked_mean(errors**2, batch.target != PAD)
        return Loss(squares.value, {"square": squares})


ADAM = optimizer.build(CONFIG.optimizer, max_steps=CONFIG.max_steps)


@functools.cache
def compiled() -> TrainStep:
    graphdef, _ = nnx.split(Bag(), nnx.Param)
    return step.build_train_step(graphdef, ADAM, MESH, average_decay=CONFIG.average_decay)


def score_of(params: nnx.State) -> dict[str, float]:
    return {"score": float(params["weights"][...].sum()), "length_ratio": 1.0}


class Training:
    """A run directory, and a command that starts or resumes it, as `train` does."""

    def __init__(self, run: Path, config: TrainingConfig = CONFIG) -> None:
        self.run, self.config = run, config
        self.seen: list[list[list[int]]] = []
        """The source of each batch that was trained on, over all starts."""
        self.teachers: list[Any] = []
        self.frozen: list[int] = []
        """The steps that were taken with a frozen encoder."""

    def start(
        self,
        *,
        at_step: Callable[[int], None] = lambda number: None,
        spoil: int | None = None,
        teacher_params: Any = None,
        validate: loop.Validate = score_of,
    ) -> None:
        """`at_step(n)` is called while step n runs; the terms of step `spoil` are not finite."""

        def train_step(
            state: TrainState, batch: Batch, teacher: Any
        ) -> tuple[TrainState, dict[str, Mean]]:
            number = int(state.step) + 1
            self.seen.append(batch.source.tolist())
            self.teachers.append(teacher)
            state, terms = compiled()(state, batch, teacher)
            at_step(number)
            if number == spoil:
                terms["square"] = Mean(jnp.float32(np.nan), jnp.float32(1))
            return state, terms

        def frozen_step(
            state: TrainState, batch: Batch, teacher: Any
        ) -> tuple[TrainState, dict[str, Mean]]:
            self.frozen.append(int(state.step) + 1)
            return train_step(state, batch, teacher)

        def train_step_at(number: int) -> TrainStep:
            is_frozen = self.config.optimizer.freezes_encoder(number)
            return frozen_step if is_frozen else train_step

        checkpoints = Checkpoints(self.run / "checkpoints")
        state, progress = initial_state(), Progress()
        if checkpoints.latest_step is not None:
            state, saved = checkpoints.restore(state)
            del saved["score"]
            progress = Progress(**saved)
        log = RunLog(self.run, resumed_step=int(state.step), tracker=None)
        plan = BatchPlan(
            LengthOrder.of_lengths(ROWS.lengths, ROWS.lengths),
            self.config.batching,
            seed=self.config.seed,
        )
        try:
            loop.run(
                state,
                progress,
                train_step_at,
                Loader(Pairs(ROWS, ROWS, None), plan),
                validate,
                config=self.config,
                mesh=MESH,
                checkpoints=checkpoints,
                log=log,
                teacher_params=teacher_params,
            )
        finally:
            log.close()
            checkpoints.close()

    def end(self) -> dict[str, Any]:
        """All that must not depend on interruptions: everything but the clock."""
        checkpoints = Checkpoints(self.run / "checkpoints", is_read_only=True)
        state, progress = checkpoints.restore(initial_state())
        steps = sorted(checkpoints.manager.all_steps())
        checkpoints.close()
        state = dataclasses.replace(state, key=jax.random.key_data(state.key))
        return {
            "state": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(state)],
            "progress": {name: x for name, x in progress.items() if "seconds" not in name},
            "checkpoints": steps,
            "rows": rows_of(self.run),
        }


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if "second" not in name and name != "time"}
        for row in logging.read(run)
    ]


def initial_state() -> TrainState:
    params = nnx.state(Bag(), nnx.Param)
    state = step.initial_state(params, ADAM, seed=CONFIG.seed, has_average=True)
    return step.place(MESH, state, is_batch=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(tmp_path_factory.mktemp("uninterrupted"))
    training.start()
    return training


def test_what_a_run_leaves(uninterrupted: Training) -> None:
    end = uninterrupted.end()
    places = [(row["kind"], row["step"]) for row in end["rows"]]
    assert places == [
        *[("train", 3), ("train", 6), ("validation", 8), ("train", 9), ("train", 12)],
        *[("train", 15), ("validation", 16), ("train", 18), ("train", 20), ("validation", 20)],
    ]
    train = [row for row in end["rows"] if row["kind"] == "train"]
    assert set(train[0]) == {
        *("kind", "step", "square", "objective", "learning_rate", "epoch", "target_tokens"),
        *("gradient_norm", "update_norm", "parameter_norm"),
    }
    assert [row["epoch"] for row in train] == [0, 1, 2, 3, 4, 5, 6]
    assert train[0]["learning_rate"] == pytest.approx(1e-3 * 3 / 800)  # that of step 3
    validations = [row for row in end["rows"] if row["kind"] == "validation"]
    assert all({"score", "length_ratio"} < set(row) for row in validations)
    best = max(validations, key=lambda row: (row["score"], row["step"]))["step"]
    assert end["checkpoints"] == sorted({best, 20})
    # An epoch has 10 sentences of 1, 2, 3, 1, ... tokens: 19 and 10 EOS. Step 20 is two batches into
    # the seventh.
    progress = end["progress"]
    assert (progress["epoch"], progress["position"], progress["is_finished"]) == (6, 2, True)
    assert 6 * 29 < progress["target_tokens"] < 7 * 29
    assert progress["best_step"] == best
    assert len(uninterrupted.seen) == 20


def terminate(at: int) -> Callable[[int], None]:
    def at_step(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGTERM)

    return at_step


@pytest.mark.parametrize("at", [1, 8, 19], ids=["first", "validation", "last but one"])
def test_sigterm_saves_and_the_same_command_goes_on(
    uninterrupted: Training, tmp_path: Path, at: int
) -> None:
    training = Training(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Stopped, match=f"saved at step {at}; the same command goes on"):
        training.start(at_step=terminate(at))
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(training.seen) == at
    training.start()
    assert training.seen == uninterrupted.seen
    assert training.end() == uninterrupted.end()


def test_sigterm_between_two_lines_of_the_loop_loses_no_step(
    uninterrupted: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come after the loop has decided not to wait for the running step: here, when it
    reads the clock after step 5."""
    training = Training(tmp_path)

    def perf_counter() -> float:
        if len(training.seen) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return float(len(training.seen))

    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=perf_counter))
    with pytest.raises(loop.Stopped):
        training.start()
    monkeypatch.undo()
    training.start()
    assert training.seen == uninterrupted.seen
    assert training.end() == uninterrupted.end()


class Killed(BaseException):
    """Nothing may run after it but what a dead process would run: nothing that writes."""


@pytest.mark.parametrize("at", [8, 20])
def test_a_kill_costs_the_steps_since_the_last_checkpoint_only(
    uninterrupted: Training, tmp_path: Path, at: int
) -> None:
    def kill(number: int) -> None:
        if number == at:
            raise Killed

    training = Training(tmp_path)
    with pytest.raises(Killed):
        training.start(at_step=kill)
    training.start()
    saved = (at - 1) // 8 * 8
    assert training.seen[:at] == uninterrupted.seen[:at]
    assert training.seen[at:] == uninterrupted.seen[saved:]
    assert training.end() == uninterrupted.end()


def test_a_kill_in_a_validation_repeats_it(uninterrupted: Training, tmp_path: Path) -> None:
    def killed(params: nnx.State) -> dict[str, float]:
        raise Killed

    training = Training(tmp_path)
    with pytest.raises(Killed):
        training.start(validate=killed)
    training.start()
    assert training.end() == uninterrupted.end()


def test_a_stderr_that_nobody_reads_stops_no_training(
    uninterrupted: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `train 2>&1 | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stderr", unread)
        Training(tmp_path).start()
        print("what is buffered can still go somewhere", file=unread, flush=True)
    assert Training(tmp_path).end() == uninterrupted.end()


def test_a_checkpoint_is_saved_before_anything_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(log: RunLog, text: str) -> None:
        if "BLEU" in text:
            raise Killed(text)

    monkeypatch.setattr(RunLog, "say", say)
    with pytest.raises(Killed, match="step 8: validation BLEU"):
        Training(tmp_path).start()
    assert Training(tmp_path).end()["checkpoints"] == [8]


def test_a_terminal_that_goes_away_loses_no_step(uninterrupted: Training, tmp_path: Path) -> None:
    def hang_up(number: int) -> None:
        if number == 5:
            os.kill(os.getpid(), signal.SIGHUP)

    training = Training(tmp_path)
    before = signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # as without nohup, whatever started the tests
    try:
        with pytest.raises(loop.Stopped, match="saved at step 5"):
            training.start(at_step=hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    training.start()
    assert training.seen == uninterrupted.seen
    assert training.end() == uninterrupted.end()


def test_nohup_keeps_its_word() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with loop.StopRequest() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)  # patience with what asks twice without a person
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("spoil", [1, 8])
def test_a_loss_that_is_not_finite_stops_and_is_not_saved(
    uninterrupted: Training, tmp_path: Path, spoil: int
) -> None:
    training = Training(tmp_path)
    with pytest.raises(NonFiniteLossError, match=f"step {spoil}: square is nan; the batch is in"):
        training.start(spoil=spoil)
    with np.load(tmp_path / "non_finite" / f"step_{spoil}.npz") as kept:
        assert set(kept) == {"source", "target"}
        assert kept["source"].tolist() == training.seen[spoil - 1]
    checkpoints = Checkpoints(tmp_path / "checkpoints", is_read_only=True)
    saved = (spoil - 1) // 8 * 8
    assert checkpoints.latest_step == (saved or None)
    checkpoints.close()
    training.start()  # with the cause removed
    assert training.end() == uninterrupted.end()


def test_batches_that_are_not_finite_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two may be: the third start meets a third. Steps without numbers are in no row of the log."""
    training = Training(tmp_path, dataclasses.replace(CONFIG, skip_non_finite=2))
    with pytest.raises(loop.Stopped):
        training.start(spoil=4, at_step=terminate(5))
    assert "warning: step 4 is skipped: square is nan; its batch is in" in capsys.readouterr().err
    with pytest.raises(loop.Stopped):
        training.start(spoil=7, at_step=terminate(9))
    assert training.end()["progress"]["skipped"] == [4, 7]
    assert all(math.isfinite(row["square"]) for row in rows_of(tmp_path) if row["kind"] == "train")
    with pytest.raises(NonFiniteLossError, match="step 12: square is nan"):
        training.start(spoil=12)
    names = sorted(path.name for path in (tmp_path / "non_finite").iterdir())
    assert names == ["step_12.npz", "step_4.npz", "step_7.npz"]


def test_too_little_memory_says_what_to_lower(tmp_path: Path) -> None:
    """XLA's own error, for an array that no machine has room for."""

    def fill(_: int) -> None:
        jnp.zeros((2**20, 2**20, 2**10)).block_until_ready()

    lower = r"lower training\.batching\.batch_tokens \(now 16\) or raise training\.accumulation \(now 1\)"
    with pytest.raises(MemoryError, match=f"out of memory: .* has .* GiB, .*; {lower}"):
        Training(tmp_path).start(at_step=fill)


def scores(*values: float) -> loop.Validate:
    remaining = iter(values)
    return lambda params: {"score": next(remaining)}


def patient(patience: int) -> TrainingConfig:
    validation = ValidationConfig(every_steps=2, patience=patience)
    return dataclasses.replace(CONFIG, validation=validation)


def test_patience_ends_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(tmp_path, patient(2))
    training.start(validate=scores(1.0, 0.5, 3.0, 2.0, 3.0))  # as good is not better
    assert len(training.seen) == 10
    end = training.end()
    assert end["progress"]["is_finished"]
    assert [row["step"] for row in end["rows"] if row["kind"] == "validation"] == [2, 4, 6, 8, 10]
    # Of two equal scores the later is kept, and the console says the same.
    assert end["checkpoints"] == [10]
    said = capsys.readouterr().err.splitlines()
    assert "step 10: validation BLEU 3.00 (best 3.00 at step 10)" in said
    assert said[-1].startswith(
        "stopped early at step 10: 2 validations without a better BLEU; best validation BLEU 3.00 at step 10; "
    )
    training.start(validate=scores())
    assert len(training.seen) == 10  # a finished run is finished


def test_patience_begins_when_learning_has(tmp_path: Path) -> None:
    """At BLEU 0.58 nothing is learnt yet: a model that reaches 82.7 was stopped there."""
    training = Training(tmp_path, patient(2))
    training.start(validate=scores(0.58, 0.0, 0.3, 0.0, 0.0, 82.7, 80.0, 81.0))
    assert len(training.seen) == 16
    end = training.end()
    assert (end["progress"]["is_finished"], end["progress"]["best_step"]) == (True, 12)
    assert end["checkpoints"] == [12, 16]


def test_validation_loss_may_be_the_criterion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BLEU stays 0 all the time."""
    remaining = iter([3.0, 2.0, 2.5, 2.2])
    config = patient(2)
    by_loss = dataclasses.replace(config.validation, criterion="loss")
    training = Training(tmp_path, dataclasses.replace(config, validation=by_loss))
    training.start(validate=lambda params: {"score": 0.0, "loss": next(remaining)})
    end = training.end()
    assert end["progress"]["is_finished"]
    assert end["checkpoints"] == [4, 8]
    checkpoints = Checkpoints(tmp_path / "checkpoints", is_read_only=True)
    assert checkpoints.resolve("best") == 4
    checkpoints.close()
    said = capsys.readouterr().err
    assert "(best by loss: 2.000 at step 4)" in said
    assert "2 validations without a better loss; best validation loss 2.000 at step 4" in said


def test_a_config_of_before_there_was_a_criterion_goes_by_bleu() -> None:
    data = config_json.to_json(ValidationConfig(patience=3))
    del data["criterion"]
    assert config_json.from_json(ValidationConfig, data) == ValidationConfig(patience=3)


def test_patience_survives_an_interruption(tmp_path: Path) -> None:
    training = Training(tmp_path, patient(2))
    with pytest.raises(loop.Stopped):
        training.start(at_step=terminate(5), validate=scores(2.0, 1.0))
    training.start(validate=scores(1.5))
    assert len(training.seen) == 6
    assert training.end()["checkpoints"] == [2, 6]


def test_the_teacher_goes_where_the_batches_go(tmp_path: Path) -> None:
    """A checkpoint is restored onto one device; a step over a mesh refuses arrays of that device."""
    training = Training(tmp_path, dataclasses.replace(CONFIG, max_steps=1))
    restored = jax.device_put(jnp.ones(3), SingleDeviceSharding(jax.local_devices()[0]))
    training.start(teacher_params={"weights": restored})
    expected = NamedSharding(MESH, PartitionSpec())
    assert [teacher["weights"].sharding for teacher in training.teachers] == [expected]


def test_the_encoder_thaws_at_its_step_whatever_interrupts_the_run(tmp_path: Path) -> None:
    frozen = dataclasses.replace(CONFIG.optimizer, encoder_frozen_steps=11)
    training = Training(tmp_path, dataclasses.replace(CONFIG, optimizer=frozen))
    with pytest.raises(loop.Stopped):
        training.start(at_step=terminate(9))
    training.start()
    assert training.frozen == list(range(1, 12))


def of_trainings() -> list[threading.Thread]:
    """Threads of the process that no bars have: theirs are kept, or end by themselves."""
    of_bars = ("tqdm_monitor", bars.BEAT)
    return [thread for thread in threading.enumerate() if thread.name not in of_bars]


def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    before = of_trainings()
    error = None
    try:
        Training(tmp_path).start(spoil=2)
    except NonFiniteLossError as caught:
        error = caught  # and with it, its traceback and all that the loop held
    assert error is not None
    assert of_trainings() == before


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_bar_is_for_terminals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    Training(tmp_path, dataclasses.replace(CONFIG, max_steps=4)).start()
    said = capsys.readouterr().err
    assert ("| 4/4 [" in said) == is_terminal
    if not is_terminal:
        *lines, end = said.splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            *("compiling bucket 4 (1 of 1)", "step 3", "step 4", "step 4", "step 4"),
        ]
        assert end.startswith("all 4 steps are taken; best validation BLEU 0.00 at step 4; ")


def test_the_bar_says_what_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "1 of 4 steps [2 s]" alone, in a file among other lines, does not say of what."""
    told: list[str] = []
    advance = bars.Bar.update

    def update(bar: bars.Bar, n: float | int | None = 1) -> Any:
        told.append(bar.text.partition(" [")[0])
        return advance(bar, n)

    monkeypatch.setattr(bars.Bar, "update", update)
    Training(tmp_path, dataclasses.replace(CONFIG, max_steps=2)).start()
    assert told == ["training: 0 of 2 steps", "training: 1 of 2 steps"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_steps": 0}, "training.max_steps must be at least 1, got 0"),
        ({"accumulation": 0}, "training.accumulation must be at least 1"),
        ({"log_every": -1}, "training.log_every must be at least 1, got -1"),
        ({"average_decay": 1.0}, "average_decay must be between 0 and 1, got 1.0"),
    ],
)
def test_a_training_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **wrong)


@pytest.mark.parametrize("field", ["every_steps", "sentences", "patience"])
def test_a_validation_that_cannot_be_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"validation\.{field} must be at least 1, got 0"):
        ValidationConfig(**{field: 0})
