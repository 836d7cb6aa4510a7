"""Attention: equal to JAX's own, blind to padding, and the same step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.nn import attention, dot_product

D_MODEL, HEADS = 16, 2


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def self_attention() -> attention.SelfAttention:
    return attention.SelfAttention(D_MODEL, HEADS, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def cross_attention() -> attention.CrossAttention:
    return attention.CrossAttention(D_MODEL, HEADS, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]])
def test_attend_equals_jax(is_causal: bool, lengths: list[int] | None) -> None:
    query, key, value = (normal(seed, 3, 5, HEADS, 8) for seed in range(3))
    row_lengths = None if lengths is None else jnp.array(lengths)

    @jax.jit
    def both(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        ours = dot_product.attend(
            query, dot_product.key_value(key, value), lengths=row_lengths, is_causal=is_causal
        )
        theirs = jax.nn.dot_product_attention(
            query,
            key,
            value,
            key_value_seq_lengths=row_lengths,
            is_causal=is_causal,
            implementation="xla",
        )
        return ours, theirs

    ours, theirs = both(query, key, value)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_attend_with_a_mask_equals_jax() -> None:
    query, key, value = (normal(seed, 3, 5, HEADS, 8) for seed in range(3))
    mask = jnp.asarray((np.random.default_rng(3).random((3, 5, 5)) < 0.5) | np.eye(5, dtype=bool))
    ours = dot_product.attend(query, dot_product.key_value(key, value), mask=mask)
    theirs = jax.nn.dot_product_attention(
        query, key, value, mask=mask[:, None], implementation="xla"
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_query_whose_mask_leaves_no_key_attends_to_nothing() -> None:
    """Row 1 has 2 keys: its query 1 may see key 3 only, which is padding. No other query changes by a bit."""
    query, key, value = (normal(seed, 2, 3, HEADS, 8) for seed in range(3))
    mask = np.ones((2, 3, 3), bool)
    mask[0, 2] = mask[1, 1, :2] = False
    lengths, memory = jnp.array([3, 2]), dot_product.key_value(key, value)

    @jax.jit
    def attend(mask: jax.Array) -> jax.Array:
        return dot_product.attend(query, memory, mask=mask, lengths=lengths)

    out = np.asarray(attend(jnp.asarray(mask)))
    is_blind = ~(mask & (np.arange(3) < np.array([[3], [2]]))[:, None]).any(axis=-1)
    assert is_blind.sum() == 2
    assert not out[is_blind].any()
    others = np.asarray(attend(jnp.ones((2, 3, 3), bool)))
    np.testing.assert_array_equal(out[~is_blind], others[~is_blind])
    gradient = jax.jit(
        jax.grad(lambda x: dot_product.attend(x, memory, mask=jnp.asarray(mask)).sum())
    )(query)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("lengths", [None, [1]])
def test_a_single_word_that_may_not_see_itself_does(
    self_attention: attention.SelfAttention, lengths: list[int] | None
) -> None:
    x, given = normal(0, 1, 1, D_MODEL), None if lengths is None else jnp.array(lengths)
    alone, seen = (self_attention(x, given, sees_itself=sees) for sees in (False, True))
    np.testing.assert_array_equal(alone, seen)


@pytest.mark.parametrize("kind", ["lengths", "is_causal", "mask"])
def test_the_gradient_is_that_of_the_formula(kind: str) -> None:
    """With a key of no row, a query that sees itself only, and one that sees nothing."""
    query, key, value, cotangent = (normal(seed, 3, 5, HEADS, 8) for seed in range(4))
    mask = jnp.asarray(np.random.default_rng(3).random((3, 5, 5)) < 0.5).at[1, 2].set(False)
    setting = {"lengths": jnp.array([5, 1, 3]), "is_causal": True, "mask": mask}[kind]

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        memory = dot_product.key_value(key, value)
        return dot_product.attend(query, memory, **{kind: setting})

    def formula(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        memory = dot_product.key_value(key, value)
        shares = dot_product.weights(query, memory, **{kind: setting})
        return jnp.einsum("rhqk,rkhd->rqhd", shares, value)

    @jax.jit
    def gradients(*inputs: jax.Array) -> list[tuple[jax.Array, ...]]:
        return [jax.vjp(function, *inputs)[1](cotangent) for function in (attend, formula)]

    for mine, expected in zip(*gradients(query, key, value), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)


def test_scores_are_summed_in_float32_under_bfloat16() -> None:
    query, key, value = (normal(seed, 2, 6, HEADS, 64).astype(jnp.bfloat16) for seed in range(3))
    ours = dot_product.attend(query, dot_product.key_value(key, value))
    theirs = jax.nn.dot_product_attention(query, key, value, implementation="xla")
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours.astype(jnp.float32), theirs.astype(jnp.float32))


def test_equal_keys_give_the_mean_of_the_values_that_take_part() -> None:
    query, key = normal(0, 1, 1, 1, 4), jnp.ones((1, 4, 1, 4))
    value = jnp.arange(4.0)[None, :, None, None] * jnp.ones(4)
    out = dot_product.attend(query, dot_product.key_value(key, value), lengths=jnp.array([3]))
    np.testing.assert_allclose(out, 1.0, rtol=1e-6)  # (0 + 1 + 2) / 3


def test_cudnn_refuses_a_mask() -> None:
    x = normal(0, 1, 3, HEADS, 8)
    with pytest.raises(ValueError, match=r"set transformer\.implementation to 'xla'"):
        dot_product.attend(
            x, dot_product.key_value(x, x), mask=jnp.ones((1, 3, 3), bool), implementation="cudnn"
        )


@pytest.mark.parametrize("sees_itself", [True, False])
def test_padding_changes_nothing(
    self_attention: attention.SelfAttention, sees_itself: bool
) -> None:
    lengths = jnp.array([4, 1, 3])  # the row of one word has nobody else to look at
    x = normal(0, 3, 4, D_MODEL)
    wide = jnp.concatenate([x, normal(1, 3, 5, D_MODEL) * 100.0], axis=1)
    attend = jax.jit(functools.partial(self_attention, sees_itself=sees_itself))
    narrow_states, wide_states = attend(x, lengths), attend(wide, lengths)
    for row, length in enumerate([4, 1, 3]):
        np.testing.assert_allclose(
            wide_states[row, :length], narrow_states[row, :length], rtol=1e-4, atol=1e-5
        )


def test_a_position_that_does_not_see_itself_ignores_its_own_state(
    self_attention: attention.SelfAttention,
) -> None:
    """With positions' queries held fixed: the gradient of the attention to its own value is 0."""
    query, key = normal(0, 1, 4, HEADS, 8), normal(1, 1, 4, HEADS, 8)
    mask = ~jnp.eye(4, dtype=bool)[None]

    def states(value: jax.Array) -> jax.Array:
        out = dot_product.attend(query, dot_product.key_value(key, value), mask=mask)
        return out.sum(axis=(0, 2, 3))

    jacobian = jax.jit(jax.jacobian(states))(normal(2, 1, 4, HEADS, 8))
    influence = np.abs(np.asarray(jacobian)).sum(axis=(1, 3, 4))
    np.testing.assert_array_equal(influence == 0, np.eye(4, dtype=bool))


