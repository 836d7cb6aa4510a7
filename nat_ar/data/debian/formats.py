"""Readers, one for each format of text in Debian packages: HTML, Mallard, gettext, Ding, apt's lists.

The only file that imports lxml and polib; it is imported only when a corpus is read."""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import lxml.etree
import lxml.html
import polib

from nat_ar.data.debian.sentences import Block, normalize, words_of

Parsed = TypeVar("Parsed")
_INLINE = words_of(
    # HTML
    "a abbr acronym b bdi big br cite code dfn em font i img input ins kbd label q s samp small "
    "span strong sub sup tt u var wbr "
    # Mallard
    "app cmd file gui guiseq hi key keyseq link output sys"
)
_NOT_PROSE = words_of(
    "head header footer nav script noscript style pre button svg credit license revision email "
    "screen listing media"
)
_NOT_PROSE_CLASSES = words_of(
    "toc navheader navfooter docnav index indexterm footnote footnotes headerlink sphinxsidebar "
    "related noteicon programlisting screen bascode"
)
_JOINTS = {"guiseq": " ▸ ", "keyseq": "+"}


def _is_chosen_variant(element: lxml.etree._Element) -> bool:
    """LibreOffice writes a hidden variant for each platform or program into a page, and a script shows one. We take the
    default or else the first, the same in each language."""
    parent = element.getparent()
    if parent is None or not parent.get("class", "").startswith("switch"):
        return False
    variants = [child for child in parent if child.get("hidden") is not None]
    defaults = [child for child in variants if child.get("id", "").startswith("default")]
    return element is (defaults or variants)[0]


def _blocks(root: lxml.etree._Element) -> list[Block]:
    """The stretches of text between block elements, in order."""
    blocks: list[Block] = []
    parts: list[str] = []
    kind_of_parts = ""

    def flush() -> None:
        text = normalize("".join(parts))
        parts.clear()
        if kind_of_parts.startswith(("h1", "h2", "h3", "h4", "h5", "h6")):
            text = re.sub(r"^(?:[A-Z]\.|\d+\.)(?:\d+\.)*\d* ", "", text)  # "2.2. Master Plan"
        if text:
            blocks.append(Block(kind_of_parts, text))

    def add(text: str | None, kind: str) -> None:
        nonlocal kind_of_parts
        if text:
            if not any(part.strip() for part in parts):
                kind_of_parts = kind
            parts.append(text)

    def visit(element: lxml.etree._Element, kind: str) -> None:
        if not isinstance(element.tag, str):  # a comment
            return
        name = lxml.etree.QName(element).localname
        classes = element.get("class", "")
        if (
            name in _NOT_PROSE
            or not _NOT_PROSE_CLASSES.isdisjoint(classes.split())
            or (element.get("hidden") is not None and not _is_chosen_variant(element))
        ):
            return
        inline = name in _INLINE
        if not inline:
            flush()
            identity = element.get("id")
            kind = f"{name}#{identity}" if identity else f"{name}.{classes}"
        if name == "br":
            add(" ", kind)
        add(element.text, kind)
        for position, child in enumerate(element):
            if position and name in _JOINTS:
                add(_JOINTS[name], kind)
            visit(child, kind)
            add(child.tail if name not in _JOINTS else None, kind)
        if not inline:
            flush()

    visit(root, "")
    flush()
    return blocks


def read_html(page: bytes) -> tuple[list[Block], str | None]:
    """A help page or a page of a book -> (its blocks, the page that its "up" link names)."""
    root = lxml.html.document_fromstring(page, parser=lxml.html.HTMLParser(encoding="utf-8"))
    up = root.xpath("//link[@rel='up']/@href")
    # A LibreOffice page has its text in DisplayArea, surrounded by menus.
    body = root.xpath("//div[@id='DisplayArea']") or root.xpath("//body")
    return (_blocks(body[0]) if body else []), (str(up[0]) if up else None)


