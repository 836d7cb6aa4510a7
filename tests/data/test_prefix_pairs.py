"""Beginnings of sentences as training pairs."""

import collections
from pathlib import Path

import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import prepare
from nat_ar.data.catalogue import AnyCorpus
from nat_ar.data.pair import Report
from nat_ar.data.prefix_pairs import PrefixPairs
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles


def corpus(tmp_path: Path, text: str, **fields: object) -> TextFiles:
    paths = {}
    for name in ("train", "validation", "test"):
        path = tmp_path / f"{name}.tsv"
        path.write_text(text, "utf-8")
        paths[name] = (str(path),)
    return TextFiles(**paths, **fields)


def read(prefixes: PrefixPairs, split: str = "train") -> tuple[list[tuple[str, str]], Report]:
    report = Report()
    return [(pair.source, pair.target) for pair in prefixes.read(split, report)], report


SOURCE, TARGET = "a b c d e f g h", "A B C D"


def test_a_beginning_stands_behind_each_pair(tmp_path: Path) -> None:
    whole = corpus(tmp_path, f"{SOURCE}\t{TARGET}\nhi\thallo\n")
    pairs, report = read(PrefixPairs(whole))
    assert pairs[0] == (SOURCE, TARGET)
    source, target = pairs[1]
    assert SOURCE.startswith(source + " ")
    assert TARGET.startswith(target + " ")
    assert pairs[2:] == [("hi", "hallo")]  # one word has no beginning
    assert report.counts["train: beginnings added"] == 1
    assert report.counts["train: no beginning of its own, too short"] == 1
    for split in ("validation", "test"):
        assert read(PrefixPairs(whole), split)[0] == [(SOURCE, TARGET), ("hi", "hallo")]


def test_both_sides_are_cut_at_one_share(tmp_path: Path) -> None:
    """8 and 4 words: n of the source go with ceil(n / 2) of the target, all n from 1 to 7 alike."""
    lines = "".join(f"{SOURCE} {i}\t{TARGET} {i}\n" for i in range(400))
    found = collections.Counter()
    for source, target in read(PrefixPairs(corpus(tmp_path, lines)))[0][1::2]:
        n, m = len(source.split()), len(target.split())
        assert abs(n / 9 - m / 5) <= 1 / 5  # both rounded up
        found[n] += 1
    assert set(found) == set(range(1, 9))
    assert max(found.values()) < 3 * min(found.values())


def test_a_pair_is_cut_alike_wherever_it_stands(tmp_path: Path) -> None:
    one = read(PrefixPairs(corpus(tmp_path, f"{SOURCE}\t{TARGET}\n")))[0]
    two = read(PrefixPairs(corpus(tmp_path, f"x y\tX Y\n{SOURCE}\t{TARGET}\n")))[0]
    assert two[2:] == one
    seeds = {
        tuple(read(PrefixPairs(corpus(tmp_path, f"{SOURCE}\t{TARGET}\n"), seed=s))[0])
        for s in range(9)
    }
    assert len(seeds) > 2


def test_a_share_of_the_pairs(tmp_path: Path) -> None:
    lines = "".join(f"{SOURCE} {i}\t{TARGET} {i}\n" for i in range(400))
    whole = corpus(tmp_path, lines)
    assert len(read(PrefixPairs(whole, share=0.0))[0]) == 400
    assert 460 < len(read(PrefixPairs(whole, share=0.25))[0]) < 540
    with pytest.raises(ConfigError, match="share must be from 0 to 1"):
        PrefixPairs(whole, share=1.5)


def test_characters_where_there_are_no_spaces(tmp_path: Path) -> None:
    whole = corpus(tmp_path, "a b c d\t两只狗在玩\n", source_language="en", target_language="zh")
    prefixes = PrefixPairs(whole)
    assert (prefixes.target_language, prefixes.tokenizer) == ("zh", "zh")
    source, target = read(prefixes)[0][1]
    assert "a b c d".startswith(source + " ")
    assert "两只狗在玩".startswith(target)
    assert 0 < len(target) < 5


def test_it_goes_through_a_config(tmp_path: Path) -> None:
    prefixes = PrefixPairs(corpus(tmp_path, "a b\tA B\n", target_language="de"), seed=3)
    assert config_json.from_json(AnyCorpus, config_json.to_json(prefixes)) == prefixes


def test_a_study_of_it_may_read_other_files(tmp_path: Path) -> None:
    """`study --corpus-file` changes where the pairs are from, not what is done to them."""
    config = DataConfig(str(tmp_path), PrefixPairs(corpus(tmp_path, "a b\tA B\n"), seed=3))
    other = prepare.from_files(config, ["train.tsv", "validation.tsv", "test.tsv"]).corpus
    assert isinstance(other, PrefixPairs)
    assert other.seed == 3
    assert other.corpus == TextFiles(("train.tsv",), ("validation.tsv",), ("test.tsv",))
