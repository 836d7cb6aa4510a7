"""What a user reads who lacks a package that only some uses need."""

import sys
from pathlib import Path

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.pair import Report
from nat_ar.runtime import extras


@pytest.mark.parametrize("package", extras.EXTRAS)
def test_a_missing_package_names_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        extras.require(package, "this", "do that")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"this needs the package {package}, ")
    said = f'pip install "nat-ar[{extras.EXTRAS[package]}]", or do that'
    assert str(caught.value).endswith(said)


def test_the_debian_corpus_asks_for_its_extra_before_it_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polib", None)
    corpus = DebianCorpus(cache=str(tmp_path / "cache"))
    with pytest.raises(
        ConfigError, match=r"DebianCorpus needs the package polib.*nat-ar\[debian\]"
    ):
        corpus.splits(Report())
    assert not list(tmp_path.iterdir())
