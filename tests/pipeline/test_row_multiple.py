"""The batches of a run stay the same when it goes on with another number of devices."""

import dataclasses
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import many_devices
from nat_ar.config_json import ConfigError
from nat_ar.data.batching import BatchingConfig, BatchPlan, RowBatch
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.loader import HostBatch, Loader, Pairs
from nat_ar.data.ragged import Ragged
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.pipeline import row_multiple, train
from nat_ar.search.greedy import Greedy
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.loop import Progress, Stopped

STOP_AT = 2
NUMBERS = strategies.integers(1, 8)
BUCKETS = strategies.lists(strategies.integers(3, 30), min_size=1, max_size=4, unique=True).map(
    sorted
)


def loader(training: TrainingConfig, pairs: int = 300) -> Loader:
    """Pairs of random lengths."""
    lengths = np.random.default_rng(0).integers(1, training.batching.buckets[-1], (2, pairs))
    source, target = (Ragged.from_rows([[7] * int(n) for n in side]) for side in lengths)
    plan = BatchPlan(
        LengthOrder.of_lengths(source.lengths, target.lengths),
        training.batching,
        seed=training.seed,
    )
    return Loader(Pairs(source, target, None), plan)


def begun(batches: Loader, training: TrainingConfig, devices: int) -> Loader:
    return batches.with_row_multiple(row_multiple.of_new_run(training, devices))


def whole_epoch(batches: Loader) -> list[tuple[list[int], int]]:
    return [(rows.tolist(), width) for rows, width in batches.epoch(0)[2]]


def after(batches: Loader, steps: int) -> Progress:
    """Where a run stands after so many steps."""
    progress = Progress()
    for place, _ in itertools.islice(batches.batches(0, 0), steps):
        progress.advance(place)
    return progress


@hypothesis.given(BUCKETS, strategies.integers(1, 12), NUMBERS, NUMBERS)
@hypothesis.settings(deadline=None, max_examples=40)
def test_the_batches_are_the_same_on_any_number_of_devices(
    buckets: list[int], factor: int, devices: int, accumulation: int
) -> None:
    """That divides the rows; any other is refused."""
    batching = BatchingConfig(200, tuple(buckets), row_multiple=factor * accumulation)
    training = TrainingConfig(batching=batching, accumulation=accumulation)
    batches = loader(training)
    if factor % devices:
        with pytest.raises(ConfigError, match=f"got {devices} devices"):
            begun(batches, training, devices)
        return
    expected = whole_epoch(begun(batches, training, 1))
    assert whole_epoch(begun(batches, training, devices)) == expected
    assert all(len(rows) % (devices * accumulation) == 0 for rows, _ in expected)


@hypothesis.example([4], 4, 2, 1, False)  # 3 explains it as well, and two devices cannot share it
@hypothesis.given(BUCKETS, NUMBERS, NUMBERS, strategies.integers(1, 2), strategies.booleans())
@hypothesis.settings(deadline=None, max_examples=40)
def test_a_run_keeps_the_batches_that_it_was_begun_with(
    buckets: list[int], first: int, then: int, accumulation: int, is_noted: bool
) -> None:
    """Also one of a version that did not note them: they are found from the tokens that it has seen."""
    training = TrainingConfig(
        batching=BatchingConfig(200, tuple(buckets)), accumulation=accumulation
    )
    batches = loader(training)
    before = begun(batches, training, first)
    steps = len(before.plan) + len(before.plan) // 2  # in the middle of the second epoch
    progress = after(before, steps)
    progress.row_multiple = first * accumulation if is_noted else None
    arguments = batches, progress, steps, training
    if is_noted and first % then:
        with pytest.raises(ConfigError, match="what the run was begun with"):
            row_multiple.of_resumed_run(*arguments, then)
        return
    found = row_multiple.of_resumed_run(*arguments, first if first % then else then)
    assert found is not None
    assert after(batches.with_row_multiple(found), steps) == dataclasses.replace(
        progress, row_multiple=None
    )
    if is_noted:
        assert found == first * accumulation


