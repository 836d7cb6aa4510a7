"""CTranslate2 as a judge of our decoder: an engine that no one here wrote, on the same weights."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.data import loader, vocabulary
from nat_ar.data.ragged import Ragged
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.experiment.translators import open_translator
from nat_ar.export import ctranslate2
from nat_ar.export.ctranslate2 import Engine
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.special_tokens import EOS
from nat_ar.translation.model import Model, vocabulary_sizes
from nat_ar.translation.translator import Translator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(toy_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    loaded = toy_run.run.load()
    ctranslate2.write(
        loaded.model,
        loaded.config.method,
        loaded.vocabulary,
        directory,
        decoding=Beam(),
        quantization=None,
        identity={},
    )
    return directory


@pytest.fixture(scope="module")
def engine(exported: Path) -> Engine:
    return Engine(exported, threads=1)


def open_toy(toy_run, decoding: str, max_rows: int) -> Translator:
    _, translator = open_translator(toy_run.run, decoding)
    translator.max_rows = max_rows
    return translator


@pytest.mark.parametrize("decoding", ["Greedy()", "Beam(size=4)"])
def test_200_sentences_become_the_same_tokens(toy_run, engine: Engine, decoding: str) -> None:
    """In a batch and alone. Where our search reached the limit of its sentence, theirs may go on: CTranslate2
    has one limit a call; at most 20 sentences of the 200. In all others no token differs: no tie was found, so
    none is allowed."""
    translator = open_toy(toy_run, decoding, 64)
    ours = translator.translate(toy_run.sentences)
    assert len(ours) == 200
    assert len({item.texts[0] for item in ours}) > 150  # it has learnt to tell sentences apart
    rows = translator.vocabulary.encode_source(toy_run.sentences)
    ended = [
        place
        for place, (item, row) in enumerate(zip(ours, rows, strict=True))
        if item.passes <= limits.length_limit(len(row) + 1)
    ]
    assert len(ended) >= 180
    for max_rows in (64, 1):
        theirs = engine.translate(toy_run.sentences, translator.decoding, max_rows=max_rows)
        different = [place for place in ended if theirs[place].tokens != ours[place].tokens]
        assert different == []
        scores = [[answer[place].scores[0] for place in ended] for answer in (ours, theirs)]
        np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-4)
    lone = open_toy(toy_run, decoding, 1).translate(toy_run.sentences[:10])
    assert [item.tokens for item in lone] == [item.tokens for item in ours[:10]]


def test_a_beam_is_more_than_greedy_on_these_sentences(toy_run, engine: Engine) -> None:
    """Otherwise the test above would say nothing of the beam. And n-best lists are the same."""
    greedy, beam = (
        engine.translate(toy_run.sentences, decoding) for decoding in (Greedy(), Beam(4, n_best=4))
    )
    changed = [a.tokens[0] != b.tokens[0] for a, b in zip(greedy, beam, strict=True)]
    assert sum(changed) > 10
    some = [place for place, is_changed in enumerate(changed) if is_changed][:10]
    translator = open_toy(toy_run, "Beam(size=4, n_best=4)", 64)
    ours = translator.translate([toy_run.sentences[place] for place in some])
    for place, item in zip(some, ours, strict=True):
        limit = limits.length_limit(
            len(translator.vocabulary.encode_source([toy_run.sentences[place]])[0]) + 1
        )
        if item.passes <= limit:
            assert item.tokens == beam[place].tokens
            np.testing.assert_allclose(item.scores, beam[place].scores, rtol=1e-5)


def test_the_usage_of_the_card_does_what_it_says(toy_run, exported: Path) -> None:
    card = json.loads((exported / "card.json").read_text("utf-8"))
    usage = "\n".join(card["usage"]).replace("DIR", str(exported))
    namespace: dict[str, Any] = {}
    exec(usage, namespace)  # noqa: S102  it is ours
    lines = [*toy_run.sentences[:3], "a \u2581 b \U0010fffd"]
    ours = open_toy(toy_run, "Beam(size=4)", 64).translate(lines)
    assert [namespace["translate"](line) for line in lines[:3]] == [x.texts[0] for x in ours[:3]]
    assert "\U0010fffd" not in namespace["translate"](lines[3])
    assert namespace["translate"](f" {lines[0]}\t ") == ours[0].texts[0]
    assert namespace["translate"](" ") == namespace["translate"]("") == ""


def test_text_follows_the_rules_of_the_translator(toy_run, engine: Engine) -> None:
    """Blank lines are passed over; the end of a line that is too long is lost, as in our translator."""
    long = " ".join(["man"] * 300)
    short, empty, blank, cut, shorter = engine.translate(
        [toy_run.sentences[0], "", " ", long, " ".join(["man"] * 400)], Greedy()
    )
    assert empty == blank == ctranslate2.Answer([""], [0.0], [[]])
    assert cut == shorter
    assert short.texts[0] != ""


WORDS = ["a b c d", "b a d e f", "c", "h g f e d c b a", "e e e", "f a c e", "b e a d"]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("joint", [True, False])
def test_every_kind_of_transformer_keeps_its_probabilities(
    norm: str, joint: bool, tmp_path: Path
) -> None:
    """log p of each target, with random weights that all matter: norms and biases are not ones and zeros."""
    config = VocabularyConfig(size=20 if joint else 17, joint=joint, byte_fallback=False)
    other = str.maketrans({} if joint else dict(zip("abcdefgh", "stuvwxyz", strict=True)))
    targets = [words.translate(other) for words in WORDS]
    words = vocabulary.train(WORDS, targets, tmp_path / "vocabulary", config)
    size = TransformerConfig(24, 40, 3, 3, 2, norm=norm, max_length=600)
    method = Autoregressive(size, rescoring_length_penalty=0.0)
    model = random_model(method, words)
    ctranslate2.write(
        model, method, words, tmp_path, decoding=Greedy(), quantization=None, identity={}
    )
    engine = Engine(tmp_path, threads=1)
    source, target = words.encode_source(WORDS), words.encode_target(targets[::-1])
    scored = engine.translator.score_batch(
        [words.source_pieces(row) for row in source], [words.target_pieces(row) for row in target]
    )
    everything = np.arange(len(WORDS))
    ours = model.merge(model.leaves).score(
        jnp.asarray(loader.pad_rows(Ragged.from_rows(source), everything, 24, end=EOS)),
        jnp.asarray(loader.pad_rows(Ragged.from_rows(target), everything, 24, end=None))[:, None],
    )
    theirs = [sum(item.log_probs) for item in scored]
    np.testing.assert_allclose(theirs, np.asarray(ours)[:, 0], rtol=1e-5)


def random_model(method: Autoregressive, words: Vocabulary) -> Model:
    network = method.build(vocabulary_sizes(words), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(network, nnx.Param)
    generator = np.random.default_rng(1)
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.2 * generator.standard_normal(leaf.shape, np.float32), params
    )
    return Model(graphdef, noisy)


def test_int8_weights_take_a_byte_each_and_translate(
    toy_run, exported: Path, tmp_path: Path
) -> None:
    loaded = toy_run.run.load()
    ctranslate2.write(
        loaded.model,
        loaded.config.method,
        loaded.vocabulary,
        tmp_path,
        decoding=Greedy(),
        quantization="int8",
        identity={},
    )
    small, whole = ((path / "model.bin").stat().st_size for path in (tmp_path, exported))
    matrices = sum(leaf.size for leaf in loaded.model.leaves if leaf.ndim == 2)
    assert 2.5 * matrices < whole - small < 3 * matrices  # a byte each, and a scale a row
    found = Engine(tmp_path, threads=1).translate(toy_run.sentences[:5], Greedy())
    assert all(answer.texts[0] for answer in found)


def test_what_has_no_counterpart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for change in ({"decoder_positions": "every_layer"}, {"decoder_memory": "same_layer"}):
        ((field, value),) = change.items()
        transformer = dataclasses.replace(TransformerConfig(), **change)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"got .*{field} '{value}'"):
            ctranslate2.check(Autoregressive(transformer), Greedy())
    with pytest.raises(ConfigError, match="got LengthNat; --format stablehlo takes every method"):
        ctranslate2.check(LengthNat(), Greedy())
    with pytest.raises(ConfigError, match=r"knows Greedy and Beam, got Sampling\("):
        ctranslate2.check(Autoregressive(), Sampling())
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ConfigError, match=r"needs the package ctranslate2.*nat-ar\[ctranslate2\]"):
        ctranslate2.check(Autoregressive(), Beam())


def test_a_beam_of_one_is_greedy_there_too() -> None:
    assert ctranslate2.search_options(Beam(size=1, length_penalty=0.0)) == (
        ctranslate2.search_options(Greedy())
    )
    assert dataclasses.asdict(Beam())["size"] == ctranslate2.search_options(Beam())["beam_size"]


def test_blocked_ngrams_are_blocked_there_too() -> None:
    options = ctranslate2.search_options(Beam(no_repeat_ngram_size=3))
    assert options["no_repeat_ngram_size"] == 3
    assert ctranslate2.search_options(Beam())["no_repeat_ngram_size"] == 0
