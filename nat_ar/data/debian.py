"""English beside another language, out of Debian packages that are fetched on the user's own machine.

Help pages, books, message catalogues, package descriptions and a dictionary's example sentences
are there in both languages; what they share in structure (paragraph ids, message ids, the order of
paragraphs) aligns them, and a cautious sentence splitter does the rest. Knows text only. Nothing of
the corpus is part of this project: `prepare` fetches it with the machine's own apt, without root,
and the manifest names every package with version, hash and licence file.

Leakage is what such text suffers from, so the split is by document (help page, catalogue, source
package, book chapter), and training loses every pair whose source or target stands in validation
or in a test, compared without case, punctuation, white space and the value of numbers."""

import collections
import dataclasses
import fnmatch
import hashlib
import itertools
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lxml.etree
import lxml.html
import polib
import tqdm

from nat_ar.data.pair import Pair, Report

# --- The corpus ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DebianCorpus:
    """Real text in large: 149,721 English-German pairs on Debian 12, 111,669 of them for training;
    about 420 MB of download and 40 seconds of work on one core, 0.2 GB of memory.

    One of the two languages is English. `held_out` domains are out-of-domain tests,
    "test_<domain>", and stay out of training altogether unless `train_on_held_out_rest`."""

    source_language: str = "en"
    """language code of Debian's translations"""
    target_language: str = "de"
    """likewise"""
    cache: str = "data/debian_cache"
    """downloads and unpacked files; what is there with the right hash is not fetched again, and
    deleting it is how a later point release of Debian is read"""
    domains: tuple[str, ...] = (
        "ding",
        "wesnoth",
        "lohelp",
        "ddtp",
        "handbook",
        "gnomehelp",
        "diguide",
        "guides",
        "programs",
    )
    """kinds of text that are read"""
    held_out: tuple[str, ...] = ("ding", "wesnoth")
    """those of the domains that are kept for out-of-domain tests"""
    held_out_pairs: int = 1000
    """size of each out-of-domain test, drawn by `seed`"""
    train_on_held_out_rest: bool = False
    """whether the documents of a held-out domain that its test does not draw from are trained on;
    the tests are then of unseen documents, no longer of unseen domains"""
    num_validation: int = 2000
    """about so many, drawn like num_test"""
    num_test: int = 2000
    """about so many: whole documents of the training domains, in proportion to their sizes"""
    min_words: int = 3
    """pairs with a shorter side are dropped"""
    max_words: int = 60
    """pairs with a longer side are dropped"""
    max_length_ratio: float = 2.5
    """words of the longer side over words of the shorter, exclusive"""
    seed: int = 1
    """draws the documents of validation and tests"""

    def __post_init__(self) -> None:
        for domain in (*self.domains, *self.held_out):
            if domain not in DOMAINS:
                raise ValueError(f"unknown domain {domain!r}; there are {', '.join(DOMAINS)}")
        if (self.source_language == "en") == (self.target_language == "en"):
            raise ValueError(
                "one of source_language and target_language must be 'en', got "
                f"{self.source_language!r} and {self.target_language!r}"
            )
        if self.num_validation < 1 or self.num_test < 1 or self.held_out_pairs < 1:
            raise ValueError("num_validation, num_test and held_out_pairs must be at least 1")
        if set(self.domains) <= set(self.held_out):
            raise ValueError(
                f"no domain is left to train on: domains {self.domains}, held_out {self.held_out}"
            )
        if not 1 <= self.min_words <= self.max_words:
            raise ValueError(
                f"1 <= min_words <= max_words expected, got {self.min_words}, {self.max_words}"
            )

    @property
    def language(self) -> str:
        """The language that is not English."""
        return self.target_language if self.source_language == "en" else self.source_language

    def splits(self, report: Report) -> dict[str, Iterable[Pair]]:
        """Fetches what is missing, reads it, and splits it by document.

        Returns "train", "validation", "test" and "test_<domain>" for each held-out domain."""
        library = fetch(self, report)
        domains = {
            domain: self._clean(domain, passages, report)
            for domain, passages in _read(self, library)
        }
        if not any(domains.values()):
            raise ValueError(
                f"no pair was found for {self.source_language}-{self.target_language} in the "
                f"domains {', '.join(self.domains)}; {_ALTERNATIVE}"
            )
        return split(self, domains, report)

    def _clean(self, domain: str, passages: Iterable["Passage"], report: Report) -> list[Pair]:
        pairs: dict[tuple[str, str], Pair] = {}
        for passage in passages:
            for english, foreign in align_sentences(passage.english, passage.foreign):
                report.count(f"{domain}: read")
                reason = flaw(
                    english, foreign, self.min_words, self.max_words, self.max_length_ratio
                )
                if reason is None and (english, foreign) in pairs:
                    reason = "exact duplicate"
                if reason is not None:
                    place = f"{passage.document}: {english} ::: {foreign}"[:300]
                    report.count(f"{domain}: dropped, {reason}", place)
                    continue
                source, target = (
                    (english, foreign) if self.source_language == "en" else (foreign, english)
                )
                pairs[english, foreign] = Pair(source, target, domain, passage.document)
        report.count(f"{domain}: kept", number=len(pairs))
        return list(pairs.values())


