"""English and another language, from Debian packages that are fetched on the user's own machine.

Help pages, books, message catalogues, package descriptions and a dictionary's example sentences exist in both
languages. Their common structure (paragraph ids, message ids, the order of paragraphs) aligns them, and a cautious
sentence splitter does the rest. Nothing of the corpus is part of this project: `prepare` fetches it with the machine's
own apt, without root, and the manifest names every package with version, hash and licence file.

Such text repeats itself, so the split is by document (help page, catalogue, source package, book chapter), and training
loses every pair whose source or target occurs in validation or in a test, compared without case, punctuation, white
space and the values of numbers."""

import collections
import dataclasses
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.corpus import Corpus
from nat_ar.data.debian import apt
from nat_ar.data.debian import sentences as cleaning
from nat_ar.data.debian.sentences import Passage, comparison_key
from nat_ar.data.pair import Pair, Report
from nat_ar.runtime import extras, files

DOMAINS = (
    "ding",
    "wesnoth",
    "lohelp",
    "ddtp",
    "handbook",
    "gnomehelp",
    "diguide",
    "guides",
    "programs",
)
"""The kinds of text: the keys of domains.DOMAINS."""


@dataclasses.dataclass(frozen=True)
class DebianCorpus(Corpus):
    """149,721 English-German pairs on Debian 12, 111,669 of them for training. Downloads about 420 MB, and takes 40 s
    on one core and 0.2 GB of memory.

    One of the two languages is English. `held_out` domains are out-of-domain tests,
    "test_<domain>", and stay out of training altogether unless `train_on_held_out_rest`."""

    reads_by_language: ClassVar[bool] = True

    source_language: str = "en"
    """language code of Debian's translations"""
    target_language: str = "de"
    """likewise"""
    cache: str = "data/debian_cache"
    """downloads and unpacked files; what has the right hash is not fetched again. Delete it to read a later point
    release of Debian"""
    domains: tuple[str, ...] = DOMAINS
    """kinds of text that are read"""
    held_out: tuple[str, ...] = ("ding", "wesnoth")
    """the domains kept for out-of-domain tests"""
    held_out_pairs: int = 1000
    """size of each out-of-domain test, drawn by `seed`"""
    train_on_held_out_rest: bool = False
    """train on the documents of a held-out domain from which its test draws nothing; the tests are then of unseen
    documents, not of unseen domains"""
    num_validation: int = 2000
    """about this many, drawn like num_test"""
    num_test: int = 2000
    """about this many: whole documents of the training domains, in proportion to the domains' sizes"""
    min_words: int = 3
    """pairs with a shorter side are dropped"""
    max_words: int = 60
    """pairs with a longer side are dropped"""
    max_length_ratio: float = 2.5
    """pairs are dropped from this ratio on: words of the longer side over words of the shorter"""
    seed: int = 1
    """draws the documents of validation and tests"""

    def __post_init__(self) -> None:
        for domain in (*self.domains, *self.held_out):
            if domain not in DOMAINS:
                raise ConfigError(f"unknown domain {domain!r}; there are {', '.join(DOMAINS)}")
        if (self.source_language == "en") == (self.target_language == "en"):
            raise ConfigError(
                "one of source_language and target_language must be 'en', got "
                f"{self.source_language!r} and {self.target_language!r}"
            )
        for field in ("num_validation", "num_test", "held_out_pairs", "max_length_ratio"):
            config_json.require_at_least(1, **{field: getattr(self, field)})
        config_json.require_seed(self.seed)
        if set(self.domains) <= set(self.held_out):
            raise ConfigError(
                f"no domain is left to train on: domains {self.domains}, held_out {self.held_out}"
            )
        if not 1 <= self.min_words <= self.max_words:
            raise ConfigError(
                f"1 <= min_words <= max_words expected, got {self.min_words}, {self.max_words}"
            )

    @property
    def language(self) -> str:
        """The language that is not English."""
        return self.target_language if self.source_language == "en" else self.source_language

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """Fetches what is missing, reads it, and splits it by document.

        Returns "train", "validation", "test" and "test_<domain>" for each held-out domain."""
        for package in ("lxml", "polib"):  # of which the next import loads more
            extras.require(package, "DebianCorpus", apt.ALTERNATIVE)
        from nat_ar.data.debian import domains

        cache = Path(self.cache).absolute()
        files.make_directory(cache)
        with files.locked(cache):  # other data sets may share it
            library = domains.fetch(self.domains, self.language, cache, report)
        pairs = {
            domain: self._clean(domain, passages, report)
            for domain, passages in domains.read(library, self.language)
        }
        if not any(pairs.values()):
            raise ValueError(
                f"no pair is left for {self.source_language}-{self.target_language} in the "
                f"domains {', '.join(self.domains)}; {apt.ALTERNATIVE}"
            )
        return split(self, pairs, report)

    def _clean(self, domain: str, passages: Iterable[Passage], report: Report) -> list[Pair]:
        pairs: dict[tuple[str, str], Pair] = {}
        for passage in passages:
            for english, foreign in cleaning.align_sentences(passage.english, passage.foreign):
                report.count(f"{domain}: read")
                reason = cleaning.flaw(
                    english, foreign, self.min_words, self.max_words, self.max_length_ratio
                )
                if reason is None and (english, foreign) in pairs:
                    reason = "exact duplicate"
                if reason is not None:
                    example = f"{passage.document}: {english} ::: {foreign}"[:300]
                    report.count(f"{domain}: dropped, {reason}", example)
                    continue
                source, target = (
                    (english, foreign) if self.source_language == "en" else (foreign, english)
                )
                pairs[english, foreign] = Pair(source, target, domain, passage.document)
        report.count(f"{domain}: kept", number=len(pairs))
        return list(pairs.values())


