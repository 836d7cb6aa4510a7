"""Aligned cross entropy, AXE (Ghazvininejad et al. 2020, arXiv:2004.01655, section 3): the cross entropy of the
best monotonic alignment of the target words to the positions of a one-pass decoder.

A[i, j] is the least cost, in nats, of the first i words with the first j positions, P_j the prediction at position j:

    A[i, j] = min( A[i-1, j-1] - log P_j(word i)           align: position j predicts word i
                   A[i, j-1]   - log P_j(BLANK)            skip prediction: position j predicts no word
                   A[i-1, j]   - delta log P_j(word i) )   skip target: position j serves word i as well

with A[0, 0] = 0 and, for j = 0, P_1 in the last line."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words, ctc
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Mean, Prediction, lengths_of, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Axe(TokenLoss):
    """Aligned cross entropy: words may move to other positions, in order (Ghazvininejad et al. 2020)."""

    may_be_blank: ClassVar[bool] = True

    skip_target_penalty: float = 1.0
    """delta: the cost, times -log p, of a word that shares its position with another; a higher one makes
    such words, and with them blanks, rarer"""

    def __post_init__(self) -> None:
        if self.skip_target_penalty < 0.0:
            raise ConfigError(
                f"skip_target_penalty must not be below 0, got {self.skip_target_penalty}"
            )

    def __call__(
        self,
        prediction: Prediction,
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """As many positions as words. Each predicts one word or BLANK, whose smoothing is spread over the
        vocabulary. The term `blank` is the share of positions that predict BLANK."""
        compare = functools.partial(
            _compare, skip_target_penalty=self.skip_target_penalty, smoothing=smoothing
        )
        is_position = target != PAD
        objective, (nats, blanks) = chosen_words.total(
            compare, prediction, ctc.asked(target), target, is_position, never=NO_WORDS
        )
        number = is_position.sum().astype(jnp.float32)
        terms = {"token": Mean(nats.sum(), number), "blank": Mean(blanks.sum(), number)}
        return Mean(objective, number).value, terms


NO_WORDS = (PAD, BOS, EOS, MASK, BLANK)
"""What the likeliest word of a position is not."""


def _compare(
    found: ChosenWords,
    target: Int[Array, "rows width"],
    *,
    skip_target_penalty: float,
    smoothing: float,
) -> tuple[Float[Array, ""], tuple[Float[Array, "rows"], Float[Array, "rows"]]]:
    """What to minimise, summed; nats of each sentence, and its positions where BLANK is above every word."""
    nats = aligned_cross_entropy(
        found, lengths_of(target), target, skip_target_penalty=skip_target_penalty
    )
    is_blank = (found.logits[..., 0] > found.likeliest) & (target != PAD)
    uniform = jnp.where(target != PAD, found.normaliser - found.mean, 0.0)
    objective = (1.0 - smoothing) * nats.sum() + smoothing * uniform.sum()
    return objective, (nats, is_blank.sum(axis=1).astype(jnp.float32))


def aligned_cross_entropy(
    found: ChosenWords,
    position_lengths: Int[Array, "batch"],
    target: Int[Array, "batch target_length"],
    *,
    skip_target_penalty: float,
) -> Float[Array, "batch"]:
    """AXE of each sentence in nats, summed over its words and blanks, of what was found of `ctc.asked`; 0 for a
    sentence without words and positions. A sentence with words needs at least one position. The gradient is that of
    the best alignment."""
    costs = found.normaliser[..., None] - found.logits  # [batch, positions, 1 + target_length]
    blank_costs, word_costs = costs[..., 0], jnp.swapaxes(costs[..., 1:], 1, 2)
    alignment = best_alignment(
        jax.lax.stop_gradient(word_costs),
        jax.lax.stop_gradient(blank_costs),
        (target != PAD).sum(axis=1),
        position_lengths,
        skip_target_penalty=skip_target_penalty,
    )
    words = (alignment.word_weights * word_costs).sum(axis=(1, 2))
    return words + jnp.where(alignment.is_blank, blank_costs, 0.0).sum(axis=1)


@pytree_dataclass
class Alignment:
    """The positions that pay for each word."""

    word_weights: Float[Array, "batch target_length positions"]
    """1 where a word is aligned to a position, the penalty where it only shares it, 0 elsewhere"""
    is_blank: Bool[Array, "batch positions"]
    """True where the prediction is skipped"""


def best_alignment(
    word_costs: Float[Array, "batch target_length positions"],
    blank_costs: Float[Array, "batch positions"],
    target_lengths: Int[Array, "batch"],
    position_lengths: Int[Array, "batch"],
    *,
    skip_target_penalty: float,
) -> Alignment:
    """The cheapest alignment of each row's words and positions.

    One step of the scan is one word, at all positions at once. Skipped predictions run along the row: with S[j] the
    cost of blanks at the first j positions and R[j] the least cost of reaching position j with this word,
    A[i, j] = min over k <= j of R[k] + S[j] - S[k] = S[j] + cummin(R - S)[j]. No cell depends on later words or
    positions, so that padding needs no mask, only finite costs. Cell j is the first j positions: there is one cell
    more than positions."""
    positions = jnp.arange(blank_costs.shape[1])
    skipped = jnp.pad(jnp.cumsum(blank_costs, axis=1), ((0, 0), (1, 0)))  # [batch, cells]

    def next_word(
        before: Float[Array, "batch cells"], costs: Float[Array, "batch positions"]
    ) -> tuple[Float[Array, "batch cells"], tuple[Int[Array, "batch cells"], Bool[Array, "..."]]]:
        shared = before + skip_target_penalty * jnp.concatenate([costs[:, :1], costs], axis=1)
        aligned = jnp.pad(
            before[:, :-1] + costs, ((0, 0), (1, 0)), constant_values=jnp.inf
        )  # without a position no alignment
        reached = jnp.minimum(aligned, shared) - skipped
        best = jax.lax.cummin(reached, axis=1)
        cells = jnp.arange(best.shape[1])
        # The cell k at which the word itself ended, before the blanks up to j: [batch, cells]
        came_to = jax.lax.cummax(jnp.where(reached == best, cells, 0), axis=1)
        return skipped + best, (came_to, aligned <= shared)

    by_word = jnp.swapaxes(word_costs, 0, 1)  # [target_length, batch, positions]
    _, (came_to, is_aligned) = jax.lax.scan(next_word, skipped, by_word)

    def trace_back(
        end: Int[Array, "batch"],
        word: tuple[Int[Array, ""], Int[Array, "batch cells"], Bool[Array, "batch cells"]],
    ) -> tuple[Int[Array, "batch"], tuple[Float[Array, "batch positions"], Bool[Array, "..."]]]:
        """`end` positions are taken by the words up to this one and the blanks behind it."""
        index, came_to, is_aligned = word
        is_word = index < target_lengths
        start = jnp.take_along_axis(came_to, end[:, None], axis=1)
        aligns = jnp.take_along_axis(is_aligned, start, axis=1)[:, 0]
        weight = jnp.where(is_word, jnp.where(aligns, 1.0, skip_target_penalty), 0.0)
        is_at = positions == jnp.maximum(start - 1, 0)
        is_blank = is_word[:, None] & (start <= positions) & (positions < end[:, None])
        before = jnp.where(is_word, start[:, 0] - aligns, end)
        return before.astype(end.dtype), (weight[:, None] * is_at, is_blank)

    words = (jnp.arange(len(by_word)), came_to, is_aligned)
    first, (weights, are_blank) = jax.lax.scan(trace_back, position_lengths, words, reverse=True)
    is_blank = are_blank.any(axis=0) | (positions < first[:, None])
    # [target_length, batch, positions] -> [batch, target_length, positions]
    return Alignment(jnp.swapaxes(weights, 0, 1).astype(word_costs.dtype), is_blank)
