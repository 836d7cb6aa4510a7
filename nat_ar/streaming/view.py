"""What somebody sees of captions: lines that others can read, or a caption that flickers in a terminal."""

import abc
import sys
from collections.abc import Sequence
from io import BufferedIOBase

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nat_ar.data import vocabulary
from nat_ar.data.units import Unit, text_of
from nat_ar.streaming.caption import Update

HIDDEN = "·"
"""stands for each unit that is held back"""


class View(abc.ABC):
    @abc.abstractmethod
    def show(self, update: Update, before: Sequence[str]) -> None:
        """The next update, after a caption that showed `before`."""

    def typed(self, text: str) -> None:  # noqa: B027  only a terminal shows it
        """What somebody has typed of a word."""

    def close(self) -> None:  # noqa: B027
        """Nothing more will come."""


class Lines(View):
    """A line an update, in UTF-8 whatever the locale, with a TAB between: number of the text (from 0), units read,
    "..." or "end", milliseconds, units erased, and what is shown."""

    def __init__(self, stream: BufferedIOBase, *, target_unit: Unit) -> None:
        self.stream, self.target_unit, self.number = stream, target_unit, 0

    def show(self, update: Update, before: Sequence[str]) -> None:
        fields = [
            str(self.number),
            str(len(update.source)),
            "end" if update.is_final else "...",
            f"{1000 * update.seconds:.2f}",
            str(update.erased),
            vocabulary.one_line(text_of(update.shown, self.target_unit)),
        ]
        self.stream.write(("\t".join(fields) + "\n").encode())
        self.stream.flush()
        self.number += update.is_final


class Terminal(View):
    """The caption in place: what stayed is plain, what is new green, what replaced something yellow, and what went red
    until the next update. Captions whose source has ended stay above it."""

    def __init__(
        self, *, source_unit: Unit, target_unit: Unit, console: Console | None = None
    ) -> None:
        self.source_unit, self.target_unit = source_unit, target_unit
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()
        self._source, self._caption, self._status, self._typed = Text(), Text(), Text(), ""

    def typed(self, text: str) -> None:
        self._typed = text
        self._draw()

    def show(self, update: Update, before: Sequence[str]) -> None:
        source = Text(text_of(update.source, self.source_unit), "dim")
        if update.is_final:
            shown = Text(text_of(update.shown, self.target_unit), "bold")
            self.console.print(Group(source, shown, Text()))
            self._source, self._caption, self._status = Text(), Text(), Text()
        else:
            self._source, self._caption = source, self._coloured(update, before)
            self._status = Text(
                f"{len(update.source)} {self.source_unit}{'s' * (len(update.source) > 1)} read, "
                f"{update.erased} erased, "
                f"{1000 * update.seconds:.1f} ms",
                "dim italic",
            )
        self._typed = ""
        self._draw()

    def _coloured(self, update: Update, before: Sequence[str]) -> Text:
        stays, new = update.shown[: update.kept], update.shown[update.kept :]
        pieces = [
            (stays, "bold"),
            (before[update.kept :], "red strike"),
            (new, "bold black on yellow" if update.erased else "bold green"),
            ([HIDDEN] * (len(update.output) - len(update.shown)), "dim"),
        ]
        texts = [Text(text_of(units, self.target_unit), style) for units, style in pieces if units]
        return Text(" ").join(texts)

    def _draw(self) -> None:
        source = self._source.copy()
        if self._typed:
            space = " " if source and self.source_unit == "word" else ""
            source.append(f"{space}{self._typed}", "underline")
        self.live.update(Group(source, self._caption, self._status), refresh=True)

    def close(self) -> None:
        self.live.update(Text(), refresh=True)
        self.live.stop()
