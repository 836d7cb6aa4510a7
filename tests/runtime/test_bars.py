"""Bars are drawn where somebody may look at them, and leave nothing on the screen."""

import sys
import types

import pytest

from nat_ar.runtime import bars
from terminal import Terminal


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("is_notebook", [True, False])
def test_a_terminal_or_a_notebook(
    is_terminal: bool, is_notebook: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if is_notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert bars.are_drawn() == (is_terminal or is_notebook)


def test_bars_leave_nothing_behind() -> None:
    """A bar in a bar, lines between, an error in the middle."""
    terminal = Terminal("""
        from nat_ar.runtime import bars
        bars.say("first")
        try:
            with bars.Bar(total=3, desc="outer", mininterval=0) as outer:
                for number in range(3):
                    with bars.Bar(range(2), desc="inner", mininterval=0) as inner:
                        for _ in inner:
                            pass
                    bars.say(f"after {number}")
                    outer.update()
                    if number == 1:
                        raise ValueError
        except ValueError:
            bars.say("an error")
        with bars.line("one text") as line:
            line.set_description_str("another text")
        bars.say("last")
    """)
    assert terminal.status == 0
    assert terminal.lines == ["first", "after 0", "after 1", "an error", "last"]
    for shown in ("outer:", "inner:", "one text [", "another text ["):
        assert shown in terminal.written


def test_a_bar_moves_while_nothing_is_counted() -> None:
    terminal = Terminal("""
        import time
        from nat_ar.runtime import bars
        with bars.line("compiling"):
            time.sleep(2.3)
    """)
    assert terminal.lines == []
    assert "compiling [00:01]" in terminal.written
    assert "compiling [00:02]" in terminal.written


def test_without_a_terminal_there_are_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    with bars.Bar(range(2), desc="outer") as bar, bars.line("text") as line:
        for number in bar:
            bars.say(f"after {number}")
            line.set_description_str("another")
    assert capsys.readouterr() == ("", "after 0\nafter 1\n")


def test_not_where_stderr_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `2>&-`."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not bars.are_drawn()
