"""How the words of a source arrive."""

import io
import os
import pty
import termios
import tty

import pytest

from nat_ar.streaming import arrivals
from nat_ar.streaming.arrivals import Arrival


class Slow(io.BytesIO):
    """A pipe that hands over a byte at a time."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(1)


def of(text: bytes, unit: str = "word") -> list[tuple[str | None, bool]]:
    found = [
        [(arrival.unit, arrival.is_last) for arrival in arrivals.of_stream(stream, unit)]
        for stream in (io.BytesIO(text), Slow(text))
    ]
    assert found[0] == found[1]
    return found[0]


def test_a_line_is_a_text_and_its_last_word_says_so() -> None:
    expected = [("Two", False), ("dogs.", True), ("Go!", True)]
    assert of(b"Two dogs.\nGo!\n") == expected
    assert of(b"Two dogs.\nGo!") == expected
    assert of(b"\n  Two \t dogs.\r\n\n \nGo!\n")[0] == ("Two", False)
    assert of("﻿Grüße 😀\n".encode()) == [("Grüße", False), ("😀", True)]
    assert of(b"") == of(b"\n \n") == []


def test_a_space_behind_the_last_word_gave_it_on_before_its_text_ended() -> None:
    assert of(b"Two dogs. \nGo!\n") == [
        ("Two", False),
        ("dogs.", False),
        (None, True),
        ("Go!", True),
    ]


def test_characters_keep_the_spaces_before_them() -> None:
    assert of("两只 a\n狗".encode(), "character") == [
        ("两", False),
        ("只", False),
        (" a", True),
        ("狗", True),
    ]


def test_bytes_that_are_not_utf_8_are_marked() -> None:
    assert of(b"a\xff b\xc3") == [("a�", False), ("b�", True)]


def test_a_word_is_given_on_before_the_next_one_is_there() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        words = arrivals.of_stream(stream, "word")
        os.write(writer, b"Two d")
        assert next(words) == Arrival("Two", False)
        os.write(writer, b"ogs")
        os.close(writer)
        assert list(words) == [Arrival("dogs", True)]


def test_a_pace_is_kept_and_lost_time_is_made_up() -> None:
    clock = [10.0]
    sleeps = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        clock[0] += seconds

    source = iter([Arrival(word, False) for word in "abc"] + [Arrival(None, True)])
    paced = arrivals.at_pace(source, 2.0, now=lambda: clock[0], sleep=sleep)
    next(paced)
    clock[0] += 0.75  # the first update takes longer than a word
    assert len(list(paced)) == 3
    assert sleeps == pytest.approx([0.5, 0.0, 0.25, 0.0])


def test_a_keyboard_gives_words_on_and_erases_what_is_not_yet_one() -> None:
    ours, theirs = pty.openpty()
    tty.setcbreak(theirs)
    before = termios.tcgetattr(theirs)
    typed: list[str] = []
    try:
        keys = arrivals.of_keyboard(theirs, "word", typed.append)
        os.write(ours, b"Twp\x7fo dogs\x1b\rGo\x04")
        found = list(keys)
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)
    assert found == [Arrival("Two", False), Arrival("dogs", True), Arrival("Go", True)]
    assert typed[:5] == ["T", "Tw", "Twp", "Tw", "Two"]
