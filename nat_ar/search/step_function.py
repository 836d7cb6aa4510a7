"""What a left-to-right search knows of a model: a step function and its cache."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Cache = Any
StepFunction = Callable[
    [Int[Array, "batch beam"], Cache, Int[Array, ""] | Int[Array, "batch"]],
    tuple[Float[Array, "batch beam vocabulary"], Cache],
]
"""(tokens, cache, position) -> (logits of the next token, cache). One position for all rows, or one for each.

The cache is Reorderable, or every leaf of it has leading axes [batch, beam]."""


@runtime_checkable
class Reorderable(Protocol):
    """A cache with its own way to reorder hypotheses."""

    def reordered(self, beams: Int[Array, "batch beam"]) -> Any:
        """The cache in which hypothesis n continues hypothesis beams[n]."""
        ...


def take_beams(tree: Cache, beams: Int[Array, "batch chosen"]) -> Cache:
    """Every leaf [batch, beam, ...] reordered to [batch, chosen, ...]."""
    rows = jnp.arange(beams.shape[0])[:, None]
    return jax.tree.map(lambda leaf: leaf[rows, beams], tree)


def reordered(cache: Cache, beams: Int[Array, "batch beam"]) -> Cache:
    """The cache in which hypothesis n continues hypothesis beams[n]."""
    return cache.reordered(beams) if isinstance(cache, Reorderable) else take_beams(cache, beams)