# --- Splitting ----------------------------------------------------------------------------------


def comparison_key(text: str) -> str:
    """What two sentences must share to count as the same: letters, not case or punctuation."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _without_numbers(key: str) -> str:
    return re.sub(r"\d+(?: \d+)*", "0", key)


def draw_documents(pairs: Sequence[Pair], number: int, random_numbers: random.Random) -> set[str]:
    """Documents that together hold about `number` pairs: in random order, each is taken if it
    brings the sum nearer to `number`. At least one document is left."""
    sizes = collections.Counter(pair.document for pair in pairs)
    documents = sorted(sizes)
    random_numbers.shuffle(documents)
    drawn: set[str] = set()
    missing = number
    for document in documents:
        if abs(missing - sizes[document]) < missing and len(drawn) + 1 < len(documents):
            drawn.add(document)
            missing -= sizes[document]
    return drawn


def split(
    corpus: DebianCorpus, domains: Mapping[str, Sequence[Pair]], report: Report
) -> dict[str, Iterable[Pair]]:
    """Cleaned pairs of every domain -> splits that share no document, no source and no target.

    Where two splits would share a sentence, tests keep it before validation, and validation before
    training."""
    held_out = [domain for domain in corpus.held_out if domains.get(domain)]
    pools: dict[str, Sequence[Pair]] = {
        domain: pairs for domain, pairs in domains.items() if domain not in held_out and pairs
    }
    splits: dict[str, list[Pair]] = {}
    rest: list[Pair] = []
    for domain in held_out:
        random_numbers = random.Random(f"{corpus.seed} {domain}")
        pairs = domains[domain]
        if corpus.train_on_held_out_rest:
            drawn = draw_documents(pairs, corpus.held_out_pairs, random_numbers)
            splits[f"test_{domain}"] = [pair for pair in pairs if pair.document in drawn]
            rest += [pair for pair in pairs if pair.document not in drawn]
        else:
            chosen = random_numbers.sample(
                range(len(pairs)), min(corpus.held_out_pairs, len(pairs))
            )
            splits[f"test_{domain}"] = [pairs[index] for index in sorted(chosen)]
            unused = len(pairs) - len(chosen)
            report.count(f"test_{domain}: not drawn, held out of training", number=unused)

    total = sum(len(pairs) for pairs in pools.values())
    splits |= {"test": [], "validation": [], "train": rest}
    for domain, pairs in pools.items():
        random_numbers = random.Random(f"{corpus.seed} {domain}")
        remaining = list(pairs)
        for name, number in (("test", corpus.num_test), ("validation", corpus.num_validation)):
            drawn = draw_documents(remaining, round(number * len(pairs) / total), random_numbers)
            if not drawn:
                report.count(f"{name}: no document of {domain} is small enough", number=0)
            splits[name] += [pair for pair in remaining if pair.document in drawn]
            remaining = [pair for pair in remaining if pair.document not in drawn]
        splits["train"] += remaining

    # From the tests down to training: a sentence stays in the first split that has it.
    seen_exact: set[tuple[str, str]] = set()
    seen_near: set[tuple[str, str]] = set()
    separated: dict[str, list[Pair]] = {}
    for name, pairs in splits.items():
        kept: list[Pair] = []
        present: set[tuple[str, str]] = set()
        new: set[tuple[str, str]] = set()
        for pair in pairs:
            keys = {
                ("source", comparison_key(pair.source)),
                ("target", comparison_key(pair.target)),
            }
            if pair[:2] in present:
                report.count(f"{name}: dropped, exact duplicate across domains")
            elif not keys.isdisjoint(seen_exact):
                report.count(
                    f"{name}: dropped, source or target stands in a split before it",
                    f"{pair.document}: {pair.source} ::: {pair.target}"[:300],
                )
            elif any((side, _without_numbers(key)) in seen_near for side, key in keys):
                report.count(
                    f"{name}: dropped, differs only in numbers from a split before it",
                    f"{pair.document}: {pair.source} ::: {pair.target}"[:300],
                )
            else:
                kept.append(pair)
                present.add(pair[:2])
                new |= keys
        seen_exact |= new
        seen_near |= {(side, _without_numbers(key)) for side, key in new}
        separated[name] = kept
        report.count(f"{name}: pairs", number=len(kept))
        for domain, number in sorted(collections.Counter(p.domain for p in kept).items()):
            report.count(f"{name}: pairs of {domain}", number=number)
    random.Random(corpus.seed).shuffle(separated["train"])
    return {
        name: separated[name]
        for name in ("train", "validation", "test", *(f"test_{domain}" for domain in held_out))
    }


# --- From passages to clean sentence pairs --------------------------------------------------------


Parsed = TypeVar("Parsed")


class Passage(NamedTuple):
    """A paragraph, heading or message in both languages; one or more sentences."""

    english: str
    foreign: str
    document: str


class Block(NamedTuple):
    """A paragraph of one language. Only blocks of equal `kind` can be translations."""

    kind: str
    text: str


def normalize(text: str) -> str:
    """White space becomes single spaces; soft hyphens and zero-width characters go; NFC."""
    return " ".join(
        re.sub("[\u00ad\u200b-\u200f\u2060\ufeff]", "", unicodedata.normalize("NFC", text)).split()
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _words(
    "e.g i.e etc vs cf ca resp approx no nr fig st dr mr mrs prof inc ltd vol "
    "z.b d.h u.a o.ä u.ä s.o s.u bzw usw vgl ggf evtl inkl bspw sog abb kap abs max min mind "
    "p.ex par.ex ex art cap núm sr sra p.ej ej"
)
_BOUNDARY = re.compile(r"[.!?…][\"”“«»’')\]]*\s+")


def sentences(text: str) -> list[str]:
    """Splits where a sentence surely ends; rather too rarely than too often.

    No end is seen after a known abbreviation, a single letter or a number of one or two digits
    ("am 3. Oktober"), nor before a small letter."""
    found = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        following = re.search(r"\w", text[boundary.end() :])
        word = text[start : boundary.start()].rsplit(" ", 1)[-1].lstrip("(\"'„“«").lower()
        abbreviated = text[boundary.start()] == "." and (
            word in _ABBREVIATIONS or len(word) <= 1 or (word.isdigit() and len(word) <= 2)
        )
        if following and not following[0].islower() and not abbreviated:
            found.append(text[start : boundary.end()].strip())
            start = boundary.end()
    if text[start:].strip():
        found.append(text[start:].strip())
    return found


def align_sentences(english: str, foreign: str) -> list[tuple[str, str]]:
    """Sentence by sentence where both sides have equally many of plausible lengths, else whole."""
    english, foreign = normalize(english), normalize(foreign)
    left, right = sentences(english), sentences(foreign)
    if len(left) == len(right) and all(
        abs(math.log((len(a) + 10) / (len(b) + 10))) < math.log(2)
        for a, b in zip(left, right, strict=True)
    ):
        return list(zip(left, right, strict=True))
    return [(english, foreign)]


_MARKUP = re.compile(
    r"</?\w|[{}|\\^~`$@]|%[\w(\-.#*]|&\w|https?:|ftp:|www\.|\w+\(\d?\)|__|(?:^|\s)_\w|\ufffd|[\x00-\x1f]"
)
_ENGLISH_WORDS = _words("the of and with this that is are for you your to from be or")


def flaw(
    english: str, foreign: str, min_words: int, max_words: int, max_length_ratio: float
) -> str | None:
    """Why a pair is not for training or testing, or None."""
    words = english.split(), foreign.split()
    fewest, most = sorted(map(len, words))
    if not fewest:
        return "empty side"
    if comparison_key(english) == comparison_key(foreign):
        return "not translated"
    if _MARKUP.search(english) or _MARKUP.search(foreign):
        return "markup or placeholder"
    if fewest < min_words:
        return "too short"
    if most > max_words:
        return "too long"
    if most >= max_length_ratio * fewest:
        return "length ratio"
    for text in (english, foreign):
        if 2 * sum(character.isalpha() for character in text) < len(text.replace(" ", "")):
            return "mostly not letters"
    still_english = sum(word.lower() in _ENGLISH_WORDS for word in words[1])
    if still_english >= 2 and still_english >= 0.15 * len(words[1]):
        return "not translated"
    return None


_SKIP_COST = 0.7  # leaving a block unaligned; matching costs |log length ratio|, so up to 4 : 1


def align_blocks(english: Sequence[Block], foreign: Sequence[Block]) -> list[tuple[Block, Block]]:
    """One to one and in order. Equal kinds all along are paired as they stand; otherwise dynamic
    programming skips blocks, so that lengths and numbers agree best (Gale and Church 1993, with
    1-1, 1-0 and 0-1 beads only)."""
    if [block.kind for block in english] == [block.kind for block in foreign]:
        return list(zip(english, foreign, strict=True))
    numbers = [[set(re.findall(r"\d+", b.text)) for b in blocks] for blocks in (english, foreign)]
    rows, columns = len(english), len(foreign)
    cost = [[_SKIP_COST * column for column in range(columns + 1)]]
    for i in range(1, rows + 1):
        above, row = cost[-1], [_SKIP_COST * i]
        one, length = english[i - 1], len(english[i - 1].text) + 5
        for j in range(1, columns + 1):
            best = min(above[j], row[j - 1]) + _SKIP_COST
            other = foreign[j - 1]
            if one.kind == other.kind:
                match = abs(math.log(length / (len(other.text) + 5)))
                if numbers[0][i - 1] != numbers[1][j - 1]:
                    match += 0.3
                best = min(best, above[j - 1] + match)
            row.append(best)
        cost.append(row)
    pairs = []
    i, j = rows, columns
    while i and j:
        if cost[i][j] == cost[i - 1][j] + _SKIP_COST:
            i -= 1
        elif cost[i][j] == cost[i][j - 1] + _SKIP_COST:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((english[i], foreign[j]))
    return pairs[::-1]


# --- Readers, one for each format -----------------------------------------------------------------

_INLINE = _words(
    # HTML
    "a abbr acronym b bdi big br cite code dfn em font i img input ins kbd label q s samp small "
    "span strong sub sup tt u var wbr "
    # Mallard
    "app cmd file gui guiseq hi key keyseq link output sys"
)
_NOT_PROSE = _words(
    "head header footer nav script noscript style pre button svg credit license revision email "
    "screen listing media"
)
_NOT_PROSE_CLASSES = _words(
    "toc navheader navfooter docnav index indexterm footnote footnotes headerlink sphinxsidebar "
    "related noteicon programlisting screen bascode"
)
_JOINTS = {"guiseq": " ▸ ", "keyseq": "+"}


def _is_chosen_variant(element: lxml.etree._Element) -> bool:
    """LibreOffice writes one hidden variant for each platform or program into a page and shows one
    by script. We take the default, or the first where there is none: the same in each language."""
    parent = element.getparent()
    if parent is None or not parent.get("class", "").startswith("switch"):
        return False
    variants = [child for child in parent if child.get("hidden") is not None]
    defaults = [child for child in variants if child.get("id", "").startswith("default")]
    return element is (defaults or variants)[0]


def _blocks(root: lxml.etree._Element) -> list[Block]:
    """Every stretch of text that no block element interrupts, in order."""
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
    """A help page or a page of a book -> its blocks, and the page that its "up" link names."""
    root = lxml.html.document_fromstring(page, parser=lxml.html.HTMLParser(encoding="utf-8"))
    up = root.xpath("//link[@rel='up']/@href")
    # A LibreOffice page has its text in DisplayArea and menus around it.
    body = root.xpath("//div[@id='DisplayArea']") or root.xpath("//body")
    return (_blocks(body[0]) if body else []), (str(up[0]) if up else None)


def read_mallard(page: bytes) -> list[Block]:
    """A page of GNOME's help."""
    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True)
    return _blocks(lxml.etree.fromstring(page, parser))


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """A gettext catalogue, .mo or .po -> (message, translation), paragraph by paragraph.

    Context before a caret ("female^Elf", as Wesnoth writes it) is cut off. Plural forms count as
    messages of their own where the language has two."""
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

    An entry's parts stand between bars, in the same order on both sides. Notes in braces, brackets
    and angles are cut; of several wordings the first counts; a part is a sentence if it starts with
    a capital, ends like one, and has neither alternatives in slashes nor placeholders (sb., etw.)."""
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
    kind = ""  # of the block that is open
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
    """apt's Packages file -> {package: source package}, where the two names differ."""
    sources: dict[str, str] = {}
    package = ""
    for line in lines:
        if line.startswith("Package: "):
            package = line[9:].strip()
        elif line.startswith("Source: "):
            sources[package] = line[8:].split()[0]
    return sources


