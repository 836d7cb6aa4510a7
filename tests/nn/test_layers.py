"""Linear maps, normalisation, embeddings, dropout and position encodings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.nn import layers, positions


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def linear() -> layers.Linear:
    linear = layers.Linear(8, 5, rngs=nnx.Rngs(0))
    linear.bias[...] = jnp.asarray(np.arange(5), jnp.float32)
    return linear


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 3, 4, 8)])
def test_linear_maps_the_last_axis_of_anything(
    linear: layers.Linear, shape: tuple[int, ...]
) -> None:
    x = normal(1, *shape)
    expected = np.asarray(x) @ np.asarray(linear.kernel[...]) + np.arange(5.0)
    np.testing.assert_allclose(jax.jit(linear)(x), expected, rtol=1e-5, atol=1e-5)


def test_each_part_of_a_fused_linear_starts_as_a_matrix_of_its_own() -> None:
    fused = layers.Linear(64, 64, parts=3, rngs=nnx.Rngs(0))
    assert fused.kernel.shape == (64, 192)
    bound = math.sqrt(6 / (64 + 64))  # Xavier of 64 -> 64, 0.217; of 64 -> 192 it were 0.153
    for part in np.split(np.asarray(fused.kernel[...]), 3, axis=1):
        assert 0.95 * bound < np.abs(part).max() <= bound


def test_layer_norm_gives_mean_zero_and_variance_one() -> None:
    y = np.asarray(jax.jit(layers.LayerNorm(64))(normal(0, 3, 64) * 10.0 + 5.0))
    np.testing.assert_allclose(y.mean(axis=-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(axis=-1), 1.0, atol=1e-4)


def test_layer_norm_has_the_gradient_of_its_formula() -> None:
    norm = layers.LayerNorm(16)
    scale, bias, direction = normal(1, 16), normal(2, 16), normal(3, 2, 5, 16)
    norm.scale[...], norm.bias[...] = scale, bias

    def formula(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        normalised = centred / jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return ((normalised * scale + bias) * direction).sum()

    def ours(norm: layers.LayerNorm, x: jax.Array) -> jax.Array:
        return (norm(x) * direction).sum()

    x = normal(4, 2, 5, 16) * 3.0 + 1.0
    of_norm, of_x = nnx.grad(ours, argnums=(0, 1))(norm, x)
    expected = jax.grad(formula, argnums=(0, 1, 2))(x, scale, bias)
    got = (of_x, of_norm.scale[...], of_norm.bias[...])
    for mine, formulas in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, formulas, rtol=1e-4, atol=1e-5)


def test_embedding_is_scaled_on_the_way_in_and_not_on_the_way_out() -> None:
    embedding = layers.Embedding(11, 16, rngs=nnx.Rngs(0))
    table = np.asarray(embedding.table[...])
    vectors = jax.jit(embedding)(jnp.array([[3, 7]]))
    np.testing.assert_allclose(vectors[0], 4.0 * table[[3, 7]], rtol=1e-6)
    states = normal(1, 2, 3, 16)
    logits = jax.jit(embedding.attend)(states)
    np.testing.assert_allclose(logits, np.asarray(states) @ table.T, rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_in_it_but_keeps_parameters_and_logits_in_float32() -> None:
    linear = layers.Linear(8, 8, dtype="bfloat16", rngs=nnx.Rngs(0))
    embedding = layers.Embedding(11, 8, dtype="bfloat16", rngs=nnx.Rngs(0))
    ids = jnp.array([[1, 2]])
    states = jax.eval_shape(lambda ids: layers.LayerNorm(8)(linear(embedding(ids))), ids)
    assert states.dtype == jnp.bfloat16
    assert jax.eval_shape(lambda ids: embedding.attend(embedding(ids)), ids).dtype == jnp.float32
    for module in (linear, embedding):
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(module))} == {jnp.dtype("float32")}


def dropped(x: jax.Array, rate: float, seed: int) -> jax.Array:
    return layers.dropout(x, rate, rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("rate", [0.1, 0.25])
def test_dropout_drops_the_rate_and_scales_the_rest(rate: float) -> None:
    number = 400_000
    y = np.asarray(jax.jit(dropped, static_argnums=(1, 2))(jnp.ones(number), rate, 0))
    np.testing.assert_allclose(np.unique(y), [0.0, 1.0 / (1.0 - rate)], rtol=1e-6)
    five_sigma = 5 * math.sqrt(rate * (1 - rate) / number)
    assert abs((y == 0).mean() - rate) < five_sigma
    assert abs(y.mean(dtype=np.float64) - 1.0) < five_sigma / (1 - rate)


def test_what_dropout_drops_is_independent_of_neighbours_and_of_other_keys() -> None:
    """Two values fall together with probability 1/4 * 1/4, whatever lies between them."""
    x = jnp.ones((512, 512))
    drop = jax.jit(lambda x, key: layers.dropout(x, 0.25, rngs=nnx.Rngs(dropout=key)))
    first, second = (np.asarray(drop(x, jax.random.key(seed))) == 0 for seed in (0, 1))
    five_sigma = 5 * math.sqrt(1 / 16 * 15 / 16 / x.size)
    for lag in (1, 2, 3, 64, 256, 511, 512, 1024):
        flat = first.ravel()
        assert abs((flat[lag:] & flat[:-lag]).mean() - 1 / 16) < five_sigma, f"lag {lag}"
    for shift in (0, 1, 512):
        together = (first.ravel() & np.roll(second.ravel(), shift)).mean()
        assert abs(together - 1 / 16) < five_sigma, f"other key, shift {shift}"
    # No row or column is dropped much more often than another: 512 values of 1/4 each.
    for axis in (0, 1):
        assert np.abs(first.mean(axis=axis) - 1 / 4).max() < 6 * math.sqrt(3 / 16 / 512)


def test_dropout_is_the_identity_without_rngs_or_rate() -> None:
    x = normal(0, 100)
    assert layers.dropout(x, 0.5, rngs=None) is x
    assert layers.dropout(x, 0.0, rngs=nnx.Rngs(0)) is x


def test_the_same_key_gives_the_same_dropout_and_the_next_key_another() -> None:
    @jax.jit
    def three(x: jax.Array) -> list[jax.Array]:
        rngs = nnx.Rngs(3)
        first, second = layers.dropout(x, 0.5, rngs=rngs), layers.dropout(x, 0.5, rngs=rngs)
        return [first, second, dropped(x, 0.5, 3)]

    first, second, again = (np.asarray(y) for y in three(jnp.ones((10, 100))))
    np.testing.assert_array_equal(first, again)
    assert 0.4 < (first != second).mean() < 0.6


def test_dropout_sends_gradients_through_what_it_kept_only() -> None:
    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = dropped(x, 0.25, 0)
        return y.sum(), y

    gradient, y = jax.jit(jax.grad(total, has_aux=True))(jnp.full(1000, 2.0))
    np.testing.assert_allclose(gradient, np.asarray(y) / 2.0, rtol=1e-6)


def test_sinusoids_by_hand() -> None:
    table = positions.sinusoids(3, 4)
    np.testing.assert_allclose(table[0], [0, 0, 1, 1])
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    np.testing.assert_allclose(table[2], expected, rtol=1e-6)  # rates 1 and 10000 ** -(2 / 4)


def test_more_positions_leave_the_first_ones_as_they_are() -> None:
    np.testing.assert_array_equal(positions.sinusoids(9, 6)[:4], positions.sinusoids(4, 6))
