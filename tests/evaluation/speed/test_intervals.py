import numpy as np
import pytest

from nat_ar.evaluation.speed import intervals
from nat_ar.evaluation.speed.intervals import Interval, Latency, LengthBin, Ratio


def test_percentiles_of_a_known_list_and_the_interval_around_its_mean() -> None:
    seconds = np.array([0.001, 0.002, 0.003, 0.004, 0.010])
    latency = Latency.of(seconds)
    assert latency.mean == pytest.approx(4)
    assert latency.p50 == pytest.approx(3)
    assert latency.p95 == pytest.approx(8.8)  # 0.8 of the way from 4 to 10
    assert latency.p99 == pytest.approx(9.76)  # 0.96 of it
    assert 1 <= latency.low < latency.mean < latency.high <= 10
    assert Latency.of(seconds) == latency
    same = Latency.of(np.full(7, 0.002))
    assert (same.low, same.p50, same.p95, same.p99, same.high) == pytest.approx((2, 2, 2, 2, 2))


def test_the_interval_is_that_of_the_normal_law_for_many_sentences() -> None:
    seconds = np.random.default_rng(0).exponential(0.01, 400)
    latency = Latency.of(seconds)
    half = 1.96 * 1000 * seconds.std() / 20
    assert latency.low == pytest.approx(latency.mean - half, rel=0.03)
    assert latency.high == pytest.approx(latency.mean + half, rel=0.03)


def test_the_ratio_of_a_system_to_itself_is_one() -> None:
    seconds = np.random.default_rng(0).exponential(0.01, 50)
    assert Ratio.of(seconds, seconds) == Ratio(1.0, 1.0, 1.0)


def test_what_slows_both_systems_leaves_the_ratio_alone() -> None:
    reference = np.random.default_rng(0).exponential(0.01, 50)
    ratio = Ratio.of(reference, reference / 4)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((4, 4, 4))
    noise = np.random.default_rng(1).normal(1, 0.1, 50)
    noisy = Ratio.of(reference, reference / 4 * noise)
    assert noisy.low < 4 < noisy.high
    assert noisy.high - noisy.low < 0.5


def test_two_systems_of_equal_speed_have_an_interval_that_holds_one() -> None:
    one, other = np.random.default_rng(0).normal(0.01, 0.001, (2, 100))
    ratio = Ratio.of(one, other)
    assert ratio.low < 1 < ratio.high
    assert ratio.high - ratio.low < 0.1


def test_latency_by_length_by_hand() -> None:
    short, long = intervals.by_length([(16, 10, 0.004), (8, 3, 0.001), (16, 13, 0.006)])
    assert short == LengthBin(8, 1, 3.0, 1.0)
    assert (long.bucket, long.sentences, long.output_tokens) == (16, 2, 11.5)
    assert long.mean == pytest.approx(5)


def test_a_ratio_is_taken_within_rounds() -> None:
    # The third round was slow for both: a ratio of medians would be 2.5, each round says 2 or 3.
    found = intervals.median_ratio([4.0, 6.0, 40.0], [2.0, 2.0, 20.0])
    assert found.value == 2.0
    assert 2.0 == found.low <= found.value <= found.high == 3.0
    with pytest.raises(ValueError, match="got 1 and 2"):
        intervals.median_ratio([1.0], [1.0, 2.0])


def test_equal_rounds_have_no_spread() -> None:
    assert intervals.median([3.0] * 5) == Interval(3.0, 3.0, 3.0)
