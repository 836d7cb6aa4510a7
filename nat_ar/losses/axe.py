"""Aligned cross entropy, AXE (Ghazvininejad et al. 2020, arXiv:2004.01655, section 3): the cross entropy of the
best monotonic alignment of the target words to the places of a one-pass decoder.

A[i, j] is the least cost, in nats, of the first i words with the first j places, P_j the prediction at place j:

    A[i, j] = min( A[i-1, j-1] - log P_j(word i)           align: place j predicts word i
                   A[i, j-1]   - log P_j(BLANK)            skip prediction: place j says nothing
                   A[i-1, j]   - delta log P_j(word i) )   skip target: place j has to do for word i too

with A[0, 0] = 0 and, where no place stands before, P_1 in the last line."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.special_tokens import BLANK, PAD
from nat_ar.types import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Axe:
    """Aligned cross entropy: words may slip to other places, in order (Ghazvininejad et al. 2020)."""

    skip_target_penalty: float = 1.0
    """delta: what a word costs, times -log p, that shares its place with another; more makes such
    words, and with them blanks, rarer"""

    def __post_init__(self) -> None:
        if self.skip_target_penalty < 0.0:
            raise ConfigError(
                f"skip_target_penalty must not be below 0, got {self.skip_target_penalty}"
            )


def aligned_cross_entropy(
    logits: Float[Array, "batch places vocabulary"],
    place_lengths: Int[Array, "batch"],
    target: Int[Array, "batch target_length"],
    *,
    skip_target_penalty: float,
) -> Float[Array, "batch"]:
    """AXE of each sentence in nats, summed over its words and blanks; 0 where it has neither words nor
    places. A sentence with words needs at least one place. The gradient is that of the best alignment."""
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    word_costs = normaliser[:, None] - jnp.swapaxes(
        jnp.take_along_axis(logits, target[:, None], axis=2), 1, 2
    )
    blank_costs = normaliser - logits[..., BLANK]
    alignment = best_alignment(
        jax.lax.stop_gradient(word_costs),
        jax.lax.stop_gradient(blank_costs),
        (target != PAD).sum(axis=1),
        place_lengths,
        skip_target_penalty=skip_target_penalty,
    )
    words = (alignment.word_weights * word_costs).sum(axis=(1, 2))
    return words + jnp.where(alignment.is_blank, blank_costs, 0.0).sum(axis=1)


@pytree_dataclass
class Alignment:
    """Which predictions pay for which words."""

    word_weights: Float[Array, "batch target_length places"]
    """1 where a word is aligned to a place, the penalty where it only shares it, 0 elsewhere"""
    is_blank: Bool[Array, "batch places"]
    """True where the prediction is skipped"""


def best_alignment(
    word_costs: Float[Array, "batch target_length places"],
    blank_costs: Float[Array, "batch places"],
    target_lengths: Int[Array, "batch"],
    place_lengths: Int[Array, "batch"],
    *,
    skip_target_penalty: float,
) -> Alignment:
    """The cheapest alignment of each row's words and places.

    One step of the scan is one word, at all places at once. Skipped predictions run along the row: with
    S[j] the cost of blanks at the first j places and R[j] the least cost of coming to place j with this
    word, A[i, j] = min over k <= j of R[k] + S[j] - S[k] = S[j] + cummin(R - S)[j]. No cell depends on later
    words or places, so padding needs no mask, only finite costs."""
    places = jnp.arange(blank_costs.shape[1])
    skipped = jnp.pad(jnp.cumsum(blank_costs, axis=1), ((0, 0), (1, 0)))  # [batch, places + 1]

    def next_word(
        before: Float[Array, "batch cells"], costs: Float[Array, "batch places"]
    ) -> tuple[Float[Array, "batch cells"], tuple[Int[Array, "batch cells"], Bool[Array, "..."]]]:
        shared = before + skip_target_penalty * jnp.concatenate([costs[:, :1], costs], axis=1)
        aligned = jnp.pad(
            before[:, :-1] + costs, ((0, 0), (1, 0)), constant_values=jnp.inf
        )  # no place, no alignment
        reached = jnp.minimum(aligned, shared) - skipped
        best = jax.lax.cummin(reached, axis=1)
        cells = jnp.arange(best.shape[1])
        came_to = jax.lax.cummax(jnp.where(reached == best, cells, 0), axis=1)
        return skipped + best, (came_to, aligned <= shared)

    by_word = jnp.swapaxes(word_costs, 0, 1)
    _, (came_to, is_aligned) = jax.lax.scan(next_word, skipped, by_word)

    def trace_back(
        end: Int[Array, "batch"],
        word: tuple[Int[Array, ""], Int[Array, "batch cells"], Bool[Array, "batch cells"]],
    ) -> tuple[Int[Array, "batch"], tuple[Float[Array, "batch places"], Bool[Array, "..."]]]:
        """`end` places stand for the words up to this one and the blanks behind it."""
        index, came_to, is_aligned = word
        is_word = index < target_lengths
        start = jnp.take_along_axis(came_to, end[:, None], axis=1)
        aligns = jnp.take_along_axis(is_aligned, start, axis=1)[:, 0]
        weight = jnp.where(is_word, jnp.where(aligns, 1.0, skip_target_penalty), 0.0)
        is_at = places == jnp.maximum(start - 1, 0)
        is_blank = is_word[:, None] & (start <= places) & (places < end[:, None])
        before = jnp.where(is_word, start[:, 0] - aligns, end)
        return before.astype(end.dtype), (weight[:, None] * is_at, is_blank)

    words = (jnp.arange(len(by_word)), came_to, is_aligned)
    first, (weights, are_blank) = jax.lax.scan(trace_back, place_lengths, words, reverse=True)
    is_blank = are_blank.any(axis=0) | (places < first[:, None])
    return Alignment(jnp.swapaxes(weights, 0, 1).astype(word_costs.dtype), is_blank)
