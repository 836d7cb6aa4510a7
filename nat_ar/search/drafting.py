"""A left-to-right model as a drafter: after each pass of the verifier it goes on from the words that are final, word by
word (Leviathan et al. 2023, arXiv:2211.17192, section 2; Chen et al. 2023, arXiv:2302.01318).

It needs as many passes of its own as it drafts words, so it has to be small; but unlike a draft of the whole sentence
its words follow those that were said. Differences from both papers: its words are the most probable ones, also where
the verifier draws.

Knows token ids and logits only."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from nat_ar.search import argmax, limits
from nat_ar.search.step_function import Blocks, Cache

READ = 2
"""Words that the drafter reads in the first of its passes: where all words of its last draft were accepted, it has not
read the last but one of the final words. In later passes it reads the word that it has just drafted."""


def go_on(
    drafter: Blocks,
    cache: Cache,
    text: Int[Array, "batch places"],
    position: Int[Array, "batch"],
    number: int,
) -> tuple[Int[Array, "batch places"], Cache]:
    """The text with `number` words by the drafter behind place `position` of each row, as far as there are places, and
    its cache, which then holds what it has read."""
    rows, places = jnp.arange(text.shape[0]), jnp.arange(text.shape[1])
    for i in range(number):
        here, width = position + i, READ if i == 0 else 1
        first = jnp.maximum(here - width + 1, 0)
        read = text[rows[:, None], first[:, None] + jnp.arange(width)]
        logits, cache = drafter.extend(read, cache, first)
        word = argmax.argmax(logits[rows, here - first], limits.NEVER_TEXT).tokens
        text = jnp.where(places == here[:, None] + 1, word[:, None], text)
    return text, cache
