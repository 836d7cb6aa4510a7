"""Whether a translation is one of those that the grammar allows for its source."""

import functools
import itertools
import string

from nat_ar.data.corpus import Verdict
from nat_ar.data.toy import grammar, parser


def translations(source: str) -> tuple[str, ...]:
    """All valid translations of a source, sorted; ValueError where it is not in the language."""
    return _translations(" ".join(source.split()))


@functools.lru_cache(maxsize=1 << 14)
def _translations(source: str) -> tuple[str, ...]:
    sentence = parser.parse(source)
    paths = itertools.product(*map(range, grammar.mode_sizes(sentence)))
    return tuple(sorted(grammar.german(sentence, grammar.Path(path)) for path in paths))


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
