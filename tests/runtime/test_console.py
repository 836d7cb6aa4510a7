"""What is said on the way never decides whether the work goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from nat_ar.runtime import console

SPEAK = """
import os, sys
from nat_ar.runtime import console
for _ in range(9):
    getattr(console, sys.argv[2])("x" * 9)
open(sys.argv[1], "w").close()
"""


def test_it_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("step 5")
    assert capsys.readouterr() == ("", "step 5\n")


@pytest.mark.parametrize("ending", ["{} >(exec true)", "{}&-", "{}/dev/full"])
@pytest.mark.parametrize(("say", "stream"), [("say", "2>"), ("show", "1>")])
def test_a_closed_stream_changes_neither_the_work_nor_the_status(
    tmp_path: Path, ending: str, say: str, stream: str
) -> None:
    """A reader that has gone, no stream at all, a full disk."""
    script = f'"$0" -c "$1" "$2" {say} {ending.format(stream)}'
    command = ["bash", "-c", script, sys.executable, SPEAK, str(tmp_path / "work")]
    assert subprocess.run(command, timeout=60).returncode == 0
    assert (tmp_path / "work").exists()
