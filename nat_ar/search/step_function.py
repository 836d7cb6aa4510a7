"""What a left-to-right search knows of a model: a step function or a block function, and its cache."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

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

BlockFunction = Callable[
    [Int[Array, "batch block"], Cache, Int[Array, "batch"]],
    tuple[Float[Array, "batch block vocabulary"], Cache],
]
"""(tokens, cache, position) -> (logits of the token after each, cache): as many steps as there are tokens at once, from
`position` on, with one hypothesis a row. A search goes on from any place of the block before, or the one after it: what
lies behind is never seen, and is written over."""


class Blocks(NamedTuple):
    """A model as a search with drafts sees it."""

    extend: BlockFunction
    cache: Cache
    """empty, of one hypothesis a row and max_length + 1 positions: the last one is for EOS"""
    is_exact: bool
    """whether the logits have the bits of single steps"""
    propose: Callable[[Cache, Int[Array, "batch"]], Int[Array, "batch words"]] | None = None
    """(cache, place in the last block) -> words after the one that is predicted there; None: there are no heads"""


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
