"""Speculative decoding for translation (Xia et al. 2023, arXiv:2203.16487): a one-pass model drafts the whole
sentence, the left-to-right model verifies it.

After a miss the draft goes on behind the words that were said last, where it has them again (Ge et al. 2021,
arXiv:2106.04970, section 4.1), and what is taken from there are the model's own predictions where the block was: it
read the draft, and predicted the word after each. Differences from Xia et al.: any one-pass model of the same
vocabulary drafts, trained for this or not, and drafts once; only what the model itself would say is accepted, not what
is near to it."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from nat_ar.search.verification import DraftedDecoding, Verified
from nat_ar.special_tokens import PAD
from nat_ar.types import append_eos

REACH = 3
"""Places by which a draft may be moved for each word that it then repeats."""


@dataclasses.dataclass(frozen=True)
class Speculative(DraftedDecoding):
    """The words of Greedy(), out of the drafts of a one-pass model."""

    needs_draft: ClassVar[bool] = True

    drafter: str | None = None  # type: ignore[assignment]
    """a run of the same vocabulary, beside this one by its name or anywhere by its path; None: the model itself, where
    it has a one-pass decoder (Joint)"""
    drafting: str | None = None  # type: ignore[assignment]
    """the drafter's decoding, such as "LengthBeam(size=1)"; None: its own"""

    def guess(
        self, draft: Int[Array, "batch max_length"] | None, batch: int, max_length: int
    ) -> Int[Array, "batch max_length"]:
        if draft is None:
            raise ValueError(f"{type(self).__name__} verifies the draft of another model; got none")
        return append_eos(draft)[:, :max_length]

    def redraft(self, verified: Verified) -> Int[Array, "batch places"]:
        return realigned(verified)


def realigned(verified: Verified) -> Int[Array, "batch places"]:
    """The predictions behind the place of the draft that fits what was said last.

    That is the last place itself, unless the draft has the last word (and the one before it) some places on or
    back, fewer than REACH (twice REACH) of them."""
    inputs, position = verified.inputs, verified.position[:, None]
    said = jnp.pad(verified.predictions[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    last = jnp.take_along_axis(said, position, axis=1)
    before = jnp.take_along_axis(said, jnp.maximum(position - 1, 0), axis=1)
    read_before = jnp.pad(inputs[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    number = (inputs == last) * (1 + (read_before == before))
    places = jnp.arange(inputs.shape[1])
    fit = REACH * number - jnp.abs(places - position)
    fit = jnp.where(places < position, fit - 1, fit)
    from_here = fit.argmax(axis=1)[:, None] - position  # places by which the draft moves
    index = places - 1 + from_here
    # Before `position` predictions are what was said; the draft's own next word is there to be read.
    of_draft = jnp.pad(inputs[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
    following = jnp.where(places < position, of_draft, verified.predictions)
    moved = jnp.take_along_axis(following, jnp.clip(index, 0, inputs.shape[1] - 1), axis=1)
    return jnp.where(index < inputs.shape[1], moved, PAD)
