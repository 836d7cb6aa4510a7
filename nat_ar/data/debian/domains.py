"""The kinds of text in Debian: which packages and files hold them, how they are read, and fetching them."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nat_ar.data.debian import apt, formats
from nat_ar.data.debian.apt import Apt, Package
from nat_ar.data.debian.sentences import Passage, align_blocks
from nat_ar.data.pair import Report
from nat_ar.runtime import bars, files


@dataclasses.dataclass(frozen=True)
class Library:
    """What fetching leaves on the disk."""

    lists: Path
    """apt's own lists"""
    unpacked: dict[str, list[Path]]
    """domain -> one folder a package"""


@dataclasses.dataclass(frozen=True)
class Domain:
    """A kind of text. Patterns may contain {language}."""

    packages: tuple[str, ...]
    """regular expressions for the names of its packages"""
    members: tuple[str, ...]
    """file name patterns of what is unpacked"""
    read: Callable[[Library, str, str], Iterator[Passage]]
    """(library, name of the domain, language) -> passages"""
    licence: str
    """short name; the copyright files of the packages are unpacked with the text"""


def _pages(
    library: Library, domain: str, patterns: tuple[str, str], language: str
) -> Iterator[tuple[str, Path, Path]]:
    """(name of the page, English file, foreign file) for pages that exist in both languages. The group of
    either pattern is the name."""
    files = sorted(path for root in library.unpacked[domain] for path in root.rglob("*.*"))
    paths_of_side: list[dict[str, Path]] = []
    for pattern in patterns:
        expression = re.compile(".*/" + pattern.format(language=re.escape(language)))
        matches = ((expression.fullmatch(path.as_posix()), path) for path in files)
        paths_of_side.append({match[1]: path for match, path in matches if match})
    for name in sorted(paths_of_side[0].keys() & paths_of_side[1].keys()):
        yield name, paths_of_side[0][name], paths_of_side[1][name]


def _read_books(*books: tuple[str, str, str]) -> Callable[[Library, str, str], Iterator[Passage]]:
    """Reads HTML, given (name of the book or "", English pattern, foreign pattern) of each book. A page whose "up"
    link names a chapter belongs to the chapter's document."""

    def read(library: Library, domain: str, language: str) -> Iterator[Passage]:
        for book, *patterns in books:
            for name, *paths in _pages(library, domain, (patterns[0], patterns[1]), language):
                (english, up), (foreign, _) = (
                    formats.parsed(path, formats.read_html) for path in paths
                )
                page = name if up is None or up.startswith(("index", "#")) else up
                document = f"{domain}:{book}{page.split('.html')[0]}"
                for one, other in align_blocks(english, foreign):
                    yield Passage(one.text, other.text, document)

    return read


def _read_gnome(library: Library, domain: str, language: str) -> Iterator[Passage]:
    patterns = ("usr/share/help/C/(.+)[.]page", "usr/share/help/{language}/(.+)[.]page")
    for name, *paths in _pages(library, domain, patterns, language):
        english, foreign = (formats.parsed(path, formats.read_mallard) for path in paths)
        for one, other in align_blocks(english, foreign):
            yield Passage(one.text, other.text, f"{domain}:{name}")


def _read_catalogues(library: Library, domain: str, language: str) -> Iterator[Passage]:
    for root in library.unpacked[domain]:
        for path in sorted(root.rglob(f"{language}/LC_MESSAGES/*.mo")):
            for english, foreign in formats.read_catalogue(path):
                yield Passage(english, foreign, f"{domain}:{path.stem}")


def _read_dictionary(library: Library, domain: str, language: str) -> Iterator[Passage]:
    for root in library.unpacked[domain]:
        for path in root.rglob("trans/de-en"):
            with path.open(encoding="utf-8") as lines:
                for number, english, german in formats.read_ding(lines):
                    yield Passage(english, german, f"{domain}:{number}")


def _read_ddtp(library: Library, domain: str, language: str) -> Iterator[Passage]:
    foreign: dict[str, tuple[str, str]] = {}
    english: dict[str, tuple[str, str]] = {}
    sources: dict[str, str] = {}
    for path in sorted(library.lists.glob(f"*_Translation-{language}")):
        with path.open(encoding="utf-8") as lines:
            foreign |= formats.read_descriptions(lines, language)
    for path in sorted(library.lists.glob("*_Translation-en")):
        with path.open(encoding="utf-8") as lines:
            english |= formats.read_descriptions(lines, "en", foreign)
    for path in sorted(library.lists.glob("*_Packages")):
        with path.open(encoding="utf-8") as lines:
            sources |= formats.read_sources(lines)
    for digest, (package, translation) in foreign.items():
        if digest in english:
            for one, other in align_blocks(
                formats.description_blocks(english[digest][1]),
                formats.description_blocks(translation),
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
                # The page of this name repeats all others.
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


def read(library: Library, language: str) -> Iterator[tuple[str, Iterator[Passage]]]:
    """Each domain of the library and its passages."""
    for domain in bars.Bar(library.unpacked, desc="read", unit="domain"):
        yield domain, DOMAINS[domain].read(library, domain, language)


def fetch(domains: Sequence[str], language: str, cache: Path, report: Report) -> Library:
    """Downloads and unpacks what the domains need and the cache lacks. The report gets the provenance."""
    archives = Apt(cache / f"apt-en-{language}", language)
    archives.check()
    archives.update(report)
    patterns = {
        domain: "|".join(DOMAINS[domain].packages).replace("{language}", language.lower())
        for domain in domains
        if DOMAINS[domain].packages
    }
    available = archives.packages("|".join(patterns.values()))
    wanted: list[tuple[str, Package]] = []
    for domain, pattern in patterns.items():
        packages = [available[name] for name in sorted(available) if re.fullmatch(pattern, name)]
        if not packages:
            report.count(f"{domain}: no package in the archive for this language", number=0)
        wanted += [(domain, package) for package in packages]
    unpacked: dict[str, list[Path]] = {domain: [] for domain in domains}
    provenance: list[dict[str, Any]] = []
    progress = bars.Bar(wanted, desc="fetch", unit="package")
    for domain, package in progress:
        progress.set_postfix_str(package.name)
        archive = cache / "packages" / f"{package.name}.deb"
        if not archive.exists() or files.file_hash(archive) != package.sha256:
            archives.download(package, archive)
        folder = cache / "unpacked" / language / package.name
        members = [pattern.replace("{language}", language) for pattern in DOMAINS[domain].members]
        apt.unpack(archive, package.sha256, folder, members)
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
    if "ddtp" in domains:
        for path in sorted(archives.lists.glob("*_i18n_Translation-*")):
            provenance.append(
                {
                    "domain": "ddtp",
                    "name": path.name.partition("_dists_")[2],  # without the name of the mirror
                    "sha256": files.file_hash(path),
                    "licence": DOMAINS["ddtp"].licence,
                }
            )
    report.provenance["debian"] = provenance
    return Library(archives.lists, unpacked)
