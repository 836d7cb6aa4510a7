"""Published results: the file is whole, its ratios are those of the papers, and each system finds its own."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from nat_ar.evaluation import published
from nat_ar.evaluation.published import Published
from nat_ar.losses.axe import Axe
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.fertility_nat import FertilityNat, FineTuning
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.latent import Latent
from nat_ar.methods.length_nat import LengthNat
from nat_ar.translation import decodings

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "vanilla NAT": LengthNat(),
    "GLAT": LengthNat(glancing=Glancing()),
    "AXE": LengthNat(token_loss=Axe()),
    "OAXE": LengthNat(token_loss=Oaxe()),
    "vanilla NAT + DSLP": LengthNat(deep_supervision=True),
    "GLAT + DSLP": LengthNat(glancing=Glancing(), deep_supervision=True),
    "fertility NAT": FertilityNat(),
    "fertility NAT + FT": FertilityNat(fine_tuning=FineTuning()),
    "CTC": Ctc(),
    "CTC + GLAT": Ctc(glancing=Glancing()),
    "CTC + VAE": Ctc(latent=Latent()),
    "DA-Transformer": DaTransformer(),
    "CMLM": Cmlm(),
    "iterative refinement": IterativeRefinement(),
}


def found(variant: str, data: str, decoding: str) -> Published:
    entry = published.find(variant, data, decoding)
    assert entry is not None
    return entry


@pytest.mark.parametrize("entry", published.results())
def test_an_entry_says_what_it_is(entry: Published) -> None:
    assert entry.method
    assert entry.paper
    assert entry.pair in ("en-de", "de-en", "en-ro", "ro-en", "en-zh", "zh-en", "ja-en")
    assert entry.corpus.startswith(("WMT", "IWSLT", "Multi30k"))
    assert entry.split in ("test", "dev", "test2016")
    assert 5 < entry.bleu < 50
    assert entry.known in ("read", "read elsewhere", "recalled")
    assert entry.training_data in ("raw", "distilled", None)
    assert entry.passes is None or entry.passes >= 1
    assert entry.arxiv is None or len(entry.arxiv) == len("1711.02281")
    assert (entry.ar_bleu is None) == (entry.ar_known is None)


def test_a_baseline_is_an_entry_of_the_same_paper() -> None:
    bleu = {(entry.paper, entry.corpus, entry.pair, entry.bleu) for entry in published.results()}
    for entry in published.results():
        if entry.ar_bleu is not None and entry.paper != "Saharia et al. 2020":  # an abstract's 27.8
            assert (entry.paper, entry.corpus, entry.pair, entry.ar_bleu) in bleu


def test_no_number_stands_there_twice() -> None:
    keys = [
        (
            e.method,
            e.corpus,
            e.pair,
            e.split,
            e.training_data,
            e.decoding,
            e.paper,
            e.flavour,
            e.bleu,
        )
        for e in published.results()
    ]
    assert len(set(keys)) == len(keys) > 200


@pytest.mark.parametrize(
    ("variant", "data", "decoding", "percent"),
    [  # Huang et al. 2022, Table 1: 28.07 after raw data, 28.54 after distilled data
        ("vanilla NAT", "raw", "LengthBeam(size=1)", 100 * 11.79 / 28.07),
        ("vanilla NAT", "distilled", "LengthBeam(size=1)", 100 * 19.99 / 28.54),
        ("GLAT", "distilled", "LengthBeam(size=1)", 100 * 25.21 / 28.54),
        ("CTC + GLAT", "distilled", "BestPath() int8", 100 * 26.39 / 28.54),
        ("DA-Transformer", "raw", "Lookahead()", 100 * 26.57 / 28.07),
        ("DA-Transformer", "raw", "GraphBeam(size=10, length_penalty=0.8)", 100 * 27.02 / 28.07),
        ("CMLM", "distilled", "MaskPredict(iterations=10)", 100 * 27.03 / 28.54),
        ("fertility NAT", "distilled", "Argmax()", 100 * 17.35 / 23.45),  # Gu et al. 2018
        ("fertility NAT + FT", "distilled", "NoisyParallel(samples=100)", 100 * 19.17 / 23.45),
    ],
)
def test_ratios_by_hand(variant: str, data: str, decoding: str, percent: float) -> None:
    assert found(variant, data, decoding).percent == pytest.approx(percent)


def test_what_was_only_recalled_or_is_another_thing_is_not_found() -> None:
    recalled = [one for one in published.results() if one.bleu == 18.66]
    assert [one.known for one in recalled] == ["recalled"]
    for variant, data, decoding in (
        ("fertility NAT + FT", "distilled", "NoisyParallel(samples=10)"),  # 18.66
        ("vanilla NAT", "raw", "LengthBeam(size=5)"),
        ("fertility NAT", "raw", "Argmax()"),
        ("CMLM", "distilled", "MaskPredict(iterations=4)"),  # without its baseline's BLEU
        ("Joint", "distilled", "LengthBeam(size=1)"),
    ):
        assert published.find(variant, data, decoding) is None


def test_a_method_with_its_options_is_called_as_in_papers() -> None:
    assert {name: method.variant for name, method in VARIANTS.items()} == {n: n for n in VARIANTS}
    assert Joint().variant == "Joint"
    ours = {entry.variant for entry in published.results()} - {None}
    assert ours == {*VARIANTS}


def test_the_decodings_are_those_of_their_methods() -> None:
    for entry in published.results():
        for text in entry.decodings:
            assert entry.variant is not None
            decodings.choose(VARIANTS[entry.variant], text.replace("(*)", "()"))


def test_the_file_is_in_the_wheel_and_linked_from_the_docs() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "evaluation/published.json" in packaged["package-data"]["nat_ar"]
    assert (ROOT / "docs/results/published.json").resolve() == published.PATH


def test_the_fields_of_the_file_are_described() -> None:
    described = {field.name for field in dataclasses.fields(Published)} | {"ours"}
    for entry in json.loads(published.PATH.read_text("utf-8"))["results"]:
        assert {*entry} <= described
