"""What several losses do with the n-grams of a target."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BOS_ID = -1
"""stands for BOS before a target's ids, which no word has"""


def shared(
    expected: Float[Array, "batch starts"],
    ids: Int[Array, "batch tokens"],
    num_ngrams: Int[Array, "batch"],
    *,
    ngram: int,
) -> Float[Array, "batch"]:
    """The sum over the different n-grams g of a target of min(E_g, C_g): E_g the `expected` number of g, given at each
    of its starts, C_g the number of its starts.

    ids: the tokens of which the n-gram of each start is made, at least ngram - 1 more of them than starts. num_ngrams:
    the first so many starts are some."""
    num_starts = expected.shape[1]
    same = jnp.ones((len(ids), num_starts, num_starts), bool)
    for offset in range(ngram):
        token = ids[:, offset : offset + num_starts]
        same &= token[:, :, None] == token[:, None]
    is_ngram = jnp.arange(num_starts) < num_ngrams[:, None]
    # Equal n-grams share what is found of them: min(E, C) / C each.
    count = jnp.maximum((same & is_ngram[:, None]).sum(axis=2), 1)
    return jnp.where(is_ngram, jnp.minimum(expected, count) / count, 0.0).sum(axis=1)
