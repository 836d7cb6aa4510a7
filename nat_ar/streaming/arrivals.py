"""How the words of a source arrive: from a file, at a pace, from a pipe or from a keyboard.

A line is a text: its end says that the source has ended. What is read is given on at once, word by word."""

import codecs
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from io import BufferedIOBase

from nat_ar.data.units import Unit

CHUNK_BYTES = 2**16
ERASE = "\x7f\b"
"""what the backspace key sends"""
END_OF_INPUT = "\x04"
"""Ctrl-D"""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """The next unit of a source, or its end."""

    unit: str | None
    """None: the source ends without another one"""
    is_last: bool


class Cutter:
    """Characters in, arrivals out. A unit is given on when the next character shows that it is whole."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.pending = ""
        """of a unit that is not yet whole; a keyboard may still erase it"""
        self._has_units = False

    def take(self, character: str) -> Iterator[Arrival]:
        """What has become whole with one more character."""
        if character == "\n":
            yield from self.end()
        elif character.isspace():
            yield from self._whole()
            self.pending = character if self.unit == "character" and self._has_units else ""
        else:
            if self.unit == "character":
                yield from self._whole()
            self.pending += character

    def end(self) -> Iterator[Arrival]:
        """The end of a text; nothing where there was none."""
        last, self.pending = self.pending, ""
        if last.strip():
            yield Arrival(last, True)
        elif self._has_units:
            yield Arrival(None, True)
        self._has_units = False

    def _whole(self) -> Iterator[Arrival]:
        if self.pending.strip():
            yield Arrival(self.pending, False)
            self._has_units, self.pending = True, ""


def of_stream(stream: BufferedIOBase, unit: Unit) -> Iterator[Arrival]:
    """The units of a file or a pipe, as soon as each is whole. Bytes that are not UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    cutter = Cutter(unit)
    while chunk := stream.read1(CHUNK_BYTES):
        for character in decoder.decode(chunk):
            yield from cutter.take(character)
    for character in decoder.decode(b"", True):
        yield from cutter.take(character)
    yield from cutter.end()


def at_pace(
    arrivals: Iterator[Arrival],
    pace: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Arrival]:
    """`pace` units a second, each when it is due; at once where whoever takes them is late."""
    start, said = now(), 0
    for arrival in arrivals:
        said += arrival.unit is not None
        sleep(max(start + said / pace - now(), 0.0))
        yield arrival


def of_keyboard(descriptor: int, unit: Unit, typed: Callable[[str], None]) -> Iterator[Arrival]:
    """The units that somebody types at a terminal, each with the space or the newline behind it; the end of input is
    Ctrl-D. `typed` is told what a word has so far, which may still be erased."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    cutter = Cutter(unit)
    with _key_by_key(descriptor):
        while chunk := os.read(descriptor, CHUNK_BYTES):
            for character in decoder.decode(chunk).replace("\r", "\n"):
                if character == END_OF_INPUT:
                    yield from cutter.end()
                    return
                if character in ERASE:
                    cutter.pending = cutter.pending[:-1]
                elif character.isprintable() or character.isspace():
                    yield from cutter.take(character)
                typed(cutter.pending)


@contextlib.contextmanager
def _key_by_key(descriptor: int) -> Iterator[None]:
    """A terminal that hands over every key at once, and does not write it itself."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # keeps what was typed before
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