# --- Domains --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Library:
    """What is on the disk after fetching."""

    lists: Path
    """apt's own lists"""
    unpacked: dict[str, list[Path]]
    """domain -> one folder a package"""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where a kind of text is found. Patterns may hold {language}."""

    packages: tuple[str, ...]
    """regular expressions for names of packages"""
    members: tuple[str, ...]
    """file name patterns: what is unpacked"""
    read: Callable[[Library, str, str], Iterator[Passage]]
    """(library, name of the domain, language) -> passages"""
    licence: str
    """in short; the packages' own copyright files are unpacked beside the text"""


def _pages(
    library: Library, domain: str, patterns: tuple[str, str], language: str
) -> Iterator[tuple[str, Path, Path]]:
    """(name of the page, English file, foreign file) for pages that both languages have. The group
    of the English and of the foreign pattern is the name."""
    files = sorted(path for root in library.unpacked[domain] for path in root.rglob("*.*"))
    found: list[dict[str, Path]] = []
    for pattern in patterns:
        expression = re.compile(".*/" + pattern.format(language=re.escape(language)))
        matches = ((expression.fullmatch(path.as_posix()), path) for path in files)
        found.append({match[1]: path for match, path in matches if match})
    for name in sorted(found[0].keys() & found[1].keys()):
        yield name, found[0][name], found[1][name]


