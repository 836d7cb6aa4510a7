"""What is held out of training shares nothing with it."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from nat_ar.data import hold_out
from nat_ar.data.debian.sentences import comparison_key
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair, Report
from nat_ar.data.text_files import TextFiles


def read(corpus: TextFiles) -> tuple[dict[str, list[Pair]], Report]:
    report = Report()
    splits = corpus.splits(report)
    return {name: list(pairs) for name, pairs in splits.items()}, report


def test_pairs_that_share_a_side_are_one_component() -> None:
    source = np.array([9, 9, 5, 7, 5, 1], np.uint64)
    target = np.array([3, 4, 4, 8, 6, 2], np.uint64)
    # 0-1 share source 9, 1-2 share target 4, 2-4 share source 5; 3 and 5 are alone
    np.testing.assert_array_equal(hold_out.connected_components(source, target), [0, 0, 0, 1, 0, 2])


def test_equal_numbers_on_different_sides_are_not_equal() -> None:
    sides = np.array([1, 2], np.uint64)
    np.testing.assert_array_equal(hold_out.connected_components(sides, sides[::-1].copy()), [0, 1])


@pytest.mark.parametrize(
    "twin",
    [
        unicodedata.normalize("NFD", "Die Größe fällt auf – »schön« ﬁnal"),
        "Die Grö\u200bße fällt auf – »schön« ﬁnal",
        "\ufeffDie Größe fällt auf – »schön« ﬁnal",
        "Die Grö\u00adße fällt auf – »schön« final",
        "Die\u00a0Größe\u3000fällt auf – »schön« ﬁnal\u200f",
        "DIE GRÖSSE FÄLLT AUF – »SCHÖN« FINAL",
        "Ｄie Größe fällt auf – »schön« ﬁnal",
    ],
)
def test_a_leak_under_another_spelling_is_a_leak(twin: str) -> None:
    """What a reader cannot tell apart, or only by its case, has one key."""
    text = "Die Größe fällt auf – »schön« ﬁnal"
    assert hold_out.key(twin) == hold_out.key(text)
    assert comparison_key(twin) == comparison_key(text)
    assert hold_out.key(text) != hold_out.key("Die Grosse fällt auf – »schön« ﬁnal")
    assert hold_out.normalised("a\x07 well\u2010known") == hold_out.normalised("A well-known")


def test_components_do_not_leak_between_splits(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 700, (1000, 2))
    # the same sentence in another spelling: case, white space and what is not seen do not count
    lines = [
        f"{'S' if row % 2 else 's'}  {s}\tt {t}{' ' * (row % 3)}{chr(0x200B) * (row % 5 == 0)}"
        for row, (s, t) in enumerate(numbers)
    ]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    text_files = TextFiles(train=(str(path),), hold_out=HoldOut(30, 50, seed=1))
    splits, report = read(text_files)
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 920,
        "validation": 30,
        "test": 50,
    }
    for side in (0, 1):
        seen = [{hold_out.normalised(pair[side]) for pair in pairs} for pairs in splits.values()]
        assert len(set.union(*seen)) == sum(len(one) for one in seen)
    everything = [tuple(line.split("\t")) for line in lines]
    assert sorted(pair[:2] for pairs in splits.values() for pair in pairs) == sorted(everything)
    assert report.counts["train: read"] == 1000  # counted once, though read three times
    assert report.provenance["hold_out"]["pairs"] == 1000
    assert read(text_files)[0] == splits
    other = TextFiles(train=(str(path),), hold_out=HoldOut(30, 50, seed=2))
    assert read(other)[0]["test"] != splits["test"]


def test_hold_out_by_line_and_of_one_split_only(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("same\tgleich\n" * 10)
    splits, _ = read(TextFiles(train=(str(path),), hold_out=HoldOut(2, 0, by="line")))
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 8, "validation": 2}
    with pytest.raises(ValueError, match=r"10 pairs in 1 groups, the largest of 10.*ask for fewer"):
        read(TextFiles(train=(str(path),), hold_out=HoldOut(2, 0)))
    with pytest.raises(ValueError, match="ask for fewer"):
        read(TextFiles(train=(str(path),), hold_out=HoldOut(5, 5, by="line")))
