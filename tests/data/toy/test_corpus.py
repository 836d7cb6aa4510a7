"""The corpus: what was promised of its sizes, shares and repeatability."""

import collections
import dataclasses
import hashlib
import itertools
import random
import statistics

import pytest

from nat_ar.data.pair import Pair, Report
from nat_ar.data.toy import corpus, grammar, judge, parser

Splits = dict[str, list[Pair]]
CORPUS = corpus.ToyCorpus(seed=3, num_train=1_200, num_validation=50, num_test=100)


@pytest.fixture(scope="module")
def pairs() -> Splits:
    return {name: list(split) for name, split in CORPUS.splits(Report()).items()}


def words(text: str) -> list[str]:
    return text.lower().replace(",", "").rstrip(".?").split()


def test_splits_have_the_promised_sizes_and_share_no_source(pairs: Splits) -> None:
    assert {name: len(split) for name, split in pairs.items()} == {
        "test": 100,
        "validation": 50,
        "train": 1_200,
    }
    assert len({pair.source for split in pairs.values() for pair in split}) == 1_350


def test_every_target_is_valid(pairs: Splits) -> None:
    for split in pairs.values():
        assert all(judge.judge(pair.source, pair.target) == (True, False) for pair in split[:300])


def test_the_seed_decides_everything(pairs: Splits) -> None:
    again = {name: list(split) for name, split in CORPUS.splits(Report()).items()}
    assert again == pairs
    other = dataclasses.replace(CORPUS, seed=4, num_train=0).splits(Report())
    assert list(other["test"]) != pairs["test"]


def test_the_test_split_does_not_depend_on_the_size_of_the_others(pairs: Splits) -> None:
    small = dataclasses.replace(CORPUS, num_train=10, num_validation=5).splits(Report())
    assert list(small["test"]) == pairs["test"]


def test_the_default_corpus_is_the_same_on_every_python() -> None:
    """Whoever changes the language on purpose changes this number, and the studies' results with it."""
    test = corpus.ToyCorpus(num_train=0, num_validation=0, num_test=100).splits(Report())["test"]
    text = "\n".join("\t".join(pair) for pair in test)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "74773cfb9c398f3d"


def test_statistics(pairs: Splits) -> None:
    train = pairs["train"]
    for side, types in (("source", 155), ("target", 240)):
        texts = [words(getattr(pair, side)) for pair in train]
        lengths = [len(text) for text in texts]
        assert 0.95 * types <= len({word for text in texts for word in text}) <= types
        assert statistics.mean(4 <= length <= 18 for length in lengths) > 0.98
        assert max(lengths) <= 24
        assert 9 <= statistics.mean(lengths) <= 10.5
    modes = [len(grammar.mode_sizes(parser.parse(pair.source))) for pair in train]
    assert 1.5 <= statistics.mean(modes) <= 2.5
    assert statistics.mean(number > 0 for number in modes) >= 0.8
    domains = collections.Counter(pair.domain for pair in train)
    assert set(domains) == {"main", "modal", "question", "subordinate", "modes"}
    assert min(domains.values()) >= 0.05 * len(train)


def test_the_report_counts_what_was_drawn_and_passed_over() -> None:
    report = Report()
    generator = random.Random(0)
    seen = {grammar.english(corpus.draw(random.Random(0)))}  # what the same seed draws first
    assert len(list(corpus.ToyCorpus._split(generator, "test", 20, seen, report))) == 20
    assert report.counts["test: drawn"] == 20
    assert report.counts["test: drawn again and passed over"] == 1


def test_training_pairs_are_drawn_as_they_are_read() -> None:
    """A large training split is never in memory; validation and test are drawn before it."""
    large = dataclasses.replace(CORPUS, num_train=10**9).splits(Report())
    assert list(itertools.islice(large["train"], 5)) == list(CORPUS.splits(Report())["train"])[:5]


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_test is -1, expected 0 or more"):
        corpus.ToyCorpus(num_test=-1)
