"""Which library computes a program's matrix products, and by what that is decided."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.runtime import compilation

W = jnp.eye(8)


def rows_of(function: Any, *arguments: Any) -> int:
    return compilation.typical_rows(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_rows_are_those_of_the_left_operand() -> None:
    assert rows_of(lambda x: x @ W, jnp.ones((5, 8))) == 5
    assert rows_of(lambda x: x @ W, jnp.ones((2, 3, 8))) == 6
    assert rows_of(lambda x: x + 1, jnp.ones((5, 8))) == 0


def test_products_with_batch_dimensions_are_no_weights() -> None:
    """Attention: every sentence has keys of its own."""
    attention = jax.jit(lambda query, key: jnp.einsum("bqd,bkd->bqk", query, key))
    assert rows_of(attention, jnp.ones((4, 5, 8)), jnp.ones((4, 6, 8))) == 0


def test_the_product_with_the_most_flops_decides_and_inside_a_loop_alone() -> None:
    def encode(x: jax.Array) -> jax.Array:
        return x @ W @ W @ W

    def search(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, x.shape[0], lambda _, y: y @ W, encode(x)[:2])

    x = jnp.ones((50, 8))
    assert rows_of(lambda x: encode(x)[:4] @ W, x) == 50
    assert rows_of(jax.jit(search), x) == 2


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the choice is one for CPUs")
@pytest.mark.parametrize(("rows", "is_eigen"), [(4, False), (32, True), (512, False)])
def test_few_rows_go_to_eigen_and_nothing_else_changes(rows: int, is_eigen: bool) -> None:
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(256, 1024)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(rows, 256)), jnp.float32)
    program = compilation.compile_ahead(lambda x, weight: x @ weight, x, weight)
    assert ("__ynn_fusion" in program.as_text()) is not is_eigen
    np.testing.assert_allclose(program(x, weight), x @ weight, rtol=1e-3, atol=1e-3)
