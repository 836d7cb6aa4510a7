"""Bars are drawn where somebody may look at them."""

import sys
import types

import pytest

from nat_ar.runtime import bars


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
