"""A search that knows an earlier translation, over a table of probabilities instead of a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.guided import Bias, Guide, Guided, Prefix
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Hypotheses

A, B, C = 6, 7, 8
VOCABULARY, MAX_LENGTH = 9, 6
ANYTHING = bytes([1] * VOCABULARY)


def after(**rows: dict[int, float]) -> np.ndarray:
    """log p [last token, next token] of a model that sees the last token only; "start" is BOS."""
    probabilities = np.full((VOCABULARY, VOCABULARY), 1e-9)
    for name, row in rows.items():
        last = {"start": 1, "a": A, "b": B, "c": C}[name]
        probabilities[last, list(row)] = list(row.values())
    return np.log(probabilities).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("guide", "decoding"))
def search(log_p: jax.Array, earlier: jax.Array, guide: Guide, decoding: object) -> Hypotheses:
    """Two equal sources, of which the earlier tokens differ."""

    def step(last: jax.Array, cache: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        return log_p[last], cache

    source = jnp.full((earlier.shape[0], 4), A, jnp.int32)

    def empty(hypotheses: int) -> jax.Array:
        return jnp.zeros((earlier.shape[0], hypotheses))

    guided = Guided(decoding, guide, earlier)
    return guided.search(step, empty, source, max_length=MAX_LENGTH)


def said(found: Hypotheses) -> list[list[int]]:
    return [row[row != PAD].tolist() for row in np.asarray(found.tokens[:, 0])]


def rows(*earlier: list[int]) -> jax.Array:
    return jnp.asarray([row + [PAD] * (4 - len(row)) for row in earlier], jnp.int32)


#: says b, unless it has said a; ends after c, and mostly after b
MODEL = after(
    start={A: 0.4, B: 0.6},
    a={B: 0.3, C: 0.7},
    b={C: 0.4, EOS: 0.6},
    c={A: 0.1, EOS: 0.9},
)


def test_bias_by_hand() -> None:
    """Share .5: p'(a) = .5 * .4 + .5 = .7 against .3, and p'(b after a) = .65; the end is the model's own."""
    found = search(MODEL, rows([A, B], [C], []), Bias(0.5), Greedy())
    assert said(found) == [[A, B], [C], [B]]
    expected = [np.log(0.7 * 0.65 * 0.6), np.log(0.5 * 0.9), np.log(0.6 * 0.6)]
    np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-5)


def test_a_small_bias_turns_only_what_is_near() -> None:
    """Share .1: p'(a) = .46 against .54; share .2: .52 against .48, and then c has .56 against .44 of b."""
    assert said(search(MODEL, rows([A, B]), Bias(0.1), Greedy())) == [[B]]
    assert said(search(MODEL, rows([A, B]), Bias(0.2), Greedy())) == [[A, C]]


def test_who_has_said_something_else_is_no_longer_biased() -> None:
    """The model starts with b; c, second of the earlier translation, does not draw it on."""
    strong = after(start={A: 0.01, B: 0.99}, b={C: 0.4, EOS: 0.6}, c={EOS: 1.0}, a={EOS: 1.0})
    assert said(search(strong, rows([A, C], [B, C]), Bias(0.4), Greedy())) == [[B], [B, C]]


def test_each_hypothesis_of_a_beam_follows_or_not() -> None:
    """Beam of 2, share .2: "a b" follows, .52 * .44 * .6; "a c" .52 * .56 * .9; "b" .48 * .6."""
    beam = Beam(size=2, n_best=2, length_penalty=0.0)
    found = search(MODEL, rows([A, B]), Bias(0.2), beam)
    tokens = [row[row != PAD].tolist() for row in np.asarray(found.tokens[0])]
    assert tokens == [[B], [A, C]]
    expected = np.log([0.48 * 0.6, 0.52 * 0.56 * 0.9])
    np.testing.assert_allclose(found.scores[0], expected, rtol=1e-5)


@pytest.mark.parametrize("decoding", [Greedy(), Beam(size=2, length_penalty=0.0)])
def test_a_prefix_is_said_and_costs_nothing(decoding: object) -> None:
    found = search(MODEL, rows([A, B], [C], []), Prefix(ANYTHING), decoding)
    assert said(found) == [[A, B], [C], [B]]
    expected = [np.log(0.6), np.log(0.9), np.log(0.6 * 0.6)]
    np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-5)


def test_the_last_word_of_a_prefix_does_not_go_on() -> None:
    """b is no beginning of a word: after the prefix "c" or "a" it may not come, later it may."""
    goes_on = after(start={A: 1.0}, a={B: 0.6, C: 0.4}, c={B: 0.6, EOS: 0.4}, b={EOS: 1.0})
    words = bytes(token != B for token in range(VOCABULARY))
    found = search(goes_on, rows([A], [C], []), Prefix(words), Greedy())
    assert said(found) == [[A, C, B], [C], [A, B]]


def test_a_bias_is_a_share() -> None:
    with pytest.raises(ConfigError, match="bias"):
        Bias(1.0)
    with pytest.raises(ConfigError, match="above 0"):
        Bias(0.0)