def _parsed(path: Path, read: Callable[[bytes], Parsed]) -> Parsed:
    try:
        return read(path.read_bytes())
    except lxml.etree.LxmlError as error:
        raise ValueError(f"{path}: {error}; delete its folder to unpack it again") from error


def _read_books(*books: tuple[str, str, str]) -> Callable[[Library, str, str], Iterator[Passage]]:
    """HTML: (name of the book or "", English pattern, foreign pattern). A page whose "up" link
    names a chapter belongs to the chapter's document."""

    def read(library: Library, domain: str, language: str) -> Iterator[Passage]:
        for book, *patterns in books:
            for name, *paths in _pages(library, domain, (patterns[0], patterns[1]), language):
                (english, up), (foreign, _) = (_parsed(path, read_html) for path in paths)
                page = name if up is None or up.startswith(("index", "#")) else up
                document = f"{domain}:{book}{page.split('.html')[0]}"
                for one, other in align_blocks(english, foreign):
                    yield Passage(one.text, other.text, document)

    return read


def _read_gnome(library: Library, domain: str, language: str) -> Iterator[Passage]:
    patterns = ("usr/share/help/C/(.+)[.]page", "usr/share/help/{language}/(.+)[.]page")
    for name, *paths in _pages(library, domain, patterns, language):
        english, foreign = (_parsed(path, read_mallard) for path in paths)
        for one, other in align_blocks(english, foreign):
            yield Passage(one.text, other.text, f"{domain}:{name}")


