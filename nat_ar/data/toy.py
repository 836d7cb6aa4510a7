"""The toy language: a synchronous grammar of our own, English-like source and German-like target.

It has in small what makes non-autoregressive translation hard: agreement of article, adjective and
noun in gender, number and case; verb-final subordinate clauses; separable verbs ("ruft ... an", but
"anruft" at the end of a subordinate clause); words with fertility 0 ("does"), 2 ("tonight") and 3
("remembers"), compounds with fertility below 1 ("front door"); and *modes*: choices between several
valid translations that the source leaves open. All else is determined by the source.

A meaning (`Sentence`, a tree of frozen dataclasses) has exactly one source text, and its target is
realised by one function that asks `choose` at every mode. To draw a target, `choose` is random; to
list all valid ones, the function runs once for every path of choices. A source is parsed back into
its meaning, so `translations` and `judge` need no memory of what was drawn.

The first alternative of a mode has the probability FIRST, the others share the rest. With three
alternatives like "vielen Dank" 0.44, "danke schön" 0.28, "danke sehr" 0.28 the most likely phrase is
not made of the most likely words: a model that decides word by word says "danke Dank".

Measured on the 30,000 default training pairs: 155 source and 240 target words; sources have 4 to 16
words, mean 9.7, targets 3 to 22, mean 9.4 (99.4 % have 4 to 18); 1.64 modes a sentence, 86 % have at
least one; 12 valid translations a source on average, at most 243. Sentences of one clause alone have
about 5.5e9 different sources.
"""

import dataclasses
import functools
import itertools
import random
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from nat_ar.data.pair import Pair, Report

Case = Literal["nominative", "accusative", "dative"]
Kind = Literal["person", "thing"]
T = TypeVar("T")

FIRST = 0.44  # probability of the first alternative of every mode
MAX_MODES = 5  # so that a source has at most 3**5 = 243 valid translations
MIN_WORDS, MAX_WORDS = 4, 16  # of the source


# The lexicon. A word may consist of several ("front door"): the parser takes the longest match.


@dataclasses.dataclass(frozen=True)
class Noun:
    """A name is a noun without article and plural."""

    english: str
    english_plural: str
    german: str
    german_plural: str
    gender: Literal["masculine", "feminine", "neuter"]
    kind: Kind
    is_name: bool = False


@dataclasses.dataclass(frozen=True)
class Adjective:
    english: str
    german: str
    kinds: tuple[Kind, ...]


@dataclasses.dataclass(frozen=True)
class Frame:
    """One way to say a verb in German. The plural is the infinitive too."""

    singular: str
    plural: str
    particle: str = ""
    """ruft ... an, joined to one word where the verb comes last"""
    is_reflexive: bool = False
    preposition: str = ""
    """in front of the object: erinnert sich an ..."""
    complement: str = ""
    """findet ... gut: in front of the preposition if there is one, otherwise late in the clause"""
    case: Case = "accusative"


@dataclasses.dataclass(frozen=True)
class Verb:
    english: str
    english_plural: str
    """the infinitive too"""
    frames: tuple[Frame, ...]
    """more than one: a mode"""
    object: Kind | Literal["none", "any", "clause"]


@dataclasses.dataclass(frozen=True)
class Modal:
    english: str
    english_plural: str
    german: str
    german_plural: str
    needs_do: bool
    """in questions: "does Anna want to" but "can Anna" """


@dataclasses.dataclass(frozen=True)
class Phrase:
    """An opener or adverbial that does not inflect."""

    english: str
    german: tuple[str, ...]
    """more than one: a mode"""


Order = Literal["verb first", "verb second", "verb last"]


@dataclasses.dataclass(frozen=True)
class Link:
    """A conjunction, with the order of words in the clause that it opens."""

    english: str
    german: tuple[tuple[str, Order], ...]
    """more than one: a mode that moves the verb"""
    comes_first: bool = False
    """the dependent clause stands in front of the main clause"""


