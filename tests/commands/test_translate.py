"""translate: lines in, as many lines out."""

import dataclasses
import io
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nat_ar.commands import translate
from nat_ar.commands.translate import Translate
from nat_ar.config_json import ConfigError
from nat_ar.experiment.run import TrainedModel
from nat_ar.experiment.translators import open_translator
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.translation import decodings
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator


@pytest.fixture(scope="module")
def opened(tiny_runs) -> tuple[TrainedModel, Translator]:
    """What is compiled once for all."""
    return open_translator(tiny_runs.length_nat, "LengthBeam(size=3, n_best=3)")


@dataclasses.dataclass
class Said:
    lines: list[str]
    errors: str


@pytest.fixture
def pipe(
    tiny_runs, opened, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Any:
    """Bytes through standard input and output, by the translator of `opened`."""
    monkeypatch.setattr(translate, "open_translator", lambda *_: opened)

    def run(text: bytes, **fields: Any) -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        translate.run(Translate(str(tiny_runs.length_nat.directory), **fields))
        captured = capsysbinary.readouterr()
        *lines, last = captured.out.decode("utf-8").split("\n")
        assert last == ""
        machine, _, errors = captured.err.decode("utf-8").partition("\n")
        assert machine.startswith("nat-ar: cpu: ")
        return Said(lines, errors)

    return run


def test_a_line_out_for_each_line_in(pipe, opened) -> None:
    expected = [found.texts[0] for found in opened[1].translate(["a b", "", "c"])]
    assert expected[1] == ""
    said = Said(expected, "nat-ar: 1 lines are blank, and so are their translations\n")
    assert pipe(b"a b\n\nc\n") == said
    assert pipe(b"a b\n \nc\n") == said
    assert pipe(b"a b\n\nc") == said  # the last line may lack its end
    assert pipe(b"a b\r\n\r\nc\r\n") == said
    assert pipe(b"\xef\xbb\xbfa b\n\nc\n") == said
    assert pipe(b"") == Said([], "")
    assert pipe(b"\n \t\n").lines == ["", ""]


@pytest.mark.parametrize("separator", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028"])
def test_only_newlines_end_a_line(pipe, separator: str) -> None:
    """`wc -l` counts the same before and after; other breaks read as spaces."""
    assert pipe(f"a{separator}b\nc\n".encode()) == pipe(b"a b\nc\n")


def test_bytes_that_are_not_utf_8_are_counted(pipe) -> None:
    said = pipe(b"a \xff b\nc\n\xc3\n")
    assert len(said.lines) == 3
    assert said.errors == "nat-ar: 2 lines hold bytes that are not UTF-8\n"
    assert pipe("a \ufffd b\n".encode()).errors == ""


def test_files_are_read_and_written(pipe, tmp_path: Path) -> None:
    expected = pipe(b"a b\n\nc\rd\n").lines
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"a b\n\nc\rd\n")
    assert pipe(b"", input=str(source)).lines == expected
    assert pipe(b"", input=str(source), output=str(target)).lines == []
    assert target.read_bytes() == "".join(line + "\n" for line in expected).encode()


def test_output_is_utf_8_in_any_locale(tiny_runs, monkeypatch: pytest.MonkeyPatch) -> None:
    class German(Translator):
        def __init__(self) -> None:
            pass

        def translate(self, lines: Sequence[str], **_: Any) -> list[Translation]:
            return [Translation(["Grüße 😀"], [-1.0], [[7]], 1) for _ in lines]

    monkeypatch.setattr(translate, "open_translator", lambda *_: (None, German()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"greetings\n")))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    translate.run(Translate(str(tiny_runs.length_nat.directory)))
    assert written.getvalue() == "Grüße 😀\n".encode()


def test_scores_and_n_best(pipe, opened) -> None:
    found = opened[1].translate(["a b", "", "c"])
    assert pipe(b"a b\n\nc\n", scores=True).lines == [
        f"{item.scores[0]:.4f}\t{item.texts[0]}" for item in found
    ]
    decoding = "LengthBeam(size=3)"
    assert pipe(b"a b\n\nc\n", n_best=2, decoding=decoding).lines == [
        f"{number}\t{text}" for number, item in enumerate(found) for text in item.texts[:2]
    ]
    both = pipe(b"c\n", n_best=3, scores=True, decoding=decoding).lines
    assert [line.split("\t")[0] for line in both] == ["0", "0", "0"]
    scores = [float(line.split("\t")[1]) for line in both]
    assert scores == sorted(scores, reverse=True)


def test_it_is_said_what_the_scores_are(pipe) -> None:
    """A mean over words here, a sum or another model's elsewhere."""
    assert (
        pipe(b"a b\n", scores=True).errors
        == "nat-ar: scores are mean log p of the words, nats a word\n"
    )
    assert pipe(b"a b\n").errors == ""


def test_a_line_without_any_translation_is_counted(pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Translator,
        "translate",
        lambda self, lines, **more: [
            Translation([""], [-math.inf], [[]], 1, is_missing=True) for _ in lines
        ],
    )
    assert "2 sources got no translation with a finite score" in pipe(b"a\nb\n").errors


