"""Intervals and paired tests by resampling sentences, and seeds where there are several.

For every score that is a function of a sum over sentences: BLEU of n-gram counts, the mean of sentence scores. A
sentence's statistics are extracted once, and every resample is a weighted sum of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

SEED = 12345
"""sacreBLEU's default, so that our resamples are those of `sacrebleu --confidence`."""

Value = Callable[[Float[np.ndarray, "statistics"]], float]
"""The score, from the sum of the statistics of as many sentences as there are."""


@dataclasses.dataclass(frozen=True)
class PairedResult:
    """The scores of two systems on the same sentences, and their paired bootstrap test."""

    system: float
    baseline: float
    difference: float
    """system - baseline, in points of the score, without resampling"""
    low: float
    """lower end of the 95 % bootstrap interval of the difference"""
    high: float
    p_value: float
    """two-sided; see `paired`"""


def interval(
    statistics: Float[np.ndarray, "sentences statistics"], value: Value, n_bootstrap: int
) -> tuple[float, float]:
    """The 95 % percentile interval of a score over sentences. ValueError for fewer than 40 resamples."""
    return _interval(_resampled(statistics, value, n_bootstrap))


def paired(
    systems: Sequence[Float[np.ndarray, "sentences statistics"]],
    baselines: Sequence[Float[np.ndarray, "sentences statistics"]],
    value: Value,
    n_bootstrap: int,
) -> PairedResult:
    """Is the score of one system different from that of another? Each is given by the sentences of every seed.

    Both are scored on the same resamples (Koehn 2004). The differences, shifted to mean zero, are the distribution
    under no difference; p is the share of them at least as large as the observed one in either direction,
    (count + 1) / (n_bootstrap + 1) so that it is never zero. `sacrebleu --paired-bs` shifts the absolute differences
    instead, which halves p if one system is clearly ahead and calls two identical outputs significantly
    different; here those give p = 1.

    With several seeds it is the multi-bootstrap of Sellam et al. 2022 (arXiv:2106.16163, section 3): a resample draws
    sentences, the same for all, and seeds, for each of the two systems by itself; its value is the difference of the
    mean score of the seeds drawn. Of k seeds k - 1 are drawn, with replacement: the variance of their mean is then an
    unbiased estimate of that of the mean of k, where k drawn ones would show (k - 1) / k of it (Rao & Wu 1988). One
    seed is always drawn: then the test is over sentences only for that system, and knows nothing of what another seed
    would change."""
    generator = np.random.default_rng(SEED)
    score, ours = _over_seeds(systems, value, n_bootstrap, generator)
    baseline_score, theirs = _over_seeds(baselines, value, n_bootstrap, generator)
    differences = ours - theirs
    observed = score - baseline_score
    chance = np.abs(differences - differences.mean())
    beyond = int(np.sum(chance >= abs(observed) - 1e-9))  # equal up to rounding is as large
    low, high = _interval(differences)
    return PairedResult(
        score, baseline_score, observed, low, high, (beyond + 1) / (n_bootstrap + 1)
    )


def _over_seeds(
    statistics: Sequence[Float[np.ndarray, "sentences statistics"]],
    value: Value,
    n_bootstrap: int,
    generator: np.random.Generator,
) -> tuple[float, Float[np.ndarray, "n_bootstrap"]]:
    """The mean score over seeds, and that of every resample of sentences and seeds."""
    score = float(np.mean([value(one.sum(0)) for one in statistics]))
    resampled = np.stack([_resampled(one, value, n_bootstrap) for one in statistics])
    seeds = len(statistics)
    drawn = generator.integers(seeds, size=(max(seeds - 1, 1), n_bootstrap))
    return score, np.take_along_axis(resampled, drawn, axis=0).mean(0)


def _resampled(
    statistics: Float[np.ndarray, "sentences statistics"], value: Value, n_bootstrap: int
) -> Float[np.ndarray, "n_bootstrap"]:
    """The score of every resample; the resamples depend on the number of sentences only."""
    if n_bootstrap < 40:
        raise ValueError(f"n_bootstrap {n_bootstrap} is too few for a 95 % interval; at least 40")
    totals = [counts @ statistics for counts in _resample_counts(len(statistics), n_bootstrap)]
    return np.asarray([value(total) for total in np.concatenate(totals)])


def _resample_counts(
    sentences: int, n_bootstrap: int
) -> Iterator[Float[np.ndarray, "resamples sentences"]]:
    """How often each resample draws each sentence, in chunks of some megabytes."""
    generator = np.random.default_rng(SEED)
    chunk = max(1, 1_000_000 // sentences)
    for start in range(0, n_bootstrap, chunk):
        rows = min(chunk, n_bootstrap - start)
        drawn: Int[np.ndarray, "rows sentences"] = generator.choice(
            sentences, size=(rows, sentences), replace=True
        )
        drawn += np.arange(rows)[:, None] * sentences
        counts = np.bincount(drawn.ravel(), minlength=rows * sentences)
        yield counts.reshape(rows, sentences).astype(np.float64)


def _interval(samples: Float[np.ndarray, "n_bootstrap"]) -> tuple[float, float]:
    """The 95 % percentile interval, with sacreBLEU's choice of the two order statistics."""
    ordered = np.sort(samples)
    cut = len(ordered) // 40
    return float(ordered[cut]), float(ordered[len(ordered) - cut - 1])
