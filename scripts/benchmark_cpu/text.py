"""Generated sentence pairs: any number, the same for the same seed, without a corpus.

A language is a lexicon of pronounceable words with Zipf's frequencies. The other language translates it word for word
and swaps two neighbours in each sentence."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

WORDS = 20_000
SHORTEST, LONGEST = 6, 26
"""words of a sentence"""


def lexicon(seed: int, number: int = WORDS) -> list[str]:
    """Different words of two to five syllables."""
    draw, words = random.Random(seed), dict[str, None]()
    syllables = [c + v for c in "bdfghjklmnprstvwz" for v in "aeiouy"]
    while len(words) < number:
        words["".join(draw.choices(syllables, k=draw.randint(2, 5)))] = None
    return list(words)


def pairs(number: int, *, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Sentences and their translations."""
    draw = random.Random(seed)
    source, target = lexicon(1), lexicon(2)
    weights = list(itertools.accumulate(1 / (rank + 10) for rank in range(WORDS)))
    for _ in range(number):
        length = draw.randint(SHORTEST, LONGEST)
        words = draw.choices(range(WORDS), cum_weights=weights, k=length)
        theirs = list(words)
        first = draw.randrange(length - 1)
        theirs[first : first + 2] = theirs[first + 1], theirs[first]
        yield " ".join(source[i] for i in words) + ".", " ".join(target[i] for i in theirs) + "."


def write(path: Path, number: int, *, seed: int) -> None:
    """Tab-separated."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{source}\t{target}\n" for source, target in pairs(number, seed=seed))
