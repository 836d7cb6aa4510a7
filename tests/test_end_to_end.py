"""What README.md promises: its commands are ones that the command line takes, on files that are there.
That they also do what they say is tested verb by verb in tests/pipeline and tests/commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nat_ar import __main__ as command_line
from nat_ar.commands.benchmark import Benchmark
from nat_ar.commands.distill import Distill
from nat_ar.commands.evaluate import Evaluate
from nat_ar.commands.translate import Translate
from nat_ar.experiment import ready
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.methods.base import Method
from nat_ar.translation import decodings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [
    line
    for block in BLOCKS
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line and not line.startswith("#")
]
COMMANDS = [line.split("python -m nat_ar ", 1)[1] for line in LINES if "python -m nat_ar" in line]


def parse(command: str) -> object:
    """The verb's arguments. Raises ValueError where the command line would refuse them."""
    verb, *words = shlex.split(command, comments=True)
    assert verb in command_line.VERBS
    return command_line.parse(verb, words)


def test_readme_shows_every_verb() -> None:
    assert {command.split()[0] for command in COMMANDS} == set(command_line.VERBS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_taken(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    parse(command)
    for word in shlex.split(command):
        if word.startswith(("configs/", "scripts/")):
            assert (ROOT / word).is_file()


def test_decodings_of_the_readme_are_those_of_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train CONFIG --run R` says what R is, or it lies here; every later command on R must suit its method."""
    monkeypatch.chdir(ROOT)
    published = "docs/results/multi30k_en_de/teacher"
    methods: dict[str, Method] = {published: Run(ROOT / published).config().method}
    for command in COMMANDS:
        arguments = parse(command)
        config = getattr(arguments, "config", None)
        if isinstance(config, ExperimentConfig):
            methods[getattr(arguments, "run", None) or f"runs/{config.name}"] = config.method
            assert config.teacher is None or config.teacher in methods
        elif isinstance(arguments, Evaluate | Distill | Translate):
            given = arguments.decoding
            for text in given if isinstance(given, tuple) else [given]:
                decodings.choose(methods[arguments.run_directory], text)
        elif isinstance(arguments, Benchmark):
            for system in arguments.systems:
                directory, _, text = system.partition(":")
                decodings.choose(methods[directory], text or None)
    assert len(methods) >= 3


@pytest.mark.parametrize("name", ["scripts/quickstart.sh", "scripts/test.sh"])
def test_the_two_commands_are_there(name: str) -> None:
    assert f"bash {name}" in LINES
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert any(link.endswith(".png") for link in links)  # it shows a picture
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_says_of_each_ready_config_whether_it_was_run() -> None:
    table = README.partition("| config | what it is | run |\n|---|---|---|\n")[2].partition("\n\n")[
        0
    ]
    said: dict[str, str] = {}
    for row in table.splitlines():
        first, _, run = (cell.strip() for cell in row.strip("|").split("|"))
        said |= dict.fromkeys(re.findall(r"`([\w/]+)`", first), run)
    assert sorted(said) == ready.names()
    for name, run in said.items():
        path = ready.file_of(name)
        assert path is not None
        never = re.search("Not (yet )?run by us", " ".join(path.read_text("utf-8").split()))
        assert bool(never) == (run == "never"), name
        assert never or re.search(r"\d{4}-\d\d-\d\d|as entries of", run), name


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nat_ar", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command_line.USAGE
