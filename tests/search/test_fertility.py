"""Fertilities of a decoding: what is tried, and what a decoder can use."""

import jax.numpy as jnp

from nat_ar.search import fertility


def test_trim_takes_from_the_end_until_the_sum_fits() -> None:
    fertilities = jnp.array([[2, 0, 3, 1], [1, 1, 0, 0], [5, 4, 3, 2]])
    trimmed = fertility.trim(fertilities, jnp.array([4, 10, 3]))
    assert trimmed.tolist() == [[2, 0, 2, 0], [1, 1, 0, 0], [3, 0, 0, 0]]
    candidates = jnp.stack([fertilities, 2 * fertilities], axis=1)
    trimmed = fertility.trim(candidates, jnp.array([[4], [10], [3]]))
    assert trimmed[0].tolist() == [[2, 0, 2, 0], [4, 0, 0, 0]]
    assert trimmed.sum(axis=-1).tolist() == [[4, 4], [2, 4], [3, 3]]
