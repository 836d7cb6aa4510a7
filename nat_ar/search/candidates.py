"""Choosing among parallel candidates, by their own score or by a rescorer's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar.types import Hypotheses


def best_first(
    tokens: Int[Array, "batch candidates length"],
    scores: Float[Array, "batch candidates"],
    steps: Int[Array, "batch"],
    *,
    n_best: int,
) -> Hypotheses:
    """The n_best candidates of every row by score; of equal ones the first."""
    scores, places = jax.lax.top_k(scores, n_best)
    return Hypotheses(jnp.take_along_axis(tokens, places[..., None], axis=1), scores, steps)
