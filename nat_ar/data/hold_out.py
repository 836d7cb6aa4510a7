"""Holds validation and test pairs out of the training pairs of a corpus, so that nothing leaks."""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.pair import Pair, Report

_TRAIN, _VALIDATION, _TEST = range(3)


_HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2212"), "-")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]|[\x00-\x08\x0e-\x1b\x7f]"
)
"""Unicode's Default_Ignorable_Code_Point (soft hyphen, zero-width space and joiners, marks of direction, variation
selectors, byte order mark), and control characters that are no white space."""


def normalised(text: str) -> str:
    """The form in which sentences are compared: what a reader cannot tell apart is equal. Casefolded, in Unicode's
    normal form NFKC (composed or not, full width, ligatures, no-break spaces), without characters that are not seen,
    white space collapsed."""
    if not text.isascii():
        text = _UNSEEN.sub("", text).translate(_HYPHENS)
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    elif not text.isprintable():
        text = _UNSEEN.sub("", text)
    return " ".join(text.casefold().split())


def key(text: str) -> bytes:
    """An 8-byte hash of the normalised text: the keys of a large corpus fit in memory."""
    return hashlib.blake2b(normalised(text).encode(), digest_size=8).digest()


@dataclasses.dataclass(frozen=True)
class HoldOut(config_json.Config):
    """How validation and test pairs are held out of training, for a corpus without such splits."""

    validation: int = 1000
    """validation pairs to hold out; 0 if the corpus names a validation split"""
    test: int = 2000
    """test pairs to hold out; 0 if the corpus names a test split"""
    by: Literal["component", "line"] = "component"
    """component: pairs that share a source or a target, directly or through other pairs, stay in one split. line:
    single pairs; `remove_overlap` then drops training pairs that overlap with a test"""
    seed: int = 0
    """draws the pairs"""

    def __post_init__(self) -> None:
        config_json.require_seed(self.seed)
        if self.validation < 0 or self.test < 0 or self.validation + self.test == 0:
            raise ConfigError(
                f"hold_out: expected pairs for validation or test, got {self.validation} and "
                f"{self.test}; omit hold_out to hold out nothing"
            )


def held_out(groups: Int[np.ndarray, "pairs"], hold_out: HoldOut) -> Int[np.ndarray, "pairs"]:
    """The split of each pair (0 training, 1 validation, 2 test), given the number of its group.

    Whole groups are drawn at random. A group that would exceed the requested size is skipped, so that large groups
    stay in training."""
    sizes = np.bincount(groups, minlength=1)
    split_of = np.full(len(sizes), _TRAIN, np.int64)
    rest = {_TEST: hold_out.test, _VALIDATION: hold_out.validation}
    for group in np.random.default_rng(hold_out.seed).permutation(len(sizes)):
        for split in rest:
            if 0 < sizes[group] <= rest[split]:
                split_of[group] = split
                rest[split] -= int(sizes[group])
                break
        if not any(rest.values()):
            break
    if any(rest.values()) or np.all(split_of[groups] != _TRAIN):
        raise ValueError(
            f"hold_out asks for {hold_out.validation} validation and {hold_out.test} test pairs of "
            f"{len(groups)} pairs in {np.count_nonzero(sizes)} groups, the largest of {sizes.max()}, "
            f"and at least one pair to train on; {rest[_VALIDATION]} and {rest[_TEST]} of them are "
            "missing: ask for fewer"
        )
    return split_of[groups]


def _groups(
    source: Shaped[np.ndarray, "pairs"], target: Shaped[np.ndarray, "pairs"], hold_out: HoldOut
) -> Int[np.ndarray, "pairs"]:
    """The group of each pair, from the keys of its sides. A group stays in one split."""
    if hold_out.by == "line":
        return np.arange(len(source))
    return connected_components(source, target)


def connected_components(
    source: Shaped[np.ndarray, "pairs"], target: Shaped[np.ndarray, "pairs"]
) -> Int[np.ndarray, "pairs"]:
    """The component of each pair in the graph whose nodes are sources and targets and whose edges are pairs.

    Components are numbered by first appearance, so that the values of the keys do not matter."""
    import scipy.sparse.csgraph  # importing takes 0.1 s, and translating does not need it

    if not len(source):
        return np.zeros(0, np.int64)
    _, source_nodes = np.unique(source, return_inverse=True)
    _, target_nodes = np.unique(target, return_inverse=True)
    target_nodes = target_nodes + source_nodes.max() + 1
    nodes = int(target_nodes.max()) + 1
    edges = (np.ones(len(source), np.int8), (source_nodes, target_nodes))
    graph = scipy.sparse.coo_array(edges, shape=(nodes, nodes))
    _, components = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, first, inverse = np.unique(components[source_nodes], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def split_off(
    read: Callable[[Report], Iterable[Pair]], hold_out: HoldOut, report: Report
) -> dict[str, Iterable[Pair]]:
    """The splits of the pairs that `read` yields, which is called three times: for the keys, for the held-out pairs
    (kept in memory), for the training pairs. Only the first call writes into the report."""
    sources, targets = bytearray(), bytearray()
    for pair in read(report):
        sources += key(pair.source)
        targets += key(pair.target)
    groups = _groups(np.frombuffer(sources, "<u8"), np.frombuffer(targets, "<u8"), hold_out)
    split_of = held_out(groups, hold_out)
    report.provenance["hold_out"] = {
        "pairs": len(groups),
        "groups": len(np.unique(groups)),
        "largest_group": int(np.bincount(groups, minlength=1).max()),
    }
    kept: dict[int, list[Pair]] = {_VALIDATION: [], _TEST: []}
    for split, pair in zip(split_of, read(Report()), strict=True):
        if split != _TRAIN:
            kept[int(split)].append(pair)
    splits: dict[str, Iterable[Pair]] = {
        "train": (
            pair for split, pair in zip(split_of, read(Report()), strict=True) if split == _TRAIN
        )
    }
    for name, split in (("validation", _VALIDATION), ("test", _TEST)):
        if kept[split]:
            report.count(f"{name}: held out of training", number=len(kept[split]))
            splits[name] = kept[split]
    return splits


def check(hold_out: HoldOut | None, named: dict[str, bool]) -> None:
    """Raises ConfigError for a split that is both named and held out. `named`: split -> whether the corpus names it."""
    if hold_out is None:
        return
    for split, number in (("validation", hold_out.validation), ("test", hold_out.test)):
        if number and named[split]:
            raise ConfigError(
                f"{split}: named in the corpus and held out of training ({number} pairs); "
                f"set hold_out.{split} to 0 or omit the name"
            )
