"""scripts/gpu_study: what it measures in the time that it has, and that a run which is cut short leaves its rows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from nat_ar.evaluation.speed import training_cost
from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.training.loop import StopRequest
from scripts.benchmark_cpu import report as benchmark_report
from scripts.benchmark_cpu import train as benchmark_train
from scripts.gpu_study import __main__ as gpu_study
from scripts.gpu_study import random_weights, scale, trained
from scripts.gpu_study.study import Study

PEAKS = Peaks({"bfloat16": 1e9}, {1: 1e9})


def study_of(directory: Path, minutes: float = 9.0) -> Study:
    directory.mkdir(exist_ok=True)
    return Study(directory, scale.TINY, minutes=minutes, peak=1e9)


def test_it_times_every_kind_of_system_in_bfloat16() -> None:
    systems = scale.systems(scale.FULL)
    labels = [system.label for system in systems.values()]
    assert labels[:3] == ["AR 6-6, greedy", "AR 6-6, beam 4", "AR 12-1, greedy"]
    assert {"length_nat", "fertility_nat", "ctc", "da", "cmlm_4", "cmlm_10"} <= set(systems)
    assert set(scale.CURVE) <= set(scale.systems(scale.TINY)) <= set(systems)
    assert {system.method.network.dtype for system in systems.values()} == {"bfloat16"}
    assert {system.weights for system in systems.values()} == {"float32"}  # not int8


def test_a_training_has_the_steps_that_fit() -> None:
    assert trained.num_steps(100.0, 0.05, 5000) == 1000  # half of the time
    assert trained.num_steps(100.0, 0.05, 300) == 300
    assert trained.num_steps(0.01, 0.05, 300) == 1
    assert trained.num_steps(100.0, None, 300) == 300  # its step could not be timed


def test_what_was_measured_before_an_error_stays(tmp_path: Path) -> None:
    study = study_of(tmp_path / "output")
    with study.stage("latency") as section:
        section.tables["Batch 1"] = [{"system": "AR", "ms": Interval(1.0, 0.9, 1.1)}]
        study.save()
        saved = benchmark_report.read(study.output / "results.jsonl")
        assert saved[0].tables == section.tables  # at once, not at the end
        raise RuntimeError("the compiler\nfailed")
    with study.stage("decode"):
        pass
    latency, _ = benchmark_report.read(study.output / "results.jsonl")
    assert latency.tables == section.tables
    assert latency.notes == ["Ended by RuntimeError: the compiler"]
    assert "| AR | 1.00 [0.900, 1.10] |" in (study.output / "table.md").read_text("utf-8")


def test_trainings_keep_their_share_of_the_time(tmp_path: Path) -> None:
    study = study_of(tmp_path / "output", minutes=1.0)
    assert study.may_measure_more
    study.start -= 28.0
    assert not study.may_measure_more  # of 60 seconds
    assert 30.0 < study.left < 32.5
    random_weights.curve(study, workshop=None)  # type: ignore[arg-type]  # builds nothing
    assert study.sections[-1].notes == ["Batches from 4 on are left out: time was short."]


def test_a_training_that_takes_too_long_is_asked_to_stop() -> None:
    with trained.stopped_after(0.05), StopRequest() as stop:
        end = time.monotonic() + 5
        while not stop.is_set and time.monotonic() < end:
            time.sleep(0.01)
        assert stop.is_set
    with trained.stopped_after(0.05):
        time.sleep(0.2)  # no training is there to take it: nothing happens
    with trained.stopped_after(60.0), pytest.raises(SystemExit, match="143"):
        signal.raise_signal(signal.SIGTERM)  # somebody else's
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_weights_are_kept_in_two_bytes(tmp_path: Path) -> None:
    params = nnx.State({"linear": {"kernel": nnx.Param(jnp.array([[1.0, -2.5]]))}})
    trained.save_weights(params, tmp_path / "weights" / "ar.npz")
    with np.load(tmp_path / "weights" / "ar.npz") as arrays:
        (name,) = arrays.files
        assert name == "linear.kernel.value"  # as in a checkpoint
        assert arrays[name].dtype == np.uint16
        assert arrays[name].view(ml_dtypes.bfloat16).astype(float).tolist() == [[1.0, -2.5]]


@pytest.mark.slow
def test_flops_of_a_train_step_are_those_of_its_products() -> None:
    """As scripts/benchmark_cpu counts them by hand, for a dropout that leaves products alone."""
    size = scale.TINY.decode
    sizes = VocabularySizes(size.vocabulary, size.vocabulary, is_joint=True)
    batch = training_cost.random_batch(size.train_sentences, size.positions + 1, sizes)
    one = TrainStep(Autoregressive(scale.SMALLEST), sizes, batch)
    assert one.product_cost(batch, PEAKS).flops == pytest.approx(
        benchmark_train.step_flops(size), rel=0.02
    )


def test_data_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu_study.main(["--data", str(tmp_path / "none")])
    assert "make it with --prepare first" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        gpu_study.main(["--tiny", "--output", str(tmp_path / "mine")])
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_fills_every_section(tmp_path: Path) -> None:
    """In a process without `datasets`."""
    program = (
        "import sys; sys.modules['datasets'] = None; from scripts.gpu_study import __main__ as study; "
        f"study.main(['--tiny', '--minutes', '30', '--output', {str(tmp_path / 'output')!r}])"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in ("device: cpu", "jax: ", "flax.__version__: ", "flax.nnx is there"):
        assert line in done.stdout
    sections = benchmark_report.read(tmp_path / "output" / "results.jsonl")
    rows = {section.name: [len(rows) for rows in section.tables.values()] for section in sections}
    systems = len(scale.systems(scale.TINY))
    assert rows == {
        "machine": [3],
        "latency": [systems],
        "train": [3],
        "decode": [len(scale.CURVE)],
        "quality": [4],
    }
    assert not [note for section in sections for note in section.notes if "Error" in note]
    weights = [path.name for path in sorted((tmp_path / "output" / "weights").iterdir())]
    assert weights == ["ar.npz", "ctc_glat.npz", "da_transformer.npz"]
    assert (tmp_path / "output" / "throughput.png").stat().st_size > 0
