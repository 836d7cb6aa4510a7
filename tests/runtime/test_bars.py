"""Bars are drawn where somebody may look at them, and leave nothing on the screen."""

import re
import subprocess
import sys
import textwrap
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


def test_a_file_hears_from_work_that_says_nothing() -> None:
    """The innermost bar speaks, once a SILENCE; quiet ones and those beside timed work do not."""
    code = """
        import time
        from nat_ar.runtime import bars
        bars.SILENCE = 0.3
        with bars.Bar(total=1000, initial=20, unit="step") as outer:
            outer.update(17)
            time.sleep(0.5)
            outer.set_description_str("compiling bucket 16")
            with bars.Bar(total=9, is_quiet=True), bars.Bar(total=9, is_ticking=False):
                time.sleep(0.4)
            with bars.line("reading"):
                time.sleep(0.4)
            for _ in bars.Bar(["a"], desc="alignment", unit="pair"):
                time.sleep(0.4)
            for _ in range(8):
                bars.say("spoken")
                time.sleep(0.1)
        bars.say("end")
        time.sleep(0.5)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    lines = [re.sub(r"\d+ s\]", "s]", line) for line in done.stderr.splitlines()]
    said = [line for line in lines if line not in ("spoken", "end")]
    assert list(dict.fromkeys(said)) == [
        "37 of 1,000 steps [s]",
        "compiling bucket 16: 37 of 1,000 steps [s]",
        "reading [s]",
        "alignment: 0 of 1 pairs [s]",
    ]
    assert lines[-1] == "end"
