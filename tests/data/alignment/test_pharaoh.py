"""Every target token ends with one link, by the rules; broken lines are named."""

import numpy as np
import pytest

from nat_ar.data.alignment import links, pharaoh
from nat_ar.data.ragged import Ragged


def read(lines: list[str], source: Ragged, target: Ragged) -> np.ndarray:
    """A pair at a time."""
    parts = [(source.part(row, row + 1), target.part(row, row + 1)) for row in range(len(source))]
    return np.concatenate([*pharaoh.read(lines, parts, len(source))])


def test_pharaoh_lines_are_source_then_target() -> None:
    source, target = Ragged.from_rows([[1, 2], [1, 2, 3]]), Ragged.from_rows([[1, 2, 3], [1, 2]])
    linked = read(["1-0 0-1 1-2\n", "0-1 2-0\n"], source, target)
    assert linked.tolist() == [1, 0, 1, 2, 0]


def test_pharaoh_keeps_of_several_links_the_one_nearest_to_the_diagonal() -> None:
    source, target = Ragged.from_rows([[1, 2, 3, 4], [1, 2]]), Ragged.from_rows([[1, 2], [1]])
    # Row 0: target 1 of 2 lies at 3/4, source 3 of 4 at 7/8, source 0 at 1/8.
    # Row 1: target 0 of 1 lies at 1/2, the two source tokens at 1/4 and 3/4: the left one.
    for lines in (["0-0 0-1 3-1", "0-0 1-0"], ["3-1 0-1 0-0", "1-0 0-0"]):
        assert read(lines, source, target).tolist() == [0, 3, 0]


def test_pharaoh_gives_every_target_token_a_link() -> None:
    source = Ragged.from_rows([[1, 2, 3], [1, 2], [1, 2], [1], []])
    target = Ragged.from_rows([[1, 2, 3, 4, 5], [1, 2, 3, 4], [1, 2, 3], [], []])
    linked = read(["2-1 0-3", "", "1-2", "", "\n"], source, target)
    # Row 0: target 0 as 1; 2 lies between 1 and 3: the left one; 4 as 3. Row 1: the diagonal.
    assert linked.tolist() == [2, 2, 2, 0, 0, *[0, 0, 1, 1], *[1, 1, 1]]
    counts = links.fertilities(linked, source, target)
    assert [counts[row].tolist() for row in range(len(counts))] == [
        [2, 0, 3],
        [2, 2],
        [0, 3],
        [0],
        [],
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["0-0", "0-0 1-3"],
            "line 2: 1-3 is out of range, the source has 2 tokens and the target 3",
        ),
        (["0-0", "2-0"], "line 2: 2-0 is out of range"),
        (["0-0", "0-0 1:1"], "line 2: expected .* got '1:1'"),
        (["0-0", "0--1"], "line 2: expected .* got '0--1'"),
        (["0-0"], "expected 2 lines of alignments, one per sentence pair, got 1"),
        (["0-0", "0-0", ""], "expected 2 lines of alignments, one per sentence pair, got more"),
    ],
)
def test_broken_pharaoh_lines_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(lines, Ragged.from_rows([[1], [1, 2]]), Ragged.from_rows([[1], [1, 2, 3]]))
