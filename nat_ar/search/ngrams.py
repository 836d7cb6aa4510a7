"""n-gram blocking (Paulus et al. 2018, arXiv:1705.04304, section 2.5): no hypothesis has an n-gram of tokens twice."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def block_repeats(
    logits: Float[Array, "batch beam vocabulary"],
    tokens: Int[Array, "batch beam max_length"],
    position: Int[Array, ""],
    size: int,
) -> Float[Array, "batch beam vocabulary"]:
    """Logits with -inf for each token that would end an n-gram of `size` tokens which tokens[:position], what a
    hypothesis holds so far, has already. EOS is none of them, so that a hypothesis can always end."""
    number = tokens.shape[-1] - size + 1  # n-grams in max_length tokens
    if number < 1:
        return logits
    # Before position size - 1 the slice is clamped and means nothing, but there is no n-gram yet either.
    prefix = jax.lax.dynamic_slice_in_dim(tokens, position - size + 1, size - 1, axis=-1)
    is_written = jnp.arange(number) + size <= position
    is_repeat = jnp.broadcast_to(is_written, (*tokens.shape[:-1], number))
    for place in range(size - 1):
        is_repeat &= tokens[..., place : place + number] == prefix[..., place, None]
    vocabulary = logits.shape[-1]
    blocked = jnp.where(is_repeat, tokens[..., size - 1 :], vocabulary)  # [batch, beam, number]
    rows, beams = jnp.ogrid[: tokens.shape[0], : tokens.shape[1]]
    return logits.at[rows[..., None], beams[..., None], blocked].set(-jnp.inf, mode="drop")
