"""Translation quality: METRICS (BLEU, with and without case, chrF++ and TER by sacreBLEU), with intervals and paired
tests.

Strings in, numbers out: no JAX, no vocabulary, no model. References must be the raw reference text, never
text that went through a model's vocabulary; there may be several for every sentence. An empty hypothesis counts, with
length zero.

A further metric is a Metric in a Python file of its own (docs/metrics.md): `load` reads it."""

import collections
import dataclasses
import functools
import re
import runpy
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from nat_ar.data import references as reference_texts
from nat_ar.data.references import USUAL, Tokenizer
from nat_ar.evaluation import bootstrap
from nat_ar.evaluation.bootstrap import PairedResult

if TYPE_CHECKING:
    import sacrebleu.metrics.base  # takes 0.13 s, and training needs it at its first validation only

References = Sequence[str] | Sequence[Sequence[str]]
"""A reference for each sentence; or several such lists, of which a sentence has one reference each."""

LENGTH_BUCKETS = (10, 20, 30, 40, 50)
"""Upper bounds of the reference-length buckets in tokens of the BLEU tokenizer."""


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a corpus, its 95 % interval, and how it was computed."""

    score: float
    low: float | None
    high: float | None
    """None, None: the metric gives no interval"""
    signature: str
    """all that must be equal to compare two scores: sacreBLEU's signature; a model and its version"""
    by_sentence: tuple[float, ...] | None = None
    """the scores of which it is the mean, for paired tests; they are kept beside the row"""

    def as_row(self) -> dict[str, Any]:
        """As a row has it."""
        return {key: getattr(self, key) for key in ("score", "low", "high", "signature")}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of translation quality: what `evaluate` computes and `compare` shows."""

    name: str
    """key of its score in a row and column of the CSV: lower-case letters, digits and "_" """
    title: str
    """its name in tables and pictures"""
    compute: Callable[[Sequence[str], Any, Sequence[str]], Score]
    """(hypotheses, references, sources) -> score, one text a sentence each"""
    direction: Literal["higher", "lower"] = "higher"
    """which scores are better"""
    decimals: int = 2
    shows_interval: bool = False
    """tables show the interval beside the score"""
    takes_several_references: bool = False
    """`compute` also takes several lists of references where there are several"""
    in_table: bool = True
    """a column of tables that name no columns; by its name every metric is one, and the CSV has all"""

    source: str | None = None
    """the file that `load` read it from"""

    def text(self, score: float) -> str:
        return f"{score:.{self.decimals}f}"

    def require_references(self, number: int) -> None:
        """Raises ValueError for several references of a sentence where the metric takes one."""
        if number > 1 and not self.takes_several_references:
            raise ValueError(
                f"{self.title} takes one reference a sentence, got {number}: evaluate by it with one, or give its "
                "Metric takes_several_references=True where its `compute` can do it"
            )

    def summary(self, score: Mapping[str, Any]) -> str:
        """ "BLEU 27.31 [26.50, 28.10]", from the score as a row has it."""
        text = f"{self.title} {self.text(score['score'])}"
        if self.shows_interval:
            text += f" [{self.text(score['low'])}, {self.text(score['high'])}]"
        return text


def reference_lists(references: References) -> list[Sequence[str]]:
    """Each list of references: one, or several."""
    if not references or isinstance(references[0], str):
        return [typing.cast(Sequence[str], references)]
    return list(references)


def check_counts(hypotheses: Sequence[str], references: References) -> None:
    """Raises ValueError unless there are as many hypotheses as references in each list, and at least one."""
    for texts in reference_lists(references):
        if len(hypotheses) != len(texts):
            raise ValueError(
                f"{len(hypotheses)} hypotheses for {len(texts)} references; every reference needs "
                "exactly one hypothesis, in order, and an empty one counts too"
            )
        if not texts:
            raise ValueError("no sentences to score; expected at least one reference")


def bleu(
    hypotheses: Sequence[str],
    references: References,
    *,
    n_bootstrap: int = 1000,
    tokenize: Tokenizer = USUAL,
    lowercase: bool = False,
) -> Score:
    """Corpus BLEU of sacreBLEU (Post 2018) for `tokenize`.

    lowercase: both texts in lower case, as published numbers of Multi30k and IWSLT14 are."""
    return _score(_bleu(tokenize, lowercase=lowercase), hypotheses, references, n_bootstrap)


def chrf(hypotheses: Sequence[str], references: References, *, n_bootstrap: int = 1000) -> Score:
    """chrF++ (Popovic 2017): character 6-grams and word 2-grams."""
    import sacrebleu.metrics

    return _score(sacrebleu.metrics.CHRF(word_order=2), hypotheses, references, n_bootstrap)


def ter(
    hypotheses: Sequence[str],
    references: References,
    *,
    n_bootstrap: int = 1000,
    tokenize: Tokenizer = USUAL,
) -> Score:
    """Translation edit rate (Snover et al. 2006) with Tercom's defaults, and its characters as words where BLEU's
    tokenizer is one for a language without spaces; lower is better, may exceed 100."""
    import sacrebleu.metrics

    is_asian = not reference_texts.is_cut_at_spaces(tokenize)
    metric = sacrebleu.metrics.TER(normalized=is_asian, asian_support=is_asian)
    return _score(metric, hypotheses, references, n_bootstrap)


def corpus_bleu(
    hypotheses: Sequence[str], references: References, *, tokenize: Tokenizer = USUAL
) -> float:
    """BLEU without an interval, for validation during training."""
    metric = _bleu(tokenize)
    return _value(metric, _statistics(metric, hypotheses, references).sum(0))


def of_sentences(
    scores: Sequence[float | int] | Float[np.ndarray, "sentences"],
    signature: str,
    *,
    n_bootstrap: int = 1000,
) -> Score:
    """The mean of sentence scores with its 95 % bootstrap interval: for metrics that score each sentence by
    itself."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise ValueError("no sentences to score; expected at least one sentence score")
    ends = bootstrap.interval(values[:, None], mean_of(len(values)), n_bootstrap)
    return Score(float(values.mean()), *ends, signature, tuple(values.tolist()))


