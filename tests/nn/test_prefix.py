"""The stack of a prefix language model: two passes that equal the masked one over both segments."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.nn import dot_product, positions
from nat_ar.nn.prefix import PrefixStack
from nat_ar.nn.transformer import TransformerConfig

D_MODEL = 8
CONFIG = TransformerConfig(
    d_model=D_MODEL,
    d_hidden=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
    max_length=12,
)
LENGTHS = [4, 2]


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def stack() -> PrefixStack:
    return PrefixStack(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def other_stack() -> PrefixStack:
    """Post-norm, and its source is causal, too."""
    config = dataclasses.replace(CONFIG, norm="post", num_encoder_layers=2)
    return PrefixStack(config, is_source_causal=True, rngs=nnx.Rngs(0))


def read_and_write(
    stack: PrefixStack, source: jax.Array, lengths: jax.Array, inputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    encoded = stack.read(source, lengths)
    return encoded.states, stack.write(inputs, encoded)


@functools.partial(jax.jit, static_argnames=("graph", "width"))
def one_sequence(graph: nnx.GraphDef, params: nnx.State, x: jax.Array, width: int) -> jax.Array:
    """The segments side by side, without padding, under the mask of a prefix language model."""
    stack, places = nnx.merge(graph, params), np.arange(x.shape[1])
    is_source = places < width
    mask = (is_source[None, :] & is_source[:, None]) | (places[None, :] <= places[:, None])
    x = x + positions.sinusoids(x.shape[1], D_MODEL)
    x = x + stack.segments(jnp.asarray(np.where(is_source, 0, 1)))
    for block in stack.blocks:
        query, key, value = block.attention.heads(block.around_attention.enter(x))
        memory = dot_product.key_value(key, value)
        states = dot_product.attend(query, memory, mask=jnp.asarray(mask)[None])
        y = block.attention.output(states.reshape(x.shape))
        x = block.around_attention.leave(x, y)
        y = block.feed_forward(block.around_feed_forward.enter(x), rngs=None)
        x = block.around_feed_forward.leave(x, y)
    return stack.final_norm(x)


def test_two_passes_equal_one_masked_sequence(stack: PrefixStack) -> None:
    """Two hypotheses of each source; the padding of the sources is rubbish."""
    source, inputs = (np.asarray(normal(seed, 4, 5, D_MODEL)) for seed in range(2))
    is_padding = np.arange(5)[:, None] >= np.array(LENGTHS)[:, None, None]
    dirty = jnp.asarray(np.where(is_padding, 100.0, source[:2]), jnp.float32)
    both = jax.jit(functools.partial(read_and_write, stack))
    of_source, of_target = both(dirty, jnp.array(LENGTHS), jnp.asarray(inputs))
    for row, length in enumerate(LENGTHS):
        for hypothesis in (2 * row, 2 * row + 1):
            x = jnp.asarray(np.concatenate([source[row, :length], inputs[hypothesis]])[None])
            expected = one_sequence(*nnx.split(stack, nnx.Param), x, length)[0]
            np.testing.assert_allclose(of_target[hypothesis], expected[length:], atol=1e-5)
        np.testing.assert_allclose(of_source[row, :length], expected[:length], atol=1e-5)


def test_cached_steps_equal_the_pass_over_all_positions(other_stack: PrefixStack) -> None:
    source, lengths, beam, length = normal(0, 2, 5, D_MODEL), jnp.array(LENGTHS), 2, 3
    inputs = normal(1, 2, beam, length, D_MODEL)
    encoded = jax.jit(other_stack.read)(source, lengths)
    parallel = jax.jit(other_stack.write)(inputs.reshape(4, length, D_MODEL), encoded)
    parallel = np.asarray(parallel).reshape(inputs.shape)
    step = jax.jit(other_stack.step)
    # What stands in the cache after the current position must not be seen.
    cache = jax.tree.map(lambda leaf: leaf + 50, other_stack.empty_cache(2, beam, 5))
    for position in range(length):
        current = jnp.asarray(np.asarray(inputs)[:, :, position])
        states, cache = step(current, cache, jnp.int32(position), encoded)
        np.testing.assert_allclose(states, parallel[:, :, position], atol=1e-5)


def test_rows_at_positions_of_their_own_equal_the_pass_over_all_positions(
    stack: PrefixStack,
) -> None:
    """Row 1 starts a step after row 0; at equal positions, one for all gives the same bits."""
    lengths, inputs = jnp.array(LENGTHS), normal(1, 2, 3, D_MODEL)
    encoded = jax.jit(stack.read)(normal(0, 2, 5, D_MODEL), lengths)
    expected, step = jax.jit(stack.write)(inputs, encoded), jax.jit(stack.step)
    cache = stack.empty_cache(2, 1, 5)
    for at in (np.array([0, 0]), np.array([1, 0]), np.array([2, 1]), np.array([2, 2])):
        current = inputs[np.arange(2), at][:, None]
        before = cache
        states, cache = step(current, before, jnp.asarray(at), encoded)
        for row, position in enumerate(at):
            np.testing.assert_allclose(states[row, 0], expected[row, position], atol=1e-5)
    once = step(current, before, jnp.int32(2), encoded)
    jax.tree.map(np.testing.assert_array_equal, once, (states, cache))


def test_a_source_of_length_zero_gives_no_nan(stack: PrefixStack) -> None:
    def total(source: jax.Array, inputs: jax.Array) -> jax.Array:
        of_source, of_target = read_and_write(stack, source, jnp.array([0, 3]), inputs)
        return jnp.square(of_source).sum() + jnp.square(of_target).sum()

    value_and_gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    value, gradients = value_and_gradients(normal(0, 2, 4, D_MODEL), normal(1, 2, 2, D_MODEL))
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_stack_has_the_blocks_of_encoder_and_decoder_together() -> None:
    config = dataclasses.replace(CONFIG, num_encoder_layers=3, num_decoder_layers=2)
    stack = nnx.eval_shape(lambda: PrefixStack(config, rngs=nnx.Rngs(0)))
    assert len(stack.blocks) == 5


def test_a_target_longer_than_the_positions_is_refused(stack: PrefixStack) -> None:
    with pytest.raises(ConfigError, match="length 13 does not fit max_length 12"):
        jax.eval_shape(
            functools.partial(read_and_write, stack),
            normal(0, 1, 4, D_MODEL),
            jnp.array([4]),
            normal(1, 1, 13, D_MODEL),
        )
