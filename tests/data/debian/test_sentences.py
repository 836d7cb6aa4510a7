"""Where sentences end, which of them are paired, and which pairs are dropped."""

import pytest

from nat_ar.data.debian import sentences
from nat_ar.data.debian.sentences import Block


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rains. We stay.", ["It rains.", "We stay."]),
        ("Am 3. Oktober kam er. Es war kalt.", ["Am 3. Oktober kam er.", "Es war kalt."]),
        ("Obst, z. B. Äpfel, ist gesund.", ["Obst, z. B. Äpfel, ist gesund."]),
        ("Fruit (e.g. Apples) is good.", ["Fruit (e.g. Apples) is good."]),
        ("He said “Stop!” Then he left.", ["He said “Stop!”", "Then he left."]),
        ("version 2.0 of foo.bar is out", ["version 2.0 of foo.bar is out"]),
        ("Really? yes.", ["Really? yes."]),
    ],
)
def test_sentences_end_where_it_is_sure(text: str, expected: list[str]) -> None:
    assert sentences.sentences(text) == expected


def test_sentences_pair_up_only_if_they_are_equally_many() -> None:
    assert sentences.align_sentences("It rains. We stay.", "Es regnet. Wir bleiben.") == [
        ("It rains.", "Es regnet."),
        ("We stay.", "Wir bleiben."),
    ]
    assert sentences.align_sentences("It rains. We stay.", "Da es regnet, bleiben wir.") == [
        ("It rains. We stay.", "Da es regnet, bleiben wir.")
    ]


def test_blocks_skip_what_the_other_side_lacks() -> None:
    english = [Block("p", text) for text in ("Apples.", "A sentence on pears and plums.", "Nuts.")]
    german = [Block("p", text) for text in ("Äpfel.", "Nüsse.")]
    assert [(one.text, other.text) for one, other in sentences.align_blocks(english, german)] == [
        ("Apples.", "Äpfel."),
        ("Nuts.", "Nüsse."),
    ]


@pytest.mark.parametrize(
    ("english", "german", "reason"),
    [
        ("The goat eats grass.", "Die Ziege frisst Gras.", None),
        ("The goat eats grass.", "the goat eats Grass", "not translated"),
        ("The goat of the house", "Die goat of the house", "not translated"),
        ("Open the file %s now", "Jetzt die Datei %s öffnen", "markup or placeholder"),
        ("Read <b>all</b> of it", "Lies <b>alles</b> davon", "markup or placeholder"),
        ("Save 50 % of it", "Spare davon 50 %", None),
        ("Two words", "Zwei Wörter", "too short"),
        ("Ja " * 61, "Nein " * 60, "too long"),
        ("a b c", "d e f g h i j", None),  # 7 / 3 < 2.5
        ("a b c", "d e f g h i j k", "length ratio"),  # 8 / 3 > 2.5
        ("1 2 3 a", "4 5 6 b", "mostly not letters"),
        ("", "d e f", "empty side"),
    ],
)
def test_flaws(english: str, german: str, reason: str | None) -> None:
    assert sentences.flaw(english, german, 3, 60, 2.5) == reason
