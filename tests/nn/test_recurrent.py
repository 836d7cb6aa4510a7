"""The LSTM: equal to a plain loop, blind to padding in both directions, and the same step by step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.nn import layers, recurrent
from nat_ar.nn.recurrent import (
    AdditiveAttention,
    DotAttention,
    Lstm,
    RecurrentConfig,
    RecurrentDecoder,
    RecurrentEncoded,
    RecurrentEncoder,
)

D_MODEL = 8
LENGTHS = [5, 1, 3, 0]
CONFIG = RecurrentConfig(D_MODEL, num_decoder_layers=2, dropout_rate=0.0)
KINDS = ("none", "additive", "dot")


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def plain_lstm(layer: Lstm, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States of one sequence, the last hidden state and the last cell, one token after another."""
    kernel, bias = np.asarray(layer.input.kernel[...]), np.asarray(layer.input.bias[...])
    recurrence = np.asarray(layer.recurrent[...])
    hidden, cell, states = np.zeros(layer.d_hidden), np.zeros(layer.d_hidden), []
    for token in x:
        i, f, g, o = np.split(token @ kernel + bias + hidden @ recurrence, 4)
        cell = sigmoid(f + 1.0) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.array(states), hidden, cell


def encoded_example(rubbish: float = 0.0) -> RecurrentEncoded:
    """Two sources, of 5 and of 3 tokens; `rubbish` is added to the padding."""
    states, lengths = normal(0, 2, 5, D_MODEL), np.array([5, 3])
    is_padding = np.arange(5)[:, None] >= lengths[:, None, None]
    states = jnp.asarray(states + rubbish * is_padding, jnp.float32)
    return RecurrentEncoded(states, jnp.asarray(lengths), normal(1, 2, 2 * D_MODEL))


@functools.cache
def decoder_of(kind: str) -> RecurrentDecoder:
    """No parameter is 0, as biases are at first: none can be forgotten without being missed."""
    decoder = RecurrentDecoder(dataclasses.replace(CONFIG, attention=kind), rngs=nnx.Rngs(0))
    nnx.update(decoder, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(decoder, nnx.Param)))
    return decoder


@functools.cache
def readouts_of(kind: str) -> Callable[[jax.Array, RecurrentEncoded], jax.Array]:
    """The decoder over given inputs, compiled once."""
    return jax.jit(decoder_of(kind))


@functools.cache
def encode_with(num_layers: int) -> Callable[[jax.Array, jax.Array], RecurrentEncoded]:
    config = dataclasses.replace(CONFIG, num_encoder_layers=num_layers)
    return jax.jit(functools.partial(RecurrentEncoder(config, rngs=nnx.Rngs(0)), rngs=None))


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_layer_equals_a_plain_loop_over_each_row(is_backward: bool) -> None:
    layer = Lstm(6, 4, rngs=nnx.Rngs(0))
    layer.input.bias[...] = normal(1, 16)
    x = normal(0, 4, 6, 6)
    run = jax.jit(functools.partial(layer, is_backward=is_backward))
    states, last = run(x, jnp.array(LENGTHS))
    for row, length in enumerate(LENGTHS):
        tokens = np.asarray(x)[row, :length]
        expected, hidden, cell = plain_lstm(layer, tokens[::-1] if is_backward else tokens)
        if length:
            expected = expected[::-1] if is_backward else expected
            np.testing.assert_allclose(states[row, :length], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last.hidden[row], hidden, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last.cell[row], cell, rtol=1e-5, atol=1e-6)


def test_padding_changes_no_state_of_the_encoder() -> None:
    encode, lengths = encode_with(2), jnp.array(LENGTHS)
    x = np.random.default_rng(0).normal(size=(4, 8, D_MODEL)).astype(np.float32)
    x[:, 5:] *= 100.0
    narrow, wide = encode(jnp.asarray(x[:, :5]), lengths), encode(jnp.asarray(x), lengths)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            wide.states[row, :length], narrow.states[row, :length], rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(wide.last, narrow.last, rtol=1e-5, atol=1e-6)


def test_every_state_of_the_encoder_knows_the_whole_source() -> None:
    """And the last states, which are all that a decoder without attention sees."""
    x = np.random.default_rng(0).normal(size=(1, 4, D_MODEL)).astype(np.float32)
    changed = np.concatenate([x, x, x])  # the first and the last token of the last two rows
    changed[1, 0] += 1.0
    changed[2, 3] += 1.0
    encoded = encode_with(1)(jnp.asarray(changed), jnp.array([4, 4, 4]))
    for states in (encoded.states, encoded.last[:, None]):
        moved = np.abs(states[1:] - states[:1]).max(axis=-1)
        assert (moved > 1e-5).all()


