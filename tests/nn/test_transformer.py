"""The encoder: blind to padding; and the sizes of a Transformer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.positions import Alibi, Rotary
from nat_ar.nn.transformer import Encoder, TransformerConfig

D_MODEL = 16
CONFIG = TransformerConfig(
    d_model=D_MODEL,
    d_hidden=32,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_length=16,
)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_padding_changes_no_state_of_the_encoder(norm: str) -> None:
    encoder = Encoder(dataclasses.replace(CONFIG, norm=norm), rngs=nnx.Rngs(0))
    encode = jax.jit(functools.partial(encoder, rngs=None))
    x, lengths = normal(0, 4, 8, D_MODEL), [5, 1, 3, 0]
    narrow, wide = (encode(x[:, :width], jnp.array(lengths)) for width in (5, 8))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            wide.states[row, :length], narrow.states[row, :length], rtol=1e-4, atol=1e-5
        )
    assert np.isfinite(wide.states).all()


def test_states_of_a_prefix_are_the_prefix_of_the_states_of_a_causal_encoder() -> None:
    """And not of a bidirectional one; a padded row's states are those of the row alone."""
    x = normal(0, 2, 7, D_MODEL)

    def states(encoder_attention: str, width: int, lengths: list[int]) -> np.ndarray:
        config = dataclasses.replace(CONFIG, encoder_attention=encoder_attention)
        encoder = Encoder(config, rngs=nnx.Rngs(0))
        encode = jax.jit(functools.partial(encoder, rngs=None))
        return np.asarray(encode(x[:, :width], jnp.array(lengths)).states)

    whole, prefix = states("causal", 7, [7, 4]), states("causal", 3, [3, 3])
    np.testing.assert_allclose(whole[:, :3], prefix, rtol=1e-4, atol=1e-5)
    whole, prefix = states("bidirectional", 7, [7, 4]), states("bidirectional", 3, [3, 3])
    assert np.abs(whole[:, :3] - prefix).max() > 0.1


def test_a_row_of_padding_gives_no_nan_and_finite_gradients_of_every_parameter() -> None:
    encoder = Encoder(CONFIG, rngs=nnx.Rngs(0))
    graph, params = nnx.split(encoder, nnx.Param)
    x, lengths = normal(0, 2, 3, D_MODEL), jnp.array([0, 3])

    def total(params: nnx.State) -> jax.Array:
        return jnp.square(nnx.merge(graph, params)(x, lengths, rngs=None).states).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_dropout_needs_rngs_and_repeats_with_the_same_key() -> None:
    encoder = Encoder(dataclasses.replace(CONFIG, dropout_rate=0.3), rngs=nnx.Rngs(0))
    x, lengths = normal(0, 2, 4, D_MODEL), jnp.array([4, 3])

    @jax.jit
    def states(key: jax.Array) -> jax.Array:
        return encoder(x, lengths, rngs=nnx.Rngs(dropout=key)).states

    first, again, other = (np.asarray(states(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


def test_states_are_of_the_dtype_that_the_config_says() -> None:
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    encoder, decoder = Encoder(config, rngs=nnx.Rngs(0)), Decoder(config, rngs=nnx.Rngs(0))
    x, lengths = jnp.zeros((2, 4, D_MODEL), jnp.bfloat16), jnp.array([4, 2])
    encoded = jax.eval_shape(functools.partial(encoder, rngs=None), x, lengths)
    assert encoded.states.dtype == jnp.bfloat16
    assert jax.eval_shape(decoder, x, lengths, encoded).dtype == jnp.bfloat16
    assert decoder.empty_cache(1, 1, 2).blocks[0].key.dtype == jnp.bfloat16


def test_a_batch_longer_than_the_positions_is_refused() -> None:
    encoder = Encoder(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="length 17 does not fit max_length 16"):
        encoder(jnp.zeros((1, 17, D_MODEL)), jnp.array([17]), rngs=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 10, "num_heads": 4}, "d_model 10 and num_heads 4; change one of them"),
        ({"d_model": 3, "num_heads": 3}, "d_model must be even"),
        ({"num_decoder_layers": 0}, "must be at least 1"),
        ({"dropout_rate": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"implementation": "cudnn"}, "needs dtype 'bfloat16', got 'float32'"),
        (
            {"implementation": "cudnn", "dtype": "bfloat16", "positions": Alibi()},
            "knows attention Full and positions without a bias, got .*; set transformer.implementation",
        ),
        ({"num_heads": 16, "positions": Rotary()}, "even number of coordinates a head, got 1"),
    ],
)
def test_impossible_sizes_are_one_clear_line(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        dataclasses.replace(CONFIG, **change)
    assert "\n" not in str(error.value)
