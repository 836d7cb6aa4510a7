"""What validation says is what other ways of computing it say."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData
from nat_ar.data.batching import BatchingConfig
from nat_ar.experiment.translators import open_translator
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.pipeline import validation
from nat_ar.pipeline.validation import Validation
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator
from toys import TINY


def test_the_perplexity_is_that_of_the_models_scores(tiny_runs: Any) -> None:
    loaded, translator = open_translator(tiny_runs.autoregressive, "Greedy()")
    data = PreparedData.load(tiny_runs.data)
    training = loaded.config.training
    config = dataclasses.replace(
        loaded.config,
        method=dataclasses.replace(loaded.config.method, decoding=translator.decoding),
        training=dataclasses.replace(
            training, validation=dataclasses.replace(training.validation, sentences=10)
        ),
    )
    found = Validation(config, data, loaded.model.graphdef, None)(loaded.model.params)
    split = data.split("validation")
    nats = translator.score(split.source_text[:10], split.target_text[:10])
    words = (split.target.lengths[:10] + 1).sum()  # EOS is one
    assert math.log(found["perplexity"]) == pytest.approx(-sum(nats) / words, rel=1e-4)
    assert set(found) == {"score", "length_ratio", "loss", "perplexity"}


def test_a_criterion_that_cannot_be_measured_is_refused_before_any_training(tiny_runs: Any) -> None:
    config, data = tiny_runs.length_nat.config(), PreparedData.load(tiny_runs.data)

    judged = dataclasses.replace(config.training.validation, criterion="loss")
    by_loss = dataclasses.replace(
        config, training=dataclasses.replace(config.training, validation=judged)
    )
    learns_fertilities = {
        "method": FertilityNat(TINY),
        "data": dataclasses.replace(config.data, aligner=AlignerConfig()),
    }
    validation.require_criterion(by_loss, data)
    validation.require_criterion(dataclasses.replace(config, **learns_fertilities), data)
    with pytest.raises(ConfigError, match="criterion is 'loss', but the validation split has none"):
        validation.require_criterion(dataclasses.replace(by_loss, **learns_fertilities), data)


def test_two_shapes_have_room_for_all_pairs_that_training_has_room_for() -> None:
    training = BatchingConfig(batch_tokens=64, buckets=(4, 8, 16, 32))
    lengths = np.array([3] * 18 + [7, 14, 40])
    assert validation._batching(lengths, training) == BatchingConfig(64, (4, 16))
    assert validation._batching(np.array([4, 4]), training) == BatchingConfig(64, (4,))
    assert validation._batching(np.array([33]), training) is None


def test_validation_cuts_words_by_the_tokenizer_of_the_corpus(
    tiny_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever BLEU chooses the best checkpoint by is the BLEU of `evaluate`."""
    old = tiny_runs.length_nat.config()
    corpus = dataclasses.replace(old.data.corpus, bleu_tokenizer="char")
    config = dataclasses.replace(old, data=dataclasses.replace(old.data, corpus=corpus))
    data = PreparedData.load(tiny_runs.data)
    model = tiny_runs.length_nat.load().model
    asked: list[str] = []

    def score(texts: list[str], targets: list[str], *, tokenize: str) -> float:
        asked.append(tokenize)
        return 0.0

    def joined(self: Translator, sentences: list[str], **_: object) -> list[Translation]:
        texts = [text.upper().replace(" ", "") for text in sentences]
        return [Translation([text], [0.0], [[9]], 1) for text in texts]

    monkeypatch.setattr(validation.metrics, "corpus_bleu", score)
    monkeypatch.setattr(Translator, "translate", joined)
    found = Validation(config, data, model.graphdef, None)(model.params)
    assert asked == ["char"]
    assert found["length_ratio"] == 1
