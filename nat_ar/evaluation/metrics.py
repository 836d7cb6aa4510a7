"""Translation quality by sacreBLEU: BLEU, chrF++ and TER, with intervals and paired tests.

Knows strings only: no JAX, no vocabulary, no model. References must be the raw reference text,
never text that went through a model's vocabulary. A metric's sentence statistics are extracted
once; every bootstrap resample is then a weighted sum of them, so an interval costs one matrix
product instead of a rescoring. An empty hypothesis is a hypothesis: it counts with length
zero."""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

SEED = 12345
"""sacreBLEU's own default: with it our resamples are those of `sacrebleu --confidence`."""

LENGTH_BUCKETS = (10, 20, 30, 40, 50)
"""Upper bounds of the reference-length buckets in tokens of the BLEU tokenizer."""

LENGTH_RATIO_BAND = (0.8, 1.25)
"""Hypothesis tokens / reference tokens outside of it say that something is broken."""

REPETITION_NOTABLE = 1.0
REPETITION_BROKEN = 8.0
"""Percent of tokens equal to the one before, beyond that of the references; see `warnings_for`."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A corpus score in percent, its 95 % bootstrap interval and sacreBLEU's signature."""

    score: float
    low: float
    high: float
    signature: str


@dataclasses.dataclass(frozen=True)
class PairedResult:
    """Corpus BLEU of two systems on the same sentences, and the paired bootstrap's verdict."""

    system: float
    baseline: float
    difference: float
    """system - baseline, BLEU points, on the sentences as they are."""
    low: float
    high: float
    """95 % bootstrap interval of the difference."""
    p_value: float
    """Two-sided; see `paired_bootstrap`."""


