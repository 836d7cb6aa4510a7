"""Translates lines of text with the programs beside this file. Needs jax, numpy, sentencepiece and flatbuffers.

python DIR/run.py < source.txt > translations.txt

`nat_ar export --format stablehlo` copies this file as run.py. It treats text as `nat_ar translate` does."""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sentencepiece
from jax import export

PAD, EOS = 0, 2
LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
SPACE_MARK, ESCAPE = "\u2581", "\U0010fffd"  # SentencePiece writes a space as U+2581
ESCAPED = re.compile(f"{ESCAPE}([_{ESCAPE}])")


class Exported:
    """An opened export. A program is read and compiled when the first sentence needs it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.card = json.loads((directory / "card.json").read_text("utf-8"))
        here, platforms = export.default_export_platform(), self.card["platforms"]
        if here not in platforms:
            raise SystemExit(
                f"run.py: these programs are for {', '.join(platforms)}, JAX runs on {here}: set "
                "JAX_PLATFORMS, or export with --platforms"
            )
        self.source, self.target = (
            sentencepiece.SentencePieceProcessor(model_file=str(directory / name))
            for name in self.card["vocabulary"]
        )
        with np.load(directory / self.card["weights"]) as arrays:
            self.weights = jax.device_put({name: arrays[name] for name in arrays.files})
        self.buckets = sorted(map(int, self.card["programs"]))
        self.programs: dict[int, Any] = {}
        self.counts: Counter[str] = Counter()

    def decode(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens [rows, n_best, length], scores [rows, n_best] and decoder passes [rows] of a padded batch."""
        bucket = source.shape[1]
        if bucket not in self.programs:
            content = (self.directory / self.card["programs"][str(bucket)]).read_bytes()
            self.programs[bucket] = jax.jit(export.deserialize(bytearray(content)).call)
        return jax.device_get(self.programs[bucket](self.weights, source))

    def translate(self, lines: Sequence[str]) -> list[str]:
        """A translation of each line, in order; counts what was cut."""
        batches, translations = defaultdict(list), [""] * len(lines)
        longest = self.buckets[-1] - 1  # and EOS
        for index, line in enumerate(lines):
            self.counts["lines are blank, and so are their translations"] += not line.strip()
            text = " ".join(line.split()) if self.card["white_space"] == "collapse" else line
            text = text.replace(ESCAPE, ESCAPE + ESCAPE).replace(SPACE_MARK, ESCAPE + "_")
            row = self.source.encode(text) if line.strip() else []
            is_long = len(row) > longest
            self.counts["sources were longer than the model takes and lost their end"] += is_long
            row = [*row[:longest], EOS]
            if len(row) > 1:  # a blank line is not decoded
                batches[next(b for b in self.buckets if len(row) <= b)].append((index, row))
        for bucket, sentences in batches.items():
            for start in range(0, len(sentences), self.card["rows"]):
                some = sentences[start : start + self.card["rows"]]
                batch = np.full((self.card["rows"], bucket), PAD, np.int32)
                for padded, (_, row) in zip(batch, some, strict=False):
                    padded[: len(row)] = row
                for (index, row), n_best in zip(some, self.decode(batch)[0], strict=False):
                    tokens, limit = n_best[0][n_best[0] != PAD].tolist(), 2 * len(row) + 10
                    self.counts["translations reached their length limit"] += len(tokens) >= limit
                    text = self.target.decode(tokens) if tokens else ""
                    text = ESCAPED.sub(lambda x: SPACE_MARK if x[1] == "_" else ESCAPE, text)
                    translations[index] = LINE_BREAK.sub(" ", text)
        return translations


def main() -> None:
    exported, raw, lines = Exported(Path(__file__).resolve().parent), sys.stdin.buffer.read(), []
    for line in raw.removesuffix(b"\n").split(b"\n") if raw else []:
        line = line.removesuffix(b"\r")
        text = line.decode("utf-8", errors="replace")
        exported.counts["lines hold bytes that are not UTF-8"] += text.encode() != line
        lines.append(LINE_BREAK.sub(" ", text.removeprefix("\ufeff")))
    translations = exported.translate(lines)
    sys.stdout.buffer.write("".join(text + "\n" for text in translations).encode())
    for what, count in exported.counts.items():
        if count:
            print(f"run.py: {count} {what}", file=sys.stderr)


if __name__ == "__main__":
    main()
