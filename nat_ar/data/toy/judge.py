"""Judges translations by the valid ones, which the grammar lists."""

import functools
import itertools
import string

from nat_ar.data.corpus import Verdict
from nat_ar.data.toy import grammar, parser


def translations(source: str) -> tuple[str, ...]:
    """All valid translations of a source, sorted. Raises ValueError if it is not in the language."""
    return _translations(" ".join(source.split()))


@functools.lru_cache(maxsize=1 << 14)
def _translations(source: str) -> tuple[str, ...]:
    sentence = parser.parse(source)
    paths = itertools.product(*map(range, grammar.mode_sizes(sentence)))
    return tuple(sorted(grammar.german(sentence, grammar.Path(path)) for path in paths))


def judge(source: str, hypothesis: str) -> Verdict:
    """`valid` ignores white space only; `mixed` ignores punctuation and case, too.

    Raises ValueError if the source is not in the language."""
    answers = translations(source)
    if " ".join(hypothesis.split()) in answers:
        return Verdict(valid=True, mixed=False)
    words = _words(hypothesis)
    return Verdict(valid=False, mixed=bool(words) and words <= _words(" ".join(answers)))


def _words(text: str) -> set[str]:
    """The words in lower case, without punctuation around them."""
    return {word.strip(string.punctuation) for word in text.lower().split()} - {""}
