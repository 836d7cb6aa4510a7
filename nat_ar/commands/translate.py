"""translate RUN: lines of text in, translations out, in the same order; works in a pipe.

Translations are written as they are made: at each line that is typed, or part by part of a file. An interruption
keeps those that are written."""

import collections
import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

from nat_ar.config_json import ConfigError
from nat_ar.data import text_files, vocabulary
from nat_ar.evaluation.speed import machine
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from nat_ar.runtime import bars, devices, distributed
from nat_ar.translation import decodings
from nat_ar.translation.model import dtype_of
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import BATCH_TOKENS, Translator

PART_BYTES = 2**16
"""for each device; read, translated and written before more is read"""


@dataclasses.dataclass(frozen=True)
class Translate:
    """Translate standard input or a file, line by line."""

    run_directory: str
    """the trained run"""
    input: str = "-"
    """file to translate; -: standard input"""
    output: str = "-"
    """file to write; -: standard output"""
    decoding: str | None = None
    """such as "Beam(size=4)"; default: the run's own"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, a step, or average:5, the mean of the best five"""
    n_best: int = 1
    """translations per line, best first; if above 1, the number of the line (from 0) and a TAB precede each"""
    scores: bool = False
    """write the score (nats) and a TAB before each translation"""
    batch_tokens: int = BATCH_TOKENS
    """padded source tokens per batch of at most 64 sentences; fewer take less memory and change no translation"""
    coordinator: str | None = None
    """HOST:PORT at which process 0 listens, where several processes share the lines of a file (docs/scale.md)"""
    processes: int | None = None
    """how many processes share them"""
    process: int | None = None
    """which of them this is, from 0"""

    def __post_init__(self) -> None:
        if self.n_best < 1:
            raise ConfigError(f"n_best must be at least 1, got {self.n_best}")


def run(arguments: Translate) -> None:
    with distributed.joined(arguments.coordinator, arguments.processes, arguments.process):
        if distributed.count() > 1 and arguments.input == "-":
            raise ConfigError(
                "processes that translate together read one file that all of them see: expected --input FILE, got "
                "standard input"
            )
        _run(arguments)


def _run(arguments: Translate) -> None:
    run = Run.of(arguments.run_directory)
    method = run.config().method
    decoding: Any = decodings.choose(method, arguments.decoding)
    if arguments.n_best > 1:
        widened = decodings.with_n_best(decoding.decoding, arguments.n_best)
        decoding = dataclasses.replace(decoding, decoding=widened)
    bars.say(machine.summary([dtype_of(method)]))
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_source(arguments))
        output: BufferedIOBase = io.BytesIO()  # of processes that get nothing to write
        if distributed.is_first():
            output = stack.enter_context(_output(arguments))
        pinned = distributed.from_first(lambda: run.pinned(arguments.checkpoint))
        _, translator = open_translator(run, decoding, pinned)
        translator.batch_tokens = arguments.batch_tokens
        translator.devices, translator.is_shared = devices.local(), True
        if arguments.output != "-" and Path(arguments.output).is_file():
            output.truncate(0)
        _translate(source, output, translator, arguments)


def _translate(
    source: BufferedIOBase, output: BufferedIOBase, translator: Translator, arguments: Translate
) -> None:
    """Part by part: what is translated is written before more is read."""
    counts: collections.Counter[str] = collections.Counter()
    name = "standard input" if arguments.input == "-" else arguments.input
    bar = bars.Bar(unit="sentence", desc="translate", is_quiet=source.isatty())
    try:
        with bar:
            for part in _parts(source, PART_BYTES * len(devices.all_processes())):
                lines, num_broken = text_files.lines_to_translate(part, name)
                found = translator.translate(lines, is_quiet=True)
                for number, item in enumerate(found, start=counts["lines"]):
                    output.write("".join(_format(number, item, arguments)).encode())
                output.flush()
                bar.update(len(found))
                counts["lines"] += len(found)
                counts["broken"] += num_broken
                counts["blank"] += sum(item.is_blank for item in found)
                counts["shortened"] += sum(item.is_shortened for item in found)
                counts["cut"] += sum(item.is_cut for item in found)
                counts["missing"] += sum(item.is_missing for item in found)
    except (KeyboardInterrupt, MemoryError):
        bars.say(f"nat-ar: stopped after {counts['lines']} lines, which are written")
        raise
    finally:
        if arguments.scores:
            bars.say(f"nat-ar: scores are {translator.decoding.score}")
        _warn(counts)


def _parts(source: BufferedIOBase, part_bytes: int) -> Iterator[bytes]:
    """What is translated together. Each process reads for itself, as much as the first does."""
    parts = _whole_lines(source, part_bytes)
    while True:
        read: list[bytes] = []

        def read_here(read: list[bytes] = read) -> int:
            read.append(next(parts, b""))
            return len(read[0])

        size = distributed.from_first(read_here)
        if not size:
            return
        yield read[0] if read else source.read(size)


def _whole_lines(source: BufferedIOBase, part_bytes: int) -> Iterator[bytes]:
    """What can be read without waiting for more, in whole lines: a line from a terminal, up to `part_bytes` of a file
    or a pipe."""
    rest = b""
    while part := source.read1(part_bytes):
        whole, newline, rest = (rest + part).rpartition(b"\n")
        if newline:
            yield whole + newline
    if rest:
        yield rest


@contextlib.contextmanager
def _source(arguments: Translate) -> Iterator[BufferedIOBase]:
    if arguments.input == "-":
        yield cast(BufferedIOBase, sys.stdin.buffer)
        return
    with open(arguments.input, "rb") as file:
        yield file


@contextlib.contextmanager
def _output(arguments: Translate) -> Iterator[BufferedIOBase]:
    """Opened before there is anything to write, and left as it is until there is. Raises ConfigError where it is the
    input."""
    if arguments.output == "-":
        yield cast(BufferedIOBase, sys.stdout.buffer)  # UTF-8 whatever the locale
        return
    path = Path(arguments.output)
    is_new = not path.exists()
    if not is_new and arguments.input != "-" and path.samefile(arguments.input):
        raise ConfigError(
            f"output {path} is the input, which is read as it is written; name another file"
        )
    try:
        with path.open("ab") as file:
            yield file
    except BaseException:
        if is_new and not path.stat().st_size:
            path.unlink()
        raise


def _format(number: int, translation: Translation, arguments: Translate) -> Iterator[str]:
    ranked = list(zip(translation.texts, translation.scores, strict=True))[: arguments.n_best]
    for text, score in ranked:
        fields = [str(number)] if arguments.n_best > 1 else []
        fields += [f"{score:.4f}"] if arguments.scores else []
        yield "\t".join([*fields, vocabulary.one_line(text)]) + "\n"


def _warn(counts: Mapping[str, int]) -> None:
    for key, what in (
        ("broken", "lines hold bytes that are not UTF-8"),
        ("blank", "lines are blank, and so are their translations"),
        ("shortened", "sources were longer than the model takes and lost their end"),
        ("cut", "translations reached their length limit"),
        ("missing", "sources got no translation with a finite score"),
    ):
        if counts[key]:
            bars.say(f"nat-ar: {counts[key]} {what}")
