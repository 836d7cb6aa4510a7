"""The readers, on small files of our own."""

from pathlib import Path

import polib

from nat_ar.data.debian import formats
from nat_ar.data.debian.sentences import Block, align_blocks

FIXTURES = Path(__file__).parents[1] / "fixtures"


def texts(blocks: list[Block]) -> list[str]:
    return [block.text for block in blocks]


def test_help_pages_are_aligned_by_paragraph_id() -> None:
    english, up = formats.read_html((FIXTURES / "debian_help.en.html").read_bytes())
    german, _ = formats.read_html((FIXTURES / "debian_help.de.html").read_bytes())
    assert up is None
    assert "Orchard Help" not in texts(english)  # menus are outside the display area
    assert [(one.text, other.text) for one, other in align_blocks(english, german)] == [
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
    assert texts(formats.read_html(page)[0]) == ["when in text now"]


def test_book_pages_lose_numbers_notes_and_navigation_and_name_their_chapter() -> None:
    english, up = formats.read_html((FIXTURES / "debian_chapter.en.html").read_bytes())
    german, _ = formats.read_html((FIXTURES / "debian_chapter.de.html").read_bytes())
    assert up == "ch02.html"
    assert texts(english) == [
        "Planting a Small Tree",
        "Dig a hole that is twice as wide as the roots.",
        "Water it every day.",
        "Keep the goats away.",
    ]
    assert [block.kind for block in english] == [block.kind for block in german]


def test_mallard_pages_give_prose_only() -> None:
    english = formats.read_mallard((FIXTURES / "debian_mallard.en.page").read_bytes())
    german = formats.read_mallard((FIXTURES / "debian_mallard.de.page").read_bytes())
    assert texts(english) == [
        "Keep goats out of the garden.",
        "Shut the gate",
        "Choose Garden ▸ Gate.",
        "Press Ctrl+G twice.",
    ]
    assert [other.text for _, other in align_blocks(english, german)] == [
        "Ziegen vom Garten fernhalten.",
        "Das Tor schließen",
        "Wählen Sie Garten ▸ Tor.",
        "Drücken Sie zweimal Strg+G.",
    ]


def test_po_and_mo_read_the_same(tmp_path: Path) -> None:
    catalogue = tmp_path / "game.mo"
    polib.pofile(str(FIXTURES / "debian_game.po")).save_as_mofile(str(catalogue))
    messages = list(formats.read_catalogue(FIXTURES / "debian_game.po"))
    assert sorted(messages) == sorted(formats.read_catalogue(catalogue))
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
        assert list(formats.read_ding(lines)) == [
            (2, "The goat has eaten the fence.", "Die Ziege hat den Zaun gefressen."),
            # line 3 has unequal parts, 5 a placeholder, 6 alternatives
            (4, "The bridge is wide.", "Die Brücke ist breit."),
            (7, "When does summer come?", "Wann kommt der Sommer?"),
        ]


def test_descriptions_are_joined_by_md5() -> None:
    german, english = (
        formats.read_descriptions(
            (FIXTURES / f"debian_Translation-{language}").read_text().splitlines(keepends=True),
            language,
        )
        for language in ("de", "en")
    )
    assert german.keys() == {"aaaa"}
    assert english.keys() == {"aaaa", "bbbb"}
    blocks = formats.description_blocks(english["aaaa"][1])
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
        for _, other in align_blocks(blocks, formats.description_blocks(german["aaaa"][1]))
    ][3:5] == ["ein Programm, das Ziegen zählt", "eine Liste von Zäunen, sortiert nach Geschmack"]


def test_packages_know_their_source() -> None:
    lines = (FIXTURES / "debian_Packages").read_text().splitlines()
    assert formats.read_sources(lines) == {"goat-tools": "goat"}
