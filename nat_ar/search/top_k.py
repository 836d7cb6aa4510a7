"""The k largest of a long axis.

XLA's CPU backend sorts whole rows for it: 8 of 8,000 logits of 128 rows took 3.0 ms, 7 % of a step of beam search.
Here the maxima of groups say first in which groups to look: 1.0 ms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GROUP = 32
"""Neighbours of which one maximum is taken; 64 and 128 were slower."""


def top_k(
    x: Float[Array, "*axes size"], k: int
) -> tuple[Float[Array, "*axes k"], Int[Array, "*axes k"]]:
    """The k largest values, largest first, and their places; of equal ones those on the left, as
    jax.lax.top_k has it.

    A group without one of the k largest maxima cannot hold one of the k largest values: k others are as large,
    and where they are equal, they are on its left."""
    size = x.shape[-1]
    if size <= 2 * k * GROUP:
        values, places = jax.lax.top_k(x, k)
        return values, places
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -size % GROUP)]
    grouped = jnp.pad(x, padding, constant_values=-jnp.inf).reshape(*x.shape[:-1], -1, GROUP)
    _, groups = jax.lax.top_k(grouped.max(axis=-1), k)
    groups = jnp.sort(groups, axis=-1)  # so that what is on the left stays there
    candidates = jnp.take_along_axis(grouped, groups[..., None], axis=-2)
    values, places = jax.lax.top_k(candidates.reshape(*x.shape[:-1], -1), k)
    chosen = jnp.take_along_axis(groups, places // GROUP, axis=-1)
    return values, chosen * GROUP + places % GROUP
