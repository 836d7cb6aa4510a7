"""A sentence pair, and the report of what was read and dropped on the way into the arrays."""

import collections
import dataclasses
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """Raw text, exactly as the corpus has it. `domain` and `document` are "" where unknown."""

    source: str
    target: str
    domain: str = ""
    document: str = ""


@dataclasses.dataclass
class Report:
    """What was read, what was dropped and why; part of manifest.json. Nothing is dropped uncounted."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """reason -> number of pairs, e.g. {"train: read": 50000, "train: dropped, empty side": 3}"""
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """reason -> up to 5 examples, such as "file.tsv:17: ..." """
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """files with sha256, packages with versions and licences, hub names with revisions"""

    def count(self, reason: str, example: str | None = None, number: int = 1) -> None:
        self.counts[reason] += number
        if example is not None:
            shown = self.examples.setdefault(reason, [])
            if len(shown) < 5:
                shown.append(example)
