"""What is held out of training shares nothing with it."""

from pathlib import Path

import numpy as np
import pytest

from nat_ar.data import hold_out
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


def test_components_do_not_leak_between_splits(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 700, (1000, 2))
    # the same sentence in another spelling: case and white space do not count
    lines = [
        f"{'S' if row % 2 else 's'}  {s}\tt {t}{' ' * (row % 3)}"
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
