"""What is wrong with translations, and what distillation did to the data: numbers beside BLEU.

Knows strings, token ids and word alignments (nat_ar.data.alignment); no model, no vocabulary."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nat_ar.data.alignment.links import check_links
from nat_ar.data.ragged import Ragged

LENGTH_RATIO_BAND = (0.8, 1.25)
"""Hypothesis tokens / reference tokens: outside of it, translations are too short or too long."""
REPETITION_EXCESS = 1.0
"""Percent of tokens equal to the one before, more than that in the references."""


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """How often each target type is linked to each source type, sorted by source, then target type.
    Only pairs with a link are listed."""

    source: Int[np.ndarray, "entries"]
    target: Int[np.ndarray, "entries"]
    count: Int[np.ndarray, "entries"]


class Repetition(NamedTuple):
    tokens: float
    """percent of all tokens that equal the token before them"""
    sentences: float
    """percent of all sentences with at least one such token"""


def lexicon(links: Int[np.ndarray, "target_tokens"], source: Ragged, target: Ragged) -> Lexicon:
    """Counts all links; a source type that no target token links to has no entry."""
    check_links(links, source, target)
    linked = np.repeat(source.offsets[:-1], target.lengths) + links  # indices into source.values
    source_types = np.asarray(source.values)[linked].astype(np.int64)
    target_types = np.asarray(target.values).astype(np.int64)
    width = int(target_types.max(initial=0)) + 1
    keys, count = np.unique(source_types * width + target_types, return_counts=True)
    return Lexicon(keys // width, keys % width, count)


def complexity(lexicon: Lexicon) -> float:
    """C(d) in nats (Zhou, Neubig & Gu 2020, arXiv:1911.02727, section 3.2): the entropy
    H(y|x) = -sum_y p(y|x) log p(y|x) of the target types y linked to a source type x, averaged over
    the source types that have a link, each counting once however frequent it is.

    0 when every source type has one translation. Raises ValueError on an empty lexicon."""
    probability, row = _conditional(lexicon)
    return float(-(probability * np.log(probability)).sum() / (row[-1] + 1))


def faithfulness(real: Lexicon, distilled: Lexicon, *, skew: float = 0.01) -> float:
    """F(d) in nats (Zhou, Neubig & Gu 2020, section 3.2): KL(p_real(.|x) || p_distilled(.|x)),
    averaged over the source types x that have a link in the real data. Lower is more faithful.

    Distilled data lack many real translations, for which KL is infinite; the paper does not
    define that case. So p_distilled is mixed with a little of p_real, which is Lee's (1999, "Measures of Distributional
    Similarity", section 3) skew divergence, KL(p_real || (1 - skew) p_distilled + skew p_real):
    0 for equal lexicons, and log(1/skew), 4.6, for an x that lost all its translations or has no link
    in the distilled data. No x of the real data is left out. Types that only the distilled data
    have enter through the mass that they take from the others.

    Raises ValueError on an empty real lexicon, or a skew outside of 0 < skew < 1."""
    if not 0 < skew < 1:
        raise ValueError(f"skew must be between 0 and 1, both excluded, got {skew}")
    probability, row = _conditional(real)
    if len(distilled.count):
        other, _ = _conditional(distilled)
        width = int(max(real.target.max(), distilled.target.max())) + 1
        keys = distilled.source * width + distilled.target
        wanted = real.source * width + real.target
        entry = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        matched = np.where(keys[entry] == wanted, other[entry], 0.0)
    else:
        matched = np.zeros(len(probability))
    mixed = (1 - skew) * matched + skew * probability
    return float((probability * np.log(probability / mixed)).sum() / (row[-1] + 1))


def repetition(tokens: Sequence[Sequence[str | int]]) -> Repetition:
    """Consecutive equal tokens of tokenised sentences; zero for no sentences."""
    repeats = [
        sum(a == b for a, b in zip(sentence[1:], sentence[:-1], strict=True)) for sentence in tokens
    ]
    total = sum(map(len, tokens))
    return Repetition(
        100 * sum(repeats) / max(total, 1),
        100 * sum(repeat > 0 for repeat in repeats) / max(len(tokens), 1),
    )


def length_ratio(hypotheses: Iterable[Sequence[str]], references: Iterable[Sequence[str]]) -> float:
    """Words of all hypotheses over words of all references, each a list of words.

    Raises ValueError on unequal numbers of sentences and on references without a word."""
    num_hypotheses, hypothesis_words = _sizes(hypotheses)
    num_references, reference_words = _sizes(references)
    if num_hypotheses != num_references:
        raise ValueError(
            f"expected one hypothesis for each of {num_references} references, got {num_hypotheses}"
        )
    if not reference_words:
        raise ValueError("expected references with words in them, got none; is the file empty?")
    return hypothesis_words / reference_words


def _sizes(sentences: Iterable[Sequence[str]]) -> tuple[int, int]:
    """Sentences, and words in all of them."""
    number = words = 0
    for sentence in sentences:
        number += 1
        words += len(sentence)
    return number, words


def reordering(links: Int[np.ndarray, "target_tokens"], source: Ragged, target: Ragged) -> float:
    """Kendall tau distance between target order and source order, averaged over the sentences with
    a target: the share of the pairs of target tokens whose links cross. 0 is monotone, 1 reversed.

    Two tokens linked to the same source token do not cross; a sentence of one token counts as 0.
    Raises ValueError where no target has a token."""
    check_links(links, source, target)
    lengths = target.lengths
    sentences = int((lengths > 0).sum())
    if not sentences:
        raise ValueError("expected targets with tokens in them, got none")
    distance = 0.0
    for length in np.unique(lengths[lengths > 1]).tolist():
        starts = target.offsets[:-1][lengths == length]
        step = max(1, 1_000_000 // length**2)  # sentences at once: one or two megabytes of booleans
        earlier, later = np.triu_indices(length, k=1)
        for first in range(0, len(starts), step):
            rows = links[starts[first : first + step, None] + np.arange(length)]
            distance += (rows[:, earlier] > rows[:, later]).sum() / len(earlier)
    return float(distance / sentences)


def _conditional(
    lexicon: Lexicon,
) -> tuple[Float[np.ndarray, "entries"], Int[np.ndarray, "entries"]]:
    """p(target type | source type) of each entry, and the index of its source type among those that occur."""
    if not len(lexicon.count):
        raise ValueError("expected a lexicon with links, got an empty one; is the data empty?")
    _, row = np.unique(lexicon.source, return_inverse=True)
    total = np.bincount(row, lexicon.count)
    return lexicon.count / total[row], row


CAUSES = (
    ("repeat the one before", "AR", "", "trained too little"),
    ("repeat the one before", "NAT", "raw", "modes of raw data are mixed, distilled data help"),
    ("repeat the one before", "NAT", "distilled", "modes are still mixed, or trained too little"),
    ("length ratio 0", "AR", "", "early EOS, look at the length penalty"),
    ("length ratio", "AR", "", "no stop at EOS, trained too little"),
    ("length ratio", "NAT", "", "look at its lengths"),
    ("are empty", "AR", "", "EOS comes first, look at the data and the steps"),
    ("are empty", "NAT", "", "look at its lengths"),
)
"""What a warning says, family and training data of the model ("": any), and the likeliest cause: the first that
fits."""


def with_cause(warning: str, family: str | None, training_data: str | None) -> str:
    """A warning with its likeliest cause for such a model; a joint model is one of family NAT here, and of an unknown
    one (None) no cause is known."""
    if family is None:
        return warning
    family = "AR" if family == "AR" else "NAT"
    for part, wanted, data, cause in CAUSES:
        if part in warning and wanted == family and data in ("", training_data):
            return f"{warning}: {cause}"
    return warning


def warnings(
    *,
    length_ratio: float,
    repetition: float,
    reference_repetition: float = 0.0,
    empty: int = 0,
    sentences: int = 0,
) -> list[str]:
    """One line for each number that points to a fault, or that BLEU alone would hide; docs/metrics.md has causes
    and remedies.

    length_ratio: hypothesis tokens / reference tokens. repetition, reference_repetition: percent of tokens equal
    to the one before. empty: hypotheses without text, of `sentences`."""
    lines = []
    low, high = LENGTH_RATIO_BAND
    if not low <= length_ratio <= high:
        lines.append(f"length ratio {length_ratio:.2f} is outside {low}-{high}")
    if repetition - reference_repetition > REPETITION_EXCESS:
        lines.append(
            f"{repetition:.1f} % of the tokens repeat the one before "
            f"(references {reference_repetition:.1f} %)"
        )
    if empty:
        lines.append(f"{empty} of {sentences} translations are empty")
    return lines
