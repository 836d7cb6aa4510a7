import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.search.top_k import GROUP, top_k


@pytest.mark.parametrize("size", [3 * GROUP, 40 * GROUP, 40 * GROUP + 1])
@pytest.mark.parametrize("kind", ["different", "many equal", "two finite"])
def test_equals_jax_with_places_of_equal_values(size: int, kind: str) -> None:
    generator = np.random.default_rng(size)
    x = generator.normal(size=(3, 2, size)).astype(np.float32)
    if kind == "many equal":
        x = np.round(x)
    if kind == "two finite":
        x = np.where(np.isin(np.arange(size), (2, 2 * GROUP + 5)), x, -np.inf).astype(np.float32)
    ours = jax.jit(functools.partial(top_k, k=8))(jnp.asarray(x))
    theirs = jax.lax.top_k(jnp.asarray(x), 8)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_by_hand() -> None:
    """Of 0 ... 999 the last three; a second 999 on the left comes first."""
    x = jnp.arange(1000.0).at[7].set(999.0)
    values, places = top_k(x, 3)
    np.testing.assert_array_equal(values, [999, 999, 998])
    np.testing.assert_array_equal(places, [7, 999, 998])
