"""From passages in two languages to clean pairs of sentences."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from nat_ar.data import hold_out


def comparison_key(text: str) -> str:
    """Equal for sentences that count as the same: compares letters and digits, not case or punctuation."""
    return re.sub(r"[\W_]+", " ", hold_out.normalised(text)).strip()


class Passage(NamedTuple):
    """A paragraph, heading or message in both languages; one or more sentences."""

    english: str
    foreign: str
    document: str


class Block(NamedTuple):
    """A paragraph of one language. Only blocks of equal `kind` can be translations."""

    kind: str
    text: str


def normalize(text: str) -> str:
    """NFC, with single spaces for white space, without soft hyphens and zero-width characters."""
    return " ".join(
        re.sub("[\u00ad\u200b-\u200f\u2060\ufeff]", "", unicodedata.normalize("NFC", text)).split()
    )


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = words_of(
    "e.g i.e etc vs cf ca resp approx no nr fig st dr mr mrs prof inc ltd vol "
    "z.b d.h u.a o.ä u.ä s.o s.u bzw usw vgl ggf evtl inkl bspw sog abb kap abs max min mind "
    "p.ex par.ex ex art cap núm sr sra p.ej ej"
)
_BOUNDARY = re.compile(r"[.!?…][\"”“«»’')\]]*\s+")


def sentences(text: str) -> list[str]:
    """Splits where a sentence surely ends; in doubt, it does not split.

    A sentence does not end after a known abbreviation, a single letter or a number of one or two digits
    ("am 3. Oktober"), nor before a small letter."""
    complete = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        following = re.search(r"\w", text[boundary.end() :])
        word = text[start : boundary.start()].rsplit(" ", 1)[-1].lstrip("(\"'„“«").lower()
        abbreviated = text[boundary.start()] == "." and (
            word in _ABBREVIATIONS or len(word) <= 1 or (word.isdigit() and len(word) <= 2)
        )
        if following and not following[0].islower() and not abbreviated:
            complete.append(text[start : boundary.end()].strip())
            start = boundary.end()
    if text[start:].strip():
        complete.append(text[start:].strip())
    return complete


def align_sentences(english: str, foreign: str) -> list[tuple[str, str]]:
    """Pairs of sentences if both sides have equally many, of similar lengths; otherwise the whole texts as one pair."""
    english, foreign = normalize(english), normalize(foreign)
    left, right = sentences(english), sentences(foreign)
    if len(left) == len(right) and all(
        abs(math.log((len(a) + 10) / (len(b) + 10))) < math.log(2)
        for a, b in zip(left, right, strict=True)
    ):
        return list(zip(left, right, strict=True))
    return [(english, foreign)]


_MARKUP = re.compile(
    r"</?\w|[{}|\\^~`$@]|%[\w(\-.#*]|&\w|https?:|ftp:|www\.|\w+\(\d?\)|__|(?:^|\s)_\w|\ufffd|[\x00-\x1f]"
)
_ENGLISH_WORDS = words_of("the of and with this that is are for you your to from be or")


def flaw(
    english: str, foreign: str, min_words: int, max_words: int, max_length_ratio: float
) -> str | None:
    """Why a pair is dropped; None if it is kept."""
    words = english.split(), foreign.split()
    fewest, most = sorted(map(len, words))
    if not fewest:
        return "empty side"
    if comparison_key(english) == comparison_key(foreign):
        return "not translated"
    if _MARKUP.search(english) or _MARKUP.search(foreign):
        return "markup or placeholder"
    if fewest < min_words:
        return "too short"
    if most > max_words:
        return "too long"
    if most >= max_length_ratio * fewest:
        return "length ratio"
    for text in (english, foreign):
        if 2 * sum(character.isalpha() for character in text) < len(text.replace(" ", "")):
            return "mostly not letters"
    still_english = sum(word.lower() in _ENGLISH_WORDS for word in words[1])
    if still_english >= 2 and still_english >= 0.15 * len(words[1]):
        return "not translated"
    return None


_SKIP_COST = 0.7
"""Of an unaligned block. A match costs |log length ratio|, so ratios up to 4 : 1 match."""


def align_blocks(english: Sequence[Block], foreign: Sequence[Block]) -> list[tuple[Block, Block]]:
    """Aligns blocks one to one, in order: by position if all kinds agree, otherwise by dynamic programming over
    lengths and numbers (Gale and Church 1993, with 1-1, 1-0 and 0-1 beads only)."""
    if [block.kind for block in english] == [block.kind for block in foreign]:
        return list(zip(english, foreign, strict=True))
    numbers = [[set(re.findall(r"\d+", b.text)) for b in blocks] for blocks in (english, foreign)]
    rows, columns = len(english), len(foreign)
    cost = [[_SKIP_COST * column for column in range(columns + 1)]]
    for i in range(1, rows + 1):
        above, row = cost[-1], [_SKIP_COST * i]
        one, length = english[i - 1], len(english[i - 1].text) + 5
        for j in range(1, columns + 1):
            best = min(above[j], row[j - 1]) + _SKIP_COST
            other = foreign[j - 1]
            if one.kind == other.kind:
                match = abs(math.log(length / (len(other.text) + 5)))
                if numbers[0][i - 1] != numbers[1][j - 1]:
                    match += 0.3
                best = min(best, above[j - 1] + match)
            row.append(best)
        cost.append(row)
    pairs = []
    i, j = rows, columns
    while i and j:
        if cost[i][j] == cost[i - 1][j] + _SKIP_COST:
            i -= 1
        elif cost[i][j] == cost[i][j - 1] + _SKIP_COST:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((english[i], foreign[j]))
    return pairs[::-1]
