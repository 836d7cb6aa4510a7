"""The split by document, and settings that cannot be."""

import collections

import pytest

from nat_ar.data.debian import corpus as debian
from nat_ar.data.debian import domains
from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.pair import Pair, Report


def corpus_of(domain: str, documents: int, lines: int) -> list[Pair]:
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
        for line in range(lines)
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
    assert report.counts["train: dropped, source or target occurs in an earlier split"] == 2
    assert report.counts["train: dropped, differs only in numbers from an earlier split"] == 1


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


def test_every_name_of_a_domain_has_its_reader() -> None:
    assert tuple(domains.DOMAINS) == debian.DOMAINS
