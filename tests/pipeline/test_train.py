"""`train` as a user meets it: started, killed, started again, misused."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.data.batching import BatchingConfig
from nat_ar.data.ragged import Ragged
from nat_ar.experiment.run import Run
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.length_nat import LengthNat
from nat_ar.pipeline import train
from nat_ar.pipeline.distill import distill
from nat_ar.runtime import compilation, files, malloc
from nat_ar.search.one_pass import LengthBeam
from nat_ar.training import logging, loop, optimizer, step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig
from scripts.torture import faults, kills
from terminal import Terminal

pytestmark = pytest.mark.slow

CONFIG = """
import dataclasses
from pathlib import Path

from nat_ar.data.batching import BatchingConfig
from nat_ar.experiment.run import Run
from nat_ar.search.greedy import Greedy
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

tiny = Run(Path({run!r})).config()
config = dataclasses.replace(
    tiny,
    name="tiny",
    method=dataclasses.replace(
        tiny.method,
        decoding=Greedy(),
        transformer=dataclasses.replace(tiny.method.transformer, dropout_rate=0.1),
    ),
    training=TrainingConfig(
        max_steps=300,
        batching=BatchingConfig(batch_tokens=128, buckets=(16,)),
        optimizer=OptimizerConfig(warmup_steps=10),
        average_decay=0.9,
        validation=ValidationConfig(every_steps=100, sentences=4),
        log_every=1,
    ),
)
"""


@pytest.fixture(scope="session")
def config_file(tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 steps of the tiny autoregressive model: validation and checkpoint every 100."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG.format(run=str(tiny_runs.autoregressive.directory)), "utf-8")
    return path


def main(*words: str) -> tuple[int, str]:
    """Exit status and stderr of `train` in this process."""
    ended = faults.answer("train", *words)
    return ended.status, ended.said


def end_of(run: Path) -> dict[str, Any]:
    """All that must not depend on interruptions: everything but the clock."""
    config = Run(run).config()
    params = Run(run).load("latest").model.params
    adam = optimizer.build(config.training.optimizer, max_steps=config.training.max_steps)
    state = step.initial_state(params, adam, seed=9, has_average=True)
    state = step.place(step.data_mesh(1), state, is_batch=False)
    checkpoints = Checkpoints(run / "checkpoints", is_read_only=True)
    state, progress = checkpoints.restore(state)
    steps = sorted(checkpoints.manager.all_steps())
    checkpoints.close()
    state = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return {
        "state": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(state)],
        "progress": {name: x for name, x in progress.items() if "seconds" not in name},
        "checkpoints": steps,
        "rows": [
            {name: x for name, x in row.items() if "second" not in name and name != "time"}
            for row in logging.read(run)
        ],
    }


@pytest.fixture(scope="session")
def finished(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody interrupted, and what it said on stderr."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    status, said = main(str(config_file), "--run", str(run))
    assert status == 0, said
    return run, said


def test_a_run_says_the_same_where_nobody_watches(finished: tuple[Path, str]) -> None:
    lines = finished[1].splitlines()
    assert lines[0].startswith("nat-ar: ")  # the machine
    assert lines[1].startswith("tiny: ")
    assert lines[1].endswith(" parameters, 5 batches an epoch, 300 steps")
    assert lines[2] == "compiling bucket 16 (1 of 1)"
    number, decimal = r"[\d,]+", r"\d+\.\d+"
    of_steps = [line for line in lines if " target tokens/s" in line]
    assert len(of_steps) == 300
    form = (
        rf"step {number}: loss {decimal}, learning rate {decimal}e[-+]\d+, gradient norm {decimal}, "
        rf"{number} target tokens/s, [\d.]+ (s|min|h) left"
    )
    assert all(re.fullmatch(form, line) for line in of_steps), of_steps[0]
    best = rf"validation BLEU {decimal} \(best {decimal} at step {number}\)"
    validations = [line for line in lines if "perplexity" in line]
    assert [line.partition(":")[0] for line in validations] == ["step 100", "step 200", "step 300"]
    form = rf"step {number}: {best}, loss {decimal}, perplexity {decimal}"
    assert all(re.fullmatch(form, line) for line in validations), validations[0]
    assert lines[-2].startswith("all 300 steps are taken; best validation BLEU ")
    assert lines[-1].startswith("next: python -m nat_ar evaluate ")


def test_a_run_has_a_row_a_step_and_scores(finished: tuple[Path, str]) -> None:
    rows = logging.read(finished[0])
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in train] == list(range(1, 301))
    assert [row["step"] for row in validation] == [100, 200, 300]
    assert all(0 <= row["score"] <= 100 and row["length_ratio"] >= 0 for row in validation)
    assert train[-1]["token"] < train[0]["token"] / 2  # it learns
    assert all(row["target_tokens_per_second"] > 0 for row in train)


def test_a_terminal_keeps_lines_and_no_bars(config_file: Path, tmp_path: Path) -> None:
    """The bar of the training and those of its validations have gone; the same lines as in a file are left."""
    words = ["train", str(config_file), "--run", str(tmp_path / "run"), "--training.max-steps", "4"]
    words += ["--training.log-every", "2", "--training.validation.every-steps", "2"]
    terminal = Terminal(
        f"from nat_ar import __main__\n__main__.main({words})",
        columns=400,
        rows=30,
        environment={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert terminal.status == 0, terminal.written
    assert "| 4/4 [" in terminal.written
    assert "validate: " in terminal.written
    assert "tiny: reading " in terminal.written
    starts = [
        *("nat-ar: ", "tiny: ", "compiling bucket 16 (1 of 1)"),
        *("step 2: loss ", "step 2: validating", "step 2: validation BLEU "),
        *("step 4: loss ", "step 4: validating", "step 4: validation BLEU "),
        *("all 4 steps are taken; best", "next: python -m nat_ar evaluate "),
    ]
    lines = [line for line in terminal.lines if not line.startswith("warning: ")]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_sigkill_and_sigterm_leave_no_trace(
    finished: tuple[Path, str], config_file: Path, tmp_path: Path
) -> None:
    """Two processes, killed after 130 steps and asked to stop after 20 steps more; a third finishes."""
    run = tmp_path / "run"
    environment = {  # compiles as this process does (tests/conftest.py), and only once
        **os.environ,
        compilation.CACHE: str(tmp_path / "compiled"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    words = ["train", str(config_file), "--run", str(run)]
    for at, number, expected in [(130, signal.SIGKILL, -9), (150, signal.SIGTERM, 130)]:
        command = kills.signalled(words, number, run="run", step=at)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == expected, ended.stderr
    last = ended.stderr.splitlines()[-1]
    at = int(re.fullmatch(r"nat-ar: saved at step (\d+); .*", last)[1])  # type: ignore[index]
    assert 150 <= at < 300
    status, said = main(str(config_file), "--run", str(run))
    assert status == 0
    assert said.splitlines()[1].endswith(f"300 steps, resumed at step {at}")
    assert end_of(run) == end_of(finished[0])


def test_a_finished_run_returns_at_once(finished: tuple[Path, str], config_file: Path) -> None:
    run = finished[0]

    def times() -> dict[Path, int]:
        paths = (path for path in run.rglob("*") if path.is_file() and path.name != files.LOCK_NAME)
        return {path: path.stat().st_mtime_ns for path in paths}

    def build_train_step(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to train")

    before = times()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "build_train_step", build_train_step)
        status, said = main(str(config_file), "--run", str(run))
    assert status == 0
    assert "tiny is finished: all 300 steps are taken; best validation BLEU " in said
    assert said.splitlines()[-1].startswith(f"next: python -m nat_ar evaluate {run}, or ")
    assert times() == before


def test_another_config_on_the_same_directory_is_refused(
    finished: tuple[Path, str], config_file: Path
) -> None:
    words = ["--run", str(finished[0]), "--training.max-steps", "299", "--training.seed", "2"]
    status, said = main(str(config_file), *words)
    assert status == 2
    assert len(said.splitlines()) == 2  # the machine, and why it ended
    changes = "training.seed: 1 -> 2; training.max_steps: 300 -> 299"
    assert f"holds another experiment: {changes}. Give the same config" in said


def test_a_loss_that_explodes_is_one_line_and_exit_status_2(
    config_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["--training.optimizer.clip-norm=0", "--training.optimizer.peak-learning-rate=1e30"]
    status, said = main(str(config_file), "--run", str(run), *words)
    assert status == 2
    error = said.splitlines()[-1]
    assert re.match(r"nat-ar: error: step 1: .*update_norm is inf", error)
    assert "the last checkpoint is good. Lower optimizer.peak_learning_rate" in error
    assert len(said.splitlines()) == 4  # the machine, the start, what it compiled, why it ended


def test_training_from_python_keeps_freed_memory_as_the_command_line_does(
    tiny_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a step of 300 MB of temporary memory meets every page anew: a quarter of its processor time."""
    asked: list[bool] = []
    monkeypatch.setattr(malloc, "keep_freed_memory", lambda: asked.append(True))
    config = dataclasses.replace(
        tiny_runs.autoregressive.config(), train_on=str(tmp_path / "nothing")
    )
    with pytest.raises(ValueError, match="nothing"):
        train.train(config, tmp_path / "run")
    assert asked == [True]


