"""Speculative decoding for translation (Xia et al. 2023, arXiv:2203.16487): a one-pass model drafts the whole
sentence, the left-to-right model verifies it.

After a miss the draft goes on behind the words that were said last, where it has them further on (Ge et al. 2021,
arXiv:2106.04970, section 4.1); where it has not, it lacked the word that was said, and goes on with its own, the one
that was wrong there. On real text one-pass drafts lack words more often than they have other ones. Differences from Xia
et al.: any one-pass model of the same vocabulary drafts, trained for this or not, and drafts once; only what the model
itself would say is accepted, not what is near to it."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from nat_ar.search.verification import DraftedDecoding, Verified, shifted
from nat_ar.special_tokens import PAD
from nat_ar.types import append_eos

REACH = 6
"""Places by which a draft may be moved for each of the two words said last that it then repeats."""


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
    """The draft from the place behind the last word that was said, or behind both of the last two: the nearest one, at
    most REACH places on, or twice REACH. Without such a place it goes on with the word that was wrong."""
    inputs, position = verified.inputs, verified.position[:, None]
    said = shifted(verified.predictions)
    last = jnp.take_along_axis(said, position, axis=1)
    before = jnp.take_along_axis(said, jnp.maximum(position - 1, 0), axis=1)
    places = jnp.arange(inputs.shape[1])
    number = (inputs == last) * (1 + (shifted(inputs) == before))
    fit = jnp.where(number > 0, REACH * number - (places - position), -1)
    fit = jnp.where(places < position, places - position, fit)  # at most -1
    fit = jnp.where(places == position - 1, 0, fit)  # the word that was wrong
    place = fit.argmax(axis=1)[:, None]
    index = jnp.arange(inputs.shape[1]) - position + place
    moved = jnp.take_along_axis(inputs, jnp.clip(index, 0, inputs.shape[1] - 1), axis=1)
    return jnp.where(index < inputs.shape[1], moved, PAD)
