import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nat_ar import config_json
from nat_ar.data import corpus
from nat_ar.data.corpus import (
    Corpus,
    DataFiles,
    HoldOut,
    HuggingFace,
    NamedSplit,
    NamedTest,
    TextFiles,
)
from nat_ar.data.pair import Pair, Report

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


def read(text_corpus: TextFiles | HuggingFace) -> tuple[dict[str, list[Pair]], Report]:
    report = Report()
    splits = text_corpus.splits(report)
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
    assert report.provenance["files"][0]["sha256"] == corpus.file_hash(str(path))


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
        with pytest.raises(ValueError, match=r"more_tests: .* expected different names"):
            TextFiles(train=("a.tsv",), more_tests=tests)
    with pytest.raises(ValueError, match="expected pairs for validation or test"):
        HoldOut(0, 0)


def test_pairs_that_share_a_side_are_one_component() -> None:
    source = np.array([9, 9, 5, 7, 5, 1], np.uint64)
    target = np.array([3, 4, 4, 8, 6, 2], np.uint64)
    # 0-1 share source 9, 1-2 share target 4, 2-4 share source 5; 3 and 5 are alone
    np.testing.assert_array_equal(corpus.connected_components(source, target), [0, 0, 0, 1, 0, 2])


def test_equal_numbers_on_different_sides_are_not_equal() -> None:
    sides = np.array([1, 2], np.uint64)
    np.testing.assert_array_equal(corpus.connected_components(sides, sides[::-1].copy()), [0, 1])


def test_components_do_not_leak_between_splits(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 700, (1000, 2))
    # the same sentence in another spelling: case and white space do not count
    lines = [
        f"{'S' if row % 2 else 's'}  {s}\tt {t}{' ' * (row % 3)}"
        for row, (s, t) in enumerate(numbers)
    ]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    text_files = TextFiles(train=(str(path),), hold_out=HoldOut(30, 50, seed=1))
    splits, report = read(text_files)
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 920,
        "validation": 30,
        "test": 50,
    }
    for side in (0, 1):
        seen = [{corpus.normalised(pair[side]) for pair in pairs} for pairs in splits.values()]
        assert len(set.union(*seen)) == sum(len(one) for one in seen)
    everything = [tuple(line.split("\t")) for line in lines]
    assert sorted(pair[:2] for pairs in splits.values() for pair in pairs) == sorted(everything)
    assert report.counts["train: read"] == 1000  # counted once, though read three times
    assert report.provenance["hold_out"]["pairs"] == 1000
    assert read(text_files)[0] == splits
    other = TextFiles(train=(str(path),), hold_out=HoldOut(30, 50, seed=2))
    assert read(other)[0]["test"] != splits["test"]


def test_hold_out_by_line_and_of_one_split_only(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("same\tgleich\n" * 10)
    splits, _ = read(TextFiles(train=(str(path),), hold_out=HoldOut(2, 0, by="line")))
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 8, "validation": 2}
    with pytest.raises(ValueError, match=r"10 pairs in 1 groups, the largest of 10.*ask for fewer"):
        read(TextFiles(train=(str(path),), hold_out=HoldOut(2, 0)))
    with pytest.raises(ValueError, match="ask for fewer"):
        read(TextFiles(train=(str(path),), hold_out=HoldOut(5, 5, by="line")))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()


ROWS = [
    {"id": 0, "translation": {"en": "Go.", "de": "Geh."}, "topic": "short"},
    {"id": 1, "translation": {"en": None, "de": "Hallo!"}, "topic": "short"},
    {"id": 2, "translation": {"en": "Thank you.", "de": "Vielen Dank."}, "topic": "polite"},
]
PAIRS = [Pair("Go.", "Geh.", "short"), Pair("Thank you.", "Vielen Dank.", "polite")]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("streaming", [False, True])
def test_json_with_a_translation_field(tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    hub = HuggingFace(
        "json",
        source="translation.en",
        target="translation.de",
        domain="topic",
        test=None,
        more_tests=(NamedSplit("again", "validation"),),
        data_files=(DataFiles("train", (str(path),)), DataFiles("validation", (str(path),))),
        streaming=streaming,
    )
    splits, report = read(hub)
    assert splits == {"train": PAIRS, "validation": PAIRS, "test_again": PAIRS}
    assert report.counts["train: dropped, empty side"] == 1
    assert report.examples["train: dropped, empty side"] == ["json, train, row 1: empty source"]
    json.dumps(report.provenance)
    assert report.provenance["hugging_face"]["files"][0]["path"] == str(path)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_flat_columns_with_held_out_pairs(tmp_path: Path, kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {"english": [f"s {i}" for i in range(20)], "de": [f"t {i}" for i in range(20)]}
    )
    path = tmp_path / f"rows.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    hub = HuggingFace(
        kind,
        source="english",
        target="de",
        validation=None,
        test=None,
        data_files=(DataFiles("train", (str(path),)),),
        hold_out=HoldOut(3, 4),
    )
    splits, _ = read(hub)
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 13,
        "validation": 3,
        "test": 4,
    }
    assert {pair for pairs in splits.values() for pair in pairs} == {
        Pair(f"s {i}", f"t {i}") for i in range(20)
    }


@pytest.mark.usefixtures("hub_cache")
def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, validation=table).save_to_disk(tmp_path / "several")
    fields = {"source": "translation.en", "target": "translation.de", "from_disk": True}
    several = HuggingFace(str(tmp_path / "several"), test=None, domain="topic", **fields)
    assert read(several)[0] == {"train": PAIRS, "validation": PAIRS}
    one = HuggingFace(
        str(tmp_path / "one"), validation=None, test=None, hold_out=HoldOut(1, 0), **fields
    )
    splits, _ = read(one)
    assert sorted(splits["train"] + splits["validation"]) == sorted(
        pair._replace(domain="") for pair in PAIRS
    )
    with pytest.raises(ValueError, match=r"split 'dev': .*splits train, validation; .*hold_out"):
        read(HuggingFace(str(tmp_path / "several"), validation="dev", **fields))


@pytest.mark.usefixtures("hub_cache")
def test_what_is_wrong_with_a_data_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = (DataFiles("train", (str(path),)), DataFiles("validation", (str(path),)))

    def hub(source: str, target: str = "translation.de", **fields: str | None) -> HuggingFace:
        return HuggingFace("json", source, target, **{"test": None, "data_files": files, **fields})

    with pytest.raises(ValueError, match="no column en; the columns are id, translation, topic"):
        read(hub("en"))
    with pytest.raises(ValueError, match=r"row 0: no field 'fr' of 'translation\.fr'; found"):
        read(hub("translation.fr"))
    with pytest.raises(ValueError, match="'translation' is dict, expected text"):
        read(hub("translation"))
    with pytest.raises(ValueError, match="split 'dev': cannot be loaded"):
        read(hub("translation.en", test="dev"))
    with pytest.raises(ValueError, match="from_disk reads the folder"):
        HuggingFace("folder", "en", "de", from_disk=True, streaming=True)


def test_without_datasets_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        read(HuggingFace("multi30k", "en", "de"))


def test_corpora_survive_json() -> None:
    corpora: list[Corpus] = [
        TextFiles(train=("x.en", "x.de"), more_tests=(NamedTest("t", ("t.tsv",)),)),
        HuggingFace("json", "en", "de", data_files=(DataFiles("train", ("a.json",)),)),
    ]
    for value in corpora:
        assert config_json.from_json(Corpus, config_json.to_json(value)) == value