PEOPLE = (
    Noun("Anna", "", "Anna", "", "feminine", "person", is_name=True),
    Noun("Maria", "", "Maria", "", "feminine", "person", is_name=True),
    Noun("Paul", "", "Paul", "", "masculine", "person", is_name=True),
    Noun("man", "men", "Mann", "Männer", "masculine", "person"),
    Noun("friend", "friends", "Freund", "Freunde", "masculine", "person"),
    Noun("uncle", "uncles", "Onkel", "Onkel", "masculine", "person"),
    Noun("bus driver", "bus drivers", "Busfahrer", "Busfahrer", "masculine", "person"),
    Noun("woman", "women", "Frau", "Frauen", "feminine", "person"),
    Noun("sister", "sisters", "Schwester", "Schwestern", "feminine", "person"),
    Noun(
        "kindergarten teacher",
        "kindergarten teachers",
        "Erzieherin",
        "Erzieherinnen",
        "feminine",
        "person",
    ),
    Noun("child", "children", "Kind", "Kinder", "neuter", "person"),
    Noun("girl", "girls", "Mädchen", "Mädchen", "neuter", "person"),
)
THINGS = (
    Noun("letter", "letters", "Brief", "Briefe", "masculine", "thing"),
    Noun("key", "keys", "Schlüssel", "Schlüssel", "masculine", "thing"),
    Noun("chair", "chairs", "Stuhl", "Stühle", "masculine", "thing"),
    Noun("lamp", "lamps", "Lampe", "Lampen", "feminine", "thing"),
    Noun("newspaper", "newspapers", "Zeitung", "Zeitungen", "feminine", "thing"),
    Noun("front door", "front doors", "Haustür", "Haustüren", "feminine", "thing"),
    Noun(
        "washing machine",
        "washing machines",
        "Waschmaschine",
        "Waschmaschinen",
        "feminine",
        "thing",
    ),
    Noun("book", "books", "Buch", "Bücher", "neuter", "thing"),
    Noun("picture", "pictures", "Bild", "Bilder", "neuter", "thing"),
    Noun("car", "cars", "Auto", "Autos", "neuter", "thing"),
)
ADJECTIVES = (
    Adjective("young", "jung", ("person",)),
    Adjective("friendly", "freundlich", ("person",)),
    Adjective("old", "alt", ("person", "thing")),
    Adjective("small", "klein", ("person", "thing")),
    Adjective("new", "neu", ("thing",)),
    Adjective("red", "rot", ("thing",)),
)
VERBS = (
    Verb("sleeps", "sleep", (Frame("schläft", "schlafen"),), "none"),
    Verb("works", "work", (Frame("arbeitet", "arbeiten"),), "none"),
    Verb("gets up", "get up", (Frame("steht", "stehen", particle="auf"),), "none"),
    Verb("arrives", "arrive", (Frame("kommt", "kommen", particle="an"),), "none"),
    Verb("hurries", "hurry", (Frame("beeilt", "beeilen", is_reflexive=True),), "none"),
    Verb(
        "rests",
        "rest",
        (
            Frame("ruht", "ruhen", particle="aus", is_reflexive=True),
            Frame("macht", "machen", complement="eine Pause"),
            Frame("macht", "machen", complement="kurz Pause"),
        ),
        "none",
    ),
    Verb("sees", "see", (Frame("sieht", "sehen"),), "any"),
    Verb("visits", "visit", (Frame("besucht", "besuchen"),), "person"),
    Verb("calls up", "call up", (Frame("ruft", "rufen", particle="an"),), "person"),
    Verb("picks up", "pick up", (Frame("holt", "holen", particle="ab"),), "person"),
    Verb("invites", "invite", (Frame("lädt", "laden", particle="ein"),), "person"),
    Verb("helps", "help", (Frame("hilft", "helfen", case="dative"),), "person"),
    Verb("thanks", "thank", (Frame("dankt", "danken", case="dative"),), "person"),
    Verb("waits for", "wait for", (Frame("wartet", "warten", preposition="auf"),), "person"),
    Verb(
        "remembers",
        "remember",
        (Frame("erinnert", "erinnern", is_reflexive=True, preposition="an"),),
        "any",
    ),
    Verb(
        "takes care of",
        "take care of",
        (
            Frame("kümmert", "kümmern", is_reflexive=True, preposition="um"),
            Frame("sorgt", "sorgen", preposition="für", complement="gut"),
            Frame("sorgt", "sorgen", preposition="für", complement="stets"),
        ),
        "any",
    ),
    Verb(
        "likes",
        "like",
        (
            Frame("hat", "haben", complement="gern"),
            Frame("findet", "finden", complement="gut"),
            Frame("findet", "finden", complement="toll"),
        ),
        "any",
    ),
    Verb("looks for", "look for", (Frame("sucht", "suchen"),), "thing"),
    Verb("buys", "buy", (Frame("kauft", "kaufen"),), "thing"),
    Verb("needs", "need", (Frame("braucht", "brauchen"),), "thing"),
    Verb("opens", "open", (Frame("macht", "machen", particle="auf"),), "thing"),
    Verb("brings along", "bring along", (Frame("bringt", "bringen", particle="mit"),), "thing"),
    Verb("says", "say", (Frame("sagt", "sagen"),), "clause"),
    Verb("knows", "know", (Frame("weiß", "wissen"),), "clause"),
    Verb("hopes", "hope", (Frame("hofft", "hoffen"),), "clause"),
)
MODALS = (
    Modal("can", "can", "kann", "können", needs_do=False),
    Modal("must", "must", "muss", "müssen", needs_do=False),
    Modal("wants to", "want to", "will", "wollen", needs_do=True),
)
OPENERS = (
    Phrase("thank you", ("vielen Dank", "danke schön", "danke sehr")),
    Phrase("hello there", ("grüß Gott", "hallo zusammen", "hallo allerseits")),
    Phrase("I am sorry", ("tut mir leid", "bitte um Verzeihung", "bitte um Nachsicht")),
    Phrase("by the way", ("übrigens", "am Rande bemerkt", "am Rande gesagt")),
)
ADVERBS = (
    Phrase("always", ("immer",)),
    Phrase("often", ("oft",)),
    Phrase("sometimes", ("manchmal", "ab und zu", "hin und wieder")),
    Phrase("again and again", ("immer wieder", "ein ums andere Mal", "ein weiteres Mal")),
    Phrase("gladly", ("sehr gern", "mit Freude", "mit Vergnügen")),
    Phrase("probably", ("wahrscheinlich", "aller Voraussicht nach", "allem Anschein nach")),
)
PLACES = (
    Phrase("in the garden", ("im Garten",)),
    Phrase("in the living room", ("im Wohnzimmer",)),
    Phrase("at school", ("in der Schule",)),
    Phrase("at home", ("daheim", "zu Hause")),
    Phrase("nearby", ("in der Nähe", "gleich um die Ecke", "gleich nebenan")),
)
TIMES = (
    Phrase("today", ("heute",)),
    Phrase("tonight", ("heute Abend",)),
    Phrase("tomorrow", ("morgen",)),
    Phrase("next week", ("nächste Woche",)),
    Phrase("every morning", ("jeden Morgen",)),
    Phrase("at noon", ("mittags",)),
)
THAT = Link("that", (("dass", "verb last"),))
LINKS = (
    THAT,
    Link("because", (("denn", "verb second"), ("weil", "verb last"), ("da", "verb last"))),
    Link("although", (("obwohl", "verb last"),)),
    Link("if", (("falls", "verb last"),), comes_first=True),
    Link("when", (("wenn", "verb last"),), comes_first=True),
)

