"""The corpus out of Debian packages: readers on small files of our own, the split, the fetching."""

import collections
import hashlib
import shutil
import subprocess
from pathlib import Path

import polib
import pytest

from nat_ar.data import debian
from nat_ar.data.debian import Block, DebianCorpus, Package, Passage
from nat_ar.data.pair import Pair, Report

FIXTURES = Path(__file__).parent / "fixtures"


def texts(blocks: list[Block]) -> list[str]:
    return [block.text for block in blocks]


# --- Readers --------------------------------------------------------------------------------------


def test_help_pages_are_aligned_by_paragraph_id() -> None:
    english, up = debian.read_html((FIXTURES / "debian_help.en.html").read_bytes())
    german, _ = debian.read_html((FIXTURES / "debian_help.de.html").read_bytes())
    assert up is None
    assert "Orchard Help" not in texts(english)  # menus are outside the display area
    assert [(one.text, other.text) for one, other in debian.align_blocks(english, german)] == [
        ("Sorting Apples", "Äpfel sortieren"),
        (
            "Choose Basket - Sort, or under Basket Options. The apples are then sorted by size.",
            "Wählen Sie Korb – Sortieren oder unter Korb-Optionen. "
            "Die Äpfel werden dann nach Größe sortiert.",
        ),
        # par_id3 exists in English only
        (
            "A red apple is placed on the left of the basket.",
            "Ein roter Apfel wird links in den Korb gelegt.",
        ),
    ]


def test_of_several_hidden_variants_one_is_read() -> None:
    page = b"""<body><p>when <span class="switchinline"><span hidden="true" class="WRITER">in text
        </span><span hidden="true" class="CALC">in a cell</span></span> now</p>
        <p hidden="true">unseen</p></body>"""
    assert texts(debian.read_html(page)[0]) == ["when in text now"]


def test_book_pages_lose_numbers_notes_and_navigation_and_name_their_chapter() -> None:
    english, up = debian.read_html((FIXTURES / "debian_chapter.en.html").read_bytes())
    german, _ = debian.read_html((FIXTURES / "debian_chapter.de.html").read_bytes())
    assert up == "ch02.html"
    assert texts(english) == [
        "Planting a Small Tree",
        "Dig a hole that is twice as wide as the roots.",
        "Water it every day.",
        "Keep the goats away.",
    ]
    assert [block.kind for block in english] == [block.kind for block in german]


def test_mallard_pages_give_prose_only() -> None:
    english = debian.read_mallard((FIXTURES / "debian_mallard.en.page").read_bytes())
    german = debian.read_mallard((FIXTURES / "debian_mallard.de.page").read_bytes())
    assert texts(english) == [
        "Keep goats out of the garden.",
        "Shut the gate",
        "Choose Garden ▸ Gate.",
        "Press Ctrl+G twice.",
    ]
    assert [other.text for _, other in debian.align_blocks(english, german)] == [
        "Ziegen vom Garten fernhalten.",
        "Das Tor schließen",
        "Wählen Sie Garten ▸ Tor.",
        "Drücken Sie zweimal Strg+G.",
    ]


def test_po_and_mo_read_the_same(tmp_path: Path) -> None:
    catalogue = tmp_path / "game.mo"
    polib.pofile(str(FIXTURES / "debian_game.po")).save_as_mofile(str(catalogue))
    messages = list(debian.read_catalogue(FIXTURES / "debian_game.po"))
    assert sorted(messages) == sorted(debian.read_catalogue(catalogue))
    assert messages == [
        ("The old bridge is guarded by a goat.", "Die alte Brücke wird von einer Ziege bewacht."),
        ("The shepherd is tired.", "Die Hirtin ist müde."),
        ("The first day was cold.", "Der erste Tag war kalt."),
        ("The second day was colder.", "Der zweite Tag war kälter."),
        ("You see one goat here.", "Ihr seht hier eine Ziege."),
        ("You see many goats here.", "Ihr seht hier viele Ziegen."),
    ]


def test_a_dictionary_gives_its_whole_sentences() -> None:
    with (FIXTURES / "debian_ding.txt").open(encoding="utf-8") as lines:
        assert list(debian.read_ding(lines)) == [
            (2, "The goat has eaten the fence.", "Die Ziege hat den Zaun gefressen."),
            # line 3 has unequal parts, 5 a placeholder, 6 alternatives
            (4, "The bridge is wide.", "Die Brücke ist breit."),
            (7, "When does summer come?", "Wann kommt der Sommer?"),
        ]


