"""Fused networks compute what their packed blocks compute one by one, to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.evaluation.speed import floor
from nat_ar.nn import packed
from nat_ar.nn.attention import Full
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.fused import FusedDecoder, FusedEncoder
from nat_ar.nn.positions import Alibi, Learned, Rotary
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.types import Encoded

pytestmark = pytest.mark.skipif(
    not cpu_kernels.are_available(), reason="no CPU, or no C++ compiler, or NAT_AR_NATIVE=0"
)
SIZE = functools.partial(
    TransformerConfig, d_model=32, d_hidden=40, num_heads=2, num_encoder_layers=1
)


class Model(nnx.Module):
    def __init__(self, config: TransformerConfig, weights: packed.Weights = "float32") -> None:
        self.encoder = Encoder(config, rngs=nnx.Rngs(1))
        self.decoder = Decoder(config, rngs=nnx.Rngs(0))
        packed.pack(self, weights)


def source(rows: slice = slice(None)) -> Encoded:
    """Two sentences of 5 and 3 tokens."""
    states = jax.random.normal(jax.random.key(1), (2, 5, 32))
    return Encoded(states[rows], jnp.array([5, 3], jnp.int32)[rows])


def walk(decoder: Decoder, step: object, beam: int) -> np.ndarray:
    """The states of four positions; hypotheses go on from each other in between."""
    encoded = source()
    memory = decoder.memory(encoded)
    cache = decoder.empty_cache(2, beam, 6)
    run = jax.jit(lambda x, cache, at: step(decoder, x, cache, at, memory, encoded.lengths))
    found = []
    for position in range(4):
        inputs = jax.random.normal(jax.random.key(position), (2, beam, 32))
        states, cache = run(inputs, cache, jnp.int32(position))
        found.append(np.asarray(states))
        if beam == 3:
            cache = cache.reordered(jnp.array([[1, 0, 0], [2, 2, 1]]))
    return np.stack(found)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("beam", [1, 3])
def test_a_step_has_the_bits_of_the_blocks_one_by_one(
    norm: str, weights: packed.Weights, beam: int
) -> None:
    decoder = Model(SIZE(num_decoder_layers=2, norm=norm), weights).decoder
    assert type(decoder) is FusedDecoder
    expected = walk(decoder, Decoder.step, beam)
    np.testing.assert_array_equal(walk(decoder, FusedDecoder.step, beam), expected)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_several_positions_have_the_bits_of_single_steps_each_row_at_its_own(
    weights: packed.Weights,
) -> None:
    """Rows at positions 0 and 2 go on by three; what the second row's cache holds before is that of two steps."""
    decoder, encoded = Model(SIZE(num_decoder_layers=2), weights).decoder, source()
    memory = decoder.memory(encoded)
    inputs = jax.random.normal(jax.random.key(2), (2, 5, 32))
    step, extend = (
        jax.jit(lambda x, cache, at, go=go: go(x, cache, at, memory, encoded.lengths))
        for go in (decoder.step, decoder.extend)
    )
    cache, single = decoder.empty_cache(2, 1, 8), []
    caches = [cache]
    for position in range(5):
        states, cache = step(inputs[:, position : position + 1], cache, jnp.int32(position))
        single.append(np.asarray(states))
        caches.append(cache)
    at = jnp.array([0, 2], jnp.int32)
    new = jnp.stack([inputs[0, :3], inputs[1, 2:5]])
    states, _ = extend(new, caches[2], at)
    by_steps = np.concatenate(single, axis=1)
    np.testing.assert_array_equal(states[0], by_steps[0, :3])
    np.testing.assert_array_equal(states[1], by_steps[1, 2:5])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_an_encoder_has_the_bits_of_its_blocks_one_by_one(
    norm: str, weights: packed.Weights
) -> None:
    """Three sentences, one of them empty."""
    encoder = Model(SIZE(num_encoder_layers=2, norm=norm), weights).encoder
    assert type(encoder) is FusedEncoder
    embeddings = jax.random.normal(jax.random.key(3), (3, 7, 32))
    lengths = jnp.array([7, 0, 4], jnp.int32)

    def run(encode: object) -> np.ndarray:
        return np.asarray(
            jax.jit(lambda x: encode(encoder, x, lengths, rngs=None).states)(embeddings)
        )

    np.testing.assert_array_equal(run(FusedEncoder.__call__), run(Encoder.__call__))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_all_positions_at_once_have_the_bits_of_the_blocks_one_by_one(
    norm: str, weights: packed.Weights
) -> None:
    """Two sources, of each three translations of their own lengths."""
    decoder = Model(SIZE(num_decoder_layers=2, norm=norm), weights).decoder
    inputs = jax.random.normal(jax.random.key(4), (6, 9, 32))
    lengths = jnp.array([9, 1, 5, 0, 3, 8], jnp.int32)

    def run(decode: object) -> np.ndarray:
        return np.asarray(jax.jit(lambda x: decode(decoder, x, lengths, source()))(inputs))

    found = run(FusedDecoder.__call__)
    np.testing.assert_array_equal(found, run(Decoder.__call__))
    alone = jax.jit(lambda x: decoder(x, lengths[2:3], source(slice(0, 1))))(inputs[2:3])
    np.testing.assert_array_equal(found[2], alone[0])


