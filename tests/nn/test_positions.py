"""Positions: each kind by facts that are checked by hand, and in every network the same in parallel as step by step."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import packed, positions
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.positions import Alibi, Learned, Positions, Rotary, Sinusoidal
from nat_ar.nn.prefix import PrefixStack
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.types import Encoded

NEW = ("implementation", "positions", "encoder_attention", "decoder_positions")
"""fields that configs of before do not have"""
KINDS = [Sinusoidal(), Learned(), Rotary(), Alibi()]
CONFIG = TransformerConfig(16, 32, 2, 1, 2, max_length=12)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def config_of(kind: Positions) -> TransformerConfig:
    return dataclasses.replace(CONFIG, positions=kind)


def test_alibi_by_hand() -> None:
    """The slopes of the paper for 8 heads, and for 4; of the first of two heads, 1/16: a sixteenth a position."""
    np.testing.assert_array_equal(positions.alibi_slopes(8), [2.0**-h for h in range(1, 9)])
    np.testing.assert_array_equal(positions.alibi_slopes(4), [1 / 4, 1 / 16, 1 / 64, 1 / 256])
    six = positions.alibi_slopes(6)
    np.testing.assert_array_equal(six[:4], positions.alibi_slopes(4))
    np.testing.assert_array_equal(six[4:], positions.alibi_slopes(8)[[0, 2]])
    at = jnp.arange(3)
    bias = Alibi().bias(2, at[:, None] - at)
    np.testing.assert_array_equal(bias[0] * -16, [[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    np.testing.assert_array_equal(bias[1] * -256, [[0, 1, 2], [1, 0, 1], [2, 1, 0]])


def test_rotary_by_hand() -> None:
    """Two coordinates at position p turn by p radians; four have a second plane, a hundred times as slow."""
    turned = Rotary().rotated(jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]]), jnp.array([0, 1]))
    np.testing.assert_allclose(turned[:, 0], [[1, 0], [np.cos(1), np.sin(1)]], atol=1e-6)
    turned = Rotary().rotated(jnp.array([[[0.0, 1.0, 0.0, 0.0]]]), jnp.array([50]))
    np.testing.assert_allclose(turned[0, 0], [0, np.cos(0.5), 0, np.sin(0.5)], atol=1e-6)


def test_rotary_products_depend_on_the_distance_only() -> None:
    query, key = normal(0, 1, 2, 8), normal(1, 1, 2, 8)

    def product(i: int, j: int) -> np.ndarray:
        at = (jnp.array([i]), jnp.array([j]))
        return np.asarray((Rotary().rotated(query, at[0]) * Rotary().rotated(key, at[1])).sum(-1))

    np.testing.assert_allclose(product(7, 4), product(103, 100), atol=1e-4)
    assert np.abs(product(7, 4) - product(4, 7)).min() > 1e-3


def test_learned_positions_are_max_length_parameters_a_side_and_no_more_can_be_asked() -> None:
    decoder = Decoder(config_of(Learned()), rngs=nnx.Rngs(0))
    assert decoder.positions is not None
    assert nnx.state(decoder, nnx.Param)["positions"]["vectors"][...].shape == (12, 16)
    assert decoder.positions(5).shape == (5, 16)
    with pytest.raises(ConfigError, match="13 positions do not fit the 12 that are learned"):
        decoder.positions(13)


@pytest.mark.parametrize("kind", KINDS)
def test_order_matters_and_padding_does_not(kind: Positions) -> None:
    encoder = Encoder(config_of(kind), rngs=nnx.Rngs(0))
    encode = jax.jit(functools.partial(encoder, rngs=None))
    x, lengths = normal(0, 2, 6, 16), jnp.array([4, 3])
    states = np.asarray(encode(x, lengths).states)
    for row, length in enumerate([4, 3]):
        narrow = encode(x[:, :4], lengths).states[row, :length]
        np.testing.assert_allclose(states[row, :length], narrow, atol=1e-5)
    turned = np.asarray(encode(x[:, jnp.array([1, 0, 2, 3, 4, 5])], lengths).states)
    assert np.abs(turned[0, 2] - states[0, 2]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_cached_steps_equal_the_parallel_causal_pass(kind: Positions, is_packed: bool) -> None:
    """Rows at positions of their own: row 1 is a step behind. Packed, by kernels where there is no bias."""
    if is_packed and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    decoder = Decoder(config_of(kind), rngs=nnx.Rngs(0))
    encoded = Encoded(normal(9, 2, 4, 16), jnp.array([4, 2]))
    x = normal(0, 2, 5, 16)
    expected = jax.jit(functools.partial(decoder, is_causal=True))(x, None, encoded)
    if is_packed:
        packed.pack(decoder)
    memory, step = jax.jit(decoder.memory)(encoded), jax.jit(decoder.step)
    cache = decoder.empty_cache(2, 1, 6)
    for time in range(5):
        at = np.array([time, max(time - 1, 0)])
        inputs = x[np.arange(2), at][:, None]
        states, cache = step(inputs, cache, jnp.asarray(at), memory, encoded.lengths)
        np.testing.assert_allclose(states[:, 0], expected[np.arange(2), at], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", [Rotary(), Alibi()])
def test_one_stack_over_source_and_target_refuses_positions_inside_attention(
    kind: Positions,
) -> None:
    with pytest.raises(ConfigError, match=f"Sinusoidal, Learned.*got .*{type(kind).__name__}"):
        PrefixStack(config_of(kind), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "change", [{"decoder_positions": "every_layer"}, {"decoder_memory": "same_layer"}]
)
def test_one_stack_refuses_what_only_decoders_have(change: Any) -> None:
    ((field, value),) = change.items()
    with pytest.raises(ConfigError, match=f"adds positions once and .*{field} '{value}'"):
        PrefixStack(dataclasses.replace(CONFIG, **change), rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_one_stack_steps_with_learned_positions_as_in_one_pass() -> None:
    stack = PrefixStack(config_of(Learned()), rngs=nnx.Rngs(0))
    encoded = stack.read(normal(0, 2, 4, 16), jnp.array([4, 2]))
    x = normal(1, 2, 3, 16)
    expected, cache = stack.write(x, encoded), stack.empty_cache(2, 1, 4)
    for position in range(3):
        states, cache = stack.step(x[:, position, None], cache, jnp.int32(position), encoded)
        np.testing.assert_allclose(states[:, 0], expected[:, position], atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_positions_of_every_layer_by_hand(norm: Any) -> None:
    """Three blocks that add nothing of their own: the states are the inputs and three times the positions, or under
    post-norm, normalised on the way, once more each time."""
    config = dataclasses.replace(
        config_of(Learned()), num_decoder_layers=3, norm=norm, decoder_positions="every_layer"
    )
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    for block in decoder.blocks:
        maps = (block.self_attention.output, block.cross_attention.output, block.feed_forward)
        for linear in (*maps[:2], maps[2].contract):
            linear.kernel[...] *= 0
    x, encoded = normal(0, 1, 4, 16), Encoded(normal(1, 1, 3, 16), jnp.array([3]))
    table, expected = decoder.positions(4), x

    def normalised(states: jax.Array) -> jax.Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        return centred / states.std(axis=-1, keepdims=True)

    for _ in range(3):
        expected = expected + table
        expected = normalised(expected) if norm == "post" else expected
    found = decoder(x, jnp.array([4]), encoded)
    np.testing.assert_allclose(found, normalised(expected), atol=1e-4)


@pytest.mark.parametrize("kind", [Sinusoidal(), Learned()])
def test_positions_of_every_layer_step_by_step_and_several_at_once(kind: Positions) -> None:
    """Row 1 starts a step after row 0; three positions at once equal three steps."""
    config = dataclasses.replace(config_of(kind), decoder_positions="every_layer")
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    x, encoded = normal(0, 2, 5, 16), Encoded(normal(1, 2, 4, 16), jnp.array([4, 2]))
    expected = decoder(x, None, encoded, is_causal=True)
    once = Decoder(config_of(kind), rngs=nnx.Rngs(0))(x, None, encoded, is_causal=True)
    assert float(jnp.abs(expected - once).max()) > 0.1
    memory, step = jax.jit(decoder.memory)(encoded), jax.jit(decoder.step)
    cache = start = decoder.empty_cache(2, 1, 6)
    for time in range(5):
        at = np.array([time, max(time - 1, 0)])
        inputs = x[np.arange(2), at][:, None]
        states, cache = step(inputs, cache, jnp.asarray(at), memory, encoded.lengths)
        np.testing.assert_allclose(states[:, 0], expected[np.arange(2), at], rtol=1e-4, atol=2e-5)
    states, _ = decoder.extend(x[:, :3], start, jnp.int32(0), memory, encoded.lengths)
    np.testing.assert_allclose(states, expected[:, :3], rtol=1e-4, atol=2e-5)


def test_positions_that_act_in_attention_cannot_be_added_in_every_layer() -> None:
    for kind in (Rotary(), Alibi()):
        with pytest.raises(ConfigError, match="set decoder_positions to 'once'"):
            dataclasses.replace(config_of(kind), decoder_positions="every_layer")


def test_a_config_of_before_reads_as_full_attention_and_sinusoids() -> None:
    today = config_json.to_json(
        dataclasses.replace(CONFIG, dtype="bfloat16", implementation="cudnn")
    )
    old = {k: v for k, v in today.items() if k not in NEW}
    old["attention"] = "cudnn"
    assert config_json.to_json(config_json.from_json(TransformerConfig, old)) == today
    for kind in KINDS:
        config = config_of(kind)
        assert config_json.from_json(TransformerConfig, config_json.to_json(config)) == config
