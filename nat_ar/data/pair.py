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
    lost: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """split -> pairs that should be in it and cannot be used: broken, empty, over-long, filtered"""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """files with sha256, packages with versions and licences, hub names with revisions"""

    def drop(self, split: str, reason: str, example: str | None = None) -> None:
        """Counts a pair that its split loses."""
        self.count(f"{split}: dropped, {reason}", example)
        self.lost[split] += 1

    def reasons(self, split: str) -> str:
        """Why the split lost pairs, how many each, and where the first one is."""
        start = f"{split}: dropped, "
        found = {key: number for key, number in self.counts.items() if key.startswith(start)}
        texts = [f"{key.removeprefix(start)}: {number:,}" for key, number in found.items()]
        examples = [self.examples[key][0] for key in found if key in self.examples]
        return "; ".join([*texts, *(f"such as {example[:80]}" for example in examples[:1])])

    def count(self, reason: str, example: str | None = None, number: int = 1) -> None:
        self.counts[reason] += number
        if example is not None:
            shown = self.examples.setdefault(reason, [])
            if len(shown) < 5:
                shown.append(example)

    def add(self, other: "Report") -> None:
        """What another report says of the pairs after these."""
        for reason, number in other.counts.items():
            self.count(reason, number=number)
            for example in other.examples.get(reason, ()):
                self.count(reason, example, number=0)
        self.lost.update(other.lost)
        self.provenance.update(other.provenance)

    def to_json(self) -> dict[str, Any]:
        """JSON data, of which `of_json` makes the same."""
        return {
            "counts": dict(self.counts),
            "lost": dict(self.lost),
            "examples": self.examples,
            "provenance": self.provenance,
        }

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Report":
        return cls(
            collections.Counter(fields["counts"]),
            fields["examples"],
            collections.Counter(fields["lost"]),
            fields["provenance"],
        )
