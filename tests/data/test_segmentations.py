"""Ways to cut a word, by hand and against SentencePiece, and draws from them that every process repeats."""

import collections
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.data import segmentations, vocabulary
from nat_ar.data.ragged import Ragged
from nat_ar.data.segmentations import Merges, Segmentations
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig

TEXTS = [
    f"{first} {second} and the {third}"
    for first in ("small", "friendly", "important", "remembered", "yesterday's", "beautiful")
    for second in ("house", "question", "answers", "understanding", "travellers", "mountain")
    for third in ("dog", "weather", "kitchen", "language", "afternoon", "bicycle")
]
WORDS = list(dict.fromkeys(" ".join(TEXTS).split(" ")))


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vocabulary]:
    directory = tmp_path_factory.mktemp("segmentations")
    return {
        kind: vocabulary.train(
            TEXTS,
            TEXTS,
            directory / kind,
            VocabularyConfig(size=306, kind=kind, white_space="keep"),
        )
        for kind in ("unigram", "bpe")
    }


def ways_of(
    words: Vocabulary, kind: str, texts: list[str], *, alpha: float = 0.1, seed: int = 0
) -> Segmentations:
    generator = np.random.default_rng(seed)
    return words.segmentations("source", texts, kind=kind, alpha=alpha, generator=generator)


def rows_of(pieces: Ragged) -> list[list[int]]:
    return [pieces[row].tolist() for row in range(len(pieces))]


def merged(words: Vocabulary, word: str, dropout: float, *, times: int = 1) -> list[list[str]]:
    merges = Merges(words._source)
    symbols = np.array([merges.symbols(word)] * times)
    rows = merges.apply(symbols, dropout, np.random.default_rng(0))
    return [words.source_pieces(row[row >= 0]) for row in rows]


def test_without_dropout_merges_are_sentencepieces(vocabularies: dict[str, Vocabulary]) -> None:
    words = vocabularies["bpe"]
    for word in [*WORDS, "w", "underhouse", "answersand", "eshohw"]:
        (expected,) = words.encode_source([word])
        assert merged(words, word, 0.0) == [words.source_pieces(expected)]


def test_with_all_merges_left_out_there_are_characters(vocabularies: dict[str, Vocabulary]) -> None:
    assert merged(vocabularies["bpe"], "house", 1.0) == [["▁", *"house"]]


def test_a_merge_is_left_out_as_often_as_asked(vocabularies: dict[str, Vocabulary]) -> None:
    """Of "an" nothing merges but its two letters: a third of the draws leaves them apart."""
    words = vocabularies["bpe"]
    drawn = merged(words, "an", 1 / 3, times=3000)
    assert {tuple(way) for way in drawn} == {("▁", "an"), ("▁", "a", "n")}
    assert np.mean([len(way) == 3 for way in drawn]) == pytest.approx(1 / 3, abs=0.03)


def test_unigram_ways_have_the_powers_of_their_probabilities(
    vocabularies: dict[str, Vocabulary],
) -> None:
    words = vocabularies["unigram"]
    model = words._source
    found = ways_of(words, "unigram", ["mountain"], alpha=0.5)
    ways = rows_of(found.ways)
    assert ways == model.nbest_encode("mountain", nbest_size=64, out_type=int)
    assert len(ways) > 3
    powers = [math.exp(0.5 * sum(model.get_score(piece) for piece in way)) for way in ways]
    np.testing.assert_allclose(np.diff(found.ends, prepend=0.0), np.array(powers) / sum(powers))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_words_are_drawn_as_often_as_they_are_probable(
    vocabularies: dict[str, Vocabulary], kind: str
) -> None:
    """Among other words, before and behind."""
    words = vocabularies[kind]
    found = ways_of(words, kind, ["house", *["the dog"] * 3000, "kitchen"], alpha=0.3)
    drawn = found.draw(np.random.default_rng(1))
    counts = collections.Counter(tuple(row) for row in rows_of(drawn)[1:-1])
    probabilities = [collections.Counter[tuple[int, ...]]() for _ in range(len(found.first) - 1)]
    for number, of_word in enumerate(probabilities):
        for way in range(found.first[number], found.first[number + 1]):
            before = found.ends[way - 1] if way > found.first[number] else number
            of_word[tuple(found.ways[way].tolist())] += found.ends[way] - before
    for (one, p), (other, q) in itertools.product(*(x.items() for x in probabilities[1:3])):
        assert counts[one + other] / 3000 == pytest.approx(p * q, abs=0.03)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=3))