def test_the_batches_of_earlier_runs_are_found() -> None:
    """Two and a half epochs, in buckets whose rows differ: one number explains the tokens seen."""
    training = TrainingConfig(batching=BatchingConfig(333, (7, 11, 17, 30)))
    batches = loader(training)
    for devices in (1, 2, 3, 5, 8):
        before = begun(batches, training, devices)
        steps = 5 * len(before.plan) // 2
        progress = after(before, steps)
        for here in (1, devices):
            found = row_multiple.of_resumed_run(batches, progress, steps, training, here)
            assert found == devices
        progress.target_tokens += 1
        assert row_multiple.of_resumed_run(batches, progress, steps, training, 1) is None


def test_the_refusal_says_what_to_do() -> None:
    training = TrainingConfig(batching=BatchingConfig(row_multiple=12), accumulation=2)
    assert row_multiple.of_new_run(training, 6) == 12
    with pytest.raises(ConfigError) as error:
        row_multiple.of_new_run(training, 4)
    assert str(error.value) == (
        "devices times training.accumulation must divide the rows of every batch, a multiple of 12 "
        "(training.batching.row_multiple): got 4 devices and accumulation 2; train with --mesh data=3, or begin "
        "another run with training.batching.row_multiple 8"
    )
    with pytest.raises(ConfigError, match=r"accumulation must divide .*row_multiple: got 5 and 12"):
        dataclasses.replace(training, accumulation=5)


def experiment(tiny: Run, *, steps: int) -> ExperimentConfig:
    """36 pairs in batches of 160 tokens: 10 rows on one device, 8 where 8 share them. `steps` are one epoch."""
    training = TrainingConfig(
        max_steps=steps,
        batching=BatchingConfig(batch_tokens=160, buckets=(16,)),
        validation=ValidationConfig(every_steps=100, sentences=2),
    )
    method = dataclasses.replace(tiny.config().method, decoding=Greedy())  # type: ignore[type-var]
    return dataclasses.replace(tiny.config(), name="rows", method=method, training=training)


def rows_of(config: ExperimentConfig, run: Run, *, stops: bool = False) -> list[list[int]]:
    """Trains, to the end or until it is stopped after STOP_AT steps; the pairs of each step."""
    built: list[list[int]] = []
    steps = 0
    padded, advance = Pairs.padded, Progress.advance

    def record(self: Pairs, batch: RowBatch) -> HostBatch:
        built.append([row for row in batch.rows.tolist() if row >= 0])
        return padded(self, batch)

    def count(self: Progress, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if stops and steps == STOP_AT:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pairs, "padded", record)
        patch.setattr(Progress, "advance", count)
        try:
            train.train(config, run)
        except Stopped:
            assert stops
    return built[:steps]  # the loader is some batches ahead


def with_devices(config: ExperimentConfig, number: int) -> ExperimentConfig:
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, num_devices=number)
    )


def on_eight_devices(tiny: str, begun_on_one: str, begun_on_eight: str) -> None:
    """What the second process does: prints the answers as JSON."""
    answers: dict[str, Any] = {}
    config = experiment(Run.of(tiny), steps=4)
    try:
        rows_of(config, Run.of(begun_on_one))
    except ConfigError as error:
        answers["refusal"] = str(error)
    answers["from one"] = rows_of(with_devices(config, 1), Run.of(begun_on_one))
    config = experiment(Run.of(tiny), steps=5)
    answers["on eight"] = rows_of(config, Run.of(begun_on_eight), stops=True)
    print(json.dumps(answers))


@pytest.mark.slow
def test_no_pair_is_seen_twice_or_never_when_the_number_of_devices_changes(
    tiny_runs: Any, tmp_path: Path
) -> None:
    tiny, one, eight = tiny_runs.autoregressive, Run(tmp_path / "one"), Run(tmp_path / "eight")
    on_one = rows_of(experiment(tiny, steps=4), one, stops=True)
    names = [str(run.directory) for run in (tiny, one, eight)]
    program = f"import runpy; runpy.run_path({__file__!r})['on_eight_devices'](*{names!r})"
    answers = json.loads(many_devices.run(program).splitlines()[-1])
    assert "8 devices" in answers["refusal"]
    assert [len(rows) for rows in on_one] == [10, 10]
    assert sorted(itertools.chain(*on_one, *answers["from one"])) == list(range(36))
    on_eight = answers["on eight"] + rows_of(experiment(tiny, steps=5), eight)
    assert all(len(rows) == 8 for rows in on_eight[:STOP_AT])
    assert sorted(itertools.chain(*on_eight)) == list(range(36))
