"""Word alignment: which source token accounts for each target token, and from that the fertilities.

IBM Model 2 with the diagonal prior of fast_align (Dyer, Chahuneau & Smith 2013, "A Simple, Fast, and
Effective Reparameterization of IBM Model 2"), estimated by EM. With i = 1..m over the target tokens
f and j = 1..n over the source tokens e of a sentence pair, and 0 the null word:

    h(i, j, m, n)      = -|i/m - j/n|
    p(a_i = 0)         = p0
    p(a_i = j)         = (1 - p0) exp(tension * h(i, j, m, n)) / Z(i, m, n)
    p(f_i | a_i = j)   = t(f_i | e_j)

Knows token ids only, without BOS and EOS. The null word is part of the model, but no link goes to it: the fertilities
of a sentence must sum to the length of its target.

The loops over token pairs exist in C++ (alignment.cc, built at first use) and in NumPy, for machines without a
compiler; both give the same links. Time is proportional to the token pairs. Memory is dominated by the lexical table:
16 bytes for each co-occurring pair of types (24 in NumPy), plus 16 bytes a token in C++, of the pairs that it is
estimated on. docs/speed.md has seconds."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.ragged import Ragged

SMALLEST_PROBABILITY = np.float32(np.finfo(np.float32).tiny)
"""Floor of t(f|e): if no candidate is likely, the diagonal decides."""
TENSION_RANGE = (0.1, 14.0)  # as in the authors' program


@dataclasses.dataclass(frozen=True)
class AlignerConfig(config_json.Config):
    """How the aligner is estimated.

    Gu et al. (2018) took their fertilities from fast_align -d -o -v, which is flat_iterations=0,
    optimise_tension=True, variational_bayes=True. Our defaults differ by measurement. Share
    of correct links, judged by a dictionary, of Tatoeba English-German (50,001 pairs by
    words; 43,720 links of content words, 84,271 of function words and punctuation), and of 8,000
    pairs of the toy language (47,065 links):

        flat_iterations  tension             content  function  toy
        0                4, optimised (11.0)  96.6 %   97.2 %   94.5 %
        0                4                    99.1 %   98.2 %   98.5 %
        5                4, optimised (8.9)   98.9 %   98.1 %   98.1 %
        5                4                    99.4 %   98.4 %   99.0 %
        5                2                    99.5 %   98.5 %   99.5 %
        the fourth without variational Bayes  98.8 %   97.9 %   98.7 %

    Likelihood prefers a higher tension: it gains more from the many words that keep their order than it loses by the
    verbs that move to the end. Tension 2 was not tested on long sentences, where the diagonal must tell repeated words
    apart."""

    iterations: int = 5
    """passes of EM over the corpus, after the flat ones"""
    flat_iterations: int = 5
    """passes of EM with an almost flat prior, as in IBM Model 1, before the others: words that move far find their
    translation before the diagonal counts"""
    null_probability: float = 0.08
    """prior probability that no source token accounts for a target token"""
    tension: float = 4.0
    """how strongly the prior favours the diagonal; 0 would be flat. With `optimise_tension`, the initial value"""
    optimise_tension: bool = False
    """also fit the tension, by gradient steps on the likelihood"""
    variational_bayes: bool = True
    """a Dirichlet prior on every t(.|e), by mean field, keeps rare source tokens from explaining everything around
    them; False: maximum likelihood"""
    concentration: float = 0.01
    """parameter of that symmetric prior, for each target type that co-occurs with the source type"""
    max_training_pairs: int = 5_000_000
    """pairs that the aligner is estimated on: all, or, where there are more, so many of them, evenly spaced. All are
    linked, a part of the corpus at a time"""
    chunk_token_pairs: int = 1_000_000
    """token pairs in memory at a time, in NumPy; changes memory and time, not the links"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, the aligner was estimated on all pairs, however many; what was prepared then is not looked at again."""
        return {"max_training_pairs": 5_000_000, **data}

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"iterations must be at least 1, got {self.iterations}")
        if self.flat_iterations < 0:
            raise ConfigError(f"flat_iterations must be at least 0, got {self.flat_iterations}")
        if not 0 < self.null_probability < 1:
            raise ConfigError(
                f"null_probability must be between 0 and 1, both excluded, got "
                f"{self.null_probability}"
            )
        low, high = TENSION_RANGE
        if not self.tension > 0 or (self.optimise_tension and not low <= self.tension <= high):
            raise ConfigError(
                f"tension must be positive, and from {low} to {high} where it is optimised, got "
                f"{self.tension}; set optimise_tension=False to keep it where it is"
            )
        if self.variational_bayes and not self.concentration > 0:
            raise ConfigError(
                f"concentration must be positive, got {self.concentration}; "
                "set variational_bayes=False for maximum likelihood"
            )
        config_json.require_at_least(
            1,
            chunk_token_pairs=self.chunk_token_pairs,
            max_training_pairs=self.max_training_pairs,
        )


