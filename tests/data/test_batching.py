"""Batches: who shares one, and in which order, from (seed, epoch) alone."""

import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.batching import BatchingConfig, BatchPlan, RowBatch

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
    return BatchPlan(source, target, config, seed=seed)


def as_lists(batches: list[RowBatch]) -> list[tuple[int, list[int]]]:
    return [(batch.width, batch.rows.tolist()) for batch in batches]


def test_the_longer_side_and_its_eos_choose_the_bucket() -> None:
    plan = BatchPlan(SOURCE_LENGTHS, TARGET_LENGTHS, CONFIG, seed=1)
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
        np.testing.assert_array_equal(np.sort(first[first >= 0]), members)


def test_after_the_curriculum_come_the_usual_epochs() -> None:
    plan, usual = plan_of(200, short_first_steps=7), plan_of(200)
    assert as_lists(plan.epoch(0)) == as_lists(plan_of(200, short_first_steps=7).epoch(0))
    assert as_lists(plan.epoch(1)) == as_lists(usual.epoch(1))
    assert len(plan) == len(usual)
    assert len(plan.over(SOURCE_LENGTHS, TARGET_LENGTHS).epoch(0)) == 7


def test_pairs_that_fit_nowhere_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"no pair of 2 fits the buckets \(4, 6\)"):
        BatchPlan(np.array([6, 7]), np.array([1, 1]), CONFIG, seed=1)


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
