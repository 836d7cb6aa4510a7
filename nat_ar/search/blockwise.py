"""Blockwise parallel decoding (Stern et al. 2018, arXiv:1811.03115, section 3): heads of the model itself, trained to
predict words further on, draft; a pass verifies what they proposed after the pass before and lets them propose anew,
from the state that predicted the last final word."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from nat_ar.search.verification import DraftedDecoding, Verified
from nat_ar.special_tokens import PAD


@dataclasses.dataclass(frozen=True)
class Blockwise(DraftedDecoding):
    """The words of Greedy(), by the drafts of the model's own heads: Autoregressive with lookahead_words. A block is
    at most one word longer than these are."""

    uses_proposals: ClassVar[bool] = True

    def guess(
        self, draft: Int[Array, "batch max_length"] | None, batch: int, max_length: int
    ) -> Int[Array, "batch max_length"]:
        """The first pass has no proposals yet."""
        return jnp.full((batch, max_length), PAD, jnp.int32)

    def redraft(self, verified: Verified) -> Int[Array, "batch places"]:
        proposals = verified.proposals
        if proposals is None:
            raise ValueError("Blockwise needs a model with heads that propose words; got none")
        places = verified.inputs.shape[1]
        index = jnp.arange(places) - verified.position[:, None] - 1  # into the proposals
        number = proposals.shape[1]
        proposed = jnp.take_along_axis(proposals, jnp.clip(index, 0, number - 1), axis=1)
        return jnp.where((index >= 0) & (index < number), proposed, PAD)
