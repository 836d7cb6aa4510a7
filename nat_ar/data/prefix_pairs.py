"""Prefix pairs (Niehues et al. 2018, arXiv:1808.00491; Arivazhagan et al. 2020, arXiv:2004.03643): a model that also
learns from beginnings of sentences neither ends each of them with a full stop nor guesses the rest: its captions change
less."""

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator
from typing import ClassVar

from nat_ar import config_json
from nat_ar.data.corpus import Corpus, Verdict
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair, Report
from nat_ar.data.units import text_of, unit_of, units_of


@dataclasses.dataclass(frozen=True)
class PrefixPairs(Corpus):
    """Another corpus, whose training pairs are each followed by their beginning: the first words of source and target,
    the same share of both, drawn evenly. Of a language without spaces characters are taken. Validation and tests are
    whole; the languages are those of the other corpus."""

    reads_by_language: ClassVar[bool] = True

    corpus: Corpus
    """the whole sentences"""
    share: float = 1.0
    """of the training pairs that have their beginning beside them"""
    seed: int = 0
    """draws where the pairs are cut"""

    def __post_init__(self) -> None:
        config_json.require_share("share", self.share)
        config_json.require_seed(self.seed)
        for name in ("source_language", "target_language", "bleu_tokenizer"):
            object.__setattr__(self, name, getattr(self.corpus, name))

    @property
    def hold_out(self) -> HoldOut | None:
        return self.corpus.hold_out

    def of(self, pairs: Corpus) -> Corpus:
        return dataclasses.replace(self, corpus=self.corpus.of(pairs))

    def judge(self, source: str, text: str) -> Verdict | None:
        return self.corpus.judge(source, text)

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        splits = self.corpus.splits(report)
        return {**splits, "train": self._with_beginnings(splits["train"], report)}

    def _with_beginnings(self, pairs: Iterable[Pair], report: Report) -> Iterator[Pair]:
        """Each pair and its beginning; a pair of which one side has a single word is left alone, and counted."""
        for pair in pairs:
            yield pair
            # By what the pair says: the same wherever it stands.
            generator = random.Random(f"{self.seed}\t{pair.source}\t{pair.target}")
            if generator.random() >= self.share:
                continue
            beginning = self._beginning(pair, 1.0 - generator.random())
            if beginning is None:
                report.count("train: no beginning of its own, too short")
            else:
                report.count("train: beginnings added")
                yield beginning

    def _beginning(self, pair: Pair, share: float) -> Pair | None:
        """The first words of both sides, rounded up; None where that is all of one of them."""
        sides = []
        for text, language in (
            (pair.source, self.source_language),
            (pair.target, self.target_language),
        ):
            unit = unit_of(language)
            units = units_of(text, unit)
            count = min(math.ceil(share * len(units)), len(units) - 1)
            if count < 1:
                return None
            sides.append(text_of(units[:count], unit))
        source, target = sides
        return pair._replace(source=source, target=target)
