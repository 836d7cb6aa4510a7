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

import ctypes
import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from nat_ar.data.ragged import Ragged, token_type
from nat_ar.runtime import native_library

SMALLEST_PROBABILITY = np.float32(np.finfo(np.float32).tiny)
"""Floor of t(f|e): where every candidate is hopeless, the diagonal still decides."""
TENSION_RANGE = (0.1, 14.0)  # as in the authors' program
FLAT_TENSION = 0.1  # weighs the far end of a sentence 10 % less than the diagonal
TENSION_STEPS = 8  # gradient steps after each pass over the corpus
# In nats per target token. The objective is concave in the tension with curvature of at most
# max Var(h) = 1/12, so any rate below 24 climbs without overshooting.
TENSION_RATE = 20.0


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
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.flat_iterations < 0:
            raise ValueError(f"flat_iterations must be at least 0, got {self.flat_iterations}")
        if not 0 < self.null_probability < 1:
            raise ValueError(
                f"null_probability must be between 0 and 1, both excluded, got "
                f"{self.null_probability}"
            )
        low, high = TENSION_RANGE
        if not self.tension > 0 or (self.optimise_tension and not low <= self.tension <= high):
            raise ValueError(
                f"tension must be positive, and from {low} to {high} where it is optimised, got "
                f"{self.tension}; set optimise_tension=False to keep it where it is"
            )
        if self.variational_bayes and not self.concentration > 0:
            raise ValueError(
                f"concentration must be positive, got {self.concentration}; "
                "set variational_bayes=False for maximum likelihood"
            )
        if self.chunk_token_pairs < 1:
            raise ValueError(f"chunk_token_pairs must be at least 1, got {self.chunk_token_pairs}")


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


@dataclasses.dataclass(frozen=True)
class TokenPairs:
    """All (source token, target token) pairs of some sentences, ordered by target token and then by
    source position: the pairs of one target token lie side by side."""

    key: Int[np.ndarray, "pairs"]
    """source type * target_size + target type"""
    source_position: Int[np.ndarray, "pairs"]
    """j - 1"""
    feature: Float[np.ndarray, "pairs"]
    """h(i, j, m, n)"""
    target: Int[np.ndarray, "target_tokens"]
    """Type of each target token."""
    place: Int[np.ndarray, "target_tokens"]
    """Index into Places."""
    source_length: Int[np.ndarray, "target_tokens"]
    """n: the number of pairs of each target token."""
    start: Int[np.ndarray, "target_tokens"]
    """The first pair of each target token."""


def align(
    source: Ragged,
    target: Ragged,
    config: AlignerConfig,
    *,
    source_size: int,
    target_size: int,
    progress: Callable[[str], None] | None = None,
) -> Int[np.ndarray, "target_tokens"]:
    """Estimates an aligner on the corpus and links the same corpus: see `train` and `link`."""
    aligner = train(
        source, target, config, source_size=source_size, target_size=target_size, progress=progress
    )
    return link(aligner, source, target)


def train(
    source: Ragged,
    target: Ragged,
    config: AlignerConfig,
    *,
    source_size: int,
    target_size: int,
    progress: Callable[[str], None] | None = None,
) -> Aligner:
    """EM over all sentence pairs. Deterministic. `progress` gets a line for each pass.

    Raises ValueError where the corpora do not fit each other or the vocabulary sizes, and where a
    target has tokens and its source has none."""
    _check_parallel(source, target)
    _check_ids(source, target, source_size, target_size)
    passes = passes_over(source, target, source_size, target_size, config)
    keys = passes.meeting_types()
    aligner = Aligner(
        config,
        source_size,
        target_size,
        keys,
        np.full(len(keys), 1 / target_size, np.float32),
        np.full(target_size, 1 / target_size),
        FLAT_TENSION if config.flat_iterations else config.tension,
    )
    iterations = config.flat_iterations + config.iterations
    for number in range(1, iterations + 1):
        began = time.perf_counter()
        found = passes.expectation(aligner)
        aligner = _maximise(aligner, found, passes)
        if number == config.flat_iterations:
            aligner = dataclasses.replace(aligner, tension=config.tension)
        elif number > config.flat_iterations and config.optimise_tension:
            tension = _climb(aligner.tension, found, passes.places)
            aligner = dataclasses.replace(aligner, tension=tension)
        if progress is not None:
            tokens = max(len(target.values), 1)
            rate = tokens / (time.perf_counter() - began)
            progress(
                f"alignment {number}/{iterations}: perplexity "
                f"{np.exp(-found.log_likelihood / tokens):.2f}, tension {aligner.tension:.2f}, "
                f"{rate:,.0f} target tokens/s, {len(keys):,} entries, "
                f"{tokens / rate * (iterations - number):,.0f} s left"
            )
    return aligner


