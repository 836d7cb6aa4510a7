"""stream: words in, captions out."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest

import nat_ar
from nat_ar.commands import stream
from nat_ar.commands.stream import Stream
from nat_ar.config_json import ConfigError
from nat_ar.streaming.captioner import Captioner


@pytest.fixture(scope="module")
def captioner(tiny_runs) -> Captioner:
    return nat_ar.caption(tiny_runs.length_nat, "Retranslate(mask_k=1)")


@pytest.fixture
def pipe(
    tiny_runs,
    captioner: Captioner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Bytes through standard input: the fields of each line, and the summary."""
    monkeypatch.setattr(stream, "open_captioner", lambda *_, **__: captioner)
    monkeypatch.setattr(stream, "USUAL_TOKENS", 5)

    def run(text: bytes, **fields: Any) -> tuple[list[list[str]], str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        stream.run(Stream(str(tiny_runs.length_nat.directory), **fields))
        captured = capsys.readouterr()
        said = captured.err.splitlines()[1:]  # the first line is the machine
        return [line.split("\t") for line in captured.out.splitlines()], "".join(said)

    return run


def test_a_line_for_each_word(pipe, captioner: Captioner) -> None:
    lines, summary = pipe(b"a b d\n\nc\n")
    captions = [captioner.replay("a b d"), captioner.replay("c")]
    updates = [update for caption in captions for update in caption.updates]
    assert [[line[i] for i in (0, 1, 2)] for line in lines] == [
        ["0", "1", "..."],
        ["0", "2", "..."],
        ["0", "3", "end"],
        ["1", "1", "end"],
    ]
    assert [line[5] for line in lines] == [" ".join(update.shown) for update in updates]
    assert [int(line[4]) for line in lines] == [update.erased for update in updates]
    assert all(float(line[3]) > 0 for line in lines)
    assert summary.startswith("nat-ar: 2 texts, 4 updates: ")


def test_a_file_and_standard_input_say_the_same(pipe, tmp_path: Path) -> None:
    path = tmp_path / "source.txt"
    path.write_bytes(b"a b\nc")
    of_file, of_pipe = pipe(b"", input=str(path), pace=1000.0)[0], pipe(b"a b\nc")[0]
    assert [line[:3] + line[4:] for line in of_file] == [line[:3] + line[4:] for line in of_pipe]


def test_nothing_comes_of_nothing(pipe) -> None:
    assert pipe(b"\n \n") == ([], "")


def test_what_cannot_be_is_refused(tiny_runs, tmp_path: Path) -> None:
    run = str(tiny_runs.length_nat.directory)
    with pytest.raises(ConfigError, match="pace must be above 0"):
        Stream(run, pace=0.0)
    with pytest.raises(ConfigError, match="expected a policy"):
        stream.run(Stream(run, policy="Guess()"))
    with pytest.raises(FileNotFoundError):
        stream.run(Stream(run, input=str(tmp_path / "missing.txt")))
