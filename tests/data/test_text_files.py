"""Text files are read as they are; what is dropped is counted and named."""

import gzip
from pathlib import Path

import pytest

from nat_ar.data import text_files
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.pair import Pair, Report
from nat_ar.data.text_files import NamedTest, TextFiles
from nat_ar.runtime import files

DEBRIS = (
    b"\xef\xbb\xbfGo.\tGeh.\tCC-BY 2.0 (by somebody)\r\n"  # byte order mark, attribution, CRLF
    b"Hi.\tHallo!\r\n"
    b"one column only\n"
    b"\tleer\n"
    b"empty\t  \n"
    b"broken \xff\tkaputt\n"
    b"long\t" + b"lang " * 20 + b"\n"
    b'"quoted"\t"Zitat"'  # quotes are text, and the last line needs no end
)


def read(corpus: TextFiles) -> tuple[dict[str, list[Pair]], Report]:
    report = Report()
    splits = corpus.splits(report)
    return {name: list(pairs) for name, pairs in splits.items()}, report


@pytest.mark.parametrize("compressed", [False, True])
def test_what_a_table_drops_is_named_and_counted(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "pairs.tsv"  # gzip is recognised by content
    path.write_bytes(gzip.compress(DEBRIS) if compressed else DEBRIS)
    splits, report = read(TextFiles(train=(str(path),), max_characters=50))
    assert splits["train"] == [
        Pair("Go.", "Geh."),
        Pair("Hi.", "Hallo!"),
        Pair('"quoted"', '"Zitat"'),
    ]
    assert report.counts == {
        "train: read": 8,
        "train: dropped, too few columns": 1,
        "train: dropped, empty side": 2,
        "train: dropped, not UTF-8": 1,
        "train: dropped, longer than 50 characters": 1,
    }
    assert report.examples["train: dropped, too few columns"] == [
        f"{path}:3: 1 columns, expected at least 2"
    ]
    assert report.examples["train: dropped, empty side"] == [
        f"{path}:4: empty source",
        f"{path}:5: empty target",
    ]
    assert report.examples["train: dropped, not UTF-8"][0].startswith(f"{path}:6: ")
    assert report.examples["train: dropped, longer than 50 characters"] == [
        f"{path}:7: target of 100 characters"
    ]
    assert report.provenance["files"][0]["sha256"] == files.file_hash(path)


def test_columns_choose_the_direction(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("7\tGo.\tGeh.\n")
    splits, _ = read(TextFiles(train=(str(path),), columns=(2, 1)))
    assert splits["train"] == [Pair("Geh.", "Go.")]


def test_parallel_files_and_further_tests(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_bytes(b"one\r\ntwo\n\nfour\n")
    (tmp_path / "x.de").write_bytes(gzip.compress(b"eins\nzwei\ndrei\nvier"))
    (tmp_path / "y.tsv").write_text("five\tfünf\n")
    pair = (str(tmp_path / "x.en"), str(tmp_path / "x.de"))
    table = (str(tmp_path / "y.tsv"),)
    splits, report = read(
        TextFiles(train=pair, validation=table, more_tests=(NamedTest("wesnoth", table),))
    )
    assert splits["train"] == [Pair("one", "eins"), Pair("two", "zwei"), Pair("four", "vier")]
    assert splits["validation"] == splits["test_wesnoth"] == [Pair("five", "fünf")]
    assert list(splits) == ["train", "validation", "test_wesnoth"]
    assert report.examples == {"train: dropped, empty side": [f"{pair[0]}:3: empty source"]}


def test_unequal_line_counts_are_fatal(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "x.de").write_text("eins\n")
    paths = (str(tmp_path / "x.en"), str(tmp_path / "x.de"))
    with pytest.raises(ValueError, match=r"x\.en has 3 lines and .*x\.de has 1: expected equal"):
        read(TextFiles(train=paths))
    with pytest.raises(ValueError, match=r"x\.de has 1 lines and .*x\.en has 3: expected equal"):
        read(TextFiles(train=paths[::-1]))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.tsv: no such file"):
        read(TextFiles(train=(str(tmp_path / "nowhere.tsv"),)))
    path = tmp_path / "cut.tsv.gz"
    path.write_bytes(gzip.compress(b"Go.\tGeh.\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut\.tsv\.gz: broken gzip file"):
        read(TextFiles(train=(str(path),)))


def test_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="train: expected one path"):
        TextFiles(train=())
    with pytest.raises(ValueError, match="expected two different columns"):
        TextFiles(train=("a.tsv",), columns=(1, 1))
    with pytest.raises(ValueError, match="validation: named in the corpus and held out"):
        TextFiles(train=("a.tsv",), validation=("b.tsv",), hold_out=HoldOut(10, 10))
    for names in (["a/b"], [""], ["twice", "twice"]):
        tests = tuple(NamedTest(name, ("t.tsv",)) for name in names)
        with pytest.raises(ValueError, match=r"more_tests: .* expected distinct names"):
            TextFiles(train=("a.tsv",), more_tests=tests)
    with pytest.raises(ValueError, match="expected pairs for validation or test"):
        HoldOut(0, 0)


@pytest.mark.parametrize(
    ("text", "lines", "num_broken"),
    [
        (b"", [], 0),
        (b"\n\n", ["", ""], 0),
        (b"a\nb", ["a", "b"], 0),  # the last line may lack its end
        (b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb\r\n", ["a", "b"], 0),  # two files, one after the other
        ("a\u2028b\vc\rd\n".encode(), ["a b c d"], 0),
        (b"a \xff b\nc\n\xc3\n", ["a \ufffd b", "c", "\ufffd"], 2),
        ("\ufffd\n".encode(), ["\ufffd"], 0),
    ],
)
def test_lines_to_translate(text: bytes, lines: list[str], num_broken: int) -> None:
    assert text_files.lines_to_translate(text, "x.txt") == (lines, num_broken)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_in_utf16_is_no_file_of_broken_lines(tmp_path: Path, compressed: bool) -> None:
    content = "Go.\tGeh.\nHi.\tHallo!\n".encode("utf-16")
    path = tmp_path / "pairs.tsv"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=r"pairs\.tsv: expected UTF-8 text.*looks like UTF-16"):
        read(TextFiles(train=(str(path),)))
    with pytest.raises(ValueError, match=r"x\.txt: expected UTF-8 text.*looks like UTF-16"):
        text_files.lines_to_translate(content, "x.txt")


def test_a_table_without_tabs_is_no_table_of_short_lines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("Go.,Geh.\nHi.,Hallo!\n")
    with pytest.raises(ValueError, match=r"no line has 2 columns between TABs, such as 'Go\.,Geh"):
        read(TextFiles(train=(str(path),)))
