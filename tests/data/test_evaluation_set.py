"""Test sets that nobody prepared."""

import gzip
from pathlib import Path

import pytest
import sacrebleu.dataset

from nat_ar.config_json import ConfigError
from nat_ar.data import evaluation_set
from nat_ar.data.corpus import Corpus
from nat_ar.data.pair import Pair, Report
from nat_ar.data.text_files import TextFiles


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return str(path)


def test_files_may_have_several_references(tmp_path: Path) -> None:
    source = write(tmp_path / "news.en", "a cat", "a dog")
    first = write(tmp_path / "first.de", "eine Katze", "ein Hund")
    second = tmp_path / "second.de.gz"
    second.write_bytes(gzip.compress("\ufeffeine Mieze\r\nein Köter\r\n".encode()))
    found = evaluation_set.of_files(source, [first, second])
    assert found.name == "files:news.en"
    assert found.source == ["a cat", "a dog"]
    assert found.references == [["eine Katze", "ein Hund"], ["eine Mieze", "ein Köter"]]
    assert found.options == {"source": source, "reference": (first, str(second))}
    assert found.hash != evaluation_set.of_files(source, [first]).hash


def test_what_is_no_test_set_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a", "a", "b")
    with pytest.raises(ValueError, match="2 sources and 1 references: expected one for each"):
        evaluation_set.of_files(source, [write(tmp_path / "b", "A")])
    with pytest.raises(ValueError, match="the reference of line 2 is blank"):
        evaluation_set.of_files(source, [write(tmp_path / "c", "A", " ")])
    (tmp_path / "d").write_bytes(b"A\n\xff\n")
    with pytest.raises(ValueError, match="d"):
        evaluation_set.of_files(source, [tmp_path / "d"])
    with pytest.raises(ValueError, match="expected sentences"):
        evaluation_set.of_files(write(tmp_path / "e"), [write(tmp_path / "f")])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sacreBLEU's directory for wmt14/full, empty."""
    known = sacrebleu.dataset.DATASETS["wmt14/full"]
    monkeypatch.setattr(known, "_outdir", str(tmp_path))
    monkeypatch.setattr(known, "_rawdir", str(tmp_path / "raw"))
    return tmp_path


def test_a_set_of_sacrebleu_is_read_from_its_cache(cache: Path) -> None:
    """With the pair in its name, or the languages of the run's corpus."""
    for field in sacrebleu.dataset.DATASETS["wmt14/full"].fieldnames("en-de"):
        write(cache / f"wmt14_full.en-de.{field}", f"{field} one", f"{field} two")
    found = evaluation_set.of_sacrebleu("wmt14/full", ("en", "de"))
    assert found == evaluation_set.of_sacrebleu("wmt14/full/en-de", (None, None))
    assert found.name == "sacrebleu:wmt14/full/en-de"
    assert found.options == {"test": "sacrebleu:wmt14/full/en-de"}
    assert (found.source, found.references) == (["src one", "src two"], [["ref one", "ref two"]])


def test_a_set_that_sacrebleu_cannot_fetch_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (OSError("no route to host"), SystemExit(1)):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr("sacrebleu.dataset.base.download_file", fail)
        with pytest.raises(ConfigError, match=r"cannot fetch wmt14/full for en-de: .*--echo src"):
            evaluation_set.of_sacrebleu("wmt14/full", ("en", "de"))


def test_a_set_or_a_pair_that_sacrebleu_lacks_is_answered_with_what_it_has() -> None:
    with pytest.raises(ConfigError, match="no test set 'wmt14/ful'; near it are wmt14/full"):
        evaluation_set.of_sacrebleu("wmt14/ful", ("en", "de"))
    with pytest.raises(ConfigError, match=r"one of cs-en, .*; got en-xx"):
        evaluation_set.of_sacrebleu("wmt14/full", ("en", "xx"))
    with pytest.raises(ConfigError, match="does not name its languages"):
        evaluation_set.of_sacrebleu("wmt14/full", (None, "de"))


class Shop(Corpus):
    """Has a test, of which it drops a pair."""

    def splits(self, report: Report) -> dict[str, list[Pair]]:
        report.drop("test", "empty side")
        return {"test": [Pair("a\u2028b", "A B", "toys")]}


def test_the_test_of_a_corpus_counts_what_it_lost() -> None:
    found = evaluation_set.of_corpus(Shop(target_language="zh"), "shops/mine.py")
    assert (found.name, found.lost, found.domains) == ("corpus:mine", 1, ["toys"])
    assert (found.source, found.references) == (["a b"], [["A B"]])
    assert found.tokenizer(None) == "zh"
    assert found.tokenizer(TextFiles(("a",), ("b",), ("c",))) == "zh"
    assert found.tokenizer(TextFiles(("a",), ("b",), ("c",), target_language="ja")) == "ja-mecab"