def _read_catalogues(library: Library, domain: str, language: str) -> Iterator[Passage]:
    for root in library.unpacked[domain]:
        for path in sorted(root.rglob(f"{language}/LC_MESSAGES/*.mo")):
            for english, foreign in read_catalogue(path):
                yield Passage(english, foreign, f"{domain}:{path.stem}")


def _read_dictionary(library: Library, domain: str, language: str) -> Iterator[Passage]:
    for root in library.unpacked[domain]:
        for path in root.rglob("trans/de-en"):
            with path.open(encoding="utf-8") as lines:
                for number, english, german in read_ding(lines):
                    yield Passage(english, german, f"{domain}:{number}")


def _read_ddtp(library: Library, domain: str, language: str) -> Iterator[Passage]:
    foreign: dict[str, tuple[str, str]] = {}
    english: dict[str, tuple[str, str]] = {}
    sources: dict[str, str] = {}
    for path in sorted(library.lists.glob(f"*_Translation-{language}")):
        with path.open(encoding="utf-8") as lines:
            foreign |= read_descriptions(lines, language)
    for path in sorted(library.lists.glob("*_Translation-en")):
        with path.open(encoding="utf-8") as lines:
            english |= read_descriptions(lines, "en", foreign)
    for path in sorted(library.lists.glob("*_Packages")):
        with path.open(encoding="utf-8") as lines:
            sources |= read_sources(lines)
    for digest, (package, translation) in foreign.items():
        if digest in english:
            for one, other in align_blocks(
                description_blocks(english[digest][1]), description_blocks(translation)
            ):
                document = f"{domain}:{sources.get(package, package)}"
                yield Passage(one.text, other.text, document)