def test_n_best_is_asked_of_the_decoding() -> None:
    assert decodings.with_n_best(Beam(), 3) == Beam(size=4, n_best=3)
    with pytest.raises(ConfigError, match=r"Greedy\(\) gives one translation; .* got n_best 2"):
        decodings.with_n_best(Greedy(), 2)
    with pytest.raises(ConfigError, match="n_best must be at least 1, got 0"):
        Translate("run", n_best=0)
    with pytest.raises(ConfigError, match="n_best 5 and size 1"):
        decodings.with_n_best(LengthBeam(), 5)


def test_what_was_cut_is_counted(pipe, opened) -> None:
    said = pipe(("a" * 300 + "\nb\n").encode())
    (long, _) = opened[1].translate(["a" * 300, "b"])
    assert long.is_shortened
    assert "1 sources were longer than the model takes and lost their end" in said.errors


def test_a_run_translates_by_its_own_decoding(
    tiny_runs, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The whole way, from a directory."""
    source = tmp_path / "in.txt"
    source.write_text("a b\n", "utf-8")
    translate.run(Translate(str(tiny_runs.length_nat.directory), input=str(source), scores=True))
    _, translator = open_translator(tiny_runs.length_nat)
    (found,) = translator.translate(["a b"])
    expected = f"{found.scores[0]:.4f}\t{found.texts[0]}\n"
    assert capsysbinary.readouterr().out.decode("utf-8") == expected


class Upper(Translator):
    """A translator that writes capitals, and counts its calls; at "stop" it is interrupted."""

    decoding = Greedy()

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def translate(self, lines: Sequence[str], **_: Any) -> list[Translation]:
        self.calls.append(list(lines))
        if "stop" in lines:
            raise KeyboardInterrupt
        return [Translation([line.upper()], [0.0], [[7]], 1) for line in lines]


@pytest.fixture
def upper(monkeypatch: pytest.MonkeyPatch) -> Upper:
    translator = Upper()
    monkeypatch.setattr(translate, "open_translator", lambda *_: (None, translator))
    return translator


class Typed(io.BytesIO):
    """A terminal: a read gives a line, and looks first at what has been answered by then."""

    def __init__(self, lines: list[bytes], answered: Iterator[None]) -> None:
        super().__init__()
        self.lines, self.answered = iter(lines), answered

    def read1(self, size: int = -1) -> bytes:
        next(self.answered)
        return next(self.lines, b"")

    def isatty(self) -> bool:
        return True


def test_a_line_that_is_typed_is_answered_before_the_next_one(
    tiny_runs, upper: Upper, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    seen: list[bytes] = []

    def look() -> Iterator[None]:
        while True:
            seen.append(written.getvalue())
            yield

    typed = Typed([b"a\n", b"b c\n", b"d"], look())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(typed))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    translate.run(Translate(str(tiny_runs.length_nat.directory), scores=True, n_best=1))
    assert upper.calls == [["a"], ["b c"], ["d"]]
    assert seen[:3] == [b"", b"0.0000\tA\n", b"0.0000\tA\n0.0000\tB C\n"]
    assert written.getvalue().endswith(b"B C\n0.0000\tD\n")


def test_a_long_file_is_written_part_by_part_and_an_interruption_keeps_what_is_done(
    tiny_runs,
    upper: Upper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Lines are whole in every part, and none is lost."""
    monkeypatch.setattr(translate, "PART_BYTES", 10)
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    lines = ["ab", "cdefghijklmnopqrstuvwx", "", "y", "zz", "\ufeffa"]
    source.write_text("\n".join(lines), "utf-8")
    arguments = Translate(
        str(tiny_runs.length_nat.directory), input=str(source), output=str(target)
    )
    translate.run(arguments)
    assert len(upper.calls) > 2
    assert target.read_text("utf-8").split("\n")[:5] == [line.upper() for line in lines[:5]]
    assert len(target.read_text("utf-8").splitlines()) == len(lines)

    source.write_text("\n".join([*lines, "more", "stop"]), "utf-8")
    with pytest.raises(KeyboardInterrupt):
        translate.run(arguments)
    kept = target.read_text("utf-8").splitlines()
    assert kept[:5] == [line.upper() for line in lines[:5]]
    said = f"nat-ar: stopped after {len(kept)} lines, which are written\n"
    assert capsys.readouterr().err.endswith(said)


def test_an_output_that_cannot_be_is_said_before_anything_is_translated(
    tiny_runs, upper: Upper, tmp_path: Path
) -> None:
    run, source = str(tiny_runs.length_nat.directory), tmp_path / "in.txt"
    source.write_text("a\n", "utf-8")
    with pytest.raises(OSError, match="none"):
        translate.run(Translate(run, input=str(source), output=str(tmp_path / "none" / "out")))
    with pytest.raises(ConfigError, match=r"in\.txt is the input, which is read as it is written"):
        translate.run(Translate(run, input=str(source), output=str(source)))
    assert source.read_text("utf-8") == "a\n"
    assert upper.calls == []


def test_an_output_is_left_as_it_was_where_the_model_cannot_be_opened(
    tiny_runs, tmp_path: Path
) -> None:
    run, source = str(tiny_runs.length_nat.directory), tmp_path / "in.txt"
    source.write_text("a\n", "utf-8")
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("precious", "utf-8")
    for output in (old, new):
        with pytest.raises(ValueError, match="expected checkpoint best, latest or one of 0"):
            translate.run(Translate(run, input=str(source), output=str(output), checkpoint="7"))
    assert old.read_text("utf-8") == "precious"
    assert not new.exists()