@settings(max_examples=100, deadline=None)
def test_whatever_is_drawn_is_the_text(
    vocabularies: dict[str, Vocabulary], kind: str, texts: list[str]
) -> None:
    words = vocabularies[kind]
    texts = [vocabulary.one_line(text) for text in texts]
    drawn = ways_of(words, kind, texts, alpha=0.4).draw(np.random.default_rng(0))
    assert len(drawn) == len(texts)
    assert words.decode_target(rows_of(drawn)) == texts


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  dogs   and houses ",
        "dog 鞋 house",  # characters that the vocabulary lacks
        "a\u2581b \u2581",  # SentencePiece's own mark of a space
        "<s> <mask> <0x41>",
    ],
)
def test_awkward_text_is_cut_and_comes_back(
    vocabularies: dict[str, Vocabulary], kind: str, text: str
) -> None:
    words = vocabularies[kind]
    drawn = rows_of(ways_of(words, kind, [text], alpha=0.4).draw(np.random.default_rng(0)))
    assert words.decode_target(drawn) == [text]
    assert len(drawn[0]) >= len(words.encode_source([text])[0])


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ways_with_the_highest_power_are_the_usual_ones(
    vocabularies: dict[str, Vocabulary], kind: str
) -> None:
    """Unigram: the most probable way alone; BPE: no merge left out. Where they are strange, too."""
    words, texts = vocabularies[kind], [*TEXTS, "dog 鞋 house", "  two  spaces "]
    alpha = 500.0 if kind == "unigram" else 0.0
    drawn = ways_of(words, kind, texts, alpha=alpha).draw(np.random.default_rng(0))
    assert rows_of(drawn) == words.encode_source(texts)


def test_white_space_collapses_in_other_cuts_too(tmp_path: Path) -> None:
    words = vocabulary.train(TEXTS, TEXTS, tmp_path, VocabularyConfig(size=306, kind="bpe"))
    texts = [" small\t house ", "small house"]
    ways = ways_of(words, "bpe", texts, alpha=0.0)
    untidy, tidy = rows_of(ways.draw(np.random.default_rng(0)))
    assert untidy == tidy == words.encode_source(["small house"])[0]


def test_a_draw_that_is_rounded_up_stays_with_its_word() -> None:
    """1 and the number before 1 are 2 in floating point."""

    class Last(np.random.Generator):
        def random(self, size: int) -> np.ndarray:  # type: ignore[override]
            return np.full(size, 1.0 - 2.0**-53)

    found = Segmentations(
        ways=Ragged.from_rows([[5], [6], [7]]),
        ends=np.array([1.0, 2.0, 3.0]),
        first=np.arange(4),
        texts=Ragged.from_rows([[1]]),
    )
    assert rows_of(found.draw(Last(np.random.PCG64(0)))) == [[6]]


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from nat_ar.data.vocabulary import Vocabulary
for kind in ("unigram", "bpe"):
    words = Vocabulary.load(Path(sys.argv[1]) / kind)
    generator = np.random.default_rng(3)
    ways = words.segmentations("source", sys.argv[2:], kind=kind, alpha=0.3, generator=generator)
    print(ways.draw(generator).values.tolist())
"""


def test_every_process_draws_the_same(vocabularies: dict[str, Vocabulary], tmp_path: Path) -> None:
    """SentencePiece's sampling does not: it mixes the seed with a number of the process's own."""
    for kind, words in vocabularies.items():
        words.save(tmp_path / kind)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *TEXTS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = [
        subprocess.run(
            command, env={**environment, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0]) > 1000


def test_frequent_words_have_more_ways(vocabularies: dict[str, Vocabulary]) -> None:
    found = ways_of(vocabularies["bpe"], "bpe", ["dog"] + ["house"] * 30 + ["the"] * 100)
    assert np.diff(found.first).tolist() == [segmentations.FEWEST, 30, segmentations.MOST]