def of_every_evaluation(tokenize: Tokenizer = USUAL) -> tuple[Metric, ...]:
    """BLEU (mixed and lower case), chrF++ and TER, in the order of the columns. The first is the metric of the paired
    tests."""
    return (
        Metric(
            "bleu",
            "BLEU",
            lambda ours, references, _: bleu(ours, references, tokenize=tokenize),
            shows_interval=True,
            takes_several_references=True,
        ),
        Metric(
            "bleu_lc",
            "BLEU lc",
            lambda ours, references, _: bleu(ours, references, tokenize=tokenize, lowercase=True),
            takes_several_references=True,
            in_table=False,
        ),
        Metric(
            "chrf",
            "chrF++",
            lambda ours, references, _: chrf(ours, references),
            decimals=1,
            takes_several_references=True,
            in_table=False,
        ),
        Metric(
            "ter",
            "TER",
            lambda ours, references, _: ter(ours, references, tokenize=tokenize),
            "lower",
            takes_several_references=True,
            in_table=False,
        ),
    )


METRICS = of_every_evaluation()
"""What tables show; an evaluation has those of its target language's tokenizer."""


def load(path: str | Path) -> tuple[Metric, ...]:
    """The metrics of a Python file: its tuple METRICS of this module's Metric.

    The file is run: load only files you trust. Raises ValueError that names the file and what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a Python file with METRICS, got {path}, which does not exist")
    try:
        defined = runpy.run_path(str(path)).get("METRICS")
    except Exception as error:  # whatever the file may raise
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(defined, tuple) or not all(isinstance(one, Metric) for one in defined):
        raise ValueError(
            f"{path}: expected METRICS, a tuple of nat_ar.evaluation.metrics.Metric, got {defined!r}"
        )
    for metric in defined:
        if not re.fullmatch("[a-z][a-z0-9_]*", metric.name):
            raise ValueError(
                f"{path}: expected a name of lower-case letters, digits and _, got {metric.name!r}"
            )
    return tuple(dataclasses.replace(metric, source=str(path)) for metric in defined)


def with_more(
    metrics: Iterable[Metric | str | Path] = (), *, tokenize: Tokenizer = USUAL
) -> tuple[Metric, ...]:
    """Those of every evaluation, the given ones, and those of the given files. Raises ValueError where two have one
    name."""
    chosen = [*of_every_evaluation(tokenize)]
    for more in metrics:
        chosen += [more] if isinstance(more, Metric) else load(more)
    require_own_names(chosen)
    return tuple(chosen)


def require_own_names(metrics: Iterable[Metric]) -> None:
    """Raises ValueError where two have one name."""
    for name, number in collections.Counter(metric.name for metric in metrics).items():
        if number > 1:
            raise ValueError(f"a metric needs a name of its own, got {number} named {name!r}")


def sources(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """The files that metrics come from: `evaluate` and `compare` take them as --metrics."""
    return tuple(dict.fromkeys(metric.source for metric in metrics if metric.source is not None))


def sentence_bleu(hypothesis: str, reference: str, *, tokenize: Tokenizer = USUAL) -> float:
    """BLEU of one sentence in percent, to pick the best of a beam (Kim & Rush 2016, section 3.2).

    N-gram orders longer than the hypothesis are left out (effective order); orders without a match count as 1/2,
    1/4, ... of a match (exponential smoothing, Chen & Cherry 2014, method 3). Without any match, 0."""
    return _sentence_metric(tokenize).sentence_score(hypothesis, [reference]).score


def bleu_by_group(
    hypotheses: Sequence[str],
    references: References,
    groups: Sequence[str],
    *,
    tokenize: Tokenizer = USUAL,
) -> dict[str, dict[str, float | int]]:
    """{group: {"sentences": count, "bleu": corpus BLEU of them}}, groups sorted by name."""
    if len(groups) != len(hypotheses):
        raise ValueError(f"{len(groups)} groups for {len(hypotheses)} references; one a sentence")
    metric = _bleu(tokenize)
    scores = _by_group(metric, _statistics(metric, hypotheses, references), groups)
    return {group: scores[group] for group in sorted(scores)}


def bleu_by_length(
    hypotheses: Sequence[str], references: References, *, tokenize: Tokenizer = USUAL
) -> dict[str, dict[str, float | int]]:
    """As `bleu_by_group`, by reference length in tokens of the BLEU tokenizer, short to long.

    Buckets are "1-10", "11-20", ..., "51+"; "0" holds empty references. Empty buckets are left
    out."""
    metric = _bleu(tokenize)
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
    systems: Sequence[Sequence[str]],
    baselines: Sequence[Sequence[str]],
    references: References,
    *,
    n_bootstrap: int = 1000,
    tokenize: Tokenizer = USUAL,
) -> PairedResult:
    """Is the BLEU of one system different from that of another? `bootstrap.paired` of the translations of every seed:
    a list for each of the runs that differ in nothing else."""
    metric = _bleu(tokenize)
    ours, theirs = (
        [_statistics(metric, texts, references) for texts in outputs]
        for outputs in (systems, baselines)
    )
    return bootstrap.paired(ours, theirs, functools.partial(_value, metric), n_bootstrap)


def tokenizer_of(signature: str) -> Tokenizer:
    """The tokenizer of a sacreBLEU signature: "13a" of "nrefs:1|case:mixed|tok:13a|...", "ja-mecab" of
    "...|tok:ja-mecab-0.996-IPA|..."."""
    fields = dict(field.partition(":")[::2] for field in signature.split("|"))
    for tokenizer in typing.get_args(Tokenizer):
        if fields.get("tok") == tokenizer or fields.get("tok", "").startswith(f"{tokenizer}-"):
            return tokenizer
    raise ValueError(f"no tok: field of a known tokenizer in the BLEU signature {signature!r}")


def without_bootstrap(signature: str) -> str:
    """A signature without its bs: and seed: fields, which describe the interval, not the score."""
    return "|".join(
        field for field in signature.split("|") if not field.startswith(("bs:", "seed:"))
    )


def _bleu(tokenize: Tokenizer, **options: Any) -> "sacrebleu.metrics.BLEU":
    import sacrebleu.metrics

    reference_texts.cut(tokenize)  # an error of one line where a package is missing
    return sacrebleu.metrics.BLEU(tokenize=tokenize, force=True, **options)


@functools.cache
def _sentence_metric(tokenize: Tokenizer) -> "sacrebleu.metrics.BLEU":
    return _bleu(tokenize, effective_order=True, smooth_method="exp")


def _score(
    metric: "sacrebleu.metrics.base.Metric",
    hypotheses: Sequence[str],
    references: References,
    n_bootstrap: int,
) -> Score:
    statistics = _statistics(metric, hypotheses, references)
    low, high = bootstrap.interval(statistics, functools.partial(_value, metric), n_bootstrap)
    metric.n_bootstrap, metric.seed = n_bootstrap, str(bootstrap.SEED)  # the signature shows both
    return Score(_value(metric, statistics.sum(0)), low, high, str(metric.get_signature()))


def _statistics(
    metric: "sacrebleu.metrics.base.Metric", hypotheses: Sequence[str], references: References
) -> Float[np.ndarray, "sentences statistics"]:
    """sacreBLEU's sufficient statistics of every sentence; their sum over sentences gives the
    score."""
    check_counts(hypotheses, references)
    rows = metric._extract_corpus_statistics(hypotheses, reference_lists(references))
    return np.asarray(rows, dtype=np.float64)


def _value(
    metric: "sacrebleu.metrics.base.Metric", total: Float[np.ndarray, "statistics"]
) -> float:
    return float(metric._compute_score_from_stats(total.tolist()).score)


def mean_of(sentences: int) -> bootstrap.Value:
    """The mean, from the sum of the scores of so many sentences."""
    return lambda total: float(total[0]) / sentences


def _by_group(
    metric: "sacrebleu.metrics.base.Metric",
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
