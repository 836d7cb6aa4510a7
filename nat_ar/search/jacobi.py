"""Jacobi decoding (Santilli et al. 2023, arXiv:2305.10427): a model's own predictions are its drafts.

All places of a block are predicted at once from the guess before, y_i <- argmax p(y | y_<i), which is the fixed-point
iteration of Jacobi on the equations of greedy search. After t passes at least t words are final, most often more. No
training and no other model. Differences: the block is not solved before the next one begins, but moves on with every
final word; where it ends nobody needs to know (their PJ and PGJ take the length from a greedy run before)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from nat_ar.search import verification
from nat_ar.search.verification import DraftedDecoding, Verified
from nat_ar.special_tokens import PAD


@dataclasses.dataclass(frozen=True)
class Jacobi(DraftedDecoding):
    """The words of Greedy(), by the model's own predictions from its guess before."""

    def guess(
        self, draft: Int[Array, "batch max_length"] | None, batch: int, max_length: int
    ) -> Int[Array, "batch max_length"]:
        """Nothing is known yet."""
        return jnp.full((batch, max_length), PAD, jnp.int32)

    def redraft(self, verified: Verified) -> Int[Array, "batch places"]:
        return verification.shifted(verified.predictions)