_CATALOGUES = ("*/locale/{language}/LC_MESSAGES/*.mo",)

_PROGRAMS = (
    "apt|aptitude-common|bash|coreutils|dpkg|epiphany-browser-data|evince-common|gedit-common",
    "gettext|git|gnome-control-center-data|gnome-disk-utility|gnome-shell-common",
    "gnome-software-common|gnucash-common|gnupg-l10n|gparted-common|liferea-data|man-db|mutt",
    "nautilus-data|rhythmbox-data|synaptic|tar|util-linux-locales|vlc-l10n|wget",
)

DOMAINS: dict[str, Domain] = {
    "ding": Domain(
        ("trans-{language}-en",),
        ("*/trans/de-en",),
        _read_dictionary,
        "GPL-2+",
    ),
    "wesnoth": Domain(
        ("wesnoth-[0-9.]+-(?!core$|dbg$|music$|server$|tools$)[a-z]+",),
        _CATALOGUES,
        _read_catalogues,
        "GPL-2+",
    ),
    "lohelp": Domain(
        ("libreoffice-help-en-us", "libreoffice-help-{language}"),
        ("*/libreoffice/help/en-US/*.html", "*/libreoffice/help/{language}/*.html"),
        _read_books(("", "libreoffice/help/en-US/(.+)", "libreoffice/help/{language}/(.+)")),
        "MPL-2.0, parts Apache-2.0",
    ),
    "ddtp": Domain((), (), _read_ddtp, "no single notice: each description is under its package's"),
    "handbook": Domain(
        ("debian-handbook",),
        ("*/html/en-US/*.html", "*/html/{language}-*/*.html"),
        _read_books(("", "html/en-US/([^/]+)", "html/{language}-[A-Z]+/([^/]+)")),
        "GPL-2+ or CC-BY-SA-3.0",
    ),
    "gnomehelp": Domain(
        ("gnome-user-docs",),
        ("*/help/C/*.page", "*/help/{language}/*.page"),
        _read_gnome,
        "CC-BY-SA-3.0",
    ),
    "diguide": Domain(
        ("installation-guide-amd64",),
        ("*/en/*.html", "*/{language}/*.html"),
        _read_books(
            ("", "installation-guide-amd64/en/(.+)", "installation-guide-amd64/{language}/(.+)")
        ),
        "GPL-2",
    ),
    "guides": Domain(
        (
            "debian-reference-(?:en|{language})",
            "developers-reference(?:-{language})?",
            "maint-guide(?:-{language})?",
        ),
        ("*/debian-reference/*.html", "*/developers-reference/*.html", "*/maint-guide*.html"),
        _read_books(
            (
                "debian-reference/",
                "debian-reference/(.+)[.]en[.]html",
                "debian-reference/(.+)[.]{language}[.]html",
            ),
            (
                "developers-reference/",
                # The page of this name repeats all the others.
                "developers-reference/(?!developers-reference)([^/]+)",
                "developers-reference/{language}/([^/]+)",
            ),
            ("maint-guide/", "html/(.+)[.]en[.]html", "html/(.+)[.]{language}[.]html"),
        ),
        "GPL-2+",
    ),
    "programs": Domain(
        _PROGRAMS,
        _CATALOGUES,
        _read_catalogues,
        "GPL-2+, GPL-3+ or LGPL-2.1+",
    ),
}


