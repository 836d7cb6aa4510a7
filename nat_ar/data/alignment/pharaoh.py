"""Links of an external aligner, in Pharaoh format: "0-0 1-2"."""

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from nat_ar.data.alignment import links
from nat_ar.data.ragged import Ragged


def read(lines: Iterable[str], source: Ragged, target: Ragged) -> Int[np.ndarray, "target_tokens"]:
    """One link per target token, from a line per sentence pair of "i-j": source position i and target position j,
    both from 0, in the tokens of `source` and `target`.

    - A target token with several links keeps the one nearest to the diagonal (of two equally near, the left one).
    - A target token without a link takes that of the nearest linked target token (of two, the left one).
    - In a sentence without links, target position j of m is linked to source position j * n // m.

    Raises ValueError with the number of the line if an item is not "i-j" or is out of range, and if the number of
    lines is not that of the sentence pairs."""
    links.check_parallel(source, target)
    linked = np.zeros(len(target.values), np.int32)
    source_lengths, target_lengths = source.lengths.tolist(), target.lengths.tolist()
    row = -1
    for row, line in enumerate(lines):
        if row >= len(target):
            raise ValueError(
                f"expected {len(target)} lines of alignments, one per sentence pair, got more"
            )
        m, n = target_lengths[row], source_lengths[row]
        kept: list[int | None] = [None] * m
        for item in line.split():
            match = re.fullmatch(r"(\d+)-(\d+)", item, re.ASCII)
            if match is None:
                raise ValueError(
                    f'alignments, line {row + 1}: expected "source-target" positions such as '
                    f'"0-0 2-1", got {item!r}'
                )
            i, j = int(match[1]), int(match[2])
            if i >= n or j >= m:
                raise ValueError(
                    f"alignments, line {row + 1}: {item} is out of range, the source has {n} tokens "
                    f"and the target {m}; positions count from 0, source first, in the same tokens "
                    "as the text"
                )
            present = kept[j]
            # |(j + 1/2)/m - (i + 1/2)/n|, times 2mn to stay in whole numbers; then the left one
            if present is None or (abs((2 * j + 1) * n - (2 * i + 1) * m), i) < (
                abs((2 * j + 1) * n - (2 * present + 1) * m),
                present,
            ):
                kept[j] = i
        linked[target.offsets[row] : target.offsets[row + 1]] = _fill(kept, n)
    if row + 1 != len(target):
        raise ValueError(
            f"expected {len(target)} lines of alignments, one per sentence pair, got {row + 1}"
        )
    return linked


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
