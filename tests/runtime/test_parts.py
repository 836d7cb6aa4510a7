"""Who may work in a directory beside whom."""

from pathlib import Path

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.runtime import files, parts
from nat_ar.runtime.parts import Part


def test_every_piece_belongs_to_one_part() -> None:
    dealt = [[k for k in range(7) if Part(one, 3).has(k)] for one in (1, 2, 3)]
    assert dealt == [[0, 3, 6], [1, 4], [2, 5]]
    assert Part.parse("2/8") == Part(2, 8)
    assert str(Part(2, 8)) == "2/8"
    assert parts.named([5, 1, 4], 3) == "2/3, 3/3"


def test_parts_work_side_by_side_and_the_whole_alone(tmp_path: Path) -> None:
    began: list[bool] = []
    with parts.at_work(tmp_path, Part(1, 2), began.append):
        with (
            parts.at_work(tmp_path, Part(2, 2), began.append),
            pytest.raises(files.InUseError, match="is in use by processes that make parts"),
        ):
            parts.at_work(tmp_path, None, began.append).__enter__()
        with (
            pytest.raises(files.InUseError, match=r"part 1/2, is in use by process \d"),
            parts.at_work(tmp_path, Part(1, 2), began.append),
        ):
            pass
        with parts.at_work(tmp_path, Part(2, 2), began.append):
            pass  # what it held is free again
    assert began == [True, False, False, False]
    with parts.at_work(tmp_path, None, began.append):
        assert began[-1]
        with pytest.raises(files.InUseError, match=r"is in use by process \d"):
            parts.at_work(tmp_path, Part(2, 2), began.append).__enter__()
        assert len(began) == 5  # refused before it looked


def test_who_cannot_begin_leaves_the_directory_free(tmp_path: Path) -> None:
    def refuse(is_alone: bool) -> None:
        raise ValueError("other inputs")

    for part in (None, Part(1, 2)):
        with pytest.raises(ValueError, match="other inputs"):
            parts.at_work(tmp_path, part, refuse).__enter__()
    with parts.at_work(tmp_path, None, lambda _: None):
        assert parts.number_of(tmp_path) is None


def test_the_missing_are_named_where_work_is_dealt(tmp_path: Path) -> None:
    parts.require_all(tmp_path, [0, 1], "pieces")
    with parts.at_work(tmp_path, Part(3, 4), lambda _: None):
        pass
    parts.require_all(tmp_path, [], "pieces")
    with pytest.raises(ConfigError, match="lacks 3 pieces, those of --part 1/4, 2/4: run the same"):
        parts.require_all(tmp_path, [0, 4, 5], "pieces")
    with pytest.raises(ConfigError, match="was begun in 4 parts, got --part 1/2: go on with"):
        parts.at_work(tmp_path, Part(1, 2), lambda _: None).__enter__()
    (tmp_path / parts.RECORD).write_text("{")
    with pytest.raises(ValueError, match=r"parts\.json cannot be used"):
        parts.number_of(tmp_path)
