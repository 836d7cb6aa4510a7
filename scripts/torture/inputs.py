"""Bad input: text that nobody meant to translate, and configs that nobody can mean."""

import contextlib
import dataclasses
import importlib
import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from nat_ar import config_json
from nat_ar.commands import translate
from nat_ar.commands.translate import Translate
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from scripts.torture import faults

PIECES = (
    b"a b",
    b"",
    b" ",
    b"\t",
    b"\r",
    b"\x1b[31m",
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xef\xbb\xbf",
    "\u2028\u2029\x85\x1c".encode(),
    "\u202eשלום עולם\u202c".encode(),
    "مرحبا".encode(),
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪".encode(),
    "नमस्ते".encode(),
    "𐎀𐎁𒀀".encode(),
    "e\u0301\u0301\u0301".encode(),
    "\u2581\U0010fffd⁇".encode(),
    b"<s></s><pad><mask><0x0A>",
    b"x" * 1000,
)
LONG = b"".join(PIECES)
LINE = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=5).map(b"".join),
    st.binary(max_size=40).map(lambda content: content.replace(b"\n", b"")),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace").replace(b"\n", b"")),
    st.integers(0, len(LONG)).map(lambda at: ((LONG[at:] + LONG) * 200)[:100_000]),
)


@contextlib.contextmanager
def opened(run: Path) -> Iterator[None]:
    """`translate` finds this run open, and what was compiled for it."""
    found = open_translator(Run(run))
    before = translate.open_translator
    translate.open_translator = lambda *_: found  # type: ignore[assignment]
    try:
        yield
    finally:
        translate.open_translator = before


def translate_lines(run: Path, lines: list[bytes]) -> list[str]:
    """Through `translate`, from bytes to bytes: as many lines out as in, in their order. Raises
    AssertionError otherwise; what the command wrote to stderr may only be its own lines."""
    written, said = io.BytesIO(), io.StringIO()
    before = sys.stdin, sys.stdout
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"".join(line + b"\n" for line in lines)))
    sys.stdout = io.TextIOWrapper(written, encoding="ascii")
    try:
        with contextlib.redirect_stderr(said):
            translate.run(Translate(str(run)))
        out = written.getvalue().decode("utf-8")  # strictly
    finally:
        sys.stdin, sys.stdout = before
    assert all(text.startswith("nat-ar: ") for text in said.getvalue().splitlines()), (
        said.getvalue()
    )
    *found, last = out.split("\n")
    assert last == ""
    assert len(found) == len(lines), f"{len(lines)} lines became {len(found)}"
    for given, answer in zip(lines, found, strict=True):
        assert answer.splitlines() in ([answer], [])  # one line for every reader
        assert given.removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf") or not answer
    return found


def fuzz_text(run: Path, *, examples: int, seed: int) -> int:
    """Translates so many lists of lines, each also backwards: every line has its own translation. Returns the
    number of lines. Raises AssertionError with the smallest list that fails."""
    number = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(LINE, min_size=1) | st.lists(LINE, min_size=50, max_size=100))
    def check(lines: list[bytes]) -> None:
        nonlocal number
        number += 2 * len(lines)
        found = translate_lines(run, lines)
        assert translate_lines(run, lines[::-1])[::-1] == found

    with opened(run):
        check()
    return number


@dataclasses.dataclass(frozen=True)
class BadConfig:
    path: str
    """of the field, dotted"""
    words: tuple[str, ...]


VALUES = (
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "",
    "None",
    "x",
    "3.5",
    "99999999999999999999",
    "(1,2)",
    "[]",
    "\x00",
)


def bad_configs(config: Any, prefix: str = "") -> Iterator[BadConfig]:
    """Every field of a config, with every one of VALUES: most are wrong, a few are right."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from bad_configs(value, f"{path}.")
            continue
        for text in VALUES:
            yield BadConfig(path, (f"--{path.replace('_', '-')}={text}",))


def run_config(bad: BadConfig, verb: str, config: str, directory: Path) -> bool:
    """Whether it was refused: then with one line and exit status 2, before any file is touched. What is not
    refused must be a config that can be written and read."""
    before = sorted(directory.rglob("*"))
    parsed: list[Any] = []
    ended = faults.parse_only(verb, config, bad.words, parsed)
    if ended.status == 0:
        (arguments,) = parsed
        again = config_json.from_json(
            type(arguments.config), config_json.to_json(arguments.config), "config"
        )
        assert again == arguments.config, bad
        return False
    assert ended.status == 2, f"{bad}: exit status {ended.status}: {ended.said}"
    lines = ended.said.splitlines()
    assert len(lines) == 1, f"{bad}: {ended.said}"
    assert lines[0].startswith("nat-ar: error: "), f"{bad}: {ended.said}"
    assert sorted(directory.rglob("*")) == before, f"{bad}: touched a file"
    return True


def fuzz_configs(directory: Path, *, number: int, seed: int) -> tuple[int, int]:
    """Runs so many bad configs of a directory of tiny_study.write, drawn at random; (run, refused)."""
    with contextlib.chdir(directory):
        cases = [
            (bad, verb, config)
            for verb, config in (("train", "teacher.py"), ("prepare", "study.py"))
            for bad in bad_configs(
                importlib.import_module(f"nat_ar.commands.{verb}").load_config(config)
            )
        ]
        chosen = random.Random(seed).sample(cases, min(number, len(cases)))
        refused = [run_config(bad, verb, config, directory) for bad, verb, config in chosen]
    return len(refused), sum(refused)
