"""Decoder: blind to padding, the same in parallel as step by step and several positions at once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.nn import dot_product, packed
from nat_ar.nn.cache import Cache
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.positions import Alibi, Learned, Positions, Rotary, Sinusoidal
from nat_ar.nn.transformer import Encoder, LayeredEncoded, TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.types import Encoded

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


def encoded_example() -> Encoded:
    return Encoded(normal(9, 2, 4, D_MODEL), jnp.array([4, 2]))


def assert_rows_equal(wide: jax.Array, narrow: jax.Array, lengths: list[int]) -> None:
    """The first lengths[i] states of every row are the same."""
    wide, narrow = np.asarray(wide), np.asarray(narrow)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            wide[row, :length], narrow[row, :length], rtol=1e-4, atol=1e-5, err_msg=f"row {row}"
        )


@pytest.mark.parametrize("sees_itself", [True, False])
@pytest.mark.parametrize("has_positional_attention", [True, False])
def test_padding_changes_no_state_of_the_one_pass_decoder(
    has_positional_attention: bool, sees_itself: bool
) -> None:
    decoder = Decoder(CONFIG, has_positional_attention=has_positional_attention, rngs=nnx.Rngs(0))
    decode = jax.jit(functools.partial(decoder, sees_itself=sees_itself))
    x, lengths = normal(0, 4, 8, D_MODEL), [5, 1, 3, 2]  # two hypotheses of each of two sources
    narrow, wide = (decode(x[:, :width], jnp.array(lengths), encoded_example()) for width in (5, 8))
    assert_rows_equal(wide, narrow, lengths)


def test_whether_the_decoder_is_causal_may_be_known_when_it_runs_only() -> None:
    """What is before a changed input then stays, as with a fixed mask, under which positions see themselves."""
    decoder = Decoder(CONFIG, has_positional_attention=True, rngs=nnx.Rngs(0))
    arguments = jnp.array([5, 3]), encoded_example()
    run = jax.jit(decoder, static_argnames=("is_causal", "sees_itself"))
    run_either = jax.jit(lambda x, flag: decoder(x, *arguments, is_causal=flag, sees_itself=False))
    x = normal(0, 2, 5, D_MODEL)
    for flag in (True, False):
        found = run_either(x, jnp.array(flag))
        assert_rows_equal(found, run(x, *arguments, is_causal=flag, sees_itself=flag), [5, 3])
        changed = run_either(x.at[:, 2].multiply(-1.0), jnp.array(flag))
        assert (np.abs(changed - found)[:, :2].max() > 1e-3) != flag


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_cached_steps_equal_the_parallel_causal_pass(norm: str, beam: int) -> None:
    decoder = Decoder(dataclasses.replace(CONFIG, norm=norm), rngs=nnx.Rngs(0))
    batch, length, encoded = 2, 6, encoded_example()
    x = normal(0, batch, beam, length, D_MODEL)
    rows = x.reshape(batch * beam, length, D_MODEL)
    parallel = jax.jit(functools.partial(decoder, is_causal=True))(rows, None, encoded)
    parallel = np.asarray(parallel).reshape(batch, beam, length, D_MODEL)
    memory = jax.jit(decoder.memory)(encoded)
    cache = decoder.empty_cache(batch, beam, length + 2)
    step = jax.jit(decoder.step)
    for position in range(length):
        current = jnp.asarray(np.asarray(x)[:, :, position])
        states, cache = step(current, cache, jnp.int32(position), memory, encoded.lengths)
        np.testing.assert_allclose(states, parallel[:, :, position], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_rows_that_are_at_different_positions_step_as_each_row_alone(beam: int) -> None:
    """Row 1 starts two steps after row 0; where both positions are equal, one for all gives the same bits."""
    decoder, encoded = Decoder(CONFIG, rngs=nnx.Rngs(0)), encoded_example()
    memory, step = jax.jit(decoder.memory)(encoded), jax.jit(decoder.step)
    x = normal(0, 2, beam, 6, D_MODEL)

    def alone(row: int) -> list[np.ndarray]:
        cache, states = decoder.empty_cache(1, beam, 7), []
        own = jax.tree.map(lambda leaf: leaf[row : row + 1], memory)
        for position in range(6):
            inputs, lengths = x[row : row + 1, :, position], encoded.lengths[row : row + 1]
            state, cache = step(inputs, cache, jnp.int32(position), own, lengths)
            states.append(np.asarray(state[0]))
        return states

    expected = [alone(row) for row in range(2)]
    cache = decoder.empty_cache(2, beam, 7)
    for time in range(6):
        positions = np.array([time, max(time - 2, 0)])
        inputs = x[np.arange(2), :, positions]
        states, cache = step(inputs, cache, jnp.asarray(positions), memory, encoded.lengths)
        for row, position in enumerate(positions):
            np.testing.assert_allclose(states[row], expected[row][position], rtol=1e-4, atol=1e-5)
    inputs = x[:, :, 5]
    one, many = (
        step(inputs, cache, position, memory, encoded.lengths)
        for position in (jnp.int32(5), jnp.array([5, 5]))
    )
    jax.tree.map(np.testing.assert_array_equal, one, many)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Sinusoidal(), Learned(), Rotary(), Alibi()])
@pytest.mark.parametrize("is_packed", [False, True])
def test_several_positions_at_once_equal_single_steps(kind: Positions, is_packed: bool) -> None:
    """Row 0 goes on from position 2, row 1 from 0; packed without a bias, bit for bit. Then both go back and write
    other words over the old ones."""
    if is_packed and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    decoder = Decoder(dataclasses.replace(CONFIG, positions=kind), rngs=nnx.Rngs(0))
    if is_packed:
        packed.pack(decoder)
    encoded, new = (
        encoded_example(),
        7,
    )  # more rows than a tile of the packed product has, and no multiple
    memory = jax.jit(decoder.memory)(encoded)
    step, extend = jax.jit(decoder.step), jax.jit(decoder.extend)
    is_exact = is_packed and not kind.has_bias
    compare = (
        np.testing.assert_array_equal
        if is_exact
        else functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    )
    single = several = jax.tree.map(lambda leaf: leaf + 50, decoder.empty_cache(2, 1, 12))
    single = several = Cache(several.blocks, jnp.zeros_like(several.origin))
    for start, seed in ((np.array([0, 0]), 1), (np.array([2, 0]), 2), (np.array([1, 5]), 3)):
        x = normal(seed, 2, new, D_MODEL)
        found, several = extend(x, several, jnp.asarray(start), memory, encoded.lengths)
        for i in range(new):
            at = jnp.asarray(start + i)
            state, single = step(x[:, i, None], single, at, memory, encoded.lengths)
            compare(found[:, i], state[:, 0])
    jax.tree.map(compare, several, single)
    one = decoder.empty_cache(1, 1, 12)
    own = jax.tree.map(lambda leaf: leaf[:1], memory)
    alone, _ = extend(x[:1], one, jnp.int32(0), own, encoded.lengths[:1])
    both, _ = extend(x, decoder.empty_cache(2, 1, 12), jnp.array([0, 3]), memory, encoded.lengths)
    compare(both[0], alone[0])
    with pytest.raises(ValueError, match="one hypothesis a row, got a cache of 3"):
        decoder.extend(x, decoder.empty_cache(2, 3, 12), jnp.int32(0), memory, encoded.lengths)


def test_each_position_sees_its_own_part_of_the_source_in_parallel_and_step_by_step() -> None:
    """Wait-2: position t sees t + 2 source tokens, whatever stands behind them. Two hypotheses a source."""
    decoder, lengths = Decoder(CONFIG, rngs=nnx.Rngs(0)), jnp.array([5, 4])
    source, x = normal(9, 2, 5, D_MODEL), normal(0, 2, 2, 3, D_MODEL)
    is_read = jnp.arange(5) < jnp.arange(3)[:, None] + 2  # [length, source_length]
    mask = jnp.broadcast_to(is_read, (2, 3, 5))
    rows = x.reshape(4, 3, D_MODEL)
    decode = jax.jit(functools.partial(decoder, is_causal=True))

    def states(source: jax.Array) -> np.ndarray:
        return np.asarray(decode(rows, None, Encoded(source, lengths), memory_mask=mask))

    expected, changed = states(source), states(source.at[:, 3, 0].add(9.0))
    moved = np.abs(expected - changed).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, [False, False, True])
    memory = jax.jit(decoder.memory)(Encoded(source, lengths))
    cache, step = decoder.empty_cache(2, 2, 3), jax.jit(decoder.step)
    for position in range(3):
        mask_here = mask[:, position, None]  # [batch, 1, source_length]
        state, cache = step(
            x[:, :, position], cache, jnp.int32(position), memory, lengths, mask_here
        )
        np.testing.assert_allclose(
            state.reshape(4, D_MODEL), expected[:, position], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("layers", "read"), [(3, (0, 1, 2)), (1, (0, 0, 0)), (2, (0, 1, 1))])
def test_every_block_may_read_the_encoder_layer_as_high_as_itself(
    norm: Any, layers: int, read: tuple[int, ...]
) -> None:
    """What a decoder of three blocks reads, by hand; layers are those of an encoder cut off behind them."""
    config = dataclasses.replace(
        CONFIG,
        norm=norm,
        num_encoder_layers=layers,
        num_decoder_layers=3,
        decoder_memory="same_layer",
    )
    encoder, decoder = Encoder(config, rngs=nnx.Rngs(0)), Decoder(config, rngs=nnx.Rngs(1))
    x, lengths = normal(0, 2, 4, D_MODEL), jnp.array([4, 2])
    encoded = encoder(x, lengths, rngs=None)
    assert isinstance(encoded, LayeredEncoded)
    np.testing.assert_array_equal(encoded.states, encoded.layers[-1])
    whole = list(encoder.blocks)
    for block, found, layer in zip(decoder.blocks, decoder.memory(encoded), read, strict=True):
        encoder.blocks = nnx.List(whole[: layer + 1])
        states = encoder(x, lengths, rngs=None).states
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
            found,
            block.cross_attention.memory(states),
        )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_weights_of_cross_attention_are_those_that_the_decoder_reads_by(norm: str) -> None:
    """Two rows a source: they add up to 1 on its tokens, are even where queries are 0, and are the softmax that the
    decoder itself computes."""
    decoder = Decoder(
        dataclasses.replace(CONFIG, norm=norm), has_positional_attention=True, rngs=nnx.Rngs(0)
    )
    x, lengths, encoded = normal(0, 4, 3, D_MODEL), jnp.array([3, 1, 2, 3]), encoded_example()
    # Queries of 0 in the last block: there, all tokens of a source weigh the same.
    last = decoder.blocks[-1]
    last.cross_attention.query.kernel[...] *= 0
    weights = jax.jit(decoder.cross_attention_weights)(x, lengths, encoded)
    assert [w.shape for w in weights] == [(4, 2, 3, 4)] * 2
    for w in weights:
        np.testing.assert_allclose(w.sum(axis=-1), 1.0, rtol=1e-5)
        assert not np.asarray(w)[2:, :, :, 2:].any()  # the second source has two tokens
    np.testing.assert_allclose(weights[-1][2:, ..., :2], 0.5)
    np.testing.assert_allclose(weights[-1][:2], 0.25)
    assert np.asarray(weights[0]).std() > 0.01
    seen = []
    attend = dot_product.attend

    def spy(query: jax.Array, memory: dot_product.KeyValue, **settings: object) -> jax.Array:
        if memory.key.shape[-1] == 4:
            seen.append(dot_product.weights(query, memory, lengths=settings["lengths"]))
        return attend(query, memory, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dot_product, "attend", spy)
        decoder(x, lengths, encoded)
    for ours, read in zip(weights, seen, strict=True):  # of two rows, side by side
        flat = jnp.swapaxes(ours.reshape(2, 2, 2, 3, 4), 1, 2).reshape(2, 2, 6, 4)
        np.testing.assert_allclose(flat, read, rtol=1e-4, atol=1e-6)


def test_what_stands_between_blocks_changes_what_the_next_one_reads() -> None:
    """Three blocks have two places between them, before the final norm; adding 0.0 there changes
    nothing, setting to 0.0 before the last block leaves its positions alike."""
    config = dataclasses.replace(CONFIG, num_decoder_layers=3)
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    x, lengths, encoded = normal(0, 2, 5, D_MODEL), jnp.array([5, 3]), encoded_example()
    seen = []

    @functools.partial(jax.jit, static_argnames="kept")
    def states(kept: tuple[float, float]) -> jax.Array:
        def between_blocks(index: int, y: jax.Array) -> jax.Array:
            seen.append(index)
            return kept[index] * y

        memory = decoder.memory(encoded)
        return decoder(x, lengths, encoded, memory=memory, between_blocks=between_blocks)

    plain = jax.jit(decoder)(x, lengths, encoded)
    np.testing.assert_allclose(states((1.0, 1.0)), plain, atol=1e-5)
    assert seen == [0, 1]
    forgotten = np.asarray(states((1.0, 0.0)))
    np.testing.assert_allclose(
        forgotten, np.broadcast_to(forgotten[:, :1], forgotten.shape), atol=1e-5
    )
    assert np.abs(np.asarray(plain) - forgotten).max() > 0.1