def test_a_config_that_cannot_start_leaves_no_directory(config_file: Path, tmp_path: Path) -> None:
    """Else the corrected config would be refused as another experiment."""
    run = tmp_path / "run"
    for option, message in [
        (("--training.num-devices", "1000"), "training.num_devices, must be 1 to "),
        (
            ("--mesh", "data=1000"),
            "N times M of --mesh data=N,fsdp=M, or training.num_devices, must be 1 to ",
        ),
        (("--mesh", "8"), "--mesh is data=N,fsdp=M, where N times M devices share each batch"),
        (("--mesh", "data=1,fsdp=1000"), "must be 1 to "),
        (("--processes", "2"), "--processes and --process belong to --coordinator HOST:PORT"),
        (
            ("--training.tracker", "tensorboard"),
            'training.tracker="tensorboard" needs the package tensorboardX',
        ),
        (("--start-from", str(tmp_path)), "is no run: it has no config.json"),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "tensorboardX", None)  # as if it were not installed
            status, said = main(str(config_file), "--run", str(run), *option)
        assert status == 2
        assert message in said
        assert not run.exists(), option


STEPS = ("--training.validation.every-steps", "5", "--training.max-steps")


def test_a_run_that_is_asked_for_more_steps_goes_on_as_if_it_had_been_asked_at_once(
    config_file: Path, tmp_path: Path
) -> None:
    """Once, all that was trained had to be trained again."""
    grown, straight = tmp_path / "grown", tmp_path / "straight"
    assert main(str(config_file), "--run", str(grown), *STEPS, "5")[0] == 0
    status, said = main(str(config_file), "--run", str(grown), *STEPS, "10")
    assert status == 0
    assert "resumed at step 5" in said
    assert main(str(config_file), "--run", str(straight), *STEPS, "10")[0] == 0
    assert end_of(grown) == end_of(straight)