@dataclasses.dataclass(frozen=True)
class Aligner:
    """An estimated model. t(f|e) is stored for the types that co-occur in a sentence pair, sorted by `keys`."""

    config: AlignerConfig
    source_size: int
    target_size: int
    keys: Int[np.ndarray, "entries"]
    """source type * target_size + target type"""
    probability: Float[np.ndarray, "entries"]
    """t(target type | source type); with variational Bayes the rows sum to less than 1"""
    null_probability: Float[np.ndarray, "target_size"]
    """t(target type | null word)"""
    tension: float
    log_likelihoods: tuple[float, ...] = ()
    """of the corpus in nats, before each pass of EM"""


@dataclasses.dataclass(frozen=True)
class Positions:
    """The distinct (i, m, n) of a corpus: all that the prior of a target token depends on."""

    position: Int[np.ndarray, "positions"]
    """i, from 1"""
    target_length: Int[np.ndarray, "positions"]
    source_length: Int[np.ndarray, "positions"]
    first: Int[np.ndarray, "rows"]
    """row -> index of its first target token's (i, m, n); those of its other target tokens follow"""


@dataclasses.dataclass(frozen=True)
class ExpectedCounts:
    """The expected counts of one E-step over the corpus."""

    counts: Float[np.ndarray, "entries"]
    null_counts: Float[np.ndarray, "target_size"]
    feature: float
    """sum over target tokens of the expected h; the null word contributes nothing"""
    mass: Float[np.ndarray, "positions"]
    """expected number of target tokens at each (i, m, n) that a source token, not the null word, accounts for"""
    log_likelihood: float
    """in nats"""


def list_positions(source: Ragged, target: Ragged) -> Positions:
    """The (i, m, n) of all target tokens, each once, by m and n."""
    source_lengths, target_lengths = source.lengths, target.lengths
    width = int(source_lengths.max(initial=0)) + 1
    shapes, shape_of_row = np.unique(target_lengths * width + source_lengths, return_inverse=True)
    m, n = shapes // width, shapes % width
    first = np.cumsum(m) - m
    return Positions(
        np.arange(m.sum()) - np.repeat(first, m) + 1,
        np.repeat(m, m),
        np.repeat(n, m),
        first[shape_of_row],
    )


def diagonal_prior(
    tension: float, positions: Positions
) -> tuple[Float[np.ndarray, "positions"], Float[np.ndarray, "positions"]]:
    """Z(i, m, n) and the mean of h under exp(tension * h) / Z, in closed form (section 3.1, 3.2).

    Away from the diagonal h falls by 1/n a position, on both sides of it: with r = exp(-tension/n),
    up = floor(i n / m), L = up terms to the left and L = n - up to the right, each side is
    g + g r + ... + g r^(L-1), where g is the term nearest to the diagonal."""
    i, m, n = positions.position, positions.target_length, positions.source_length
    up = i * n // m
    ratio = np.exp(-tension / n)
    gap = -np.expm1(-tension / n)  # 1 - r
    normaliser, weighted = np.zeros(len(i)), np.zeros(len(i))
    for nearest, terms in ((up, up), (up + 1, n - up)):
        h = -np.abs(i / m - nearest / n)
        g = np.exp(tension * h)
        power = np.exp(-tension * terms / n)  # r^L
        series = -np.expm1(-tension * terms / n) / gap  # sum of r^l over l < L
        ladder = (ratio - terms * power + (terms - 1) * power * ratio) / gap**2  # sum of l r^l
        normaliser += g * series
        weighted += g * (h * series - ladder / n)
    return normaliser, weighted / normaliser


@runtime_checkable
class Backend(Protocol):
    """The loops over all token pairs of a corpus: in NumPy, the reference, or in C++."""

    positions: Positions

    def cooccurring_types(self) -> Int[np.ndarray, "entries"]:
        """Sorted keys of the (source type, target type) that co-occur in a sentence pair."""

    def expected_counts(self, aligner: Aligner) -> ExpectedCounts:
        """The E-step. The entries of the aligner are the `cooccurring_types` of this corpus."""

    def normalise(
        self,
        counts: Float[np.ndarray, "entries"],
        edges: Int[np.ndarray, "rows"],
        config: AlignerConfig,
    ) -> Float[np.ndarray, "entries"]:
        """The M-step: t(f|e) from expected counts, which it overwrites to save memory. The entries of source type e
        are edges[e] : edges[e + 1]."""

    def links(self, aligner: Aligner) -> Int[np.ndarray, "target_tokens"]:
        """See `aligner.link`."""


def edges(aligner: Aligner) -> Int[np.ndarray, "rows"]:
    """The entries of source type e are edges[e] : edges[e + 1]."""
    return np.searchsorted(aligner.keys, np.arange(aligner.source_size + 1) * aligner.target_size)