# Where an adverbial of time stands is a mode of its own: "Heute sieht Paul den Brief", "Paul
# sieht heute den Brief", "Paul sieht den Brief heute". Without an object the last two are one.
TimePlace = Literal["front", "before object", "after object"]
TIME_PLACES: tuple[TimePlace, ...] = ("front", "before object", "after object")
TIME_PLACES_WITHOUT_OBJECT: tuple[TimePlace, ...] = ("front", "after object")

Determiner = Literal["", "the", "a", "my", "a few"]
SINGULAR_DETERMINERS: tuple[Determiner, ...] = ("the", "a", "my")
PLURAL_DETERMINERS: tuple[Determiner, ...] = ("the", "my", "a few")
COLUMNS = ("masculine", "feminine", "neuter", "plural")
DEFINITE = {
    "nominative": ("der", "die", "das", "die"),
    "accusative": ("den", "die", "das", "die"),
    "dative": ("dem", "der", "dem", "den"),
}
EIN_ENDINGS = {  # of "ein" and "mein"
    "nominative": ("", "e", "", "e"),
    "accusative": ("en", "e", "", "e"),
    "dative": ("em", "er", "em", "en"),
}
WEAK_ENDINGS = {  # of the adjective after "der"
    "nominative": ("e", "e", "e", "en"),
    "accusative": ("en", "e", "e", "en"),
    "dative": ("en", "en", "en", "en"),
}
MIXED_ENDINGS = {  # of the adjective after "ein" and "mein", and in the plural after "a few"
    "nominative": ("er", "e", "es", "en"),
    "accusative": ("en", "e", "es", "en"),
    "dative": ("en", "en", "en", "en"),
}
A_FEW = {
    "nominative": ("ein paar", "einige wenige", "einige"),
    "accusative": ("ein paar", "einige wenige", "einige"),
    "dative": ("ein paar", "einigen wenigen", "einigen"),
}
A_FEW_ENDINGS = {"nominative": "e", "accusative": "e", "dative": "en"}