@pytest.mark.parametrize("sees_itself", [True, False])
def test_rows_of_padding_give_no_nan_in_values_and_gradients(
    self_attention: attention.SelfAttention, sees_itself: bool
) -> None:
    lengths = jnp.array([0, 3])

    def total(x: jax.Array) -> jax.Array:
        return jnp.square(self_attention(x, lengths, sees_itself=sees_itself)).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(normal(0, 2, 3, D_MODEL))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_memory_of_length_zero_gives_no_nan(cross_attention: attention.CrossAttention) -> None:
    def total(x: jax.Array) -> jax.Array:
        memory = cross_attention.memory(x)
        return jnp.square(cross_attention(x, memory, jnp.array([0, 3]))).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(normal(0, 2, 3, D_MODEL))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_padding_of_the_memory_changes_nothing(cross_attention: attention.CrossAttention) -> None:
    states, lengths, x = normal(0, 2, 5, D_MODEL), jnp.array([3, 1]), normal(1, 2, 4, D_MODEL)

    @jax.jit
    def attend(states: jax.Array) -> jax.Array:
        return cross_attention(x, cross_attention.memory(states), lengths)

    is_padding = np.arange(5)[:, None] >= np.asarray(lengths)[:, None, None]
    other = jnp.asarray(np.where(is_padding, 100.0, states), jnp.float32)
    np.testing.assert_array_equal(attend(other), attend(states))
    np.testing.assert_allclose(attend(states), attend(states[:, :3]), rtol=1e-5, atol=1e-6)


