"""The loops over all token pairs in NumPy: the reference, and the fallback without a C++ compiler."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from nat_ar.data.alignment import model
from nat_ar.data.alignment.model import (
    SMALLEST_PROBABILITY,
    Aligner,
    AlignerConfig,
    ExpectedCounts,
    Positions,
)
from nat_ar.data.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class TokenPairs:
    """All (source token, target token) pairs of some sentences, sorted by target token, then by source position."""

    key: Int[np.ndarray, "pairs"]
    """source type * target_size + target type"""
    source_position: Int[np.ndarray, "pairs"]
    """j - 1"""
    feature: Float[np.ndarray, "pairs"]
    """h(i, j, m, n)"""
    target: Int[np.ndarray, "target_tokens"]
    """type of each target token"""
    position: Int[np.ndarray, "target_tokens"]
    """index of its (i, m, n) in Positions"""
    source_length: Int[np.ndarray, "target_tokens"]
    """n, the number of pairs of each target token"""
    start: Int[np.ndarray, "target_tokens"]
    """index of the first pair of each target token"""


class NumpyBackend:
    """Works on flat arrays of token pairs, a chunk of sentences at a time."""

    def __init__(
        self, source: Ragged, target: Ragged, target_size: int, chunk_token_pairs: int
    ) -> None:
        self.source, self.target, self.target_size = source, target, target_size
        self.chunk_token_pairs = chunk_token_pairs
        self.positions = model.list_positions(source, target)

    def _pairs(self) -> Iterator[tuple[int, int, TokenPairs]]:
        for first, last in _chunks(self.source, self.target, self.chunk_token_pairs):
            pairs = list_pairs(
                self.source, self.target, self.positions, first, last, self.target_size
            )
            yield first, last, pairs

    def cooccurring_types(self) -> Int[np.ndarray, "entries"]:
        """Merges runs of similar size, as a merge sort does, so that each key is moved O(log chunks) times."""
        runs: list[np.ndarray] = []
        for _, _, pairs in self._pairs():
            runs.append(_distinct(np.sort(pairs.key)))
            while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
                runs.append(_merge(runs.pop(), runs.pop()))
        while len(runs) > 1:
            runs.append(_merge(runs.pop(), runs.pop()))
        return runs[0] if runs else np.zeros(0, np.int64)

    def expected_counts(self, aligner: Aligner) -> ExpectedCounts:
        p0 = aligner.config.null_probability
        normaliser, _ = model.diagonal_prior(aligner.tension, self.positions)
        counts = np.zeros(len(aligner.keys))
        null_counts = np.zeros(aligner.target_size)
        mass = np.zeros(len(self.positions.position))
        feature = log_likelihood = 0.0
        for _, _, pairs in self._pairs():
            types, of_pair = np.unique(pairs.key, return_inverse=True)
            entry = np.searchsorted(aligner.keys, types)
            score = aligner.probability[entry].astype(np.float64)[of_pair]
            score *= _prior(aligner, pairs, normaliser)
            null = p0 * aligner.null_probability[pairs.target]
            total = np.add.reduceat(score, pairs.start) + null
            score /= np.repeat(total, pairs.source_length)  # now the posterior
            null /= total
            counts[entry] += np.bincount(of_pair, score, len(types))
            null_counts += np.bincount(pairs.target, null, aligner.target_size)
            mass += np.bincount(pairs.position, 1 - null, len(mass))
            feature += float(score @ pairs.feature)
            log_likelihood += float(np.log(total).sum())
        return ExpectedCounts(counts.astype(np.float32), null_counts, feature, mass, log_likelihood)

    def normalise(
        self,
        counts: Float[np.ndarray, "entries"],
        edges: Int[np.ndarray, "rows"],
        config: AlignerConfig,
    ) -> Float[np.ndarray, "entries"]:
        support = np.diff(edges)
        occurs = support > 0
        total = np.zeros(len(support))
        total[occurs] = np.add.reduceat(counts, edges[:-1][occurs], dtype=np.float64)
        of_entry = np.repeat(np.arange(len(support), dtype=np.int32), support)
        for start in range(0, len(counts), config.chunk_token_pairs):
            part = slice(start, start + config.chunk_token_pairs)
            row = of_entry[part]
            counts[part] = normalise(
                counts[part].astype(np.float64), total[row], support[row], config
            )
        return counts

    def links(self, aligner: Aligner) -> Int[np.ndarray, "target_tokens"]:
        normaliser, _ = model.diagonal_prior(aligner.tension, self.positions)
        links = np.zeros(len(self.target.values), np.int32)
        for first, last, pairs in self._pairs():
            types, of_pair = np.unique(pairs.key, return_inverse=True)
            entry = np.minimum(np.searchsorted(aligner.keys, types), len(aligner.keys) - 1)
            met = aligner.keys[entry] == types
            probability = np.where(met, aligner.probability[entry], SMALLEST_PROBABILITY)
            score = _prior(aligner, pairs, normaliser) * probability.astype(np.float64)[of_pair]
            best = np.repeat(np.maximum.reduceat(score, pairs.start), pairs.source_length)
            winners = np.flatnonzero(score == best)
            winner = winners[np.searchsorted(winners, pairs.start)]  # the leftmost of each token
            span = slice(self.target.offsets[first], self.target.offsets[last])
            links[span] = pairs.source_position[winner]
        return links


def list_pairs(
    source: Ragged, target: Ragged, positions: Positions, first: int, last: int, target_size: int
) -> TokenPairs:
    """The token pairs of rows first : last."""
    m = np.diff(target.offsets[first : last + 1])
    n = np.diff(source.offsets[first : last + 1])
    within = np.arange(m.sum()) - np.repeat(np.cumsum(m) - m, m)  # i - 1
    source_length = np.repeat(n, m)
    start = np.cumsum(source_length) - source_length
    source_position = np.arange(source_length.sum()) - np.repeat(start, source_length)
    source_values = source.values[source.offsets[first] : source.offsets[last]].astype(np.int64)
    target_values = target.values[target.offsets[first] : target.offsets[last]].astype(np.int64)
    row_start = np.repeat(source.offsets[first:last] - source.offsets[first], m)
    source_values = source_values[np.repeat(row_start, source_length) + source_position]
    # (i n - j m) / m n, numerator in integers: equal distances from the diagonal are equal to the bit
    along, across = (
        np.repeat(x, source_length) for x in ((within + 1) * source_length, np.repeat(m, m))
    )
    feature = -np.abs(along - (source_position + 1) * across) / (
        across * np.repeat(source_length, source_length)
    )
    return TokenPairs(
        source_values * target_size + np.repeat(target_values, source_length),
        source_position,
        feature,
        target_values,
        np.repeat(positions.first[first:last], m) + within,
        source_length,
        start,
    )


def _prior(
    aligner: Aligner, pairs: TokenPairs, normaliser: Float[np.ndarray, "positions"]
) -> Float[np.ndarray, "pairs"]:
    """p(a_i = j) of each pair."""
    scale = (1 - aligner.config.null_probability) / normaliser[pairs.position]
    prior = np.exp(aligner.tension * pairs.feature)
    prior *= np.repeat(scale, pairs.source_length)
    return prior


def normalise(
    counts: Float[np.ndarray, "entries"],
    total: Float[np.ndarray, "entries"],
    support: Int[np.ndarray, "entries"],
    config: AlignerConfig,
) -> Float[np.ndarray, "entries"]:
    """t(f|e) from expected counts. `total` and `support`: the sum of an entry's row, and the number of its entries."""
    if config.variational_bayes:
        from scipy import special  # importing takes 0.2 s, and translating does not need it

        alpha = config.concentration
        probability = np.exp(
            special.digamma(counts + alpha) - special.digamma(total + alpha * support)
        )
    else:
        probability = counts / np.maximum(total, SMALLEST_PROBABILITY)
    return np.maximum(probability, SMALLEST_PROBABILITY)


def _merge(
    left: Int[np.ndarray, "left"], right: Int[np.ndarray, "right"]
) -> Int[np.ndarray, "both"]:
    """The sorted union of two sorted arrays, in linear time: a stable sort merges two runs."""
    both = np.concatenate([left, right])
    both.sort(kind="stable")
    return _distinct(both)


def _distinct(keys: Int[np.ndarray, "keys"]) -> Int[np.ndarray, "entries"]:
    """Sorted keys without repeats. np.unique would take ten times as long: it builds a hash table."""
    is_new = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    return keys[is_new]


def _chunks(source: Ragged, target: Ragged, token_pairs: int) -> Iterator[tuple[int, int]]:
    """(first, last) of spans of rows that exceed `token_pairs` by at most one sentence. Spans without target tokens
    are left out."""
    count = source.lengths * target.lengths
    span = (np.cumsum(count) - count) // token_pairs
    edges = np.flatnonzero(np.diff(span)) + 1
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(count)], strict=True):
        if target.offsets[last] > target.offsets[first]:
            yield first, last
