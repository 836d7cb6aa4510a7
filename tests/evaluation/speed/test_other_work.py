"""A machine that was not idle is known by its numbers."""

from pathlib import Path

import pytest

from nat_ar.evaluation.speed import other_work
from nat_ar.evaluation.speed.other_work import OtherWork

BEFORE = """cpu  999 0 0 0 0 0 0 0 0 0
cpu0 100 10 20 5000 300 1 2 3 77 0
cpu1 0 0 0 0 0 0 0 0 0 0
cpu10 9000 0 0 0 0 0 0 0 0 0
intr 5
"""


@pytest.fixture
def statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    path.write_text(BEFORE, "utf-8")
    monkeypatch.setattr(other_work, "STATISTICS", path)
    monkeypatch.setattr(other_work.os, "sysconf", lambda name: 100)
    return path


def test_a_core_is_busy_with_all_but_idling_and_waiting_for_a_disk(statistics: Path) -> None:
    assert other_work.busy_seconds([0]) == (100 + 10 + 20 + 1 + 2 + 3) / 100
    assert other_work.busy_seconds([0, 1]) == other_work.busy_seconds([0])


def test_other_work_is_what_this_process_did_not_do(
    statistics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 10 s two cores were busy for 14 s, of which 5 s were ours."""
    wall, own = iter((0.0, 10.0)), iter((1.0, 6.0))
    monkeypatch.setattr(other_work.time, "monotonic", lambda: next(wall))
    monkeypatch.setattr(other_work.time, "process_time", lambda: next(own))
    with other_work.measured([0, 1]) as found:
        assert found == []
        changed = BEFORE.replace("cpu0 100 ", "cpu0 800 ").replace("cpu1 0 ", "cpu1 700 ")
        statistics.write_text(changed, "utf-8")
    assert found == [OtherWork(0.9, 2)]
    assert str(found[0]) == "other work kept 0.9 of 2 cores busy"


def test_a_platform_that_does_not_tell_is_no_idle_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(other_work, "STATISTICS", tmp_path / "none")
    with other_work.measured([0]) as found:
        pass
    assert found == []


def test_a_services_tick_is_no_other_work_and_a_quarter_of_a_core_is() -> None:
    assert not OtherWork(0.08, 2).is_too_much
    assert OtherWork(0.25, 2).is_too_much
    assert not OtherWork(0.25, 8).is_too_much
    assert other_work.of_row({}) is None
    assert other_work.of_row({"other_work": None}) is None
    assert other_work.of_row({"other_work": {"busy": 0.0, "cores": 2}}) is None
    row = {"other_work": {"busy": 1.5, "cores": 2}}
    assert other_work.of_row(row) == OtherWork(1.5, 2)
