"""What is said on the way never decides whether the work goes on."""

import subprocess
import sys

import pytest

from nat_ar.runtime import console

SPEAK = "from nat_ar.runtime import console\nfor _ in range(9): console.say('x' * 9)\nprint('done')"


def test_it_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("step 5")
    assert capsys.readouterr() == ("", "step 5\n")


@pytest.mark.parametrize("ending", ["2> >(exec true)", "2>&-", "2>/dev/full"])
def test_a_closed_stderr_changes_neither_output_nor_status(ending: str) -> None:
    """A reader that has gone, no stderr at all, a full disk."""
    command = ["bash", "-c", f'"$0" -c "$1" {ending}', sys.executable, SPEAK]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n")