def read_mallard(page: bytes) -> list[Block]:
    """The blocks of a page of GNOME's help."""
    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True)
    return _blocks(lxml.etree.fromstring(page, parser))


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """A gettext catalogue, .mo or .po -> (message, translation), paragraph by paragraph.

    Context before a caret (Wesnoth's "female^Elf") is removed. Plural forms are messages of their own if there
    are two of them."""
    catalogue = polib.mofile(str(path)) if path.suffix == ".mo" else polib.pofile(str(path))
    for entry in catalogue.translated_entries():
        messages = [(entry.msgid, entry.msgstr)]
        if entry.msgid_plural:
            messages = []
            if set(entry.msgstr_plural) == {0, 1}:
                messages = [
                    (entry.msgid, entry.msgstr_plural[0]),
                    (entry.msgid_plural, entry.msgstr_plural[1]),
                ]
        for message, translation in messages:
            message = re.sub(r"^[^\s^]+\^", "", message)
            translation = re.sub(r"^[^\s^]+\^", "", translation)
            if not message.strip() or not translation.strip():
                continue
            left, right = (re.split(r"\n\s*\n", text.strip()) for text in (message, translation))
            if len(left) == len(right):
                yield from zip(left, right, strict=True)
            else:
                yield message, translation


_DING_NOTES = re.compile(r"\s*(?:\{[^}]*\}|\[[^]]*\]|<[^>]*>)")
_DING_PLACEHOLDERS = re.compile(
    r"[/()…~]|\b(?:sth|sb|sbd|etw|jdn|jdm|jds|jd)\b", flags=re.IGNORECASE
)


def read_ding(lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """A German :: English word list -> (line number from 1, English, German) of its whole sentences.

    The parts of an entry are separated by bars, in the same order on both sides. Notes in braces, brackets and angle
    brackets are removed; of several wordings the first is taken. A part is a sentence if it begins with a capital, ends
    with . ! or ?, and has neither alternatives in slashes nor placeholders (sb., etw.)."""
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or line.count(" :: ") != 1:
            continue
        german, english = (side.split("|") for side in line.strip().split(" :: "))
        if len(german) != len(english):
            continue
        for parts in zip(english, german, strict=True):
            one, other = (
                re.split(r"(?<=[.!?]);|;(?= [A-ZÄÖÜ])", normalize(_DING_NOTES.sub("", part)))[
                    0
                ].strip()
                for part in parts
            )
            if all(
                text[:1].isupper()
                and text[-1] in ".!?"
                and not _DING_PLACEHOLDERS.search(text)
                and len(text.split()) > 1
                for text in (one, other)
            ):
                yield number, one, other


def read_descriptions(
    lines: Iterable[str], language: str, wanted: Collection[str] | None = None
) -> dict[str, tuple[str, str]]:
    """apt's Translation file -> {md5 of the English description: (package, description)}."""
    descriptions: dict[str, tuple[str, str]] = {}
    package = digest = ""
    text: list[str] | None = None
    for line in itertools.chain(lines, ["\n"]):
        if text is not None and line.startswith(" "):
            text.append(line.rstrip("\n"))
            continue
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "Package":
            package = value
        elif name == "Description-md5":
            digest = value
        elif name == f"Description-{language}":
            text = [value]
            continue
        if text is not None and (wanted is None or digest in wanted):
            descriptions.setdefault(digest, (package, "\n".join(text)))
        text = None
    return descriptions


def description_blocks(description: str) -> list[Block]:
    """A package description (Debian policy 5.6.13) -> short line, paragraphs, list items."""
    short, *lines = description.split("\n")
    blocks = [Block("short", normalize(short))]
    kind = ""  # of the current block
    for line in lines:
        text = line.strip()
        bullet = re.match(r"\s*(?:[*+•·o-]|--)\s+(?=\S)", line)
        if text == ".":
            kind = ""
        elif bullet:
            kind = "item"
            blocks.append(Block(kind, normalize(line[bullet.end() :])))
        elif line.startswith("  ") and kind != "item":
            kind = ""
            blocks.append(Block("verbatim", normalize(text)))
        elif kind and (kind == "item") == line.startswith("  "):
            blocks[-1] = Block(kind, f"{blocks[-1].text} {normalize(text)}")
        else:
            kind = "paragraph"
            blocks.append(Block(kind, normalize(text)))
    return blocks


def read_sources(lines: Iterable[str]) -> dict[str, str]:
    """apt's Packages file -> {package: source package}, for those whose names differ."""
    sources: dict[str, str] = {}
    package = ""
    for line in lines:
        if line.startswith("Package: "):
            package = line[9:].strip()
        elif line.startswith("Source: "):
            sources[package] = line[8:].split()[0]
    return sources


def parsed(path: Path, read: Callable[[bytes], Parsed]) -> Parsed:
    try:
        return read(path.read_bytes())
    except lxml.etree.LxmlError as error:
        raise ValueError(f"{path}: {error}; delete its folder to unpack it again") from error