def _without_numbers(key: str) -> str:
    return re.sub(r"\d+(?: \d+)*", "0", key)


def draw_documents(pairs: Sequence[Pair], number: int, random_numbers: random.Random) -> set[str]:
    """Documents that hold about `number` pairs together: in random order, each is drawn if it brings the sum nearer to
    `number`. At least one document is not drawn."""
    sizes = collections.Counter(pair.document for pair in pairs)
    documents = sorted(sizes)
    random_numbers.shuffle(documents)
    drawn: set[str] = set()
    missing = number
    for document in documents:
        if abs(missing - sizes[document]) < missing and len(drawn) + 1 < len(documents):
            drawn.add(document)
            missing -= sizes[document]
    return drawn


def split(
    corpus: DebianCorpus, domains: Mapping[str, Sequence[Pair]], report: Report
) -> dict[str, Iterable[Pair]]:
    """Clean pairs of every domain -> splits that share no document, no source and no target.

    A sentence of two splits stays in the tests rather than in validation, in validation rather than in training."""
    held_out = [domain for domain in corpus.held_out if domains.get(domain)]
    pools: dict[str, Sequence[Pair]] = {
        domain: pairs for domain, pairs in domains.items() if domain not in held_out and pairs
    }
    splits: dict[str, list[Pair]] = {}
    rest: list[Pair] = []
    for domain in held_out:
        random_numbers = random.Random(f"{corpus.seed} {domain}")
        pairs = domains[domain]
        if corpus.train_on_held_out_rest:
            drawn = draw_documents(pairs, corpus.held_out_pairs, random_numbers)
            splits[f"test_{domain}"] = [pair for pair in pairs if pair.document in drawn]
            rest += [pair for pair in pairs if pair.document not in drawn]
        else:
            chosen = random_numbers.sample(
                range(len(pairs)), min(corpus.held_out_pairs, len(pairs))
            )
            splits[f"test_{domain}"] = [pairs[index] for index in sorted(chosen)]
            unused = len(pairs) - len(chosen)
            report.count(f"test_{domain}: not drawn, held out of training", number=unused)

    total = sum(len(pairs) for pairs in pools.values())
    splits |= {"test": [], "validation": [], "train": rest}
    for domain, pairs in pools.items():
        random_numbers = random.Random(f"{corpus.seed} {domain}")
        remaining = list(pairs)
        for name, number in (("test", corpus.num_test), ("validation", corpus.num_validation)):
            drawn = draw_documents(remaining, round(number * len(pairs) / total), random_numbers)
            if not drawn:
                report.count(f"{name}: no document of {domain} is small enough", number=0)
            splits[name] += [pair for pair in remaining if pair.document in drawn]
            remaining = [pair for pair in remaining if pair.document not in drawn]
        splits["train"] += remaining

    # Tests come first, training last: a sentence stays in the first split that has it.
    seen_exact: set[tuple[str, str]] = set()
    seen_near: set[tuple[str, str]] = set()
    separated: dict[str, list[Pair]] = {}
    for name, pairs in splits.items():
        kept: list[Pair] = []
        present: set[tuple[str, str]] = set()
        new: set[tuple[str, str]] = set()
        for pair in pairs:
            keys = {
                ("source", comparison_key(pair.source)),
                ("target", comparison_key(pair.target)),
            }
            if pair[:2] in present:
                report.count(f"{name}: dropped, exact duplicate across domains")
            elif not keys.isdisjoint(seen_exact):
                report.count(
                    f"{name}: dropped, source or target occurs in an earlier split",
                    f"{pair.document}: {pair.source} ::: {pair.target}"[:300],
                )
            elif any((side, _without_numbers(key)) in seen_near for side, key in keys):
                report.count(
                    f"{name}: dropped, differs only in numbers from an earlier split",
                    f"{pair.document}: {pair.source} ::: {pair.target}"[:300],
                )
            else:
                kept.append(pair)
                present.add(pair[:2])
                new |= keys
        seen_exact |= new
        seen_near |= {(side, _without_numbers(key)) for side, key in new}
        separated[name] = kept
        report.count(f"{name}: pairs", number=len(kept))
        for domain, number in sorted(collections.Counter(p.domain for p in kept).items()):
            report.count(f"{name}: pairs of {domain}", number=number)
    random.Random(corpus.seed).shuffle(separated["train"])
    return {
        name: separated[name]
        for name in ("train", "validation", "test", *(f"test_{domain}" for domain in held_out))
    }
