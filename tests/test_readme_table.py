"""The table at the head of README.md is what its command prints of a study's table."""

import re
import shlex
from pathlib import Path

import pytest

from scripts import readme_table

ROOT = Path(__file__).resolve().parents[1]
FEW = """# A study

| system | data | BLEU |
| :-- | :-- | --: |
| ar Beam(size=4) | raw | 34.00 [33.00, 35.00] |
| a\\|b Argmax() | distilled | 27.00 - |

| another | table |
|---|---|
| 1 | 2 |
"""


def test_readme_has_the_table_of_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(
        r"^<!-- python -m scripts\.readme_table ([^>]*) -->\n\n((?:\|.*\n)+)", readme, re.MULTILINE
    )
    assert found is not None
    monkeypatch.chdir(ROOT)
    readme_table.main(shlex.split(found[1]))
    assert capsys.readouterr().out == found[2]
    assert readme.index("\n| ") == found.start(2) - 1  # it is the first table


def test_rows_and_columns_are_those_that_are_named() -> None:
    short = readme_table.shorten(FEW, ["BLEU", "system"], ["a\\|b Argmax()"])
    assert short == "| BLEU | system |\n| --: | :-- |\n| 27.00 - | a\\|b Argmax() |\n"
    assert readme_table.shorten(FEW, [], []).splitlines() == FEW.splitlines()[2:6]


def test_a_name_and_a_decoding_may_be_two_columns() -> None:
    text = "| name | decoding | passes |\n|---|---|---|\n| ar | Greedy() | 9.5 |\n"
    assert readme_table.shorten(text, ["passes"], ["ar Greedy()"]).endswith("| 9.5 |\n")


def test_what_the_table_does_not_have_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="columns: expected some of system; data; BLEU, got chrF"):
        readme_table.shorten(FEW, ["chrF"], [])
    with pytest.raises(ValueError, match=r"rows: expected some of .*, got ar"):
        readme_table.shorten(FEW, [], ["ar"])
    with pytest.raises(SystemExit) as status:
        readme_table.main([str(ROOT / "LICENSE")])
    assert status.value.code == 2
    assert "LICENSE: expected a Markdown page with a table" in capsys.readouterr().err