def link(aligner: Aligner, source: Ragged, target: Ragged) -> Int[np.ndarray, "target_tokens"]:
    """For every target token (flat, like `target.values`) the position within its sentence of the
    source token that most probably accounts for it, the null word left out; ties go to the left.

    The corpus need not be the one that the aligner was estimated on: types that never met there get
    the smallest probability, so that the diagonal decides among them."""
    _check_parallel(source, target)
    _check_ids(source, target, aligner.source_size, aligner.target_size)
    if len(target.values) and not len(aligner.keys):
        raise ValueError("expected an aligner that has seen sentence pairs; it was trained on none")
    sizes = aligner.source_size, aligner.target_size
    return passes_over(source, target, *sizes, aligner.config).links(aligner)


def fertilities(links: Int[np.ndarray, "target_tokens"], source: Ragged, target: Ragged) -> Ragged:
    """How many target tokens link to each source token: rows like those of `source`, 0 where none, on
    the right end too; each row adds up to the length of the target."""
    check_links(links, source, target)
    place = np.repeat(source.offsets[:-1], target.lengths) + links
    counts = np.bincount(place, minlength=len(source.values)).astype(np.int32)
    return Ragged(counts, np.asarray(source.offsets))


def read_pharaoh(
    lines: Iterable[str], source: Ragged, target: Ragged
) -> Int[np.ndarray, "target_tokens"]:
    """Links from an outside aligner: a line per sentence pair of "i-j" with i a source and j a target
    position, both from 0, in the tokens that `source` and `target` have.

    Each target token ends with exactly one link:
    - of several links the one nearest to the diagonal stays (the left one of two equally near);
    - without a link it takes that of the nearest target token that has one (the left one of two);
    - in a sentence without any link, target position j of m goes to source position j * n // m.

    Raises ValueError, with the line's number, for what is not "i-j" or is out of range, and for a
    number of lines that is not the number of sentence pairs."""
    _check_parallel(source, target)
    links = np.zeros(len(target.values), np.int32)
    source_lengths, target_lengths = source.lengths.tolist(), target.lengths.tolist()
    row = -1
    for row, line in enumerate(lines):
        if row >= len(target):
            raise ValueError(
                f"expected {len(target)} lines of alignments, one per sentence pair, got more"
            )
        m, n = target_lengths[row], source_lengths[row]
        kept: list[int | None] = [None] * m
        for item in line.split():
            match = re.fullmatch(r"(\d+)-(\d+)", item, re.ASCII)
            if match is None:
                raise ValueError(
                    f'alignments, line {row + 1}: expected "source-target" positions such as '
                    f'"0-0 2-1", got {item!r}'
                )
            i, j = int(match[1]), int(match[2])
            if i >= n or j >= m:
                raise ValueError(
                    f"alignments, line {row + 1}: {item} is out of range, the source has {n} tokens "
                    f"and the target {m}; positions count from 0, source first, in the same tokens "
                    "as the text"
                )
            present = kept[j]
            # |(j + 1/2)/m - (i + 1/2)/n|, times 2mn to stay in whole numbers; then the left one
            if present is None or (abs((2 * j + 1) * n - (2 * i + 1) * m), i) < (
                abs((2 * j + 1) * n - (2 * present + 1) * m),
                present,
            ):
                kept[j] = i
        links[target.offsets[row] : target.offsets[row + 1]] = _fill(kept, n)
    if row + 1 != len(target):
        raise ValueError(
            f"expected {len(target)} lines of alignments, one per sentence pair, got {row + 1}"
        )
    return links


