"""Fetching packages, and what is read from them."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from nat_ar.data.debian import apt as packages
from nat_ar.data.debian import domains
from nat_ar.data.debian.apt import Apt, Package
from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.debian.sentences import Passage
from nat_ar.data.pair import Pair, Report

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_a_machine_without_apt_is_told_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs apt-get.*TextFiles") as error:
        DebianCorpus(cache=str(tmp_path)).splits(Report())
    assert "\n" not in str(error.value)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A package of our own, as the mirror would have it."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg-deb to build a package")
    tree = tmp_path / "tree"
    files = {
        "DEBIAN/control": "Package: gnome-user-docs\nVersion: 1:2.0-1\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: goats\n",
        "usr/share/doc/gnome-user-docs/copyright": "CC-BY-SA-3.0\n",
        "usr/share/help/C/goats/gate.page": (FIXTURES / "debian_mallard.en.page").read_text(),
        "usr/share/help/de/goats/gate.page": (FIXTURES / "debian_mallard.de.page").read_text(),
        "usr/share/help/fr/goats/gate.page": "not wanted",
    }
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    package = tmp_path / "mirror.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(package)], check=True, capture_output=True)
    return package


@pytest.fixture
def downloads(archive: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts an apt that reads a mirror of three files in place of the real one, and lists what is
    downloaded."""
    done: list[str] = []
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()

    def run(
        apt: Apt, program: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        answer = ""
        if arguments == ("update",):
            done.append("lists")
            for name in ("Packages", "i18n_Translation-en", "i18n_Translation-de"):
                shutil.copy(
                    FIXTURES / f"debian_{name.removeprefix('i18n_')}",
                    apt.lists / f"mirror.example.org_debian_dists_stable_main_{name}",
                )
        elif arguments == ("pkgnames",):
            answer = "gnome-user-docs\ngnome-user-docs-extra\n"
        elif "show" in arguments:
            assert arguments[-1] == "gnome-user-docs"
            answer = f"Package: gnome-user-docs\nVersion: 1:2.0-1\nSHA256: {digest}\n"
        elif arguments[0] == "download":
            assert cwd is not None
            done.append(arguments[1])
            shutil.copy(archive, cwd / "gnome-user-docs_1%3a2.0-1_all.deb")
        return subprocess.CompletedProcess([program], 0, answer, "")

    monkeypatch.setattr(Apt, "_run", run)
    monkeypatch.setattr(Apt, "check", lambda apt: None)
    return done


def fetch(corpus: DebianCorpus, report: Report) -> domains.Library:
    return domains.fetch(corpus.domains, corpus.language, Path(corpus.cache), report)


def test_what_is_there_with_the_right_hash_is_not_fetched_again(
    tmp_path: Path, downloads: list[str]
) -> None:
    corpus = DebianCorpus(cache=str(tmp_path / "cache"), domains=("gnomehelp", "ddtp", "handbook"))
    report = Report()
    library = fetch(corpus, report)
    assert downloads == ["lists", "gnome-user-docs=1:2.0-1"]
    pages = sorted(path.name for path in library.unpacked["gnomehelp"][0].rglob("*.page"))
    assert pages == ["gate.page", "gate.page"]  # English and German, not French
    assert "handbook: no package in the archive for this language" in report.counts
    packages = report.provenance["debian"]
    assert packages[0]["version"] == "1:2.0-1"
    assert packages[0]["licence_file"].endswith("usr/share/doc/gnome-user-docs/copyright")
    assert [entry["name"] for entry in packages[1:]] == [
        "stable_main_i18n_Translation-de",  # and nothing of the mirror's name
        "stable_main_i18n_Translation-en",
    ]

    fetch(corpus, Report())
    assert len(downloads) == 2
    (tmp_path / "cache" / "packages" / "gnome-user-docs.deb").write_bytes(b"half of a download")
    fetch(corpus, Report())
    assert downloads[2:] == ["gnome-user-docs=1:2.0-1"]


def test_a_download_that_is_not_what_apt_lists_is_refused(
    tmp_path: Path, downloads: list[str]
) -> None:
    apt = Apt(tmp_path / "apt", "de")
    target = tmp_path / "packages" / "x.deb"
    with pytest.raises(ValueError, match="apt-get download gnome-user-docs=3 failed"):
        apt.download(Package("gnome-user-docs", "3", "0" * 64), target)
    assert not target.exists()


@pytest.mark.parametrize("source_language", ["en", "de"])
def test_from_packages_to_splits(
    tmp_path: Path, downloads: list[str], source_language: str
) -> None:
    corpus = DebianCorpus(
        source_language=source_language,
        target_language="de" if source_language == "en" else "en",
        cache=str(tmp_path / "cache"),
        domains=("gnomehelp", "ddtp"),
        held_out=("ddtp",),
    )
    report = Report()
    splits = {name: list(pairs) for name, pairs in corpus.splits(report).items()}
    expected = Pair("Shut the gate", "Das Tor schließen", "gnomehelp", "gnomehelp:goats/gate")
    if source_language == "de":
        expected = expected._replace(source=expected.target, target=expected.source)
    assert expected in splits["train"]
    assert {pair.document for pair in splits["test_ddtp"]} == {"ddtp:goat"}
    # "It contains:" and "goat --count" are short; every passage read is kept or counted as dropped.
    assert report.counts["ddtp: kept"] == len(splits["test_ddtp"]) == 5
    assert report.counts["ddtp: read"] == 7


def test_a_broken_page_names_its_file(tmp_path: Path) -> None:
    for language in ("C", "de"):
        path = tmp_path / "usr/share/help" / language / "goats" / "gate.page"
        path.parent.mkdir(parents=True)
        path.write_text("<page><p>never closed</page>")
    library = domains.Library(tmp_path, {"gnomehelp": [tmp_path]})
    passages = domains.DOMAINS["gnomehelp"].read(library, "gnomehelp", "de")
    with pytest.raises(ValueError, match=r"C/goats/gate\.page: .*mismatch"):
        list(passages)


def test_a_chapter_is_one_document(tmp_path: Path) -> None:
    for language, name in (("en-US", "en"), ("de-DE", "de")):
        path = tmp_path / "html" / language / "sect.planting.html"
        path.parent.mkdir(parents=True)
        shutil.copy(FIXTURES / f"debian_chapter.{name}.html", path)
    library = domains.Library(tmp_path, {"handbook": [tmp_path]})
    passages = list(domains.DOMAINS["handbook"].read(library, "handbook", "de"))
    assert passages[0] == Passage(
        "Planting a Small Tree", "Einen kleinen Baum pflanzen", "handbook:ch02"
    )
    assert {passage.document for passage in passages} == {"handbook:ch02"}
