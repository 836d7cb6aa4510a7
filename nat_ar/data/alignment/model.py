"""Word alignment: which source token accounts for each target token, and from that the fertilities.

IBM Model 2 with the diagonal prior of fast_align (Dyer, Chahuneau & Smith 2013, "A Simple, Fast, and
Effective Reparameterization of IBM Model 2"), estimated by EM. With i = 1..m over the target tokens
f and j = 1..n over the source tokens e of a sentence pair, and 0 the null word:

    h(i, j, m, n)      = -|i/m - j/n|
    p(a_i = 0)         = p0
    p(a_i = j)         = (1 - p0) exp(tension * h(i, j, m, n)) / Z(i, m, n)
    p(f_i | a_i = j)   = t(f_i | e_j)

Knows token ids only, without BOS and EOS. The null word takes part in the estimation; a link never
goes to it, because fertilities must add up to the length of the target.

The passes over all token pairs are in C++ (alignment.cc, built at first use), and in NumPy where there is
no compiler; both find the same. Memory is dominated by the lexical table: 16 bytes for each distinct pair of
source and target type that ever meets in a sentence, in NumPy 24; beside it C++ needs some 16 bytes a token
of either side. Time goes with the token pairs.

Measured with 8,000 types, 20 tokens a side, 5 + 5 passes and the links, on one core of an EPYC (Zen 3) whose
other core was busy (by hand; `bash scripts/benchmark_cpu.sh --only data` times it within `prepare`); memory is the
whole process, with the corpus:

    pairs      token pairs  entries     C++                 NumPy
    100,000     45 million  11 million  6 s, 0.3 GB         125 s, 0.5 GB
    1,000,000  452 million  36 million  54 to 62 s, 1.1 GB
"""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.data.ragged import Ragged

SMALLEST_PROBABILITY = np.float32(np.finfo(np.float32).tiny)
"""Floor of t(f|e): where every candidate is hopeless, the diagonal still decides."""
TENSION_RANGE = (0.1, 14.0)  # as in the authors' program


@dataclasses.dataclass(frozen=True)
class AlignerConfig:
    """How the aligner is estimated.

    Gu et al. (2018) took their fertilities from fast_align -d -o -v, which is flat_iterations=0,
    optimise_tension=True, variational_bayes=True. Our defaults differ where measuring told us to. Share
    of right links, where a dictionary knows what is right: of Tatoeba English-German (50,001 pairs by
    words; 43,720 links of content words, 84,271 of function words and punctuation), and of 8,000
    pairs of the toy language (47,065 links):

        flat_iterations  tension             content  function  toy
        0                4, optimised (11.0)  96.6 %   97.2 %   94.5 %
        0                4                    99.1 %   98.2 %   98.5 %
        5                4, optimised (8.9)   98.9 %   98.1 %   98.1 %
        5                4                    99.4 %   98.4 %   99.0 %
        5                2                    99.5 %   98.5 %   99.5 %
        the fourth without variational Bayes  98.8 %   97.9 %   98.7 %

    Likelihood rises with the tension all the same: it pays for the many words that stay in place with
    the verbs that move to the end. The weaker tension 2 lacks a test on long sentences, where the
    diagonal must tell several equal words apart."""

    iterations: int = 5
    """Passes of EM over the corpus."""
    flat_iterations: int = 5
    """Passes before those with an all but flat prior, as in IBM Model 1: words that move far find their
    translation before the diagonal counts."""
    null_probability: float = 0.08
    """Prior probability that no source token accounts for a target token."""
    tension: float = 4.0
    """How strongly links keep to the diagonal (the weaker the nearer to 0), or where its optimisation
    starts."""
    optimise_tension: bool = False
    """Climb the likelihood in the tension, too."""
    variational_bayes: bool = True
    """A Dirichlet prior on every t(.|e), by mean field: keeps rare source tokens from explaining
    everything around them. False is maximum likelihood."""
    concentration: float = 0.01
    """Parameter of that symmetric prior, for each target type that meets the source type."""
    chunk_token_pairs: int = 1_000_000
    """Token pairs in memory at once, where NumPy does the work. Costs memory and time only; the links stay."""

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
        if self.chunk_token_pairs < 1:
            raise ConfigError(f"chunk_token_pairs must be at least 1, got {self.chunk_token_pairs}")


@dataclasses.dataclass(frozen=True)
class Aligner:
    """An estimated model. t(f|e) is kept for the types that met in a sentence, sorted by `keys`."""

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
    """Of the corpus in nats, before each pass of EM."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Every (i, m, n) of a corpus once. The prior depends on nothing else of a target token."""

    position: Int[np.ndarray, "places"]
    """i, from 1"""
    target_length: Int[np.ndarray, "places"]
    source_length: Int[np.ndarray, "places"]
    first: Int[np.ndarray, "rows"]
    """Row -> the place of its first target token; those of its others follow."""


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What one pass over the corpus finds under the current model (the E-step)."""

    counts: Float[np.ndarray, "entries"]
    null_counts: Float[np.ndarray, "target_size"]
    feature: float
    """Sum of the expected h over the target tokens that are not of the null word."""
    mass: Float[np.ndarray, "places"]
    """Expected number of target tokens at each place that are not of the null word."""
    log_likelihood: float
    """In nats."""


def list_places(source: Ragged, target: Ragged) -> Places:
    """The places of a corpus; empty targets have none."""
    source_lengths, target_lengths = source.lengths, target.lengths
    width = int(source_lengths.max(initial=0)) + 1
    shapes, shape_of_row = np.unique(target_lengths * width + source_lengths, return_inverse=True)
    m, n = shapes // width, shapes % width
    first = np.cumsum(m) - m
    return Places(
        np.arange(m.sum()) - np.repeat(first, m) + 1,
        np.repeat(m, m),
        np.repeat(n, m),
        first[shape_of_row],
    )


def diagonal_prior(
    tension: float, places: Places
) -> tuple[Float[np.ndarray, "places"], Float[np.ndarray, "places"]]:
    """Z(i, m, n) and the mean of h under exp(tension * h) / Z, in closed form (section 3.1, 3.2).

    Away from the diagonal h falls by 1/n a position, on both sides of it: with r = exp(-tension/n),
    up = floor(i n / m), L = up terms to the left and L = n - up to the right, each side is
    g + g r + ... + g r^(L-1), where g is the term nearest to the diagonal."""
    i, m, n = places.position, places.target_length, places.source_length
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
class Passes(Protocol):
    """What takes all token pairs of a corpus. Two do it: one in NumPy, the reference, and one in C++."""

    places: Places

    def meeting_types(self) -> Int[np.ndarray, "entries"]:
        """The sorted keys of all types that meet."""

    def expectation(self, aligner: Aligner) -> Expectation:
        """The E-step, with an aligner whose entries are those that meet here."""

    def normalise(
        self,
        counts: Float[np.ndarray, "entries"],
        edges: Int[np.ndarray, "rows"],
        config: AlignerConfig,
    ) -> Float[np.ndarray, "entries"]:
        """The M-step: t(f|e) from expected counts, in their place to save memory. The entries of source
        type e lie from edges[e] up to edges[e + 1]."""

    def links(self, aligner: Aligner) -> Int[np.ndarray, "target_tokens"]:
        """See `link`."""


def edges(aligner: Aligner) -> Int[np.ndarray, "rows"]:
    """The entries of source type e lie from edges[e] up to edges[e + 1]."""
    return np.searchsorted(aligner.keys, np.arange(aligner.source_size + 1) * aligner.target_size)
