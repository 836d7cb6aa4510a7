"""The most probable token of each row of logits, and the normaliser of its log p.

XLA's CPU backend reads the logits three times, for the maximum, its index and the sum of exponentials: a tenth of a
one-pass decode. A kernel reads them once, while kernels are in use."""

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
    """Argmax over the tokens not in `never`; the normaliser runs over all tokens. Ties go to the lowest id."""
    if cpu_kernels.are_in_use() and logits.dtype == jnp.float32:
        rows = logits.reshape(-1, logits.shape[-1])
        best = cpu_kernels.likeliest(rows, sorted(never))
        return BestTokens(*(x.reshape(logits.shape[:-1]) for x in best))
    allowed = limits.forbid(logits, sorted(never))
    tokens = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    return BestTokens(tokens, allowed.max(axis=-1), normalisers(logits))


def normalisers(logits: Float[Array, "*axes vocabulary"]) -> Float[Array, "*axes"]:
    """log of the sum of the exponentials."""
    if cpu_kernels.are_in_use() and logits.dtype == jnp.float32:
        return argmax(logits, ()).normalisers
    return jax.nn.logsumexp(logits, axis=-1)
