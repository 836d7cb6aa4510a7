"""What a text is cut into where words arrive one by one: words, or characters where a language has no spaces."""

import re
from collections.abc import Sequence
from typing import Literal

from nat_ar.data import references

Unit = Literal["word", "character"]
"""What arrives, and what is counted."""
Units = tuple[str, ...]


def unit_of(language: str | None) -> Unit:
    """How lags in a language are counted. Korean has spaces, though BLEU looks at its morphemes."""
    tokenizer = references.tokenizer_of(language)
    has_spaces = references.is_cut_at_spaces(tokenizer) or tokenizer == "ko-mecab"
    return "word" if has_spaces else "character"


def units_of(text: str, unit: Unit) -> Units:
    """The words of a text; or its characters, each with the spaces before it."""
    return tuple(text.split() if unit == "word" else re.findall(r"\s*\S", text.strip()))


def text_of(units: Sequence[str], unit: Unit) -> str:
    """The text of units."""
    return (" " if unit == "word" else "").join(units)