# The meaning. What the constructors refuse is not in the language.


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
            _require(not self.is_plural and self.adjective is None, "a name stands alone")
        _require(self.determiner in allowed, f"article {self.determiner!r} is not one of {allowed}")
        if self.adjective is not None:
            _require(
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
        _require(self.subject.noun.kind == "person", "the subject is not a person")
        _require(
            [self.modal is not None, self.is_negated, self.adverb is not None].count(True) <= 1,
            "more than one of modal verb, negation and adverb",
        )
        if self.object is None:
            _require(self.verb.object in ("none", "clause"), f"{self.verb.english!r} has no object")
        else:
            _require(
                self.verb.object in ("any", self.object.noun.kind),
                f"{self.object.noun.english!r} cannot be the object of {self.verb.english!r}",
            )
        if self.verb.object == "clause":
            _require(
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
        _require((self.link is None) == (self.dependent is None), "a clause is missing")
        _require(
            (self.link is THAT) == (self.main.verb.object == "clause"),
            f"{self.main.verb.english!r} and 'that' need each other",
        )
        if self.dependent is not None:
            _require(self.dependent.verb.object != "clause", "more than two clauses")
        if self.is_question:
            _require(self.link in (None, THAT), "a question takes no conjunction but 'that'")


def _require(condition: bool, reason: str) -> None:
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
    """Words, where "" is nothing and "," a word of its own, as ordinary text."""
    text = " ".join(word for word in words if word).replace(" ,", ",")
    return text[0].upper() + text[1:] + stop


# Target text. `choose` takes the alternatives of a mode and returns one of them.

Choose = Callable[[Sequence[T]], T]


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


class _Path:
    """Chooses along a path, one index a mode, and the first alternative beyond its end."""

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
    """The number of alternatives at each mode. The modes are independent: what is chosen at one changes
    neither the number nor the sizes of the others."""
    path = _Path()
    german(sentence, path)
    return path.sizes


# Parsing.

_WORD = re.compile(r"\w+|[^\w\s]")


def _phrases(table: Mapping[str, T]) -> dict[tuple[str, ...], T]:
    return {tuple(phrase.lower().split()): entry for phrase, entry in table.items()}


_NOUNS = PEOPLE + THINGS
_LEXICON_SINGULAR = _phrases({noun.english: noun for noun in _NOUNS})
_LEXICON_PLURAL = _phrases({noun.english_plural: noun for noun in _NOUNS if not noun.is_name})
_LEXICON_DETERMINERS: dict[tuple[str, ...], Determiner] = {
    ("the",): "the",
    ("a",): "a",
    ("an",): "a",
    ("my",): "my",
    ("a", "few"): "a few",
}
_LEXICON_ADJECTIVES = _phrases({adjective.english: adjective for adjective in ADJECTIVES})
_LEXICON_VERBS = _phrases({verb.english: verb for verb in VERBS})
_LEXICON_BASES = _phrases({verb.english_plural: verb for verb in VERBS})
_LEXICON_MODALS = _phrases(
    {modal.english: modal for modal in MODALS} | {modal.english_plural: modal for modal in MODALS}
)
_LEXICON_OPENERS = _phrases({phrase.english: phrase for phrase in OPENERS})
_LEXICON_ADVERBS = _phrases({phrase.english: phrase for phrase in ADVERBS})
_LEXICON_PLACES = _phrases({phrase.english: phrase for phrase in PLACES})
_LEXICON_TIMES = _phrases({phrase.english: phrase for phrase in TIMES})
_LEXICON_LINKS = _phrases({link.english: link for link in LINKS})


class _Reader:
    """Recursive descent over lower-cased words. It accepts a little too much ("Anna see a old man"),
    so `parse` compares the text of the meaning that it built with what it read."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.position = 0

    def take(self, lexicon: Mapping[tuple[str, ...], T]) -> T | None:
        """The entry of the longest phrase that stands here, read past; None where there is none."""
        for length in (4, 3, 2, 1):
            phrase = tuple(self.words[self.position : self.position + length])
            if len(phrase) == length and phrase in lexicon:
                self.position += length
                return lexicon[phrase]
        return None

    def skip(self, *words: str) -> bool:
        """Reads past the next word if it is one of `words`, and says whether it did."""
        is_here = self.position < len(self.words) and self.words[self.position] in words
        self.position += is_here
        return is_here

    def need(self, lexicon: Mapping[tuple[str, ...], T], what: str) -> T:
        entry = self.take(lexicon)
        if entry is None:
            here = " ".join(self.words[self.position : self.position + 3]) or "the end"
            raise ValueError(f"expected {what}, got {here!r}")
        return entry

    def sentence(self) -> Sentence:
        opener = self.take(_LEXICON_OPENERS)
        if opener is not None:
            _require(self.skip(","), "expected a comma")
        link = self.take(_LEXICON_LINKS)
        if link is not None:
            dependent = self.statement()
            _require(self.skip(","), "expected a comma")
            main = self.statement()
            _require(self.skip("."), "expected the end")
            return Sentence(opener, False, main, link, dependent)
        is_question = False
        if self.skip("do", "does"):
            is_question, main = True, self.rest(self.noun_phrase(), has_do=True)
        elif (modal := self.take(_LEXICON_MODALS)) is not None:
            is_question, main = True, self.rest(self.noun_phrase(), modal)
        else:
            main = self.statement()
        link = self.take(_LEXICON_LINKS)
        clause = self.statement() if link is not None else None
        _require(self.skip("?" if is_question else "."), "expected the end")
        return Sentence(opener, is_question, main, link, clause)

    def statement(self) -> Clause:
        subject = self.noun_phrase()
        return self.rest(subject, has_do=self.skip("do", "does"))

    def rest(self, subject: NounPhrase, modal: Modal | None = None, has_do: bool = False) -> Clause:
        """What follows the subject."""
        is_negated = self.skip("not")
        adverb = self.take(_LEXICON_ADVERBS)
        modal = modal or self.take(_LEXICON_MODALS)
        is_base = has_do or modal is not None or subject.is_plural
        verb = self.need(_LEXICON_BASES if is_base else _LEXICON_VERBS, "a verb")
        has_object = verb.object not in ("none", "clause")
        return Clause(
            subject=subject,
            modal=modal,
            is_negated=is_negated,
            adverb=adverb,
            verb=verb,
            object=self.noun_phrase() if has_object else None,
            place=self.take(_LEXICON_PLACES),
            time=self.take(_LEXICON_TIMES),
        )

    def noun_phrase(self) -> NounPhrase:
        determiner = self.take(_LEXICON_DETERMINERS) or ""
        adjective = self.take(_LEXICON_ADJECTIVES)
        noun = self.take(_LEXICON_PLURAL)
        if noun is not None:
            return NounPhrase(determiner, adjective, noun, is_plural=True)
        noun = self.need(_LEXICON_SINGULAR, "a noun")
        return NounPhrase(determiner, adjective, noun, is_plural=False)


def parse(source: str) -> Sentence:
    """The one meaning of a source text; ValueError where it is not in the language."""
    try:
        sentence = _Reader(_WORD.findall(source.lower())).sentence()
        canonical = english(sentence)
        _require(canonical == source, f"expected {canonical!r}")
        _check_size(sentence)
    except ValueError as error:
        raise ValueError(
            f"not in the toy language: {source!r}: {error}; see nat_ar/data/toy.py"
        ) from None
    return sentence


def _check_size(sentence: Sentence) -> None:
    words = len(english(sentence).split())
    _require(MIN_WORDS <= words <= MAX_WORDS, f"{words} words, not {MIN_WORDS} to {MAX_WORDS}")
    modes = len(mode_sizes(sentence))
    _require(modes <= MAX_MODES, f"{modes} modes, at most {MAX_MODES}")


# Validity.


class Verdict(NamedTuple):
    valid: bool
    """exactly one of the translations that the grammar allows for the source"""
    mixed: bool
    """not valid, not empty, though each word occurs in some valid translation of the source"""


def translations(source: str) -> tuple[str, ...]:
    """All valid translations of a source, sorted; ValueError where it is not in the language."""
    return _translations(" ".join(source.split()))


@functools.lru_cache(maxsize=1 << 14)
def _translations(source: str) -> tuple[str, ...]:
    sentence = parse(source)
    paths = itertools.product(*map(range, mode_sizes(sentence)))
    return tuple(sorted(german(sentence, _Path(path)) for path in paths))


def judge(source: str, hypothesis: str) -> Verdict:
    """Compares strictly but for white space; `mixed` ignores punctuation and upper case too.
    ValueError where the source is not in the language."""
    answers = translations(source)
    if " ".join(hypothesis.split()) in answers:
        return Verdict(valid=True, mixed=False)
    words = _words(hypothesis)
    return Verdict(valid=False, mixed=bool(words) and words <= _words(" ".join(answers)))


def _words(text: str) -> set[str]:
    """Whatever stands between spaces, in lower case and without the punctuation around it."""
    return {word.strip(string.punctuation) for word in text.lower().split()} - {""}


# Drawing. Only `Random.random` is used, whose sequence is the same in all versions of Python.


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
            _check_size(sentence)
        except ValueError:
            continue
        return sentence


_VERBS_WITH_THAT = tuple(verb for verb in VERBS if verb.object == "clause")
_VERBS_WITHOUT_THAT = tuple(verb for verb in VERBS if verb.object != "clause")


# The corpus.


def domain(sentence: Sentence) -> str:
    """ "modes" from three modes on, else the construct that marks the sentence."""
    if len(mode_sizes(sentence)) >= 3:
        return "modes"
    if sentence.link is not None:
        return "subordinate"
    if sentence.is_question:
        return "question"
    if sentence.main.modal is not None:
        return "modal"
    return "main"


@dataclasses.dataclass(frozen=True)
class ToyCorpus:
    """Pairs drawn from the toy language; no source occurs twice, in whatever split."""

    seed: int = 0
    """another seed, other sentences"""
    num_train: int = 30_000
    """training pairs"""
    num_validation: int = 500
    """validation pairs"""
    num_test: int = 1_000
    """test pairs"""

    def __post_init__(self) -> None:
        for name in ("num_train", "num_validation", "num_test"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """The test split depends on nothing but `seed` and `num_test`."""
        generator = random.Random(self.seed)
        seen: set[str] = set()
        return {
            "test": self._split(generator, "test", self.num_test, seen, report),
            "validation": self._split(generator, "validation", self.num_validation, seen, report),
            "train": self._split(generator, "train", self.num_train, seen, report),
        }

    @staticmethod
    def _split(
        generator: random.Random, split: str, number: int, seen: set[str], report: Report
    ) -> list[Pair]:
        pairs: list[Pair] = []
        while len(pairs) < number:
            sentence = draw(generator)
            source = english(sentence)
            if source in seen:
                report.count(f"{split}: drawn again and passed over", source)
                continue
            seen.add(source)
            target = german(sentence, functools.partial(draw_mode, generator))
            pairs.append(Pair(source, target, domain(sentence)))
        report.count(f"{split}: drawn", number=number)
        return pairs

    @staticmethod
    def translations(source: str) -> tuple[str, ...]:
        return translations(source)

    @staticmethod
    def judge(source: str, hypothesis: str) -> Verdict:
        return judge(source, hypothesis)
