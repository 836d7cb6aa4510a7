"""Random pairs of the toy language.

The first alternative of a mode has the probability FIRST, the others share the rest. With three
alternatives such as "vielen Dank" 0.44, "danke schön" 0.28, "danke sehr" 0.28, the most likely phrase does not
consist of the most likely words: a model that decides word by word writes "danke Dank".

Measured on the 30,000 default training pairs: 155 source and 240 target words; sources have 4 to 16
words, mean 9.7, targets 3 to 22, mean 9.4 (99.4 % have 4 to 18); 1.64 modes a sentence, 86 % have at
least one; 12 valid translations a source on average, at most 243. Sentences of one clause alone have
about 5.5e9 different sources."""

import dataclasses
import functools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.corpus import Corpus, Verdict
from nat_ar.data.pair import Pair, Report
from nat_ar.data.toy import grammar
from nat_ar.data.toy import judge as judging
from nat_ar.data.toy.grammar import Clause, NounPhrase, Sentence
from nat_ar.data.toy.lexicon import (
    ADJECTIVES,
    ADVERBS,
    LINKS,
    MODALS,
    OPENERS,
    PEOPLE,
    PLACES,
    PLURAL_DETERMINERS,
    SINGULAR_DETERMINERS,
    THAT,
    THINGS,
    TIMES,
    VERBS,
    Kind,
    Verb,
)

T = TypeVar("T")
FIRST = 0.44  # probability of the first alternative of every mode


# Only `Random.random` is used, whose sequence is the same in all versions of Python.


def _pick(generator: random.Random, alternatives: Sequence[T]) -> T:
    return alternatives[int(generator.random() * len(alternatives))]


def draw_mode(generator: random.Random, alternatives: Sequence[T]) -> T:
    if len(alternatives) == 1 or generator.random() < FIRST:
        return alternatives[0]
    return _pick(generator, alternatives[1:])


def _draw_noun_phrase(generator: random.Random, kind: Kind) -> NounPhrase:
    noun = _pick(generator, PEOPLE if kind == "person" else THINGS)
    if noun.is_name:
        return NounPhrase("", None, noun, is_plural=False)
    is_plural = generator.random() < 0.4
    determiner = _pick(generator, PLURAL_DETERMINERS if is_plural else SINGULAR_DETERMINERS)
    adjective = None
    if generator.random() < 0.3:
        adjective = _pick(generator, [entry for entry in ADJECTIVES if kind in entry.kinds])
    return NounPhrase(determiner, adjective, noun, is_plural)


def _draw_clause(generator: random.Random, verbs: Sequence[Verb]) -> Clause:
    verb = _pick(generator, verbs)
    kind: Kind = "person" if generator.random() < 0.5 else "thing"
    if verb.object == "person" or verb.object == "thing":
        kind = verb.object
    aspect = generator.random()
    takes_place = verb.object != "clause"
    return Clause(
        subject=_draw_noun_phrase(generator, "person"),
        modal=_pick(generator, MODALS) if aspect < 0.12 else None,
        is_negated=0.12 <= aspect < 0.22,
        adverb=_pick(generator, ADVERBS) if 0.22 <= aspect < 0.55 else None,
        verb=verb,
        object=None if verb.object in ("none", "clause") else _draw_noun_phrase(generator, kind),
        place=_pick(generator, PLACES) if takes_place and generator.random() < 0.25 else None,
        time=_pick(generator, TIMES) if takes_place and generator.random() < 0.45 else None,
    )


def draw(generator: random.Random) -> Sentence:
    """A random sentence of the language."""
    while True:
        opener = _pick(generator, OPENERS) if generator.random() < 0.4 else None
        link = _pick(generator, LINKS) if generator.random() < 0.3 else None
        is_question = link in (None, THAT) and generator.random() < 0.25
        sentence = Sentence(
            opener,
            is_question,
            main=_draw_clause(generator, _VERBS_WITH_THAT if link is THAT else _VERBS_WITHOUT_THAT),
            link=link,
            dependent=_draw_clause(generator, _VERBS_WITHOUT_THAT) if link else None,
        )
        try:
            grammar.check_size(sentence)
        except ValueError:
            continue
        return sentence


_VERBS_WITH_THAT = tuple(verb for verb in VERBS if verb.object == "clause")
_VERBS_WITHOUT_THAT = tuple(verb for verb in VERBS if verb.object != "clause")


def domain(sentence: Sentence) -> str:
    """ "modes" for sentences with three modes or more, otherwise their distinctive construct."""
    if len(grammar.mode_sizes(sentence)) >= 3:
        return "modes"
    if sentence.link is not None:
        return "subordinate"
    if sentence.is_question:
        return "question"
    if sentence.main.modal is not None:
        return "modal"
    return "main"


@dataclasses.dataclass(frozen=True)
class ToyCorpus(Corpus):
    """Pairs drawn from the toy language. No source occurs twice, in any split."""

    seed: int = 0
    """draws the sentences"""
    num_train: int = 30_000
    """training pairs"""
    num_validation: int = 500
    """validation pairs"""
    num_test: int = 1_000
    """test pairs"""

    def __post_init__(self) -> None:
        config_json.require_seed(self.seed)
        for name in ("num_train", "num_validation", "num_test"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """The test split depends on `seed` and `num_test` only."""
        generator = random.Random(self.seed)
        seen: set[str] = set()
        test = list(self._split(generator, "test", self.num_test, seen, report))
        validation = list(self._split(generator, "validation", self.num_validation, seen, report))
        # Drawn as it is read: a large one need not be in memory.
        train = self._split(generator, "train", self.num_train, seen, report)
        return {"test": test, "validation": validation, "train": train}

    @staticmethod
    def _split(
        generator: random.Random, split: str, number: int, seen: set[str], report: Report
    ) -> Iterator[Pair]:
        """`seen` are the sources that were drawn: all that is kept of a pair."""
        left = number
        while left:
            sentence = draw(generator)
            source = grammar.english(sentence)
            if source in seen:
                report.count(f"{split}: drawn again and passed over", source)
                continue
            seen.add(source)
            target = grammar.german(sentence, functools.partial(draw_mode, generator))
            left -= 1
            yield Pair(source, target, domain(sentence))
        report.count(f"{split}: drawn", number=number)

    def judge(self, source: str, text: str) -> Verdict:
        return judging.judge(source, text)
