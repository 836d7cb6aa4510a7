"""What measured seconds say: means with intervals, percentiles, ratios of systems, latency by length.

Intervals come from the bootstrap over sentences: they say how far the choice of sentences matters."""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

NUM_BOOTSTRAP = 2000
SEED = 12345
"""Of the bootstrap: the same times give the same interval."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds from a sentence to its translation, at batch 1."""

    mean: float
    p50: float
    p95: float
    p99: float
    low: float
    """95 % bootstrap interval of the mean over sentences, from here ..."""
    high: float
    """... to here"""

    @classmethod
    def of(cls, seconds: Float[np.ndarray, "sentences"]) -> "Latency":
        low, high = np.percentile(_resampled_means(seconds), (2.5, 97.5))
        values = (seconds.mean(), *np.percentile(seconds, (50, 95, 99)), low, high)
        return cls(*(1000 * float(value) for value in values))


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times faster one system is than another, with a 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(
        cls,
        reference: Float[np.ndarray, "sentences"],
        seconds: Float[np.ndarray, "sentences"],
    ) -> "Ratio":
        """Mean seconds of the reference by those of the system. Both translated the same sentences in
        turns, so a sentence is drawn for both at once: what made it slow for both cancels out."""
        means = _resampled_means(np.stack([reference, seconds]))
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


def _resampled_means(
    seconds: Float[np.ndarray, "*systems sentences"],
) -> Float[np.ndarray, "*systems resamples"]:
    """Means over sentences drawn with replacement, the same ones for all systems."""
    number = seconds.shape[-1]
    draws = np.random.default_rng(SEED).integers(0, number, (NUM_BOOTSTRAP, number))
    return seconds[..., draws].mean(axis=-1)