def test_weights_are_a_distribution_over_the_source_and_0_on_padding() -> None:
    scores = jnp.array([[[1.0, 1.0, 50.0, 50.0]], [[0.0, np.log(3.0), 0.0, 9.0]]])
    weights = recurrent.attention_weights(scores, jnp.array([2, 3]))
    np.testing.assert_allclose(weights[0, 0], [0.5, 0.5, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(weights[1, 0], [0.2, 0.6, 0.2, 0.0], atol=1e-6)
    assert not np.asarray(weights)[[0, 0, 1], 0, [2, 3, 3]].any()


def test_additive_scores_equal_the_formula() -> None:
    attention = AdditiveAttention(D_MODEL, dtype="float32", rngs=nnx.Rngs(0))
    query, states = normal(0, 2, 3, D_MODEL), normal(1, 2, 4, D_MODEL)
    scores = attention.scores(query, attention.keys(states))
    w, u = (np.asarray(linear.kernel[...]) for linear in (attention.query, attention.key))
    energy = np.asarray(attention.energy[...])
    for row, q, s in np.ndindex(2, 3, 4):
        expected = energy @ np.tanh(np.asarray(query)[row, q] @ w + np.asarray(states)[row, s] @ u)
        assert float(scores[row, q, s]) == pytest.approx(expected, abs=1e-5)


def test_dot_scores_are_inner_products() -> None:
    query, states = jnp.array([[[1.0, 2.0]]]), jnp.array([[[3.0, 4.0], [0.0, -1.0]]])
    attention = DotAttention()
    np.testing.assert_allclose(attention.scores(query, attention.keys(states)), [[[11.0, -2.0]]])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_pass_over_given_inputs(kind: str) -> None:
    """Three hypotheses of each of two sources; padding of the source is rubbish in the one pass."""
    decoder, beam, length = decoder_of(kind), 3, 4
    x = normal(2, 2, beam, length, D_MODEL)
    rows = x.reshape(2 * beam, length, D_MODEL)
    parallel = readouts_of(kind)(rows, encoded_example(100.0)).reshape(x.shape)
    encoded = encoded_example()
    memory = jax.jit(decoder.memory)(encoded)
    state = decoder.start_state(encoded, beam)
    step = jax.jit(decoder.step)
    for position in range(length):
        readout, state = step(x[:, :, position], state, memory)
        np.testing.assert_allclose(readout, parallel[:, :, position], rtol=1e-4, atol=1e-5)


def linear(layer: layers.Linear, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def plain_context(kind: str, decoder: RecurrentDecoder, query: Any, states: Any) -> np.ndarray:
    if kind == "dot":
        scores = states @ query
    else:
        attention = decoder.attention
        sums = linear(attention.query, query) + linear(attention.key, states)
        scores = np.tanh(sums) @ np.asarray(attention.energy[...])
    weights = np.exp(scores)
    return weights @ states / weights.sum()


def plain_readouts(kind: str, x: np.ndarray, states: np.ndarray, last: np.ndarray) -> np.ndarray:
    """One hypothesis of one source without padding, one position after another, as in the papers."""
    decoder = decoder_of(kind)
    first = np.split(linear(decoder.start, last), 4)  # two layers
    hidden, cell, readouts = [np.tanh(part) for part in first[:2]], first[2:], []
    fed = np.zeros(D_MODEL)
    for token in x:
        if kind == "additive":  # the context of the state before
            fed = plain_context(kind, decoder, hidden[-1], states)
        below = token
        for index, layer in enumerate(decoder.layers):
            is_fed = kind != "none" and index == 0
            before = np.concatenate([fed, hidden[index]]) if is_fed else hidden[index]
            gates = linear(layer.input, below) + before @ np.asarray(layer.recurrent[...])
            i, f, g, o = np.split(gates, 4)
            cell[index] = sigmoid(f + 1.0) * cell[index] + sigmoid(i) * np.tanh(g)
            below = hidden[index] = sigmoid(o) * np.tanh(cell[index])
        if kind == "dot":  # the context of the new state
            fed = plain_context(kind, decoder, hidden[-1], states)
        read = hidden[-1] if kind == "none" else np.concatenate([hidden[-1], fed])
        readouts.append(np.tanh(linear(decoder.readout, read)))
        if kind == "dot":  # which the next position is fed
            fed = readouts[-1]
    return np.array(readouts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_equals_a_plain_loop_over_each_hypothesis(kind: str) -> None:
    """Three hypotheses of each of two sources; the padding of the sources is rubbish."""
    x, encoded = np.asarray(normal(2, 6, 4, D_MODEL)), encoded_example(100.0)
    readouts = readouts_of(kind)(jnp.asarray(x), encoded)
    for row in range(6):
        source, length = row // 3, int(encoded.lengths[row // 3])
        states = np.asarray(encoded.states)[source, :length]
        expected = plain_readouts(kind, x[row], states, np.asarray(encoded.last)[source])
        np.testing.assert_allclose(readouts[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_attention_looks_at_the_states(kind: str) -> None:
    """Six hypotheses again, so that nothing is compiled for it; those of the first source move."""
    decode, encoded, x = readouts_of(kind), encoded_example(), normal(2, 6, 4, D_MODEL)
    other = dataclasses.replace(encoded, states=encoded.states.at[0, 1].add(1.0))
    moved = np.abs(decode(x, other) - decode(x, encoded)).max(axis=-1)
    assert (moved[:3] > 1e-4).all() if kind != "none" else not moved[:3].any()
    assert not moved[3:].any()


def test_a_source_of_length_zero_gives_no_nan() -> None:
    config = dataclasses.replace(CONFIG, num_decoder_layers=1, attention="additive")
    networks = [cls(config, rngs=nnx.Rngs(0)) for cls in (RecurrentEncoder, RecurrentDecoder)]
    graphs, params = zip(*(nnx.split(network, nnx.Param) for network in networks), strict=True)

    def total(params: tuple[nnx.State, nnx.State], x: jax.Array) -> jax.Array:
        encoder, decoder = (nnx.merge(*parts) for parts in zip(graphs, params, strict=True))
        return jnp.square(decoder(x, encoder(x, jnp.array([0, 3]), rngs=None))).sum()

    value_and_gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    value, gradients = value_and_gradients(params, normal(2, 2, 3, D_MODEL))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_dropout_repeats_with_the_same_key_and_reaches_every_layer() -> None:
    config = dataclasses.replace(CONFIG, dropout_rate=0.5)
    decoder, encoded = RecurrentDecoder(config, rngs=nnx.Rngs(0)), encoded_example()
    x = normal(2, 2, 3, D_MODEL)

    @jax.jit
    def readouts(key: jax.Array) -> jax.Array:
        return decoder(x, encoded, rngs=nnx.Rngs(dropout=key))

    first, again, other = (np.asarray(readouts(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.3
    assert 0.3 < (first == 0.0).mean() < 0.7  # the readouts' own dropout


def test_states_are_of_the_dtype_that_the_config_says_and_cells_float32() -> None:
    config = dataclasses.replace(CONFIG, dtype="bfloat16", attention="dot")
    encoder, decoder = (m(config, rngs=nnx.Rngs(0)) for m in (RecurrentEncoder, RecurrentDecoder))
    x = jnp.zeros((2, 4, D_MODEL), jnp.bfloat16)
    encoded = jax.eval_shape(functools.partial(encoder, rngs=None), x, jnp.array([4, 2]))
    assert encoded.states.dtype == encoded.last.dtype == jnp.bfloat16
    assert jax.eval_shape(decoder, x, encoded).dtype == jnp.bfloat16
    state = jax.eval_shape(lambda encoded: decoder.start_state(encoded, 3), encoded)
    assert state.layers[1].hidden.dtype == state.readout.dtype == jnp.bfloat16
    assert state.layers[1].cell.dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 7}, "d_model must be even"),
        ({"num_decoder_layers": 0}, "must be at least 1, got 8, 1 and 0"),
        ({"dropout_rate": 1.0}, r"must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_sizes_are_one_clear_line(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize("kind", ["none", "additive", "dot"])
def test_a_state_carries_the_position_of_its_row(kind: str) -> None:
    """Row 1 starts two steps after row 0, from its own start state: each has the readouts of the whole pass."""
    decoder, encoded = decoder_of(kind), encoded_example()
    inputs = jnp.asarray(normal(5, 2, 4, D_MODEL))
    expected = readouts_of(kind)(inputs, encoded)
    memory, start = decoder.memory(encoded), decoder.start_state(encoded, 1)
    step, state = jax.jit(decoder.step), start
    for time in range(4):
        positions = np.array([time, max(time - 2, 0)])
        if time == 2:
            state = jax.tree.map(lambda now, first: now.at[1].set(first[1]), state, start)
        current = inputs[np.arange(2), positions][:, None]
        readouts, state = step(current, state, memory)
        for row, position in enumerate(positions):
            if row == 0 or time != 1:
                np.testing.assert_allclose(readouts[row, 0], expected[row, position], atol=1e-5)