def _read(corpus: DebianCorpus, library: Library) -> Iterator[tuple[str, Iterator[Passage]]]:
    for domain in tqdm.tqdm(corpus.domains, desc="read", unit="domain", disable=_quiet()):
        yield domain, DOMAINS[domain].read(library, domain, corpus.language)


# --- Fetching -------------------------------------------------------------------------------------

_ALTERNATIVE = (
    "without Debian's packages, use a Hugging Face data set (corpus=HuggingFace(...)) or your own "
    "files (corpus=TextFiles(...))"
)


class Package(NamedTuple):
    """As apt lists it."""

    name: str
    version: str
    sha256: str


def _quiet() -> bool:
    return not sys.stderr.isatty()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class Apt:
    """The machine's own apt, with its sources and keys, over lists of our own: needs no root."""

    folder: Path
    """absolute"""
    language: str

    @property
    def lists(self) -> Path:
        return self.folder / "lists"

    def check(self) -> None:
        """That the machine has apt at all."""
        missing = [name for name in ("apt-get", "apt-cache", "dpkg-deb") if not shutil.which(name)]
        if missing:
            raise ValueError(
                f"the Debian corpus needs {', '.join(missing)}, which this machine does not have; "
                f"{_ALTERNATIVE}"
            )

    def _run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        options = {
            "Dir::State::Lists": str(self.lists),
            "Dir::Cache": str(self.folder / "cache"),
            "Acquire::Languages": f"en,{self.language}",
            "Acquire::GzipIndexes": "false",  # the lists are read as text
            "APT::Sandbox::User": "root",  # where we are root: another user could not write here
        }
        assignments = [part for name in options for part in ("-o", f"{name}={options[name]}")]
        return subprocess.run(
            [program, *assignments, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )

    def update(self, report: Report) -> None:
        """Once; delete the folder to read the present state of the archive."""
        stamp = self.folder / "updated"
        if stamp.exists():
            return
        (self.lists / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        result = self._run("apt-get", "update")
        if result.returncode or not list(self.lists.glob("*_Packages")):
            raise ValueError(
                f"apt-get update failed: {_last_lines(result)}; check the network and the "
                f"machine's apt sources; {_ALTERNATIVE}"
            )
        if "Failed to fetch" in result.stderr:  # apt goes on, and so do we, but not for good
            report.count("apt-get update: a source was not reached", _last_lines(result), number=0)
        else:
            stamp.touch()

    def packages(self, pattern: str) -> dict[str, Package]:
        """The newest version of every package whose whole name fits the regular expression."""
        listed = self._run("apt-cache", "pkgnames").stdout.split()
        names = sorted(name for name in listed if re.fullmatch(pattern, name))
        found: dict[str, Package] = {}
        if not names:
            return found
        shown = self._run("apt-cache", "--no-all-versions", "show", *names).stdout
        for stanza in shown.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|SHA256): (.+)$", stanza, re.MULTILINE))
            if len(fields) == 3:
                package = Package(fields["Package"], fields["Version"], fields["SHA256"])
                found[package.name] = package
        return found

    def download(self, package: Package, archive: Path) -> None:
        """Into `archive`, which is there only when it is whole."""
        partial = archive.parent / "partial" / package.name
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        result = self._run("apt-get", "download", f"{package.name}={package.version}", cwd=partial)
        files = list(partial.glob("*.deb"))
        if result.returncode or len(files) != 1 or _sha256(files[0]) != package.sha256:
            raise ValueError(
                f"apt-get download {package.name}={package.version} failed: "
                f"{_last_lines(result)}; if the archive has moved on to another version, delete "
                f"{self.folder} and run again"
            )
        files[0].replace(archive)
        shutil.rmtree(partial)


def _last_lines(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr or result.stdout).strip().splitlines()
    return " / ".join(lines[-2:]) or f"exit status {result.returncode}"


def unpack(archive: Path, sha256: str, folder: Path, members: Sequence[str]) -> None:
    """Those files of a .deb that fit one of the patterns, and its copyright file, into `folder`."""
    members = (*members, "*/copyright")
    stamp = folder / ".unpacked"
    content = "\n".join([sha256, *members])
    if stamp.exists() and stamp.read_text() == content:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                # By hand: the filters of tarfile came with Python 3.11.4, Debian 12 has 3.11.2.
                file = tar.extractfile(member) if member.isfile() else None
                if file and any(fnmatch.fnmatchcase(member.name, name) for name in members):
                    place = folder / member.name
                    if not place.resolve().is_relative_to(folder.resolve()):
                        raise ValueError(f"{archive}: {member.name} leads out of the archive")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("wb") as copy:
                        shutil.copyfileobj(file, copy)
        process.stdout.read()  # what is behind the end of the archive
    if process.returncode:
        raise ValueError(f"{archive}: dpkg-deb cannot read it; delete it and run again")
    stamp.write_text(content)


def fetch(corpus: DebianCorpus, report: Report) -> Library:
    """Downloads and unpacks what the corpus needs and the cache lacks; the provenance goes to the
    report."""
    cache = Path(corpus.cache).absolute()
    apt = Apt(cache / f"apt-en-{corpus.language}", corpus.language)
    apt.check()
    apt.update(report)
    patterns = {
        domain: "|".join(DOMAINS[domain].packages).replace("{language}", corpus.language.lower())
        for domain in corpus.domains
        if DOMAINS[domain].packages
    }
    found = apt.packages("|".join(patterns.values()))
    wanted: list[tuple[str, Package]] = []
    for domain, pattern in patterns.items():
        packages = [found[name] for name in sorted(found) if re.fullmatch(pattern, name)]
        if not packages:
            report.count(f"{domain}: no package in the archive for this language", number=0)
        wanted += [(domain, package) for package in packages]
    unpacked: dict[str, list[Path]] = {domain: [] for domain in corpus.domains}
    provenance: list[dict[str, Any]] = []
    progress = tqdm.tqdm(wanted, desc="fetch", unit="package", disable=_quiet())
    for domain, package in progress:
        progress.set_postfix_str(package.name)
        archive = cache / "packages" / f"{package.name}.deb"
        if not archive.exists() or _sha256(archive) != package.sha256:
            apt.download(package, archive)
        folder = cache / "unpacked" / corpus.language / package.name
        members = [
            pattern.replace("{language}", corpus.language) for pattern in DOMAINS[domain].members
        ]
        unpack(archive, package.sha256, folder, members)
        unpacked[domain].append(folder)
        notices = sorted(path.relative_to(cache).as_posix() for path in folder.rglob("copyright"))
        provenance.append(
            {
                "domain": domain,
                **package._asdict(),
                "licence": DOMAINS[domain].licence,
                "licence_file": notices[0] if notices else None,
            }
        )
    if "ddtp" in corpus.domains:
        for path in sorted(apt.lists.glob("*_i18n_Translation-*")):
            provenance.append(
                {
                    "domain": "ddtp",
                    "name": path.name.partition("_dists_")[2],  # before it stands the mirror
                    "sha256": _sha256(path),
                    "licence": DOMAINS["ddtp"].licence,
                }
            )
    report.provenance["debian"] = provenance
    return Library(apt.lists, unpacked)
