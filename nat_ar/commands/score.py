"""score RUN SOURCE TARGET: log p of given translations, a number a line."""

import dataclasses
import sys
from pathlib import Path

from nat_ar.data import text_files
from nat_ar.experiment.translators import open_translator
from nat_ar.runtime import console, files
from nat_ar.translation.translator import BATCH_TOKENS


@dataclasses.dataclass(frozen=True)
class Score:
    """Write log p of each target line and its end given its source line, in nats: a sum over subwords."""

    run_directory: str
    """the trained run, of an autoregressive or joint method"""
    source: str
    """file of source sentences"""
    target: str
    """file of their translations, as many lines"""
    output: str = "-"
    """file to write; -: standard output"""
    checkpoint: str = "best"
    """best (by validation), latest, a step, or average:5, the mean of the best five"""
    batch_tokens: int = BATCH_TOKENS
    """padded source tokens per batch of at most 64 sentences; fewer take less memory"""


def run(arguments: Score) -> None:
    sides = []
    for path in (arguments.source, arguments.target):
        lines, num_broken = text_files.lines_to_translate(Path(path).read_bytes(), path)
        if num_broken:
            console.say(f"nat-ar: {num_broken} lines of {path} hold bytes that are not UTF-8")
        sides.append(lines)
    source, target = sides
    if len(source) != len(target):
        raise ValueError(
            f"{arguments.source} has {len(source)} lines and {arguments.target} has {len(target)}: expected equal "
            "counts; line n of one must translate line n of the other"
        )
    _, translator = open_translator(arguments.run_directory, None, arguments.checkpoint)
    translator.batch_tokens = arguments.batch_tokens
    text = "".join(f"{value:.4f}\n" for value in translator.score(source, target))
    if arguments.output == "-":
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:
        files.write_text(Path(arguments.output), text)
