import pytest

from nat_ar.data import file_kind

GERMAN = "Grüße aus Köln\tGreetings\nschöne Größe\tnice size\nfünf Öfen\tfive ovens\nja\tyes\n"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (GERMAN.encode("utf-16"), "UTF-16"),
        (GERMAN.encode("utf-16-le"), "UTF-16"),
        (GERMAN.encode("utf-16-be"), "UTF-16"),
        (GERMAN.encode("utf-32-le"), "UTF-32"),
        (GERMAN.encode("utf-32"), "UTF-32"),
        (GERMAN.encode("latin-1"), "another encoding, such as Windows-1252: 3 of"),
        (GERMAN.replace("\n", "\r").encode(), "lines that end in CR alone"),
        (b"PK\x03\x04\x14\x00", "a zip archive"),
        (b"\x00\x01\x02some bytes", "a binary file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    ],
)
def test_a_file_that_is_no_utf8_text_is_known_by_what_it_looks_like(
    start: bytes, kind: str
) -> None:
    assert str(file_kind.looks_like(start)).startswith(kind)
    with pytest.raises(ValueError, match=r"x\.txt: expected UTF-8 text, .* looks like .*; convert"):
        file_kind.check(start, "x.txt")


@pytest.mark.parametrize(
    "start",
    [b"", b"one line", GERMAN.encode(), "我喜欢茶\n".encode() * 9, b"a\r\nb\r\n"],
)
def test_text_is_text(start: bytes) -> None:
    file_kind.check(start, "x.txt")
    file_kind.check(b"\xef\xbb\xbf" + start, "x.txt")


def test_some_broken_lines_are_faults_of_lines() -> None:
    file_kind.check(GERMAN.encode() * 5 + b"kaputt \xff\n" * 4, "x.txt")


def test_a_character_that_the_end_of_the_look_cuts_is_no_fault() -> None:
    file_kind.check("ß".encode()[:1], "x.txt")
    file_kind.check(("ß\n" * 3 + "ß").encode()[:-1], "x.txt")
