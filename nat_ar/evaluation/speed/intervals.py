"""Measured seconds as numbers with intervals: means, medians, percentiles, ratios of systems, latency by length.

Intervals are bootstrap intervals: over sentences, how much depends on the choice of sentences; over rounds, how much
depends on the noise of the machine."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

NUM_BOOTSTRAP = 2000
SEED = 12345
"""Fixed, so that the same times give the same interval."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def median(rounds: Sequence[float] | Float[np.ndarray, "rounds"]) -> Interval:
    """The median of a number that was measured in every round."""
    numbers = np.asarray(rounds, np.float64)
    low, high = np.percentile(_resampled(np.median, numbers), (2.5, 97.5))
    return Interval(float(np.median(numbers)), float(low), float(high))


def median_ratio(
    numerators: Sequence[float] | Float[np.ndarray, "rounds"],
    denominators: Sequence[float] | Float[np.ndarray, "rounds"],
) -> Interval:
    """The median over rounds of the ratio within a round: what slows a whole round cancels out."""
    if len(numerators) != len(denominators):
        raise ValueError(
            f"expected as many numerators as denominators, got {len(numerators)} and "
            f"{len(denominators)}: ratios are taken within rounds"
        )
    return median(np.asarray(numerators) / np.asarray(denominators))


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds from a sentence to its translation, at batch 1."""

    mean: float
    p50: float
    p95: float
    p99: float
    low: float
    """lower end of the 95 % bootstrap interval of the mean over sentences"""
    high: float

    @classmethod
    def of(cls, seconds: Float[np.ndarray, "sentences"]) -> "Latency":
        low, high = np.percentile(_resampled(np.mean, seconds), (2.5, 97.5))
        values = (seconds.mean(), *np.percentile(seconds, (50, 95, 99)), low, high)
        return cls(*(1000 * float(value) for value in values))


class Ratio(Interval):
    """How many times faster one system is than another."""

    @classmethod
    def of(
        cls,
        reference: Float[np.ndarray, "sentences"],
        seconds: Float[np.ndarray, "sentences"],
    ) -> "Ratio":
        """Mean seconds of the reference by those of the system. Both translated the same sentences in
        turns, so a sentence is drawn for both at once: what made it slow for both cancels out."""
        means = _resampled(np.mean, np.stack([reference, seconds]))
        low, high = np.percentile(means[0] / means[1], (2.5, 97.5))
        return cls(float(reference.mean() / seconds.mean()), float(low), float(high))


@dataclasses.dataclass(frozen=True)
class LengthBin:
    """The mean sentence among those that were padded to one bucket."""

    bucket: int
    """source tokens, EOS counted, to which they were padded"""
    sentences: int
    output_tokens: float
    """of the translations, EOS not counted"""
    mean: float
    """milliseconds"""


def by_length(sentences: Iterable[tuple[int, int, float]]) -> list[LengthBin]:
    """One bin for each bucket, shortest first, of (bucket, output tokens, seconds) of every sentence."""
    groups: dict[int, list[tuple[int, float]]] = collections.defaultdict(list)
    for bucket, output_tokens, seconds in sentences:
        groups[bucket].append((output_tokens, seconds))
    bins = []
    for bucket, group in sorted(groups.items()):
        output_tokens_mean, seconds_mean = np.mean(group, axis=0).tolist()
        bins.append(LengthBin(bucket, len(group), output_tokens_mean, 1000 * seconds_mean))
    return bins


def _resampled(
    statistic: Callable[..., Float[np.ndarray, "*systems resamples"]],
    samples: Float[np.ndarray, "*systems samples"],
) -> Float[np.ndarray, "*systems resamples"]:
    """A statistic of samples drawn with replacement, the same ones for all systems."""
    number = samples.shape[-1]
    draws = np.random.default_rng(SEED).integers(0, number, (NUM_BOOTSTRAP, number))
    return statistic(samples[..., draws], axis=-1)  # [..., NUM_BOOTSTRAP, samples] reduced
