"""A corpus is config and reader in one."""

import pytest

from nat_ar import config_json
from nat_ar.data.catalogue import AnyCorpus
from nat_ar.data.corpus import Corpus
from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.hugging_face import DataFiles, HuggingFace
from nat_ar.data.text_files import NamedTest, TextFiles
from nat_ar.data.toy.corpus import ToyCorpus


@pytest.mark.parametrize(
    "corpus",
    [
        TextFiles(train=("x.en", "x.de"), more_tests=(NamedTest("t", ("t.tsv",)),)),
        TextFiles(train=("x.tsv",), hold_out=HoldOut()),
        HuggingFace("json", "en", "de", data_files=(DataFiles("train", ("a.json",)),)),
        DebianCorpus(),
        ToyCorpus(seed=4),
    ],
)
def test_corpora_survive_json(corpus: Corpus) -> None:
    data = config_json.to_json(corpus)
    assert "from" not in data
    assert config_json.from_json(AnyCorpus, data) == config_json.from_json(Corpus, data) == corpus


def test_only_the_toy_language_knows_what_is_valid() -> None:
    source = "Thank you, Anna sees Paul."
    assert TextFiles(train=("x.tsv",)).judge(source, "Danke sehr, Anna sieht Paul.") is None
    assert ToyCorpus().judge(source, "Danke sehr, Anna sieht Paul.").valid


def test_a_hold_out_is_of_text_files_and_hugging_face() -> None:
    assert TextFiles(train=("x.tsv",), hold_out=HoldOut(5, 6)).hold_out == HoldOut(5, 6)
    assert ToyCorpus().hold_out is None