def test_more_rows_than_memories_equals_repeating_the_memory(
    cross_attention: attention.CrossAttention,
) -> None:
    states, lengths = normal(0, 2, 5, D_MODEL), jnp.array([5, 2])
    x = normal(1, 6, 4, D_MODEL)  # three rows a source

    @jax.jit
    def attend(x: jax.Array, states: jax.Array, lengths: jax.Array) -> jax.Array:
        return cross_attention(x, cross_attention.memory(states), lengths)

    repeated = jnp.asarray(np.repeat(states, 3, axis=0)), jnp.asarray(np.repeat(lengths, 3))
    np.testing.assert_allclose(
        attend(x, states, lengths), attend(x, *repeated), rtol=1e-5, atol=1e-6
    )


def test_a_mask_of_the_memory_hides_what_it_says(
    cross_attention: attention.CrossAttention,
) -> None:
    """Visible up to a count: the same as lengths. A mask a source equals the same mask for each of its rows."""
    states, x = normal(0, 2, 5, D_MODEL), normal(1, 4, 3, D_MODEL)

    @jax.jit
    def attend(lengths: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return cross_attention(x, cross_attention.memory(states), lengths, mask)

    whole, short = jnp.array([5, 5]), jnp.array([3, 1])
    of_source = (jnp.arange(5) < short[:, None])[:, None]  # [batch, 1, source_length]
    expected = attend(short)
    np.testing.assert_allclose(attend(whole, of_source), expected, rtol=1e-5, atol=1e-6)
    of_rows = jnp.repeat(of_source, 2, axis=0)
    np.testing.assert_array_equal(attend(whole, of_rows), attend(whole, of_source))
    with pytest.raises(ValueError, match="for each of 4 rows or of 2 sources, got 3"):
        cross_attention(x, cross_attention.memory(states), whole, of_rows[:3])


def test_positional_attention_weighs_by_place_alone() -> None:
    """The states are the values: the output is linear in them, whatever they are."""
    module = attention.PositionalAttention(D_MODEL, HEADS, rngs=nnx.Rngs(2))
    attend = jax.jit(module)
    places, lengths = normal(0, 7, D_MODEL), jnp.array([5, 3])
    x, y = normal(1, 2, 7, D_MODEL), normal(2, 2, 7, D_MODEL)
    states = np.asarray(attend(x, places, lengths))
    np.testing.assert_allclose(
        attend(x + 2.0 * y, places, lengths),
        states + 2.0 * np.asarray(attend(y, places, lengths)),
        rtol=1e-4,
        atol=1e-5,
    )
    narrow = attend(x[:, :5], places[:5], lengths)
    for row, length in enumerate([5, 3]):
        np.testing.assert_allclose(states[row, :length], narrow[row, :length], rtol=1e-4, atol=1e-5)