def test_keys_and_values_of_a_source_have_the_bits_and_places_of_single_projections() -> None:
    decoder, encoded = Model(SIZE(num_decoder_layers=2)).decoder, source()
    for found, expected in zip(
        decoder.memory(encoded), Decoder.memory(decoder, encoded), strict=True
    ):
        np.testing.assert_array_equal(found.key, expected.key)
        np.testing.assert_array_equal(found.value, expected.value)


def test_what_a_pass_does_not_know_runs_block_by_block() -> None:
    decoder, encoded = Model(SIZE(num_decoder_layers=2)).decoder, source()
    inputs, lengths = jax.random.normal(jax.random.key(5), (2, 4, 32)), jnp.array([4, 2], jnp.int32)
    for options in (
        {"is_causal": True},
        {"sees_itself": False},
        {"memory_mask": jnp.ones((2, 1, 5), bool).at[:, :, 1].set(False)},
        {"self_mask": jnp.tril(jnp.ones((1, 4, 4), bool))},
        {"between_blocks": lambda index, x: 2.0 * x},
    ):
        found = decoder(inputs, lengths, encoded, **options)
        np.testing.assert_array_equal(
            found, Decoder.__call__(decoder, inputs, lengths, encoded, **options)
        )
        assert np.abs(found - decoder(inputs, lengths, encoded))[0].max() > 1e-3


@pytest.mark.parametrize(
    "changes", [{"encoder_attention": "causal"}, {"decoder_memory": "same_layer"}]
)
def test_encoders_that_the_kernel_does_not_know_run_block_by_block(changes: dict) -> None:
    assert type(Model(SIZE(num_decoder_layers=1, **changes)).encoder) is Encoder


@pytest.mark.parametrize("positions", [Rotary(), Alibi()])
def test_what_the_kernel_does_not_know_runs_block_by_block(positions: object) -> None:
    config = SIZE(num_decoder_layers=1, positions=positions, attention=Full())
    assert type(Model(config).decoder) is Decoder
    assert (
        type(Model(SIZE(num_decoder_layers=1, decoder_positions="every_layer")).decoder) is Decoder
    )
    assert type(Model(SIZE(num_decoder_layers=1, positions=Learned())).decoder) is FusedDecoder


def test_weights_that_do_not_fit_are_an_error() -> None:
    decoder, encoded = Model(SIZE(num_decoder_layers=1)).decoder, source()
    cache, memory = decoder.empty_cache(2, 1, 6), decoder.memory(encoded)
    arrays = decoder._weights()
    decoder._weights = lambda: [*arrays[:2], arrays[4], *arrays[3:]]
    with pytest.raises(Exception, match="expected weights in the order and of the sizes"):
        jax.block_until_ready(
            decoder.step(jnp.ones((2, 1, 32)), cache, jnp.int32(0), memory, encoded.lengths)
        )


def test_a_fused_step_costs_the_products_of_its_blocks() -> None:
    """32 x 32: three of the projection, and three; 32 x 40: two. 2 FLOP each, for 2 x 1 rows and two blocks."""
    model, encoded = Model(SIZE(num_decoder_layers=2)), source()
    graph, params = nnx.split(model)

    def run(params: nnx.State, inputs: jax.Array) -> jax.Array:
        decoder = nnx.merge(graph, params).decoder
        cache, memory = decoder.empty_cache(2, 1, 6), memories
        return decoder.step(inputs, cache, jnp.int32(0), memory, encoded.lengths)[0]

    memories = model.decoder.memory(encoded)
    counted = floor.compile_counter(run, (params, jnp.ones((2, 1, 32))), (True, False))
    (block,) = counted.blocks
    assert block.flops == {"float32": 2 * (6 * 32 * 32 + 2 * 32 * 40) * 2 * 2}
    # Panels of 16 columns: 40 columns of the feed-forward layer take 48.
    assert block.weight_bytes == 4 * (6 * 32 * 32 + 32 * 48 + 40 * 32) * 2


def test_a_fused_pass_costs_the_products_of_its_blocks() -> None:
    """An encoder's: 32 x 32, three of the projection and one, and two of 32 x 40. A decoder's: two more, and outside of
    it the keys and values of the source, two. 2 FLOP each; 2 x 5 source tokens, 2 x 4 positions, two blocks."""
    model = Model(SIZE(num_encoder_layers=2, num_decoder_layers=2))
    graph, params = nnx.split(model)
    lengths = jnp.array([4, 2], jnp.int32)

    def run(params: nnx.State, inputs: jax.Array) -> jax.Array:
        network = nnx.merge(graph, params)
        encoded = network.encoder(source().states, source().lengths, rngs=None)
        return network.decoder(inputs, lengths, encoded)

    counted = floor.compile_counter(run, (params, jnp.ones((2, 4, 32))), (True, False))
    (block,) = counted.blocks
    encoder, keys, decoder = (4 * 32 * 32 + 2 * 32 * 40), 2 * 32 * 32, (6 * 32 * 32 + 2 * 32 * 40)
    assert block.flops == {"float32": 2 * 2 * (10 * (encoder + keys) + 8 * decoder)}
    # Panels of 16 columns: 40 columns of the feed-forward layer take 48.
    feed_forward = 32 * 48 + 40 * 32
    assert block.weight_bytes == 4 * 2 * ((4 + 2 + 6) * 32 * 32 + 2 * feed_forward)