def _fill(kept: list[int | None], source_length: int) -> list[int]:
    """A link for every target token of a sentence, by the rules of `read_pharaoh`."""
    linked = [(j, i) for j, i in enumerate(kept) if i is not None]
    if not linked:
        return [j * source_length // len(kept) for j in range(len(kept))]
    # (distance, position, link): the nearest, and of two equally near the left one
    return [
        min((abs(other - j), other, i) for other, i in linked)[2] if present is None else present
        for j, present in enumerate(kept)
    ]


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


def passes_over(
    source: Ragged, target: Ragged, source_size: int, target_size: int, config: AlignerConfig
) -> Passes:
    """In C++ where it can be; there a token's place has 32 bits."""
    library = _library()
    if library is None or max(len(source.values), len(target.values)) >= 1 << 32:
        return NumpyPasses(source, target, target_size, config.chunk_token_pairs)
    return NativePasses(library, source, target, source_size, target_size)


def _library() -> ctypes.CDLL | None:
    return native_library.load(
        Path(__file__).with_suffix(".cc"), without="word alignment takes twenty times as long"
    )


class NumpyPasses:
    """Runs on flat arrays of token pairs, a chunk of sentences at a time."""

    def __init__(
        self, source: Ragged, target: Ragged, target_size: int, chunk_token_pairs: int
    ) -> None:
        self.source, self.target, self.target_size = source, target, target_size
        self.chunk_token_pairs = chunk_token_pairs
        self.places = list_places(source, target)

    def _pairs(self) -> Iterator[tuple[int, int, TokenPairs]]:
        for first, last in _chunks(self.source, self.target, self.chunk_token_pairs):
            pairs = list_pairs(self.source, self.target, self.places, first, last, self.target_size)
            yield first, last, pairs

    def meeting_types(self) -> Int[np.ndarray, "entries"]:
        """Chunks are merged when they are of like size, so that each key is moved a logarithmic number of
        times."""
        runs: list[np.ndarray] = []
        for _, _, pairs in self._pairs():
            runs.append(_distinct(np.sort(pairs.key)))
            while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
                runs.append(_merge(runs.pop(), runs.pop()))
        while len(runs) > 1:
            runs.append(_merge(runs.pop(), runs.pop()))
        return runs[0] if runs else np.zeros(0, np.int64)

    def expectation(self, aligner: Aligner) -> Expectation:
        p0 = aligner.config.null_probability
        normaliser, _ = diagonal_prior(aligner.tension, self.places)
        counts = np.zeros(len(aligner.keys))
        null_counts = np.zeros(aligner.target_size)
        mass = np.zeros(len(self.places.position))
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
            mass += np.bincount(pairs.place, 1 - null, len(mass))
            feature += float(score @ pairs.feature)
            log_likelihood += float(np.log(total).sum())
        return Expectation(counts.astype(np.float32), null_counts, feature, mass, log_likelihood)

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
            counts[part] = _normalise(
                counts[part].astype(np.float64), total[row], support[row], config
            )
        return counts

    def links(self, aligner: Aligner) -> Int[np.ndarray, "target_tokens"]:
        normaliser, _ = diagonal_prior(aligner.tension, self.places)
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
    source: Ragged, target: Ragged, places: Places, first: int, last: int, target_size: int
) -> TokenPairs:
    """The token pairs of the rows from `first` up to, not including, `last`."""
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
    # (i n - j m) / m n, in whole numbers first: two that are as far from the diagonal are equal to the bit
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
        np.repeat(places.first[first:last], m) + within,
        source_length,
        start,
    )


def _prior(
    aligner: Aligner, pairs: TokenPairs, normaliser: Float[np.ndarray, "places"]
) -> Float[np.ndarray, "pairs"]:
    """p(a_i = j) of each pair."""
    scale = (1 - aligner.config.null_probability) / normaliser[pairs.place]
    prior = np.exp(aligner.tension * pairs.feature)
    prior *= np.repeat(scale, pairs.source_length)
    return prior


