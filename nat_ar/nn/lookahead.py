"""Heads that look further ahead than the next word (Stern et al. 2018, arXiv:1811.03115, section 4).

Each has a feed-forward layer with a residual connection between the decoder's states and the vocabulary projection,
which they share. Differences: the hidden layer of a head is as wide as the states, not four times, since its weights
are read at every pass; the next word is predicted from the states themselves, so that its scores do not vary."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nat_ar.nn import layers


class Lookahead(nnx.Module):
    """States of a position -> states that predict the words after the next one."""

    def __init__(self, number: int, d_model: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        self.expand = layers.Linear(
            d_model, d_model, parts=number, is_rectified=True, dtype=dtype, rngs=rngs
        )
        self.contract = nnx.List(
            [layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs) for _ in range(number)]
        )

    def __call__(
        self, states: Float[Array, "*axes d_model"]
    ) -> Float[Array, "heads *axes d_model"]:
        """Head h, from 0, is for the word h + 2 places on, where that of the next word is one place on."""
        hidden = jnp.split(self.expand(states), len(self.contract), axis=-1)
        return jnp.stack([states + head(x) for head, x in zip(self.contract, hidden, strict=True)])
