"""Lines of a file are those of the list, wherever one begins to read."""

from pathlib import Path

import pytest

from nat_ar.data.text_lines import EVERY, TextLines

LINES = [f"{number} \u2028 n\u00e4chste\r" * (number % 3) for number in range(3 * EVERY + 5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_bytes("".join(f"{line}\n" for line in LINES).encode())
    return path


def test_lines_are_cut_at_line_feeds_only_and_none_is_lost(path: Path) -> None:
    found = TextLines(path, len(LINES))
    assert len(found) == len(LINES)
    assert [*found] == LINES
    assert [found[row] for row in range(len(found))] == LINES


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 0), (EVERY, EVERY + 1), (EVERY - 1, 2 * EVERY + 3), (101, 101)]
)
def test_a_part_is_that_of_the_list(path: Path, start: int, stop: int) -> None:
    assert [*TextLines(path, len(LINES)).part(start, stop)] == LINES[start:stop]


def test_the_first_lines_end_where_they_are_said_to(path: Path) -> None:
    found = TextLines(path, 40)
    assert [*found] == LINES[:40]
    for start, stop in ((40, 41), (-1, 0), (3, 2)):
        with pytest.raises(IndexError, match=f"lines {start} to {stop}, of 40"):
            found.part(start, stop)


def test_missing_lines_and_broken_ones_are_named(path: Path) -> None:
    longer = TextLines(path, len(LINES) + 1)
    message = f"lines.txt: {len(LINES)} lines, expected {len(LINES) + 1}; prepare again"
    with pytest.raises(ValueError, match=message):
        list(longer)
    with pytest.raises(ValueError, match=message):
        longer[EVERY]
    path.write_bytes(b"one\ntwo \xff\nthree\n")
    with pytest.raises(ValueError, match=r"lines\.txt:2: not UTF-8"):
        list(TextLines(path, 3))
    assert [*TextLines(path, 3).part(2, 3)] == ["three"]
