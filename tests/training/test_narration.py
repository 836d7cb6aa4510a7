"""What a training says of itself."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from nat_ar.data.batching import BatchingConfig, BatchPlan
from nat_ar.data.length_order import LengthOrder
from nat_ar.training import narration
from nat_ar.training.step import TrainState, TrainStep
from nat_ar.types import Batch, Mean


def test_every_shape_is_announced_once() -> None:
    lengths = np.array([2, 2, 6])
    plan = BatchPlan(
        LengthOrder.of_lengths(lengths, lengths),
        BatchingConfig(batch_tokens=16, buckets=(4, 8)),
        seed=0,
    )
    compilations = narration.Compilations(plan)

    def first(state: TrainState, batch: Batch, teacher: Any) -> tuple[TrainState, dict[str, Mean]]:
        return state, {}

    def later(state: TrainState, batch: Batch, teacher: Any) -> tuple[TrainState, dict[str, Mean]]:
        return state, {}

    def said(width: int, train_step: TrainStep = first) -> str | None:
        tokens = jnp.zeros((16 // width, width), jnp.int32)
        return compilations.announced(train_step, Batch(tokens, tokens))

    assert said(8) == "compiling bucket 8 (1 of 2)"
    assert said(8) is None
    assert said(4) == "compiling bucket 4 (2 of 2)"
    # Subwords that change every epoch may fill a bucket that the prepared ones left empty.
    assert said(16) == "compiling bucket 16 (3 of 3)"
    # The encoder thaws, or a curriculum ends.
    assert said(8, later) == "compiling bucket 8 (1 of 2), train step 2"
    assert said(8, later) is None


def test_a_step_whose_batches_were_all_skipped_has_no_means() -> None:
    values = {"learning_rate": 3.2e-4, "target_tokens_per_second": 12345.6}
    text = "step 1,200: learning rate 3.20e-04, 12,346 target tokens/s, 3 min left"
    assert narration.of_step(1200, values, seconds_left=170.0) == text
    more = {**values, "objective": 2.0, "gradient_norm": 0.5}
    assert narration.of_step(1, more, seconds_left=2.0) == (
        "step 1: loss 2.000, learning rate 3.20e-04, gradient norm 0.50, 12,346 target tokens/s, 2 s left"
    )


def test_validations_are_part_of_the_time_left() -> None:
    """100 steps took 50 s: 200 more take 100 s, and bring validations at 150, 200, 250 and 300."""
    left = narration.seconds_left(100, 300, seconds=50.0, every_steps=50, validations=[])
    assert left == 100.0
    left = narration.seconds_left(100, 300, seconds=50.0, every_steps=50, validations=[2.0, 4.0])
    assert left == 100.0 + 4 * 3.0
    # The last step is validated too, wherever it falls.
    left = narration.seconds_left(250, 260, seconds=25.0, every_steps=50, validations=[3.0])
    assert left == 1.0 + 3.0
