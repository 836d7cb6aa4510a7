"""What docs/data.md and docs/export.md show: Python that runs, commands that the command line takes, links that lead
somewhere."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from nat_ar import __main__ as command_line
from nat_ar.data import prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import StudyConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("data", "export")
TEXTS = {page: (ROOT / "docs" / f"{page}.md").read_text("utf-8") for page in PAGES}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the repository's configs and the files of data.md that start with "# NAME.py:"."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for block in blocks("data", "python"):
        if name := re.match(r"# (\w+\.py):", block):
            (tmp_path / name[1]).write_text(block, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_are_taken(page: str, desk: Path) -> None:
    commands = re.findall(r"^python -m nat_ar (.*)$", "".join(blocks(page, "bash")), re.MULTILINE)
    assert commands
    for command in commands:
        verb, *words = shlex.split(command, comments=True)
        command_line.parse(verb, words)


@pytest.mark.parametrize("block", blocks("data", "python"))
def test_its_python_runs(block: str, desk: Path) -> None:
    exec(block, {})  # noqa: S102  it is ours


def test_its_study_prepares_a_file_of_pairs(desk: Path) -> None:
    config = load_file("mine.py")
    assert isinstance(config, StudyConfig)
    letters = "abcdefgh"
    pairs = [f"{a} {b} {c}\t{c} {b} {a} {a}" for a in letters for b in letters for c in letters]
    (desk / "pairs.tsv").write_text("\n".join(pairs) + "\n", "utf-8")
    corpus = dataclasses.replace(
        config.data.corpus, train=("pairs.tsv",), hold_out=HoldOut(validation=10, test=20)
    )
    words = VocabularyConfig(size=20, byte_fallback=False)
    prepare.prepare(dataclasses.replace(config.data, corpus=corpus, vocabulary=words), quiet=True)
    sources = (desk / "data/mine/test/source.txt").read_text("utf-8").splitlines()
    assert len(sources) == 20
    assert set("".join(sources)) <= {*letters, " "}


def test_its_corpus_prepares_and_judges_without_a_change_of_the_package(desk: Path) -> None:
    config = load_file("spelling.py")
    prepare.prepare(config.data, quiet=True)
    data = PreparedData.load(config.data.directory)
    assert data.split("test").source_text[0] == "1 0 0 1"
    assert data.split("test").target_text[0] == "one zero zero one"
    corpus = prepare.config_of(data).corpus  # read back from JSON
    assert corpus.judge("1 0 0 1", "one zero zero one").valid
    assert not corpus.judge("1 0 0 1", "one zero one one").valid


def test_its_family_has_every_method_and_only_chooses_among_them(desk: Path) -> None:
    config = load_file("family.py")
    names = [entry.name for entry in config.entries]
    assert len(names) == 33  # ar_kd, and 16 students raw and distilled
    only = re.search(r"--only (\w+) (\w+)", TEXTS["data"])
    assert only is not None
    assert set(only.groups()) <= set(names)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXTS[page]):
        assert (ROOT / "docs" / link).exists(), link
    for name in re.findall(r"`(nat_ar/[\w/.]+)`", TEXTS[page]):
        assert (ROOT / name).exists(), name