def check_counts(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Raises ValueError unless there are as many hypotheses as references, and at least one."""
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; every reference needs "
            "exactly one hypothesis, in order, and an empty one counts too"
        )
    if not references:
        raise ValueError("no sentences to score; expected at least one reference")


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    tokenize: str = "13a",
) -> Score:
    """Corpus BLEU of sacreBLEU (Post 2018) for mixed case and `tokenize`, e.g. "13a", "zh",
    "char"."""
    return _score(BLEU(tokenize=tokenize, force=True), hypotheses, references, n_bootstrap)


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, n_bootstrap: int = 1000) -> Score:
    """chrF++ (Popovic 2017): character 6-grams and word 2-grams."""
    return _score(CHRF(word_order=2), hypotheses, references, n_bootstrap)


def ter(hypotheses: Sequence[str], references: Sequence[str], *, n_bootstrap: int = 1000) -> Score:
    """Translation edit rate (Snover et al. 2006) with Tercom's defaults; lower is better, may
    exceed 100."""
    return _score(TER(), hypotheses, references, n_bootstrap)


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a"
) -> float:
    """BLEU alone, without interval: what validation during training needs."""
    metric = BLEU(tokenize=tokenize, force=True)
    return _value(metric, _statistics(metric, hypotheses, references).sum(0))


def sentence_bleu(hypothesis: str, reference: str, *, tokenize: str = "13a") -> float:
    """BLEU of one sentence in percent, to pick the best of a beam (Kim & Rush 2016, section 3.2).

    Orders longer than the hypothesis are left out (effective order) and orders without a match
    count as 1/2, 1/4, ... match (exponential smoothing, Chen & Cherry 2014, method 3). Without
    any match, 0."""
    return _sentence_metric(tokenize).sentence_score(hypothesis, [reference]).score


def bleu_by_group(
    hypotheses: Sequence[str],
    references: Sequence[str],
    groups: Sequence[str],
    *,
    tokenize: str = "13a",
) -> dict[str, dict[str, float | int]]:
    """{group: {"sentences": count, "bleu": corpus BLEU of them}}, groups sorted by name."""
    if len(groups) != len(references):
        raise ValueError(f"{len(groups)} groups for {len(references)} references; one a sentence")
    metric = BLEU(tokenize=tokenize, force=True)
    scores = _by_group(metric, _statistics(metric, hypotheses, references), groups)
    return {group: scores[group] for group in sorted(scores)}


def bleu_by_length(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a"
) -> dict[str, dict[str, float | int]]:
    """As `bleu_by_group`, by reference length in tokens of the BLEU tokenizer, short to long.

    Buckets are "1-10", "11-20", ..., "51+"; "0" holds empty references. Empty buckets are left
    out."""
    metric = BLEU(tokenize=tokenize, force=True)
    statistics = _statistics(metric, hypotheses, references)
    lengths = statistics[:, 1].astype(np.int64)
    scores = _by_group(metric, statistics, [length_bucket(int(length)) for length in lengths])
    return {bucket: scores[bucket] for bucket in length_bucket_names() if bucket in scores}


def length_bucket(length: int) -> str:
    """The bucket of `bleu_by_length` that a reference of `length` tokens falls into."""
    return length_bucket_names()[int(np.searchsorted((0, *LENGTH_BUCKETS), length))]


@functools.cache
def length_bucket_names() -> tuple[str, ...]:
    """All buckets of `bleu_by_length`, short to long."""
    lows = [1, *(bound + 1 for bound in LENGTH_BUCKETS[:-1])]
    closed = [f"{low}-{high}" for low, high in zip(lows, LENGTH_BUCKETS, strict=True)]
    return ("0", *closed, f"{LENGTH_BUCKETS[-1] + 1}+")


def paired_bootstrap(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    tokenize: str = "13a",
) -> PairedResult:
    """Is the BLEU of `system` different from that of `baseline`? Paired bootstrap over sentences.

    Both are scored on the same resamples (Koehn 2004). The differences, shifted to mean zero,
    stand for what chance gives where there is no difference; p is the share of them that is at
    least as large as the observed one in either direction, (count + 1) / (n_bootstrap + 1) so
    that it is never zero. `sacrebleu --paired-bs` shifts the absolute differences instead: that
    halves p where one system is clearly ahead and calls two identical outputs significantly
    different; here those give p = 1."""
    metric = BLEU(tokenize=tokenize, force=True)
    ours = _statistics(metric, system, references)
    theirs = _statistics(metric, baseline, references)
    differences = _resampled(metric, ours, n_bootstrap) - _resampled(metric, theirs, n_bootstrap)
    score, baseline_score = _value(metric, ours.sum(0)), _value(metric, theirs.sum(0))
    observed = score - baseline_score
    chance = np.abs(differences - differences.mean())
    beyond = int(np.sum(chance >= abs(observed) - 1e-9))  # equal up to rounding is as large
    low, high = _interval(differences)
    return PairedResult(
        score, baseline_score, observed, low, high, (beyond + 1) / (n_bootstrap + 1)
    )


def check_references(references: Sequence[str], *, tokenize: str = "13a") -> None:
    """Raises ValueError unless the references, taken as hypotheses, get BLEU 100 and TER 0.

    They do not where the metric is not defined on them, e.g. where none has four tokens."""
    own_bleu = corpus_bleu(references, references, tokenize=tokenize)
    metric = TER()
    own_ter = _value(metric, _statistics(metric, references, references).sum(0))
    if abs(own_bleu - 100) > 1e-6 or own_ter != 0:
        raise ValueError(
            f"the references scored against themselves give BLEU {own_bleu:.2f} and TER "
            f"{own_ter:.2f}, expected 100 and 0; BLEU needs references of four tokens or more "
            f"(tokenizer {tokenize!r})"
        )


def warnings_for(
    *,
    length_ratio: float,
    repetition: float,
    reference_repetition: float = 0.0,
    empty: int = 0,
    sentences: int = 0,
) -> list[str]:
    """Messages for numbers that say that something is broken or that BLEU alone would hide.

    length_ratio: hypothesis tokens / reference tokens. repetition, reference_repetition: percent
    of tokens equal to the one before, in hypotheses and references. empty: hypotheses without
    text, of `sentences`. The bands are counts on published WMT14 En-De outputs (the files of
    Huang et al. 2022, DSLP): reference 0.04 %, CTC 0.09 %, GLAT 0.81 %, vanilla NAT 4.11 %, CMLM
    with one iteration 5.94 %."""
    messages = []
    low, high = LENGTH_RATIO_BAND
    if not low <= length_ratio <= high:
        fault = "short" if length_ratio < low else "long"
        messages.append(
            f"length ratio {length_ratio:.2f} is outside {low}-{high}: translations are too "
            f"{fault}; look at length prediction, the stop at EOS and the decoder's settings"
        )
    excess = repetition - reference_repetition
    if excess > REPETITION_BROKEN:
        messages.append(
            f"{repetition:.1f} % of the tokens repeat the one before (references "
            f"{reference_repetition:.1f} %), more than any published one-pass system (CMLM with "
            "one iteration 5.9 %): too little training, or a fault in padding or upsampling"
        )
    elif excess > REPETITION_NOTABLE:
        messages.append(
            f"{repetition:.1f} % of the tokens repeat the one before (references "
            f"{reference_repetition:.1f} %); published: GLAT 0.8 %, vanilla NAT 4.1 %, CMLM with "
            "one iteration 5.9 %: modes are mixed, distilled data or another loss helps"
        )
    if empty:
        messages.append(f"{empty} of {sentences} translations are empty")
    return messages


def tokenizer_of(signature: str) -> str:
    """The value of `tok` in a sacreBLEU signature: "13a" in "nrefs:1|case:mixed|tok:13a|..."."""
    fields = dict(field.partition(":")[::2] for field in signature.split("|"))
    if "tok" not in fields:
        raise ValueError(f"no tok: field in the BLEU signature {signature!r}")
    return fields["tok"]


def without_bootstrap(signature: str) -> str:
    """A signature less its bs: and seed: fields, which say how an interval was made, not a
    score."""
    return "|".join(
        field for field in signature.split("|") if not field.startswith(("bs:", "seed:"))
    )


@functools.cache
def _sentence_metric(tokenize: str) -> BLEU:
    return BLEU(tokenize=tokenize, effective_order=True, smooth_method="exp", force=True)


def _score(
    metric: Metric, hypotheses: Sequence[str], references: Sequence[str], n_bootstrap: int
) -> Score:
    statistics = _statistics(metric, hypotheses, references)
    low, high = _interval(_resampled(metric, statistics, n_bootstrap))
    metric.n_bootstrap, metric.seed = n_bootstrap, str(SEED)  # the signature shows both
    return Score(_value(metric, statistics.sum(0)), low, high, str(metric.get_signature()))


def _statistics(
    metric: Metric, hypotheses: Sequence[str], references: Sequence[str]
) -> Float[np.ndarray, "sentences statistics"]:
    """sacreBLEU's sufficient statistics of every sentence; their sum over sentences gives the
    score."""
    check_counts(hypotheses, references)
    rows = metric._extract_corpus_statistics(hypotheses, [references])
    return np.asarray(rows, dtype=np.float64)


def _value(metric: Metric, total: Float[np.ndarray, "statistics"]) -> float:
    return float(metric._compute_score_from_stats(total.tolist()).score)


def _resampled(
    metric: Metric, statistics: Float[np.ndarray, "sentences statistics"], n_bootstrap: int
) -> Float[np.ndarray, "n_bootstrap"]:
    """The score of every resample; the resamples depend on the number of sentences only."""
    if n_bootstrap < 40:
        raise ValueError(f"n_bootstrap {n_bootstrap} is too few for a 95 % interval; at least 40")
    totals = [counts @ statistics for counts in _resample_counts(len(statistics), n_bootstrap)]
    return np.asarray([_value(metric, total) for total in np.concatenate(totals)])


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


def _by_group(
    metric: Metric,
    statistics: Float[np.ndarray, "sentences statistics"],
    groups: Sequence[str],
) -> dict[str, dict[str, float | int]]:
    members: dict[str, list[int]] = collections.defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    return {
        group: {"sentences": len(rows), "bleu": _value(metric, statistics[rows].sum(0))}
        for group, rows in members.items()
    }