def test_descriptions_are_joined_by_md5() -> None:
    german, english = (
        debian.read_descriptions(
            (FIXTURES / f"debian_Translation-{language}").read_text().splitlines(keepends=True),
            language,
        )
        for language in ("de", "en")
    )
    assert german.keys() == {"aaaa"}
    assert english.keys() == {"aaaa", "bbbb"}
    blocks = debian.description_blocks(english["aaaa"][1])
    assert blocks == [
        Block("short", "tools for the care of goats"),
        Block(
            "paragraph",
            "This package helps you to count your goats. It also remembers what they have eaten.",
        ),
        Block("paragraph", "It contains:"),
        Block("item", "a program that counts goats"),
        Block("item", "a list of fences, sorted by taste"),
        Block("verbatim", "goat --count"),
    ]
    assert [
        other.text
        for _, other in debian.align_blocks(blocks, debian.description_blocks(german["aaaa"][1]))
    ][3:5] == ["ein Programm, das Ziegen zählt", "eine Liste von Zäunen, sortiert nach Geschmack"]


def test_packages_know_their_source() -> None:
    lines = (FIXTURES / "debian_Packages").read_text().splitlines()
    assert debian.read_sources(lines) == {"goat-tools": "goat"}


# --- Sentences ------------------------------------------------------------------------------------


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
    assert debian.sentences(text) == expected


def test_sentences_pair_up_only_if_they_are_equally_many() -> None:
    assert debian.align_sentences("It rains. We stay.", "Es regnet. Wir bleiben.") == [
        ("It rains.", "Es regnet."),
        ("We stay.", "Wir bleiben."),
    ]
    assert debian.align_sentences("It rains. We stay.", "Da es regnet, bleiben wir.") == [
        ("It rains. We stay.", "Da es regnet, bleiben wir.")
    ]


