"""Data sets of Hugging Face, written by `datasets` itself."""

import json
import sys
from pathlib import Path

import pytest

from nat_ar.data.hold_out import HoldOut
from nat_ar.data.hugging_face import DataFiles, HuggingFace, NamedSplit
from nat_ar.data.pair import Pair, Report


def read(corpus: HuggingFace) -> tuple[dict[str, list[Pair]], Report]:
    report = Report()
    splits = corpus.splits(report)
    return {name: list(pairs) for name, pairs in splits.items()}, report


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
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("kind", "content", "cause"),
    [
        ("csv", "en,de\nGo.,Geh.\na,b,c,d\n", "Expected 2 fields in line 3, saw 4"),
        ("json", '{"en": "Go.", "de": "Geh."}\n{"en": \n', "JSON parse error: Invalid value"),
    ],
)
def test_a_broken_file_is_named_with_the_cause(
    tmp_path: Path, streaming: bool, kind: str, content: str, cause: str
) -> None:
    path = tmp_path / f"broken.{kind}"
    path.write_text(content)
    hub = HuggingFace(
        kind,
        source="en",
        target="de",
        test=None,
        data_files=(DataFiles("train", (str(path),)), DataFiles("validation", (str(path),))),
        streaming=streaming,
    )
    with pytest.raises(
        ValueError, match=rf"split 'train' \(.*broken\.{kind}\): cannot be .*{cause}"
    ) as raised:
        read(hub)
    assert "\n" not in str(raised.value)


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
def test_texts_of_a_csv_file_that_look_like_nothing_or_numbers_are_texts(tmp_path: Path) -> None:
    """pandas reads None, NA, nan and an empty cell as missing, 12 as a number and True as a truth value."""
    rows = ["Keine,None", "k. A.,NA", "null,null", "12,12", "wahr,True", "1.50,1.50", '"",leer']
    path = tmp_path / "rows.csv"
    path.write_text("de,en\n" + "\n".join(rows) + "\n", "utf-8")
    hub = HuggingFace(
        "csv",
        source="en",
        target="de",
        validation=None,
        test=None,
        data_files=(DataFiles("train", (str(path),)),),
    )
    splits, report = read(hub)
    texts = [tuple(row.split(",")) for row in rows[:-1]]
    assert [(pair.target, pair.source) for pair in splits["train"]] == texts
    assert report.counts["train: dropped, empty side"] == 1


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
    with pytest.raises(ValueError, match=r"row 0: no field 'fr' of 'translation\.fr'; there"):
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
