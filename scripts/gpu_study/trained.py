"""Models trained on real text: as many steps as there is time for, then BLEU."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nat_ar.data import prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.pipeline import evaluate, train
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.loop import Stopped
from nat_ar.training.optimizer import OptimizerConfig
from scripts.benchmark_cpu.report import Row
from scripts.gpu_study import scale
from scripts.gpu_study.study import Study, first_line

SHARE_OF_STEPS = 0.5
"""Of the time of a training: its steps. The rest is for compiling, validation and evaluation."""
SHARE_TO_STOP = 0.8
"""Of the time of a training: after it the steps are stopped, if they are slower than the timed ones."""


def trainings(study: Study, data: Path, distilled: Path | None) -> None:
    """Trains and evaluates each method in its share of the time that is left, and keeps its weights."""
    with study.stage("quality") as section:
        rows = section.tables.setdefault("Trained here", [])
        names = list(scale.methods(study.size.transformer, 1))
        for index, name in enumerate(names):
            share = study.left / (len(names) - index)
            if share <= 0:
                study.note(section, f"{name} is left out: the time was up.")
                continue
            try:
                _train(study, name, data, distilled if name == "ctc_glat" else None, share, rows)
            except Exception as error:
                study.note(section, f"{name}: {type(error).__name__}: {first_line(error)}")
            study.save()
        if not rows:
            del section.tables["Trained here"]


def num_steps(share: float, step_seconds: float | None, most: int) -> int:
    """Steps of a training that has `share` seconds for all that belongs to it."""
    if step_seconds is None:
        return most
    return max(1, min(most, int(SHARE_OF_STEPS * share / step_seconds)))


def experiment(
    study: Study, name: str, data: Path, distilled: Path | None, number: int
) -> ExperimentConfig:
    """What is trained for `number` steps. A dry run on a CPU trains in float32: there nat_ar refuses bfloat16."""
    size = study.size
    transformer = size.transformer
    if "cpu" in {device.platform for device in jax.local_devices()}:
        transformer = dataclasses.replace(transformer, dtype="float32")
    config = dataclasses.replace(prepare.config_of(PreparedData.load(data)), directory=str(data))
    return ExperimentConfig(
        name,
        config,
        scale.methods(transformer, number)[name],
        TrainingConfig(
            max_steps=number,
            batching=size.batching,
            optimizer=OptimizerConfig(warmup_steps=max(1, number // 10), schedule="cosine"),
            average_decay=0.99,
            validation=ValidationConfig(every_steps=number, sentences=size.validation),
            log_every=max(1, number // 50),
            num_devices=1,
        ),
        train_on=None if distilled is None else str(distilled),
    )


def _train(
    study: Study, name: str, data: Path, distilled: Path | None, share: float, rows: list[Row]
) -> None:
    number = num_steps(share, study.step_seconds.get(name), study.size.max_steps)
    run = Run(study.output / "runs" / name)
    begin = time.monotonic()
    with stopped_after(SHARE_TO_STOP * share), contextlib.suppress(Stopped):
        train.train(experiment(study, name, data, distilled, number), run)
    seconds = time.monotonic() - begin
    trained = run.load("latest")
    save_weights(trained.model.params, study.output / "weights" / f"{name}.npz")
    for text in scale.DECODINGS[name]:
        row = evaluate.evaluate(run, decoding=text, checkpoint="latest")
        rows.append(
            {
                "method": name,
                "decoding": text,
                "trained on": row["training_data"],
                "steps": f"{trained.step} of {number}",
                "target tokens": row["train_target_tokens"],
                "BLEU": row["bleu"]["score"],
                "length ratio": row["length_ratio"],
                "repeated %": row["repetition"],
                "s of training": seconds,
            }
        )
        study.save()


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Asks a training in this thread to stop and save itself, by the signal that it knows, once so many seconds have
    passed. A SIGTERM from elsewhere ends the process as ever where no training is there to take it."""
    is_ours = threading.Event()

    def stop() -> None:
        is_ours.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def receive(number: int, frame: Any) -> None:  # of no training: it has just ended, or not begun
        if not is_ours.is_set():
            sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, receive)
    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGTERM, before)


def save_weights(params: nnx.State, path: Path) -> None:
    """In bfloat16, 2 bytes a number, by their names; NumPy holds them as uint16, `.view(ml_dtypes.bfloat16)` of which
    are the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    arrays = {
        jax.tree_util.keystr(way, simple=True, separator="."): np.asarray(
            leaf.astype(jnp.bfloat16)
        ).view(np.uint16)
        for way, leaf in leaves
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
