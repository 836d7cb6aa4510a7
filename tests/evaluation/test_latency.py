"""Lag and erasure, by numbers that can be checked on paper."""

import itertools

import pytest

from nat_ar.evaluation import latency
from nat_ar.evaluation.latency import LAGS


@pytest.mark.parametrize(
    ("delays", "source", "reference", "expected"),
    [
        # LAAL, DAL, AL, AP
        ([3, 4, 5, 5, 5], 5, 5, (3, 3, 3, 0.88)),
        ([5, 5, 5, 5, 5], 5, 5, (5, 5, 5, 1)),
        ([1, 2, 3, 4, 4, 4, 4, 4], 4, 4, (1.75, 2.125, 1, 1.625)),  # too long: AL is flattered
        ([2, 4, 4], 4, 6, (8 / 3, 22 / 9, 8 / 3, 10 / 24)),
        ([2, 3, 4, 4, 4], 4, 4, (2.2, 2.28, 2, 17 / 16)),  # wait-2
        ([1, 2, 3], 5, 3, (1 / 3, 1, 1 / 3, 0.4)),  # never saw the whole source
    ],
)
def test_lags_by_hand(delays, source, reference, expected) -> None:
    found = tuple(lag.compute(delays, source, reference) for lag in LAGS)
    assert [lag.title for lag in LAGS] == ["LAAL", "DAL", "AL", "AP"]
    assert found == pytest.approx(expected)


def test_a_first_word_behind_the_end_of_the_source_is_all_that_counts() -> None:
    """With computing time a word may be there after the source has ended."""
    assert latency.average_lagging([5.5, 7.0], 5, 2) == 5.5
    assert latency.length_adaptive_average_lagging([5.5, 7.0], 5, 2) == 5.5
    assert latency.average_lagging([4.0, 5.5, 9.0], 5, 3) == pytest.approx((4 + 5.5 - 5 / 3) / 2)


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize(("delays", "source", "reference"), [([], 3, 3), ([1], 0, 1), ([1], 1, 0)])
def test_nothing_has_no_lag(lag, delays, source, reference) -> None:
    with pytest.raises(ValueError, match="leave empty ones out"):
        lag.compute(delays, source, reference)


def test_wait_k_lags_by_k() -> None:
    """Source and output of one length, a word each from the k-th on."""
    for k, length in itertools.product((1, 3, 5), (6, 9)):
        delays = [min(k + i, length) for i in range(length)]
        assert latency.average_lagging(delays, length, length) == pytest.approx(k)
        assert latency.differentiable_average_lagging(delays, length, length) == pytest.approx(k)


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def test_erasure_by_hand() -> None:
    plain = words("a", "a b", "a c", "a c d")
    masked = words("", "a", "a", "a c d")
    assert latency.erasure(plain) == 1  # b
    assert latency.normalised_erasure([plain]) == pytest.approx(1 / 3)
    assert latency.normalised_erasure([masked]) == 0
    assert latency.normalised_erasure([plain, masked]) == pytest.approx(1 / 6)
    assert latency.erased(["a", "b", "c"], ["a", "x", "c"]) == 2  # c goes with b
    assert latency.erased(["a"], ["a", "b"]) == 0
    with pytest.raises(ValueError, match="nothing to divide by"):
        latency.normalised_erasure([words("a", "")])


def test_a_word_is_settled_when_it_and_all_before_it_stay() -> None:
    assert latency.settled(words("a", "a b", "a c", "a c d")) == [0, 2, 3]
    assert latency.settled(words("", "a", "a", "a c d")) == [1, 3, 3]
    assert latency.settled(words("x b", "a b")) == [1, 1]  # b stood there, behind a word that went
    assert latency.settled(words("a b", "", "a b")) == [2, 2]
    assert latency.settled(words("a", "")) == []


def test_an_update_waits_for_its_word_and_for_the_update_before() -> None:
    assert latency.finished([1, 2, 3], [0, 0, 0]) == [1, 2, 3]
    assert latency.finished([1, 2, 3], [0.5, 0.5, 0.5]) == [1.5, 2.5, 3.5]
    assert latency.finished([1, 2, 3], [2, 0.5, 0.5]) == [3, 3.5, 4.0]