class _Corpus(ctypes.Structure):
    """As in alignment.cc."""

    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("token_bytes", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("source_size", ctypes.c_int64),
        ("target_size", ctypes.c_int64),
        ("occurrences", ctypes.c_void_p),
        ("spans", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("length", ctypes.c_void_p),
        ("width", ctypes.c_void_p),
        ("source_places", ctypes.c_int64),
    )


AHEAD, LANES = 12, 4
"""Occurrences and target tokens that alignment.cc may read behind the last one."""
KEYS_AT_ONCE = 1 << 20


class NativePasses:
    """Runs over the occurrences of one source type after the other: alignment.cc says why."""

    def __init__(
        self,
        library: ctypes.CDLL,
        source: Ragged,
        target: Ragged,
        source_size: int,
        target_size: int,
    ) -> None:
        self.library = library
        self.places = list_places(source, target)
        sides = list_places(target, source)  # the other way round: m is its source_length
        token = token_type(max(source_size, target_size))
        tokens = np.zeros(len(target.values) + LANES, token)
        tokens[: len(target.values)] = target.values
        occurrences = np.empty((len(source.values) + AHEAD, 2), np.uint32)
        occurrences[len(source.values) :] = 0
        self.sums = np.empty(len(tokens))  # scratch, by target token
        self.tokens = len(target.values)
        self.arrays = {
            "tokens": tokens,
            "offsets": _array(target.offsets, np.int64),
            "first": _array(self.places.first, np.int64),
            "occurrences": occurrences,
            "spans": np.empty(source_size + 1, np.int64),
            "position": _array(sides.position, np.int64),
            "length": _array(sides.source_length, np.int64),
            "width": _array(sides.target_length, np.int64),
        }
        self.corpus = _Corpus(
            token_bytes=tokens.itemsize,
            rows=len(target),
            source_size=source_size,
            target_size=target_size,
            source_places=len(sides.position),
            **{name: array.ctypes.data for name, array in self.arrays.items()},
        )
        self._call(
            "NatArListOccurrences",
            _array(source.values, token),
            _array(source.offsets, np.int64),
            _array(sides.first, np.int64),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        """A function of the library on the corpus; arrays go by address."""
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64
        return function(ctypes.byref(self.corpus), *map(_argument, arguments))

    def meeting_types(self) -> Int[np.ndarray, "entries"]:
        room = np.empty(max(self.corpus.target_size, KEYS_AT_ONCE), np.int64)
        runs, filled, source_type = [np.zeros(0, np.int64)], ctypes.c_int64(), 0
        while source_type < self.corpus.source_size:
            source_type = self._call(
                "NatArListTypes", source_type, len(room), room, ctypes.byref(filled)
            )
            runs.append(room[: filled.value].copy())
        return np.concatenate(runs)

    def expectation(self, aligner: Aligner) -> Expectation:
        p0 = aligner.config.null_probability
        normaliser, _ = diagonal_prior(aligner.tension, self.places)
        counts = np.empty(len(aligner.keys), np.float32)
        null_counts = np.zeros(aligner.target_size)
        mass = np.zeros(len(self.places.position))
        totals = np.zeros(2)
        self._call(
            "NatArExpectation",
            *_table(aligner),
            aligner.tension,
            p0,
            (1 - p0) / normaliser,
            _array(aligner.null_probability, np.float64),
            self.sums,
            counts,
            null_counts,
            mass,
            totals,
        )
        return Expectation(counts, null_counts, float(totals[0]), mass, float(totals[1]))

    def normalise(
        self,
        counts: Float[np.ndarray, "entries"],
        edges: Int[np.ndarray, "rows"],
        config: AlignerConfig,
    ) -> Float[np.ndarray, "entries"]:
        concentration = config.concentration if config.variational_bayes else 0.0
        smallest = float(SMALLEST_PROBABILITY)
        self._call("NatArNormalise", counts, edges, concentration, smallest)
        return counts

    def links(self, aligner: Aligner) -> Int[np.ndarray, "target_tokens"]:
        links = np.empty(self.tokens, np.int32)
        unmet = float(SMALLEST_PROBABILITY)
        self._call("NatArLinks", *_table(aligner), aligner.tension, unmet, self.sums, links)
        return links


def _table(aligner: Aligner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys, probability = _array(aligner.keys, np.int64), _array(aligner.probability, np.float32)
    return keys, _edges(aligner), probability


def _array(values: np.ndarray, dtype: Any) -> np.ndarray:
    """As C++ reads it; a copy only where it is not so already."""
    return np.ascontiguousarray(values, dtype)


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.ctypes.data_as(ctypes.c_void_p)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_double(value) if isinstance(value, float) else value


def _edges(aligner: Aligner) -> Int[np.ndarray, "rows"]:
    """The entries of source type e lie from edges[e] up to edges[e + 1]."""
    return np.searchsorted(aligner.keys, np.arange(aligner.source_size + 1) * aligner.target_size)


def _maximise(aligner: Aligner, found: Expectation, passes: Passes) -> Aligner:
    """The M-step of both tables."""
    config = aligner.config
    probability = passes.normalise(found.counts, _edges(aligner), config)
    occurs = found.null_counts > 0
    null_probability = np.full(aligner.target_size, SMALLEST_PROBABILITY, np.float64)
    null_probability[occurs] = _normalise(
        found.null_counts[occurs],
        np.full(occurs.sum(), found.null_counts.sum()),
        np.full(occurs.sum(), occurs.sum()),
        config,
    )
    return dataclasses.replace(
        aligner,
        probability=probability,
        null_probability=null_probability,
        log_likelihoods=(*aligner.log_likelihoods, found.log_likelihood),
    )


def _normalise(
    counts: Float[np.ndarray, "entries"],
    total: Float[np.ndarray, "entries"],
    support: Int[np.ndarray, "entries"],
    config: AlignerConfig,
) -> Float[np.ndarray, "entries"]:
    """t(f|e) from expected counts, the total of each entry's row and its number of entries."""
    if config.variational_bayes:
        from scipy import special  # takes a fifth of a second: not for those who translate

        alpha = config.concentration
        probability = np.exp(
            special.digamma(counts + alpha) - special.digamma(total + alpha * support)
        )
    else:
        probability = counts / np.maximum(total, SMALLEST_PROBABILITY)
    return np.maximum(probability, SMALLEST_PROBABILITY)


def _climb(tension: float, found: Expectation, places: Places) -> float:
    """Gradient steps on the expected log prior: sum of mass * (E_posterior[h] - E_prior[h])."""
    tokens = found.mass.sum()
    if not tokens:
        return tension
    for _ in range(TENSION_STEPS):
        _, mean_feature = diagonal_prior(tension, places)
        gradient = (found.feature - float(found.mass @ mean_feature)) / tokens
        tension = float(np.clip(tension + TENSION_RATE * gradient, *TENSION_RANGE))
    return tension


def _merge(
    left: Int[np.ndarray, "left"], right: Int[np.ndarray, "right"]
) -> Int[np.ndarray, "both"]:
    """The sorted union of two sorted arrays; a stable sort merges two runs in linear time."""
    both = np.concatenate([left, right])
    both.sort(kind="stable")
    return _distinct(both)


def _distinct(keys: Int[np.ndarray, "keys"]) -> Int[np.ndarray, "entries"]:
    """Sorted keys, each once. (np.unique takes ten times as long: it starts from a hash table.)"""
    is_new = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    return keys[is_new]


def _chunks(source: Ragged, target: Ragged, token_pairs: int) -> Iterator[tuple[int, int]]:
    """Spans of rows with about that many token pairs, at most one sentence more; spans without a
    target token are left out."""
    count = source.lengths * target.lengths
    span = (np.cumsum(count) - count) // token_pairs
    edges = np.flatnonzero(np.diff(span)) + 1
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(count)], strict=True):
        if target.offsets[last] > target.offsets[first]:
            yield first, last


def _check_parallel(source: Ragged, target: Ragged) -> None:
    if len(source) != len(target):
        raise ValueError(
            f"expected as many targets as sources, got {len(source)} sources and {len(target)} "
            "targets; align what was prepared together"
        )
    lost = np.flatnonzero((source.lengths == 0) & (target.lengths > 0))
    if len(lost):
        raise ValueError(
            f"expected a source token for every target to link to, got an empty source with a target "
            f"of {target.lengths[lost[0]]} tokens in row {lost[0]} ({len(lost)} such rows); drop "
            "pairs with an empty side first"
        )


def _check_ids(source: Ragged, target: Ragged, source_size: int, target_size: int) -> None:
    for name, side, size in (("source", source, source_size), ("target", target, target_size)):
        if len(side.values) and not (side.values.min() >= 0 and side.values.max() < size):
            raise ValueError(
                f"expected {name} ids from 0 to {size - 1}, got {side.values.min()} to "
                f"{side.values.max()}; is {name}_size the size of the vocabulary that made them?"
            )


def check_links(links: Int[np.ndarray, "target_tokens"], source: Ragged, target: Ragged) -> None:
    """Raises ValueError where links cannot be of these sentences."""
    _check_parallel(source, target)
    if len(links) != len(target.values):
        raise ValueError(
            f"expected one link per target token, {len(target.values)}, got {len(links)}; "
            "these links belong to other data"
        )
    wrong = np.flatnonzero((links < 0) | (links >= np.repeat(source.lengths, target.lengths)))
    if len(wrong):
        row = int(np.searchsorted(target.offsets, wrong[0], side="right")) - 1
        raise ValueError(
            f"row {row}: expected links from 0 to {source.lengths[row] - 1}, got {links[wrong[0]]}; "
            "these links belong to other data"
        )
