"""Batches: who shares one, and in which order, from (seed, epoch) alone."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data import batching
from nat_ar.data.batching import BatchingConfig, BatchPlan, Feistel, RowBatch, Shuffled
from nat_ar.data.length_order import LengthOrder

# Sentence 3 is too long; the others need (EOS counted, longer side) 3, 3, 6, -, 5 and 3 places.
SOURCE_LENGTHS = np.array([1, 2, 3, 9, 4, 2])
TARGET_LENGTHS = np.array([2, 1, 5, 1, 4, 2])
CONFIG = BatchingConfig(batch_tokens=8, buckets=(4, 6))


def plan_of(
    num_pairs: int, *, seed: int = 1, multiple: int | None = None, short_first_steps: int = 0
) -> BatchPlan:
    """Pairs of 1 to 15 tokens a side in buckets of 4, 8 and 16."""
    generator = np.random.default_rng(0)
    source, target = generator.integers(1, 16, (2, num_pairs))
    config = BatchingConfig(64, (4, 8, 16), short_first_steps, multiple)
    return BatchPlan(LengthOrder.of_lengths(source, target), config, seed=seed)


def as_lists(batches: Sequence[RowBatch]) -> list[tuple[int, list[int]]]:
    return [(batch.width, batch.rows.tolist()) for batch in batches]


def test_the_longer_side_and_its_eos_choose_the_bucket() -> None:
    plan = BatchPlan(LengthOrder.of_lengths(SOURCE_LENGTHS, TARGET_LENGTHS), CONFIG, seed=1)
    # 8 tokens are 2 rows of 4 or 1 row of 6: {0, 1, 5} make two batches, {2} and {4} one each.
    assert plan.num_left_out == 1
    assert len(plan) == 4
    batches = plan.epoch(0)
    assert sorted(batch.width for batch in batches) == [4, 4, 6, 6]
    assert all(len(batch.rows) == 8 // batch.width for batch in batches)
    narrow = sorted(row for batch in batches if batch.width == 4 for row in batch.rows.tolist())
    wide = sorted(row for batch in batches if batch.width == 6 for row in batch.rows.tolist())
    assert narrow == [-1, 0, 1, 5]
    assert wide == [2, 4]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    plan = plan_of(200, seed=1)
    first, second = as_lists(plan.epoch(0)), as_lists(plan.epoch(1))
    assert as_lists(plan.epoch(0)) == first  # whatever was asked in between
    assert as_lists(plan_of(200, seed=1).epoch(1)) == second
    assert first != second
    assert as_lists(plan_of(200, seed=2).epoch(0)) != first


@pytest.mark.parametrize("multiple", [1, 3, 8])
def test_an_epoch_holds_every_pair_once_in_batches_of_fixed_shapes(multiple: int) -> None:
    plan = plan_of(200, multiple=multiple)
    assert plan.num_left_out == 0
    for epoch in (0, 7):
        batches = plan.epoch(epoch)
        assert len(batches) == len(plan)
        rows = np.concatenate([batch.rows for batch in batches])
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(200))
        shapes = {(batch.width, len(batch.rows)) for batch in batches}
        # 64 tokens are 16 rows of 4, 8 of 8 or 4 of 16, rounded down to the multiple, but never to 0.
        assert shapes == {
            (width, max(multiple, 64 // width // multiple * multiple)) for width in (4, 8, 16)
        }
        for batch in batches:  # only a bucket's last batch is short, and padded at its end
            real = batch.rows >= 0
            assert real[0]
            assert not (~real[:-1] & real[1:]).any()


def test_batches_of_different_widths_are_mixed() -> None:
    widths = [batch.width for batch in plan_of(200).epoch(0)]
    assert widths != sorted(widths)


def test_short_sentences_come_first() -> None:
    """Of 400 batches, number n may take the shortest sqrt(n / 400) of the pairs, in whole buckets."""
    plan = plan_of(200, short_first_steps=400)
    batches = plan.epoch(0)
    assert len(batches) == 400
    widths = np.array([batch.width for batch in batches])
    shares = np.cumsum([len(members) for _, _, members in plan.buckets]) / 200
    assert shares[0] < 0.1 < shares[1] < 0.5  # the shortest bucket is small, the second larger
    begins = [np.flatnonzero(widths == width)[0] for width in (8, 16)]
    for begin, share in zip(begins, shares, strict=False):
        assert 400 * share**2 - 1 <= begin < 400 * share**2 + 40
    # Where all are admitted, buckets come as often as in a whole epoch.
    usual = np.mean([batch.width == 16 for batch in plan.epoch(1)])
    assert np.mean(widths[begins[1] :] == 16) == pytest.approx(usual, abs=0.06)


def test_each_bucket_of_the_curriculum_goes_through_all_its_pairs_before_it_repeats_one() -> None:
    plan = plan_of(200, short_first_steps=100)
    for width, rows, members in plan.buckets:
        once = -(-len(members) // rows)
        taken = [batch.rows for batch in plan.epoch(0) if batch.width == width]
        assert len(taken) >= once
        first = np.concatenate(taken[:once])
        np.testing.assert_array_equal(np.sort(first[first >= 0]), np.sort(members))


def test_after_the_curriculum_come_the_usual_epochs() -> None:
    plan, usual = plan_of(200, short_first_steps=7), plan_of(200)
    assert as_lists(plan.epoch(0)) == as_lists(plan_of(200, short_first_steps=7).epoch(0))
    assert as_lists(plan.epoch(1)) == as_lists(usual.epoch(1))
    assert len(plan) == len(usual)
    assert len(plan.over(LengthOrder.of_lengths(SOURCE_LENGTHS, TARGET_LENGTHS)).epoch(0)) == 7


def test_pairs_that_fit_nowhere_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"no pair of 2 fits the buckets \(4, 6\)"):
        BatchPlan(LengthOrder.of_lengths(np.array([6, 7]), np.array([1, 1])), CONFIG, seed=1)


@pytest.mark.parametrize("buckets", [(), (1, 4), (4, 4), (8, 4)])
def test_buckets_must_rise(buckets: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="buckets must rise and start at 2 or more, got"):
        BatchingConfig(buckets=buckets)


def test_rows_are_a_multiple_of_at_least_one() -> None:
    assert as_lists(plan_of(200, multiple=1).epoch(0)) == as_lists(plan_of(200).epoch(0))
    with pytest.raises(ConfigError, match=r"batching.row_multiple must be at least 1, got 0"):
        BatchingConfig(row_multiple=0)


def test_a_curriculum_of_fewer_than_no_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"short_first_steps must be at least 0, got -1"):
        BatchingConfig(short_first_steps=-1)


def test_a_batch_must_hold_one_sentence_of_the_last_bucket() -> None:
    BatchingConfig(batch_tokens=16, buckets=(8, 16))
    with pytest.raises(ConfigError, match="got 15 tokens and a bucket of 16"):
        BatchingConfig(batch_tokens=15, buckets=(8, 16))


def feistel_plan(num_pairs: int, block: int = 1, *, seed: int = 1, steps: int = 0) -> BatchPlan:
    plan = plan_of(num_pairs, seed=seed, short_first_steps=steps)
    config = dataclasses.replace(plan.config, order=Feistel(block))
    return BatchPlan(plan.order, config, seed=seed)


@pytest.mark.parametrize("block", [1, 4, 32, 1_000])
@pytest.mark.parametrize("num_pairs", [3, 200, 1_001])
def test_a_computed_order_holds_every_pair_once_too(num_pairs: int, block: int) -> None:
    plan, shuffled = feistel_plan(num_pairs, block), plan_of(num_pairs)
    epochs = []
    for number in (0, 7):
        batches = plan.epoch(number)
        assert len(batches) == len(plan) == len(shuffled)
        rows = np.concatenate([batch.rows for batch in batches])
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(num_pairs))
        epochs.append(as_lists(batches))
    assert epochs[0] != epochs[1]
    widths = [sorted(width for width, _ in epoch) for epoch in epochs]
    assert widths[0] == widths[1] == sorted(batch.width for batch in shuffled.epoch(0))


def test_a_computed_order_can_be_entered_anywhere() -> None:
    batches = feistel_plan(500).epoch(3)
    whole = as_lists(batches)
    assert as_lists([batches[20], batches[5], batches[-1]]) == [whole[20], whole[5], whole[-1]]
    assert as_lists(batches[3:6]) == whole[3:6]
    with pytest.raises(IndexError, match=f"expected a batch below {len(whole)}"):
        batches[len(whole)]


def test_a_computed_order_is_as_random_as_a_shuffle() -> None:
    """Rows that share a batch: 4 of a bucket of several hundred, anywhere in the split."""
    plan = feistel_plan(4_000)
    spread = [np.ptp(batch.rows) for batch in plan.epoch(0) if batch.width == 16]
    expected = [np.ptp(batch.rows) for batch in plan_of(4_000).epoch(0) if batch.width == 16]
    assert np.mean(spread) == pytest.approx(np.mean(expected), rel=0.05)


def test_blocks_are_neighbours_on_the_disk() -> None:
    """Of a split in which all pairs are of one length, 64 rows a batch are 8 blocks of 8 neighbours."""
    lengths = np.full(4_096, 7)
    config = BatchingConfig(512, (8,), order=Feistel(block=8))
    plan = BatchPlan(LengthOrder.of_lengths(lengths, lengths), config, seed=1)
    for batch in plan.epoch(0)[:5]:
        blocks = batch.rows.reshape(8, 8)
        assert (np.ptp(blocks, axis=1) == 7).all()
        assert any((np.diff(block) != 1).any() for block in blocks)  # shuffled among themselves


@pytest.mark.parametrize("order", [Shuffled(), Feistel(), Feistel(block=8)])
def test_a_curriculum_comes_first_in_any_order(order: Shuffled | Feistel) -> None:
    config = dataclasses.replace(plan_of(400, short_first_steps=300).config, order=order)
    plan = BatchPlan(plan_of(400).order, config, seed=1)
    batches = plan.epoch(0)
    assert len(batches) == 300
    assert {batch.width for batch in batches[:3]} <= {
        4,
        8,
    }  # the root of 1 % is a tenth of the pairs
    assert {batch.width for batch in batches[-50:]} >= {8, 16}
    counts = np.bincount(np.concatenate([b.rows[b.rows >= 0] for b in batches]), minlength=400)
    narrow = plan.buckets[0].members
    assert np.ptp(counts[narrow]) <= 1  # all of a bucket are seen before one is seen again
    assert len(plan.epoch(1)) == len(plan)


def test_a_billion_pairs_need_no_memory(tmp_path: Path) -> None:
    """In a process of its own: 10^9 rows on a disk that holds none of them, all but a hundred thousand of 27 tokens,
    whose plan and first batch may cost 200 MB beside the interpreter and its modules."""
    program = """
        import resource
        import numpy as np
        from nat_ar.data.batching import BatchingConfig, BatchPlan, Feistel
        from nat_ar.data.length_order import LengthOrder

        def peak() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        before = peak()
        rows = np.lib.format.open_memmap("order.rows.npy", mode="w+", dtype=np.uint32, shape=(10**9,))
        np.save("order.ends.npy", np.array([0] * 27 + [10**9 - 10**5] + [10**9] * 5))
        from pathlib import Path
        order = LengthOrder.load(Path())
        config = BatchingConfig(65_536, (16, 32), order=Feistel())
        plan = BatchPlan(order, config, seed=1)
        epoch = plan.epoch(3)
        first = epoch[123_456]
        print(len(epoch), first.width, len(first.rows), (peak() - before) < 200 * 10**6)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(batching.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["488282", "32", "2048", "True"]  # 10^9 / 2,048, rounded up
