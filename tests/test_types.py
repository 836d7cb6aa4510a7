"""Dataclasses that JAX can trace, and the mean that is still a sum and a count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from nat_ar.training.step import TrainState
from nat_ar.types import Batch, Encoded, Mean, pytree_dataclass


def batch_of(rows: int, length: int) -> Batch:
    return Batch(jnp.ones((rows, length), jnp.int32), jnp.ones((rows, length + 1), jnp.int32))


def test_eval_shape_gives_the_dataclass_with_shapes_in_it() -> None:
    shapes = jax.eval_shape(lambda batch: batch, batch_of(2, 3))
    assert isinstance(shapes, Batch)
    assert shapes.source == jax.ShapeDtypeStruct((2, 3), jnp.int32)
    assert shapes.target.shape == (2, 4)
    assert shapes.fertilities is None


def test_tree_map_may_put_anything_into_the_fields() -> None:
    named = jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", batch_of(2, 3))
    assert named.source == "int32(2, 3)"
    assert named.target == "int32(2, 4)"
    assert jax.tree.structure(named) == jax.tree.structure(batch_of(5, 6))


def test_fields_are_children_in_order_and_paths_name_them() -> None:
    batch = dataclasses.replace(batch_of(1, 2), fertilities=jnp.zeros((1, 2), jnp.int32))
    paths, _ = jax.tree_util.tree_flatten_with_path(batch)
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [
        ".source",
        ".target",
        ".fertilities",
    ]
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(1, 2), (1, 3), (1, 2)]


def test_nested_dataclasses_pass_through_jit_and_while_loop() -> None:
    @pytree_dataclass
    class Counter:
        mean: Mean
        parts: dict[str, jax.Array]

    def count(counter: Counter) -> Counter:
        one = Mean(jnp.float32(2.0), jnp.float32(1.0))
        return Counter(counter.mean + one, {"x": counter.parts["x"] + 1})

    start = Counter(Mean(jnp.float32(0.0), jnp.float32(0.0)), {"x": jnp.int32(0)})
    final = jax.jit(lambda state: jax.lax.while_loop(lambda s: s.parts["x"] < 5, count, state))(
        start
    )
    assert isinstance(final, Counter)
    assert (float(final.mean.total), float(final.mean.count), float(final.mean.value)) == (10, 5, 2)


def test_dataclasses_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch_of(1, 1).source = jnp.zeros((1, 1), jnp.int32)  # type: ignore[misc]


def test_a_wrong_shape_or_type_is_refused_where_it_is_made(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("jaxtyping_packages", None):
        pytest.skip("`scripts/test.sh --quick` checks no shapes")
    with pytest.raises(TypeError):
        Encoded(jnp.zeros((2, 3, 4)), jnp.zeros((3,), jnp.int32))  # batch 2 and batch 3
    with pytest.raises(TypeError):
        Batch(jnp.zeros((2, 3)), jnp.ones((2, 3), jnp.int32))  # float ids


def test_train_state_has_no_leaf_where_there_is_no_average() -> None:
    state = TrainState(jnp.int32(0), nnx.State({}), (), jax.random.key(0))
    assert len(jax.tree.leaves(state)) == 2


def test_mean_adds_up_and_divides_once() -> None:
    left, right = (Mean(jnp.float32(t), jnp.float32(c)) for t, c in [(6.0, 2.0), (4.0, 3.0)])
    both = left + right
    assert float(both.value) == 2.0  # (6 + 4) / (2 + 3), not the mean 2.166 of 3 and 1.333
    assert float((right + left).value) == 2.0


def test_mean_of_nothing_is_zero_and_its_gradient_finite() -> None:
    assert float(Mean(jnp.float32(0.0), jnp.float32(0.0)).value) == 0.0
    assert float(jax.grad(lambda x: Mean(x, jnp.float32(0.0)).value)(0.0)) == 1.0