def test_blocks_skip_what_the_other_side_lacks() -> None:
    english = [Block("p", text) for text in ("Apples.", "A sentence on pears and plums.", "Nuts.")]
    german = [Block("p", text) for text in ("Äpfel.", "Nüsse.")]
    assert [(one.text, other.text) for one, other in debian.align_blocks(english, german)] == [
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
    assert debian.flaw(english, german, 3, 60, 2.5) == reason


# --- The split ------------------------------------------------------------------------------------


def corpus_of(domain: str, documents: int, sentences: int) -> list[Pair]:
    letters = "abcdefghijklmnopqrstuvwxyz"

    def word(number: int) -> str:
        return letters[number // 26] + letters[number % 26]

    return [
        Pair(
            f"{domain} page {word(document)} line {word(line)}",
            f"{domain} Seite {word(document)} Zeile {word(line)}",
            domain,
            f"{domain}:{document}",
        )
        for document in range(documents)
        for line in range(sentences)
    ]


SMALL = DebianCorpus(num_validation=20, num_test=40, held_out_pairs=10)


def test_splits_share_no_document_and_keep_proportions() -> None:
    domains = {
        "ding": corpus_of("ding", 10, 5),
        "lohelp": corpus_of("lohelp", 60, 5),
        "ddtp": corpus_of("ddtp", 100, 1),
    }
    report = Report()
    splits = {name: list(pairs) for name, pairs in debian.split(SMALL, domains, report).items()}
    assert list(splits) == ["train", "validation", "test", "test_ding"]
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 340,
        "validation": 20,
        "test": 40,
        "test_ding": 10,
    }
    assert collections.Counter(pair.domain for pair in splits["test"]) == {"lohelp": 30, "ddtp": 10}
    documents = [{pair.document for pair in pairs} for pairs in splits.values()]
    assert len(set.union(*documents)) == sum(len(some) for some in documents)
    assert report.counts["test_ding: not drawn, held out of training"] == 40
    again = debian.split(SMALL, domains, Report())
    assert {name: list(pairs) for name, pairs in again.items()} == splits


def test_the_rest_of_a_held_out_domain_joins_training_by_document() -> None:
    corpus = DebianCorpus(
        num_validation=5, num_test=5, held_out_pairs=10, train_on_held_out_rest=True
    )
    domains = {"ding": corpus_of("ding", 10, 5), "lohelp": corpus_of("lohelp", 60, 5)}
    splits = {n: list(pairs) for n, pairs in debian.split(corpus, domains, Report()).items()}
    assert len(splits["test_ding"]) == 10
    trained = {pair.document for pair in splits["train"] if pair.domain == "ding"}
    assert len(trained) == 8
    assert trained.isdisjoint(pair.document for pair in splits["test_ding"])


def test_training_loses_what_stands_in_a_test() -> None:
    report = Report()
    tested = Pair("The goat is 3 years old.", "Die Ziege ist 3 Jahre alt.", "ding", "ding:1")
    same_source = Pair("the goat is 3 years old", "Die Geiß ist drei.", "lohelp", "lohelp:x")
    same_target = Pair("Age of the goat: 3", "Die Ziege ist 3 Jahre alt!", "lohelp", "lohelp:x")
    other_number = Pair("The goat is 12 years old.", "Sie ist zwölf.", "lohelp", "lohelp:x")
    domains = {
        "ding": [tested],
        "lohelp": [*corpus_of("lohelp", 60, 5), same_source, same_target, other_number],
    }
    # A document so much larger than the quotas that it goes to training.
    corpus = DebianCorpus(num_validation=5, num_test=5)
    domains["lohelp"] += [
        Pair(pair.source + " more", pair.target + " mehr", "lohelp", "lohelp:x")
        for pair in corpus_of("lohelp", 4, 5)
    ]
    splits = {n: list(pairs) for n, pairs in debian.split(corpus, domains, report).items()}
    assert splits["test_ding"] == [tested]
    assert {same_source, same_target, other_number}.isdisjoint(splits["train"])
    assert report.counts["train: dropped, source or target stands in a split before it"] == 2
    assert report.counts["train: dropped, differs only in numbers from a split before it"] == 1


def test_documents_too_large_for_the_quota_stay_in_training() -> None:
    report = Report()
    domains = {"programs": corpus_of("programs", 2, 600)}
    splits = {n: list(pairs) for n, pairs in debian.split(SMALL, domains, report).items()}
    assert {n: len(pairs) for n, pairs in splits.items()} == {
        "train": 1200,
        "validation": 0,
        "test": 0,
    }
    assert report.counts["test: no document of programs is small enough"] == 0
    assert "test: no document of programs is small enough" in report.counts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": ("dingg",)}, "unknown domain 'dingg'"),
        ({"source_language": "fr"}, "one of source_language and target_language must be 'en'"),
        ({"num_test": 0}, "at least 1"),
        ({"domains": ("ding", "wesnoth")}, "no domain is left to train on"),
        ({"min_words": 9, "max_words": 8}, "min_words <= max_words"),
    ],
)
def test_impossible_settings(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DebianCorpus(**fields)  # type: ignore[arg-type]


# --- Fetching -------------------------------------------------------------------------------------


def test_a_machine_without_apt_is_told_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
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
        apt: debian.Apt, program: str, *arguments: str, cwd: Path | None = None
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

    monkeypatch.setattr(debian.Apt, "_run", run)
    monkeypatch.setattr(debian.Apt, "check", lambda apt: None)
    return done


def test_what_is_there_with_the_right_hash_is_not_fetched_again(
    tmp_path: Path, downloads: list[str]
) -> None:
    corpus = DebianCorpus(cache=str(tmp_path / "cache"), domains=("gnomehelp", "ddtp", "handbook"))
    report = Report()
    library = debian.fetch(corpus, report)
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

    debian.fetch(corpus, Report())
    assert len(downloads) == 2
    (tmp_path / "cache" / "packages" / "gnome-user-docs.deb").write_bytes(b"half of a download")
    debian.fetch(corpus, Report())
    assert downloads[2:] == ["gnome-user-docs=1:2.0-1"]


def test_a_download_that_is_not_what_apt_lists_is_refused(
    tmp_path: Path, downloads: list[str]
) -> None:
    apt = debian.Apt(tmp_path / "apt", "de")
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
    library = debian.Library(tmp_path, {"gnomehelp": [tmp_path]})
    passages = debian.DOMAINS["gnomehelp"].read(library, "gnomehelp", "de")
    with pytest.raises(ValueError, match=r"C/goats/gate\.page: .*mismatch"):
        list(passages)


def test_a_chapter_is_one_document(tmp_path: Path) -> None:
    for language, name in (("en-US", "en"), ("de-DE", "de")):
        path = tmp_path / "html" / language / "sect.planting.html"
        path.parent.mkdir(parents=True)
        shutil.copy(FIXTURES / f"debian_chapter.{name}.html", path)
    library = debian.Library(tmp_path, {"handbook": [tmp_path]})
    passages = list(debian.DOMAINS["handbook"].read(library, "handbook", "de"))
    assert passages[0] == Passage(
        "Planting a Small Tree", "Einen kleinen Baum pflanzen", "handbook:ch02"
    )
    assert {passage.document for passage in passages} == {"handbook:ch02"}
