"""What a corpus is: where sentence pairs come from, config and reader in one."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import references
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair, Report
from nat_ar.data.references import Tokenizer


class Verdict(NamedTuple):
    """A translation, judged by a corpus that knows all valid translations of its source."""

    valid: bool
    """it is one of the valid translations, word by word"""
    mixed: bool
    """it is neither valid nor empty, yet each of its words occurs in some valid translation"""


@dataclasses.dataclass(frozen=True)
class Corpus(config_json.Open):
    """Base of all corpora. A new one is a frozen dataclass that derives from it, here or in a config file."""

    reads_by_language: ClassVar[bool] = False
    """whether the languages decide which pairs are read, not only how they are scored"""

    _: dataclasses.KW_ONLY
    source_language: str | None = None
    """code such as "en"; None: unknown"""
    target_language: str | None = None
    """code such as "de" or "zh-CN": BLEU cuts references by sacreBLEU's tokenizer for the language, by 13a where it has
    no other; None: unknown, 13a"""
    bleu_tokenizer: Tokenizer | None = None
    """sacreBLEU's tokenizer, whatever the language; None: that of the target language"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, only Debian's corpora knew their languages, and BLEU's tokenizer was always 13a."""
        scoring = dict.fromkeys(("source_language", "target_language", "bleu_tokenizer"))
        return {**scoring, **data}

    @property
    def tokenizer(self) -> Tokenizer:
        """sacreBLEU's tokenizer for the references."""
        return self.bleu_tokenizer or references.tokenizer_of(self.target_language)

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """The pairs of "train", "validation", "test" and any further "test_<name>".

        The iterables are lazy, and each may be consumed once. What is dropped is counted in the report."""
        raise NotImplementedError

    def read(self, split: str, report: Report) -> Iterable[Pair]:
        """The pairs of one split. Raises ValueError where there is none."""
        splits = self.splits(report)
        if split not in splits:
            raise ValueError(
                f"{type(self).__name__}: no split {split!r}; there are {', '.join(splits)}"
            )
        return splits[split]

    def judge(self, source: str, text: str) -> Verdict | None:
        """Whether `text` is a valid translation of `source`; None if this corpus does not know."""
        return None

    def of(self, pairs: "Corpus") -> "Corpus":
        """This corpus with pairs from elsewhere: what it does to pairs is done to those of the other one."""
        return pairs

    @property
    def hold_out(self) -> HoldOut | None:
        """How validation and test are held out of training; None: the corpus has splits of its own."""
        return None


def check_test_names(names: list[str]) -> None:
    """Raises ConfigError unless the names can be directories, each different."""
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name) or names.count(name) > 1:
            raise ConfigError(
                f"more_tests: {name!r}: expected distinct names of letters, digits, _, . and -"
            )


def fault(source: str, target: str, max_characters: int) -> tuple[str, str] | None:
    """Why the pair is dropped: (kind of fault, its details); None if it stays."""
    if not source.strip() or not target.strip():
        return "empty side", f"empty {'target' if source.strip() else 'source'}"
    if max(len(source), len(target)) > max_characters:
        side = "source" if len(source) > max_characters else "target"
        length = max(len(source), len(target))
        return f"longer than {max_characters} characters", f"{side} of {length} characters"
    return None
