"""The toy language: a synchronous grammar of our own, English-like source and German-like target.

It has, on a small scale, what makes non-autoregressive translation hard: agreement of article, adjective and
noun in gender, number and case; verb-final subordinate clauses; separable verbs ("ruft ... an", but
"anruft" at the end of a subordinate clause); words with fertility 0 ("does"), 2 ("tonight") and 3
("remembers"), compounds with fertility below 1 ("front door"); and *modes*: choices between several
valid translations that the source leaves open. Everything else is determined by the source.

A meaning (`Sentence`, a tree of frozen dataclasses) has exactly one source text. Its target is written by one function
that calls `choose` at every mode. To draw a target, `choose` is random; to list all valid ones, the function runs once
for each path of choices. A source is parsed back into its meaning, so judge.py need not know what was drawn."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from nat_ar.data.toy.lexicon import (
    A_FEW,
    A_FEW_ENDINGS,
    COLUMNS,
    DEFINITE,
    EIN_ENDINGS,
    MIXED_ENDINGS,
    PLURAL_DETERMINERS,
    SINGULAR_DETERMINERS,
    THAT,
    TIME_PLACES,
    TIME_PLACES_WITHOUT_OBJECT,
    WEAK_ENDINGS,
    Adjective,
    Case,
    Determiner,
    Link,
    Modal,
    Noun,
    Order,
    Phrase,
    Verb,
)

T = TypeVar("T")
MAX_MODES = 5  # so that a source has at most 3**5 = 243 valid translations
MIN_WORDS, MAX_WORDS = 4, 16  # of the source


# Meanings. What the constructors refuse is not in the language.


@dataclasses.dataclass(frozen=True)
class NounPhrase:
    determiner: Determiner
    adjective: Adjective | None
    noun: Noun
    is_plural: bool

    def __post_init__(self) -> None:
        allowed: tuple[Determiner, ...] = (
            PLURAL_DETERMINERS if self.is_plural else SINGULAR_DETERMINERS
        )
        if self.noun.is_name:
            allowed = ("",)
            require(not self.is_plural and self.adjective is None, "a name stands alone")
        require(self.determiner in allowed, f"article {self.determiner!r} is not one of {allowed}")
        if self.adjective is not None:
            require(
                self.noun.kind in self.adjective.kinds,
                f"{self.adjective.english!r} does not go with {self.noun.english!r}",
            )


@dataclasses.dataclass(frozen=True)
class Clause:
    subject: NounPhrase
    modal: Modal | None
    is_negated: bool
    adverb: Phrase | None
    verb: Verb
    object: NounPhrase | None
    place: Phrase | None
    time: Phrase | None

    def __post_init__(self) -> None:
        require(self.subject.noun.kind == "person", "the subject is not a person")
        require(
            [self.modal is not None, self.is_negated, self.adverb is not None].count(True) <= 1,
            "more than one of modal verb, negation and adverb",
        )
        if self.object is None:
            require(self.verb.object in ("none", "clause"), f"{self.verb.english!r} has no object")
        else:
            require(
                self.verb.object in ("any", self.object.noun.kind),
                f"{self.object.noun.english!r} cannot be the object of {self.verb.english!r}",
            )
        if self.verb.object == "clause":
            require(
                self.place is None and self.time is None,
                f"place or time between {self.verb.english!r} and 'that'",
            )


@dataclasses.dataclass(frozen=True)
class Sentence:
    opener: Phrase | None
    is_question: bool
    main: Clause
    link: Link | None = None
    dependent: Clause | None = None

    def __post_init__(self) -> None:
        require((self.link is None) == (self.dependent is None), "a clause is missing")
        require(
            (self.link is THAT) == (self.main.verb.object == "clause"),
            f"{self.main.verb.english!r} and 'that' need each other",
        )
        if self.dependent is not None:
            require(self.dependent.verb.object != "clause", "more than two clauses")
        if self.is_question:
            require(self.link in (None, THAT), "a question takes no conjunction but 'that'")


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


# Source text.


def english(sentence: Sentence) -> str:
    """The one source text of a meaning."""
    main = _english_clause(sentence.main, sentence.is_question)
    words = [sentence.opener.english, ","] if sentence.opener else []
    if sentence.link is None or sentence.dependent is None:
        words += main
    elif sentence.link.comes_first:
        words += [sentence.link.english, *_english_clause(sentence.dependent), ",", *main]
    else:
        words += [*main, sentence.link.english, *_english_clause(sentence.dependent)]
    return _spell(words, "?" if sentence.is_question else ".")


def _english_clause(clause: Clause, is_question: bool = False) -> list[str]:
    is_plural = clause.subject.is_plural
    subject = _english_noun_phrase(clause.subject)
    modal = clause.modal
    do = "do" if is_plural else "does"
    if modal is None:
        verb = [clause.verb.english_plural if is_plural else clause.verb.english]
    else:
        verb = [modal.english_plural if is_plural else modal.english, clause.verb.english_plural]
    if is_question and modal is not None and not modal.needs_do:
        start = [modal.english, *subject]
        verb = [clause.verb.english_plural]
    elif is_question:
        start = [do, *subject]
        verb = [modal.english_plural] if modal else []
        verb += [clause.verb.english_plural]
    elif clause.is_negated:
        start = [*subject, do]
        verb = [clause.verb.english_plural]
    else:
        start = subject
    return [
        *start,
        *(["not"] if clause.is_negated else []),
        *([clause.adverb.english] if clause.adverb else []),
        *verb,
        *(_english_noun_phrase(clause.object) if clause.object else []),
        *([clause.place.english] if clause.place else []),
        *([clause.time.english] if clause.time else []),
    ]


def _english_noun_phrase(phrase: NounPhrase) -> list[str]:
    noun = phrase.noun.english_plural if phrase.is_plural else phrase.noun.english
    words = [phrase.adjective.english, noun] if phrase.adjective else [noun]
    article = "an" if phrase.determiner == "a" and words[0][0] in "aeiou" else phrase.determiner
    return [article, *words] if article else words


def _spell(words: Sequence[str], stop: str) -> str:
    """The text of a list of words, in which "" is no word and "," a word of its own."""
    text = " ".join(word for word in words if word).replace(" ,", ",")
    return text[0].upper() + text[1:] + stop


Choose = Callable[[Sequence[T]], T]
"""Takes the alternatives of a mode and returns one of them."""


def german(sentence: Sentence, choose: Choose) -> str:
    """The target text of a meaning for one choice at each of its modes."""
    words = [choose(sentence.opener.german), ","] if sentence.opener else []
    main_order: Order = "verb first" if sentence.is_question else "verb second"
    if sentence.link is None or sentence.dependent is None:
        words += _german_clause(sentence.main, main_order, choose)
    else:
        conjunction, order = choose(sentence.link.german)
        dependent = [conjunction, *_german_clause(sentence.dependent, order, choose)]
        if sentence.link.comes_first:
            words += [*dependent, ",", *_german_clause(sentence.main, "verb first", choose)]
        else:
            words += [*_german_clause(sentence.main, main_order, choose), ",", *dependent]
    return _spell(words, "?" if sentence.is_question else ".")


def _german_clause(clause: Clause, order: Order, choose: Choose) -> list[str]:
    frame = choose(clause.verb.frames)
    subject = _german_noun_phrase(clause.subject, "nominative", choose)
    thing = _german_noun_phrase(clause.object, frame.case, choose) if clause.object else []
    time = clause.time.german[0] if clause.time else ""
    time_at = ""
    if clause.time:
        time_at = choose(TIME_PLACES if clause.object else TIME_PLACES_WITHOUT_OBJECT)
    front = time if time_at == "front" else ""
    before_object = time if time_at == "before object" else ""
    after_object = time if time_at == "after object" else ""
    comment = [choose(clause.adverb.german)] if clause.adverb else []
    comment += ["nicht"] if clause.is_negated else []
    place = choose(clause.place.german) if clause.place else ""

    middle = ["sich"] if frame.is_reflexive else []
    if frame.preposition:
        middle += [before_object, *comment, frame.complement, frame.preposition, *thing]
        middle += [after_object, place]
    else:
        middle += [before_object, *thing, after_object, *comment, place, frame.complement]

    finite = frame.plural if clause.subject.is_plural else frame.singular
    end = [frame.particle]
    last = [frame.particle + finite]
    if clause.modal:
        finite = clause.modal.german_plural if clause.subject.is_plural else clause.modal.german
        end = [frame.particle + frame.plural]
        last = [*end, finite]

    if order == "verb last":
        return [front, *subject, *middle, *last]
    if order == "verb first":
        return [finite, front, *subject, *middle, *end]
    start = [front, finite, *subject] if front else [*subject, finite]
    return [*start, *middle, *end]


def _german_noun_phrase(phrase: NounPhrase, case: Case, choose: Choose) -> list[str]:
    noun = phrase.noun
    column = COLUMNS.index("plural" if phrase.is_plural else noun.gender)
    match phrase.determiner:
        case "":
            return [noun.german]
        case "the":
            article, ending = DEFINITE[case][column], WEAK_ENDINGS[case][column]
        case "a":
            article, ending = "ein" + EIN_ENDINGS[case][column], MIXED_ENDINGS[case][column]
        case "my":
            article, ending = "mein" + EIN_ENDINGS[case][column], MIXED_ENDINGS[case][column]
        case "a few":
            article, ending = choose(A_FEW[case]), A_FEW_ENDINGS[case]
    form = noun.german_plural if phrase.is_plural else noun.german
    if phrase.is_plural and case == "dative" and form[-1] not in "ns":
        form += "n"
    adjective = phrase.adjective.german + ending if phrase.adjective else ""
    return [article, adjective, form]


class Path:
    """Chooses by the indices of a path, one a mode; beyond its end, the first alternative."""

    def __init__(self, path: Sequence[int] = ()) -> None:
        self.path = path
        self.sizes: list[int] = []  # of the modes passed

    def __call__(self, alternatives: Sequence[T]) -> T:
        if len(alternatives) == 1:
            return alternatives[0]
        mode = len(self.sizes)
        self.sizes.append(len(alternatives))
        return alternatives[self.path[mode] if mode < len(self.path) else 0]


def mode_sizes(sentence: Sentence) -> list[int]:
    """The number of alternatives at each mode. The modes are independent: a choice at one changes neither the number
    nor the sizes of the others."""
    path = Path()
    german(sentence, path)
    return path.sizes


def check_size(sentence: Sentence) -> None:
    words = len(english(sentence).split())
    require(MIN_WORDS <= words <= MAX_WORDS, f"{words} words, not {MIN_WORDS} to {MAX_WORDS}")
    modes = len(mode_sizes(sentence))
    require(modes <= MAX_MODES, f"{modes} modes, at most {MAX_MODES}")
