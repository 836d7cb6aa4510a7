"""What a person sees of a caption in a terminal."""

import io

import pyte
from rich.console import Console

from nat_ar.evaluation import latency
from nat_ar.streaming.caption import Update
from nat_ar.streaming.view import Terminal


class Screen:
    """A terminal of 40 columns."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(40, 12)
        self.stream = pyte.Stream(self.screen)
        self.output = io.StringIO()
        console = Console(file=self.output, force_terminal=True, width=40, legacy_windows=False)
        self.view = Terminal(source_unit="word", target_unit="word", console=console)
        self.before: tuple[str, ...] = ()

    def show(self, source: str, output: str, shown: str, *, is_final: bool = False) -> list[str]:
        units = tuple(shown.split())
        kept = latency.common_prefix(self.before, units)
        update = Update(
            tuple(source.split()),
            is_final,
            tuple(output.split()),
            units,
            kept,
            len(self.before) - kept,
            0.002,
            0.002,
            1,
        )
        self.view.show(update, self.before)
        self.before = () if is_final else units
        return self.lines()

    def lines(self) -> list[str]:
        self.stream.feed(self.output.getvalue().replace("\n", "\r\n"))
        self.output.seek(0)
        self.output.truncate()
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            del lines[-1]
        return lines

    def style_of(self, word: str) -> tuple[str, bool]:
        """Colour of a word's first letter, and whether it is struck through."""
        for row, line in enumerate(self.screen.display):
            if word in line:
                letter = self.screen.buffer[row][line.index(word)]
                background = "" if letter.bg == "default" else f" on {letter.bg}"
                return f"{letter.fg}{background}", letter.strikethrough
        raise AssertionError(f"{word} is not on the screen: {self.screen.display}")


def test_a_caption_changes_in_place_and_stays_when_its_source_has_ended() -> None:
    screen = Screen()
    assert screen.show("Two", "Zwei Frauen", "Zwei") == [
        "Two",
        "Zwei ·",
        "1 word read, 0 erased, 2.0 ms",
    ]
    assert screen.style_of("Zwei") == ("green", False)
    assert screen.show("Two men", "Zwei Frauen", "Zwei Frauen")[1] == "Zwei Frauen"
    assert screen.show("Two men play", "Zwei Männer spielen", "Zwei Männer")[:2] == [
        "Two men play",
        "Zwei Frauen Männer ·",
    ]
    assert screen.style_of("Zwei") == ("default", False)
    assert screen.style_of("Frauen") == ("red", True)
    assert screen.style_of("Männer") == ("black on brown", False)
    ended = ["Two men play cards.", "Zwei Männer spielen Karten."]
    assert screen.show(*ended, ended[1], is_final=True) == ended
    assert screen.show("Go", "Los", "Los") == [
        *ended,
        "",
        "Go",
        "Los",
        "1 word read, 0 erased, 2.0 ms",
    ]
    screen.view.close()
    assert screen.lines() == ended


def test_what_is_typed_is_seen_before_it_is_a_word() -> None:
    screen = Screen()
    screen.view.typed("Tw")
    assert screen.lines() == ["Tw"]
    screen.show("Two", "Zwei", "Zwei")
    screen.view.typed("do")
    assert screen.lines()[0] == "Two do"
    screen.view.close()
