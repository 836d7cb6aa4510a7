"""A loss by blocks of rows against the same loss on all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.losses import blocks, cross_entropy
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, Prediction, SoftTargets

ROWS, LENGTH, D_MODEL, VOCABULARY = 6, 9, 8, 33
LENGTHS = np.array([9, 3, 0, 1, 7, 4])


@pytest.fixture(autouse=True, params=[1, 16, 512], ids="positions={}".format)
def positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A row a block, blocks that do not divide the 24 tokens, and one block for all."""
    monkeypatch.setattr(blocks, "POSITIONS", request.param)
    return int(request.param)


def example(seed: int = 0) -> tuple[Prediction, jax.Array, SoftTargets]:
    random = np.random.default_rng(seed)
    states = random.normal(size=(ROWS, LENGTH, D_MODEL)).astype(np.float32)
    table = random.normal(size=(VOCABULARY, D_MODEL)).astype(np.float32)
    target = random.integers(1, VOCABULARY, (ROWS, LENGTH), dtype=np.int32)
    target[np.arange(LENGTH) >= LENGTHS[:, None]] = PAD
    words = random.integers(1, VOCABULARY, (ROWS, LENGTH, 2), dtype=np.int32)
    weights = np.where(target[..., None] == PAD, 0.0, [0.75, 0.25]).astype(np.float32)
    soft = SoftTargets(jnp.asarray(words), jnp.asarray(weights))
    return Prediction(jnp.asarray(states), jnp.asarray(table)), jnp.asarray(target), soft


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_soft", [False, True])
def test_value_and_gradient_are_those_of_all_logits_at_once(
    smoothing: float, is_soft: bool
) -> None:
    prediction, target, soft = example()

    def objective(prediction: Prediction, is_whole: bool) -> tuple[jax.Array, tuple[Mean, Mean]]:
        predicted = prediction.logits() if is_whole else prediction
        means = cross_entropy.smoothed_cross_entropy(
            predicted, target, smoothing=smoothing, soft=soft if is_soft else None
        )
        return 3.0 * means[0].value, means  # what follows the loss scales its gradient

    gradient = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=1)
    (by_blocks, whole) = (gradient(prediction, is_whole) for is_whole in (False, True))
    for mine, expected in zip(*map(jax.tree.leaves, (by_blocks, whole)), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
    without = jax.jit(objective, static_argnums=1)(prediction, False)  # no gradient asked for
    for mine, expected in zip(*map(jax.tree.leaves, (without, whole[0])), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5)


def test_the_gradient_is_the_slope() -> None:
    """Along a random direction, by differences of float32 values."""
    prediction, target, _ = example(1)
    direction, _, _ = example(2)

    @jax.jit
    def value(distance: jax.Array) -> jax.Array:
        moved = jax.tree.map(lambda x, along: x + distance * along, prediction, direction)
        return cross_entropy.smoothed_cross_entropy(moved, target, smoothing=0.1)[0].value

    slope = jax.jit(jax.grad(value))(jnp.float32(0.0))
    by = jnp.float32(1e-2)
    differences = float(value(by) - value(-by)) / (2 * float(by))
    assert float(slope) == pytest.approx(differences, rel=1e-2)


def test_rows_that_are_not_used_are_never_looked_at() -> None:
    prediction, target, _ = example()
    is_token = (target != PAD)[..., None]
    broken = Prediction(jnp.where(is_token, prediction.states, jnp.nan), prediction.table)

    @jax.jit
    def gradient(prediction: Prediction) -> tuple[jax.Array, Prediction]:
        return jax.value_and_grad(
            lambda x: cross_entropy.smoothed_cross_entropy(x, target, smoothing=0.1)[0].value
        )(prediction)

    (_, mine), (_, expected) = gradient(broken), gradient(prediction)
    np.testing.assert_array_equal(mine.states, expected.states)
    np.testing.assert_array_equal(mine.table, expected.table)
    assert not mine.states[~is_token[..., 0]].any()


def test_a_batch_of_padding_costs_nothing() -> None:
    prediction, target, _ = example()
    nothing = jnp.full_like(target, PAD)
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda x: cross_entropy.smoothed_cross_entropy(x, nothing, smoothing=0.1)[0].value
        )
    )(prediction)
    assert float(value) == 0.0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_products_are_of_the_states_type_and_the_table_s_gradient_is_float32() -> None:
    prediction, target, _ = example()
    halved = Prediction(prediction.states.astype(jnp.bfloat16), prediction.table)

    @jax.jit
    def gradient(prediction: Prediction) -> Prediction:
        return jax.grad(
            lambda x: cross_entropy.smoothed_cross_entropy(x, target, smoothing=0.1)[0].value
        )(prediction)

    mine, expected = gradient(halved), gradient(prediction)
    assert (mine.states.dtype, mine.table.dtype) == (jnp.bfloat16, jnp.float32)
    for a, b in ((mine.states, expected.states), (mine.table, expected.table)):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * float(jnp.abs(b).max()))


def test_reports_stand_where_their_rows_stood() -> None:
    """The most probable token of the rows in use, 0 for the others."""
    prediction, _, _ = example()
    flat = Prediction(prediction.states.reshape(-1, D_MODEL), prediction.table)
    numbers = jnp.arange(ROWS * LENGTH)
    is_used = numbers % 3 != 1

    def compare(logits: jax.Array, rows: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return rows.sum().astype(jnp.float32), (logits.argmax(axis=-1), rows)

    total, (best, rows) = jax.jit(lambda x: blocks.total(compare, x, numbers, is_used))(flat)
    assert float(total) == int(numbers[is_used].sum())
    np.testing.assert_array_equal(rows, jnp.where(is_used, numbers, 0))
    np.testing.assert_array_equal(best, jnp.where(is_used, flat.logits().argmax(axis=-1), 0))


def test_blocks_are_about_equally_long(positions: int) -> None:
    assert blocks._rows_of_block(4080, 1) == {1: 1, 16: 16, 512: 510}[positions]
    assert blocks._rows_of_block(204, 40) == {1: 1, 16: 1, 512: 13}[positions]


def test_all_logits_never_exist() -> None:
    """4,096 tokens and 2,048 words: 32 MiB. What is planned beside inputs and gradients is less than a half of it, at
    the number of positions that training has."""
    prediction = Prediction(jnp.zeros((4096, 8)), jnp.zeros((2048, 8)))
    target = jnp.ones(4096, jnp.int32)
    if blocks.POSITIONS < 512:
        pytest.skip("the number of positions that training has")

    def gradient(prediction: Prediction) -> tuple[jax.Array, Prediction]:
        return jax.value_and_grad(
            lambda x: cross_entropy.smoothed_cross_entropy(x, target, smoothing=0.1)[0].value
        )(prediction)

    memory = jax.jit(gradient).lower(prediction).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**24