def test_too_little_memory_leaves_no_half_run(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_train_step(*_: Any, **__: Any) -> Any:
        def update(*_: Any) -> None:
            raise MemoryError

        return update

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(step, "build_train_step", build_train_step)
        status, said = main(str(config_file), "--run", str(run))
    assert status == 2
    assert "out of memory: " in said.splitlines()[-1]
    assert not run.exists()


def test_data_that_are_not_those_of_the_config_are_refused(tiny_runs: Any, tmp_path: Path) -> None:
    """Once, `--data.vocabulary.size 12` trained on the vocabulary of 24 that was there."""
    config = tiny_runs.length_nat.config()
    words = dataclasses.replace(config.data.vocabulary, size=12)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, vocabulary=words))
    with pytest.raises(
        ConfigError, match=r"prepared with another config \(vocabulary\.size: 24 ->"
    ):
        train.train(other, tmp_path / "run")
    nowhere = dataclasses.replace(other.data, directory=str(tmp_path / "none"))
    other = dataclasses.replace(other, data=nowhere, train_on=str(tiny_runs.data))
    with pytest.raises(
        ConfigError, match=r"train_on .* has another vocabulary than data\.directory"
    ):
        train.train(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_rescore_is_refused_before_the_training(
    tiny_runs: Any, tmp_path: Path
) -> None:
    config = tiny_runs.length_nat.config()
    method = dataclasses.replace(config.method, decoding=LengthBeam(size=2, rescore=True))
    config = dataclasses.replace(config, method=method, teacher=str(tiny_runs.length_nat.directory))
    with pytest.raises(ConfigError, match=r"teacher .* is LengthNat, of family NAT"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_being_trained_is_left_alone(
    config_file: Path, finished: tuple[Path, str]
) -> None:
    run, _ = finished
    before = end_of(run)
    with files.locked(run):
        status, said = main(str(config_file), "--run", str(run))
    assert status == 2
    assert f"nat-ar: error: {run} is in use by process {os.getpid()}; wait for it" in said
    assert end_of(run) == before


def test_pairs_that_a_method_cannot_learn_are_counted() -> None:
    """One frame a source token, EOS counted: two, two and three of them, for A B, A A and B B B."""
    source, target = (
        Ragged.from_rows(rows) for rows in ([[7], [7], [7, 8]], [[6, 7], [6, 6], [7] * 3])
    )
    assert train.num_infeasible(Ctc(upsample_factor=1), source, target) == 2
    assert train.num_infeasible(Ctc(upsample_factor=2), source, target) == 0
    assert train.num_infeasible(LengthNat(), source, target) == 0


def test_a_run_says_at_its_start_how_many_pairs_it_cannot_learn(
    tiny_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Here: all of more than a letter. Nothing is trained."""
    monkeypatch.setattr(loop, "run", lambda *arguments, **named: None)
    monkeypatch.setattr(Ctc, "is_feasible", lambda self, source, target, repeats: target < 2)
    before = tiny_runs.length_nat.config()
    config = dataclasses.replace(
        before,
        method=Ctc(before.method.transformer, upsample_factor=2),
        teacher=None,
        training=dataclasses.replace(before.training, max_lost=1.0),
    )
    train.train(config, Run(tmp_path / "run"))
    lengths = PreparedData.load(tiny_runs.data).split("train").target.lengths
    number = (lengths > 1).sum()
    assert 0 < number < 36
    assert (
        f"warning: {number} of 36 training pairs have a target that Ctc" in capsys.readouterr().err
    )


def test_a_run_says_at_its_start_what_the_teachers_decoder_lacks(
    tiny_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """And starts with the rest of it. Nothing is trained."""
    started = []
    monkeypatch.setattr(loop, "run", lambda state, *arguments, **named: started.append(state))
    config = tiny_runs.length_nat.config()
    method = LengthNat(config.method.transformer, positional_attention=True)
    config = dataclasses.replace(config, method=method, decoder_from_teacher=True)
    train.train(config, Run(tmp_path / "run"))
    said = capsys.readouterr().err
    assert "decoder from the teacher; at random: blocks.0.around_positional, blocks.0.pos" in said
    mine, theirs = started[0].params, tiny_runs.autoregressive.load().model.params
    for name in ("decoder", "blocks", 0, "self_attention", "output", "kernel"):
        mine, theirs = mine[name], theirs[name]
    np.testing.assert_array_equal(mine[...], theirs[...])


def test_word_distributions_need_data_that_have_them(tiny_runs: Any, tmp_path: Path) -> None:
    before = tiny_runs.length_nat.config()
    training = dataclasses.replace(before.training, word_distributions=0.5)
    config = dataclasses.replace(before, training=training)
    with pytest.raises(ConfigError, match="data made by distill --word-distributions 8"):
        train.train(config, Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_student_learns_from_word_distributions(tiny_runs: Any, tmp_path: Path) -> None:
    """With all weight on them, from a teacher that was never trained: its own entropy is all that can be reached."""
    distill(
        tiny_runs.autoregressive,
        tmp_path / "d",
        decoding="Greedy()",
        word_distributions=18,
        spoilt="keep",
    )
    before = tiny_runs.length_nat.config()
    training = TrainingConfig(
        max_steps=40,
        batching=BatchingConfig(256, (32,)),
        optimizer=OptimizerConfig(1e-2, 5),
        validation=ValidationConfig(every_steps=40, sentences=4),
        log_every=1,
        word_distributions=1.0,
    )
    method = dataclasses.replace(before.method, label_smoothing=0.0)
    config = dataclasses.replace(
        before, method=method, training=training, train_on=str(tmp_path / "d")
    )
    run = train.train(config, Run(tmp_path / "run"))
    rows = [row for row in logging.read(run.directory) if row["kind"] == "train"]
    assert rows[-1]["objective"] < rows[0]["objective"]
    nats = PreparedData.load(tmp_path / "d").split("train").distributions.nats.astype(np.float64)
    entropy = -(np.exp(nats) * nats).sum(axis=1).mean()
    assert rows[-1]["objective"] - 0.1 * rows[-1]["length"] > 0.9 * entropy


def test_a_curriculum_ends_at_its_step_whatever_interrupts_the_run(
    tiny_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps of curriculum, a stop in the middle of it, and three steps of the plain method."""
    before = tiny_runs.length_nat.config()
    config = dataclasses.replace(
        before,
        method=dataclasses.replace(before.method, curriculum=Curriculum(7, pace="linear")),
        training=TrainingConfig(
            max_steps=10,
            batching=BatchingConfig(256, (32,)),
            validation=ValidationConfig(every_steps=10, sentences=2),
            log_every=1,
        ),
        decoder_from_teacher=True,
    )
    once, twice = tmp_path / "once", tmp_path / "twice"
    train.train(config, Run(once))
    rows = [row for row in logging.read(once) if row["kind"] == "train"]
    assert [row.get("forced") is not None for row in rows] == [True] * 7 + [False] * 3
    assert rows[0]["forced"] == 1.0
    assert 0.0 < rows[6]["forced"] < 0.5

    write = logging.RunLog.write

    def stop(log: logging.RunLog, kind: str, number: int, values: dict[str, float]) -> None:
        write(log, kind, number, values)
        if number == 4 and not is_stopped:
            is_stopped.append(True)
            signal.raise_signal(signal.SIGTERM)

    is_stopped: list[bool] = []
    monkeypatch.setattr(logging.RunLog, "write", stop)
    with pytest.raises(loop.Stopped, match="saved at step 5"):
        train.train(config, Run(twice))
    train.train(config, Run(twice))
    assert end_of(once) == end_of(twice)


def test_a_run_that_would_lose_most_of_its_pairs_does_not_start(tiny_runs, tmp_path: Path) -> None:
    """All pairs of two words or more are longer than a bucket of 2, and one frame a token cannot repeat a letter."""
    old = tiny_runs.length_nat.config()
    batching = BatchingConfig(batch_tokens=64, buckets=(2, 3))
    config = dataclasses.replace(
        old, teacher=None, training=dataclasses.replace(old.training, batching=batching)
    )
    with pytest.raises(
        ConfigError, match=r"leave out \d+ of 36 pairs, \d+%: \d+ are longer.*max_lost"
    ):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    allowed = dataclasses.replace(config.training, max_lost=1.0)
    batches = train.loader_of(PreparedData.load(tiny_runs.data), config)
    train._check_lost(dataclasses.replace(config, training=allowed), batches)
