"""What a train step does to all parameters alike: by one call where kernels are in use (runtime.training_kernels),
array by array elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from nat_ar.runtime import training_kernels


def have_kernels(*trees: PyTree[Array]) -> bool:
    """Whether kernels are in use and know these arrays, which is where all are of float32."""
    return training_kernels.are_in_use() and all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trees)
    )


def norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """The Euclidean norm of all values."""
    if have_kernels(tree):
        return training_kernels.norm(jax.tree.leaves(tree))
    return optax.tree.norm(tree)


def added(tree: PyTree[Array], updates: PyTree[Array]) -> Any:
    """tree + updates."""
    if have_kernels(tree, updates):
        return _moved(tree, updates, 1.0, is_toward=False)
    return optax.apply_updates(tree, updates)


def towards(tree: PyTree[Array], other: PyTree[Array], rate: Float[Array, ""]) -> Any:
    """tree + rate * (other - tree)."""
    if have_kernels(tree, other):
        return _moved(tree, other, rate, is_toward=True)
    return jax.tree.map(lambda x, y: x + rate * (y - x), tree, other)


def _moved(
    tree: PyTree[Array], other: PyTree[Array], rate: Float[Array, ""] | float, *, is_toward: bool
) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    moved = training_kernels.move(leaves, jax.tree.leaves(other), rate, is_toward=is_toward)
    return jax.tree.unflatten(structure, moved)
