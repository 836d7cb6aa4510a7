"""Links of an external aligner, in Pharaoh format: "0-0 1-2"."""

import itertools
import re
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int

from nat_ar.data.ragged import Ragged


def read(
    lines: Iterable[str], parts: Iterable[tuple[Ragged, Ragged]], pairs: int
) -> Iterator[Int[np.ndarray, "target_tokens"]]:
    """One link per target token, from a line per sentence pair of "i-j": source position i and target position j,
    both from 0, in the tokens of source and target. `parts`: these, for some neighbouring pairs at a time, of `pairs`
    in all.

    - A target token with several links keeps the one nearest to the diagonal (of two equally near, the left one).
    - A target token without a link takes that of the nearest linked target token (of two, the left one).
    - In a sentence without links, target position j of m is linked to source position j * n // m.

    Raises ValueError with the number of the line if an item is not "i-j" or is out of range, and if the number of
    lines is not that of the sentence pairs."""
    numbered, number = enumerate(lines, 1), 0
    for source, target in parts:
        linked = np.zeros(len(target.values), np.int32)
        row = -1
        for row, (number, line) in enumerate(itertools.islice(numbered, len(target))):
            place = slice(*target.offsets[row : row + 2])
            linked[place] = _links(line, number, len(source[row]), len(target[row]))
        if row + 1 != len(target):
            raise ValueError(
                f"expected {pairs} lines of alignments, one per sentence pair, got {number}"
            )
        yield linked
    if next(numbered, None) is not None:
        raise ValueError(f"expected {pairs} lines of alignments, one per sentence pair, got more")


def _links(line: str, number: int, n: int, m: int) -> list[int]:
    """Of a pair of n source and m target tokens, by the rules of `read`."""
    kept: list[int | None] = [None] * m
    for item in line.split():
        match = re.fullmatch(r"(\d+)-(\d+)", item, re.ASCII)
        if match is None:
            raise ValueError(
                f'alignments, line {number}: expected "source-target" positions such as "0-0 2-1", got {item!r}'
            )
        i, j = int(match[1]), int(match[2])
        if i >= n or j >= m:
            raise ValueError(
                f"alignments, line {number}: {item} is out of range, the source has {n} tokens and the target {m}; "
                "positions count from 0, source first, in the same tokens as the text"
            )
        present = kept[j]
        # |(j + 1/2)/m - (i + 1/2)/n|, times 2mn to stay in whole numbers; then the left one
        if present is None or (abs((2 * j + 1) * n - (2 * i + 1) * m), i) < (
            abs((2 * j + 1) * n - (2 * present + 1) * m),
            present,
        ):
            kept[j] = i
    return _fill(kept, n)


def _fill(kept: list[int | None], source_length: int) -> list[int]:
    """A link for every target token of a sentence, by the rules of `read`."""
    linked = [(j, i) for j, i in enumerate(kept) if i is not None]
    if not linked:
        return [j * source_length // len(kept) for j in range(len(kept))]
    # (distance, position, link): the nearest, and of two equally near the left one
    return [
        min((abs(other - j), other, i) for other, i in linked)[2] if present is None else present
        for j, present in enumerate(kept)
    ]
