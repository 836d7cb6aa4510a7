"""translate RUN: lines of text in, translations out, in the same order; works in a pipe."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import text_files, vocabulary
from nat_ar.evaluation.speed import machine
from nat_ar.experiment.run import Run, open_translator
from nat_ar.runtime import console
from nat_ar.translation import decodings
from nat_ar.translation.translator import BATCH_TOKENS, Translation


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
    """best (by validation BLEU), latest, or a step"""
    n_best: int = 1
    """translations per line, best first; if above 1, the number of the line (from 0) and a TAB precede each"""
    scores: bool = False
    """write the score and a TAB before each translation; what it is depends on the decoding, and a line on stderr says
    it: log p or log p by length, of the model or of the rescorer"""
    batch_tokens: int = BATCH_TOKENS
    """padded source tokens per batch of at most 64 sentences; fewer take less memory and change no translation"""

    def __post_init__(self) -> None:
        if self.n_best < 1:
            raise ConfigError(f"n_best must be at least 1, got {self.n_best}")


def run(arguments: Translate) -> None:
    run = Run.of(arguments.run_directory)
    decoding: Any = arguments.decoding
    if arguments.n_best > 1:
        chosen = decodings.choose(run.config().method, decoding)
        widened = decodings.with_n_best(chosen.decoding, arguments.n_best)
        decoding = dataclasses.replace(chosen, decoding=widened)
    _, translator = open_translator(run, decoding, arguments.checkpoint)
    console.say(machine.summary([run.config().method.network.dtype]))
    translator.batch_tokens = arguments.batch_tokens
    found = translator.translate(_read(arguments.input))
    written = [
        line for number, item in enumerate(found) for line in _format(number, item, arguments)
    ]
    if arguments.output == "-":
        sys.stdout.buffer.write("".join(written).encode())  # UTF-8 whatever the locale
        sys.stdout.buffer.flush()
    else:
        Path(arguments.output).write_text("".join(written), "utf-8", newline="\n")
    if arguments.scores:
        console.say(f"nat-ar: scores are {translator.decoding.score}")
    _warn(found)


def _read(name: str) -> list[str]:
    text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    lines, num_broken = text_files.lines_to_translate(
        text, "standard input" if name == "-" else name
    )
    if num_broken:
        console.say(f"nat-ar: {num_broken} lines hold bytes that are not UTF-8")
    return lines


def _format(number: int, translation: Translation, arguments: Translate) -> Iterator[str]:
    ranked = list(zip(translation.texts, translation.scores, strict=True))[: arguments.n_best]
    for text, score in ranked:
        fields = [str(number)] if arguments.n_best > 1 else []
        fields += [f"{score:.4f}"] if arguments.scores else []
        yield "\t".join([*fields, vocabulary.one_line(text)]) + "\n"


def _warn(found: list[Translation]) -> None:
    counts = {
        "sources were longer than the model takes and lost their end": sum(
            t.is_shortened for t in found
        ),
        "translations reached their length limit": sum(t.is_cut for t in found),
        "sources got no translation with a finite score": sum(t.is_missing for t in found),
    }
    for what, count in counts.items():
        if count:
            console.say(f"nat-ar: {count} {what}")
