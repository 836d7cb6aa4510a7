"""Parses source texts of the toy language."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from nat_ar.data.toy import grammar
from nat_ar.data.toy.grammar import Clause, NounPhrase, Sentence
from nat_ar.data.toy.lexicon import (
    ADJECTIVES,
    ADVERBS,
    LINKS,
    MODALS,
    OPENERS,
    PEOPLE,
    PLACES,
    THINGS,
    TIMES,
    VERBS,
    Determiner,
    Modal,
)

T = TypeVar("T")


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
    """Recursive descent over lower-case words. It accepts a little too much ("Anna see a old man"), so `parse` compares
    the text of the meaning with the text that was read."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.position = 0

    def take(self, lexicon: Mapping[tuple[str, ...], T]) -> T | None:
        """Reads the longest phrase of the lexicon at this position and returns its entry; None if there is none."""
        for length in (4, 3, 2, 1):
            phrase = tuple(self.words[self.position : self.position + length])
            if len(phrase) == length and phrase in lexicon:
                self.position += length
                return lexicon[phrase]
        return None

    def skip(self, *words: str) -> bool:
        """Whether the next word is one of `words`; if so, reads it."""
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
            grammar.require(self.skip(","), "expected a comma")
        link = self.take(_LEXICON_LINKS)
        if link is not None:
            dependent = self.statement()
            grammar.require(self.skip(","), "expected a comma")
            main = self.statement()
            grammar.require(self.skip("."), "expected the end")
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
        grammar.require(self.skip("?" if is_question else "."), "expected the end")
        return Sentence(opener, is_question, main, link, clause)

    def statement(self) -> Clause:
        subject = self.noun_phrase()
        return self.rest(subject, has_do=self.skip("do", "does"))

    def rest(self, subject: NounPhrase, modal: Modal | None = None, has_do: bool = False) -> Clause:
        """The clause, after its subject."""
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
    """The meaning of a source text. Raises ValueError if it is not in the language."""
    try:
        sentence = _Reader(_WORD.findall(source.lower())).sentence()
        canonical = grammar.english(sentence)
        grammar.require(canonical == source, f"expected {canonical!r}")
        grammar.check_size(sentence)
    except ValueError as error:
        raise ValueError(
            f"not in the toy language: {source!r}: {error}; see nat_ar/data/toy/"
        ) from None
    return sentence
