"""The most probable tokens, by XLA and by the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.runtime import cpu_kernels
from nat_ar.search import argmax

LOGITS = jnp.log(jnp.array([[[1.0, 5.0, 2.0, 2.0], [4.0, 1.0, 1.0, 2.0]]]))


def test_of_what_may_be_the_first_of_the_most_probable() -> None:
    found = argmax.argmax(LOGITS, {1})
    assert found.tokens.tolist() == [[2, 0]]
    np.testing.assert_allclose(found.log_probabilities, np.log([[2 / 10, 4 / 8]]), rtol=1e-5)
    np.testing.assert_allclose(argmax.normalisers(LOGITS), np.log([[10, 8]]), rtol=1e-6)


@pytest.mark.skipif(not cpu_kernels.are_available(), reason="no kernels on this machine")
def test_the_kernel_finds_the_same_and_is_called_only_where_it_is_in_use() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 500)), jnp.float32)

    def program(are_in_use: bool) -> jax.stages.Lowered:
        def find(logits: jax.Array) -> tuple[argmax.BestTokens, jax.Array]:
            with cpu_kernels.in_use(are_in_use):
                return argmax.argmax(logits, (0, 3, 1)), argmax.normalisers(logits)

        return jax.jit(find).lower(logits)

    plain, fast = program(False), program(True)
    assert cpu_kernels.LIKELIEST in fast.as_text()
    assert cpu_kernels.LIKELIEST not in plain.as_text()
    expected, found = plain.compile()(logits), fast.compile()(logits)
    np.testing.assert_array_equal(found[0].tokens, expected[0].tokens)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_coarse_logits_are_none_of_the_kernels_business() -> None:
    with cpu_kernels.in_use(True):
        found = argmax.argmax(LOGITS.astype(jnp.bfloat16), {1})
    assert found.tokens.tolist() == [[2, 0]]
