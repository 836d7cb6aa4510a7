"""The most probable token of each place, and what its log p is counted from: what searches ask of logits.

XLA's CPU backend goes over the logits three times, for the largest, its place and the sum of the exponentials, and
largely by itself: a tenth of a one-pass decode. A kernel does it in one go where kernels are in use."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar.runtime import cpu_kernels
from nat_ar.search import limits
from nat_ar.types import pytree_dataclass


@pytree_dataclass
class BestTokens:
    tokens: Int[Array, "*axes"]
    logits: Float[Array, "*axes"]
    """of these tokens"""
    normalisers: Float[Array, "*axes"]
    """log of the sum of the exponentials of all logits"""

    @property
    def log_probabilities(self) -> Float[Array, "*axes"]:
        """Of these tokens, in nats."""
        return self.logits - self.normalisers


def argmax(logits: Float[Array, "*axes vocabulary"], never: Collection[int]) -> BestTokens:
    """The most probable tokens but for those that may never be, which count all the same in what others are
    compared with. Of equal ones the first."""
    if cpu_kernels.are_in_use() and logits.dtype == jnp.float32:
        rows = logits.reshape(-1, logits.shape[-1])
        found = cpu_kernels.likeliest(rows, sorted(never))
        return BestTokens(*(x.reshape(logits.shape[:-1]) for x in found))
    allowed = limits.forbid(logits, sorted(never))
    tokens = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    return BestTokens(tokens, allowed.max(axis=-1), normalisers(logits))


def normalisers(logits: Float[Array, "*axes vocabulary"]) -> Float[Array, "*axes"]:
    """log of the sum of the exponentials."""
    if cpu_kernels.are_in_use() and logits.dtype == jnp.float32:
        return argmax(logits, ()).normalisers
    return jax.nn.logsumexp(logits, axis=-1)
