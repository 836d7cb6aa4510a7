"""Lengths: classes are offsets to the source's, and no sentence may become longer than its limit."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.methods import length_prediction
from nat_ar.methods.length_prediction import LengthPredictor
from nat_ar.types import Encoded

D_MODEL = 4
ROOM = 100  # more than any source here may become


def predictor_of(bias: list[float]) -> LengthPredictor:
    """Says the same of every sentence: class c has logit bias[c]."""
    predictor = LengthPredictor(D_MODEL, (len(bias) - 1) // 2, rngs=nnx.Rngs(0))
    predictor.head.kernel[...] = jnp.zeros((D_MODEL, len(bias)))
    predictor.head.bias[...] = jnp.asarray(bias)
    return predictor


def encoded_of(lengths: list[int]) -> Encoded:
    """Source lengths, EOS counted."""
    states = np.random.default_rng(0).normal(size=(len(lengths), 8, D_MODEL))
    return Encoded(jnp.asarray(states, jnp.float32), jnp.asarray(lengths, jnp.int32))


def test_the_best_lengths_by_hand() -> None:
    """Offsets -2 ... 2 in the order of their logits: -2, 1, 2, 0, -1. A source of 5 words: 3, 6, 7. One
    of 1 word: -1 words are no candidate, so 2, 3, 1. No sentence: 0."""
    predictor = predictor_of([9.0, 1.0, 2.0, 7.0, 5.0])
    best = predictor.best(encoded_of([6, 2, 0]), 3, max_length=ROOM)
    np.testing.assert_array_equal(best, [[3, 6, 7], [2, 3, 1], [0, 0, 0]])


def test_where_few_lengths_are_possible_a_bound_is_tried_again() -> None:
    """EOS alone with offsets -1, 0, 1: only length 1 has at least one word."""
    best = predictor_of([0.0, 0.0, 0.0]).best(encoded_of([1]), 2, max_length=ROOM)
    np.testing.assert_array_equal(best, [[1, 1]])


def test_the_limit_binds() -> None:
    """Offset 20 to a source of 2 tokens, 1 word, would make 21 of at most 14, or of what the caller has
    room for."""
    best, source = predictor_of(list(np.arange(41.0))).best, encoded_of([2])
    np.testing.assert_array_equal(best(source, 2, max_length=ROOM), [[14, 13]])
    np.testing.assert_array_equal(best(source, 2, max_length=9), [[9, 8]])


def test_more_lengths_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="a length beam of 4 needs 4 classes of lengths, got 3"):
        predictor_of([0.0, 0.0, 0.0]).best(encoded_of([3]), 4, max_length=ROOM)


def test_the_loss_by_hand() -> None:
    """Three classes of equal probability cost log 3 a sentence; rows without one cost nothing."""
    loss = predictor_of([0.0, 0.0, 0.0]).loss(encoded_of([3, 5, 0]), jnp.array([2, 9, 0]))
    assert float(loss.count) == 2
    assert float(loss.value) == pytest.approx(np.log(3.0), rel=1e-6)


def test_a_prior_makes_the_sources_own_length_likely() -> None:
    """Of three classes whose states say nothing yet: e^3 of e^3 + 2."""
    predictor = LengthPredictor(D_MODEL, 1, prior=3.0, rngs=nnx.Rngs(0))
    silent = Encoded(jnp.zeros((1, 4, D_MODEL)), jnp.array([4]))
    loss = predictor.loss(silent, jnp.array([3]))  # three words each, EOS not counted
    assert float(loss.value) == pytest.approx(np.log(np.exp(3.0) + 2) - 3, rel=1e-5)


def test_lengths_are_stretched_up_to_the_limit() -> None:
    """A source of 2 tokens may become 14 long; a row without a sentence stays empty."""
    found = length_prediction.stretch(
        jnp.array([[5, 13], [0, 0]]), jnp.array([2, 0]), multiplier=1.5, max_length=ROOM
    )
    np.testing.assert_array_equal(found, [[8, 14], [0, 0]])


def test_padding_says_nothing_about_the_length() -> None:
    predictor = LengthPredictor(D_MODEL, 3, rngs=nnx.Rngs(1))
    encoded = encoded_of([3, 5])
    wider = Encoded(jnp.pad(encoded.states, ((0, 0), (0, 4), (0, 0))) + 0.0, encoded.lengths)
    other = Encoded(wider.states.at[:, 8:].set(99.0), encoded.lengths)
    expected = predictor.logits(encoded)
    np.testing.assert_allclose(predictor.logits(wider), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.logits(other), expected, atol=1e-6)
