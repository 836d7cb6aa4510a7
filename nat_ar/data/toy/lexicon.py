"""The words of the toy language. An entry may have several words ("front door"); the parser takes the longest match."""

import dataclasses
from typing import Literal

Case = Literal["nominative", "accusative", "dative"]
Kind = Literal["person", "thing"]


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
    """ruft ... an; joined to one word if the verb comes last"""
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
    """also the infinitive"""
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
    """the dependent clause precedes the main clause"""


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
# The position of an adverbial of time is a mode of its own: "Heute sieht Paul den Brief", "Paul
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
