"""Published results (published.json), and which of them a system of ours is compared with.

An entry is one BLEU of a paper with the BLEU of the autoregressive model that the paper compares it with. BLEU of
other tokenisations, sizes and corpora is not comparable; its ratio to the autoregressive model beside it nearly is, and
tables show nothing else."""

import dataclasses
import functools
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

PATH = Path(__file__).with_name("published.json")
DEFAULT = ("WMT14", "en-de")
"""The corpus and the pair that tables compare with: every method was tried there."""
Known = Literal["read", "read elsewhere", "recalled"]
"""How a number is known: from the named source, from another source that cites it, or from memory, unchecked."""


@dataclasses.dataclass(frozen=True)
class Published:
    """One published BLEU. What a source does not say is None."""

    method: str
    """what its paper calls it"""
    corpus: str
    pair: str
    """source and target language: "en-de" """
    split: str
    bleu: float
    known: Known
    paper: str
    training_data: Literal["raw", "distilled"] | None = None
    decoding: str | None = None
    passes: int | None = None
    """decoder passes a sentence, rescoring included; None also where it depends on the sentence"""
    flavour: str | None = None
    """"tokenised", "sacreBLEU", "sacreBLEU, lower-cased", "lower-cased" """
    ar_bleu: float | None = None
    """BLEU of the autoregressive model that it is compared with; None also for that model itself"""
    ar_training_data: Literal["raw", "distilled"] | None = None
    ar_known: Known | None = None
    arxiv: str | None = None
    table: str | None = None
    via: str | None = None
    """where a number that was read elsewhere was read"""
    note: str | None = None
    variant: str | None = None
    """`Method.variant` of what is the same here; None: nothing is"""
    decodings: tuple[str, ...] = ()
    """the decodings of that variant whose quality it is, as text; * stands for anything"""

    @property
    def percent(self) -> float | None:
        """BLEU in percent of the autoregressive model's."""
        return None if self.ar_bleu is None else 100 * self.bleu / self.ar_bleu

    @property
    def is_read(self) -> bool:
        """Both numbers were read somewhere, so that a table may print their ratio."""
        return self.ar_known is not None and "recalled" not in (self.known, self.ar_known)

    @property
    def text(self) -> str:
        """ "GLAT 25.21 of 28.54 (Huang et al. 2022, Table 1)"."""
        source = f"{self.paper}, {self.table}" if self.table else self.paper
        return f"{self.method} {self.bleu:.2f} of {self.ar_bleu:.2f} ({source})"


@functools.cache
def results() -> tuple[Published, ...]:
    """All entries in the order of the file."""
    return tuple(_entry(entry) for entry in json.loads(PATH.read_text("utf-8"))["results"])


def _entry(entry: dict[str, Any]) -> Published:
    ours = entry.pop("ours", None) or {"variant": None, "decodings": ()}
    return Published(**entry, variant=ours["variant"], decodings=tuple(ours["decodings"]))


def find(variant: str, training_data: str, decoding: str) -> Published | None:
    """What a table sets beside a system: the first entry of DEFAULT with this variant, kind of training data and
    decoding whose ratio was read. None where there is none.

    decoding: as in a row, such as "GraphBeam(size=10)"; the precision of its weights does not count."""
    decoding = decoding.removesuffix(" int8")
    for entry in results():
        if (
            (entry.corpus, entry.pair) == DEFAULT
            and (entry.variant, entry.training_data) == (variant, training_data)
            and any(fnmatchcase(decoding, pattern) for pattern in entry.decodings)
            and entry.is_read
        ):
            return entry
    return None
