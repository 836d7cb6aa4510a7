"""Translations of one pass: the most probable word of every position, at lengths that are known before."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, limits
from nat_ar.search.argmax import BestTokens
from nat_ar.search.base import MEAN, Decoding, require_n_best
from nat_ar.special_tokens import BLANK, EOS, PAD


@dataclasses.dataclass(frozen=True)
class LengthBeam(Decoding):
    """The best `size` lengths in parallel, the best translation of them."""

    size: int = 1
    """lengths tried; 1 is the plain one-pass decoder"""
    rescore: bool = False
    """choose by the autoregressive teacher instead of by the model's own mean log p"""
    n_best: int = 1
    """translations returned, best first; at most size"""
    length_multiplier: float = 1.0
    """predicted lengths are tried this many times as long, rounded: room for the blanks of losses.axe
    (the length multiplier of Ghazvininejad et al. 2020)"""
    remove_repeats: bool = False
    """return one of every run of equal words, and let a scorer see only that; own scores are those before (Lee et al.
    2018)"""

    def __post_init__(self) -> None:
        require_n_best(self, size=self.size)
        if self.length_multiplier < 1.0:
            raise ConfigError(
                f"length_multiplier must be at least 1, got {self.length_multiplier}: blanks need room, "
                "and a shorter translation loses words"
            )

    @property
    def own_score(self) -> str:
        return MEAN

    def search(
        self,
        logits: Float[Array, "batch size width vocabulary"],
        lengths: Int[Array, "batch size"],
        *,
        may_be_blank: bool,
    ) -> tuple[Int[Array, "batch size width"], Float[Array, "batch size"]]:
        """The translation of every length, and its mean log p."""
        tokens, scores = one_pass_tokens(logits, lengths, may_be_blank=may_be_blank)
        return (remove_repeats(tokens) if self.remove_repeats else tokens), scores


def best_words(
    logits: Float[Array, "*axes vocabulary"], *, may_be_blank: bool = False
) -> BestTokens:
    """The most probable word of each position, or BLANK if that may be."""
    return argmax.argmax(logits, set(NEVER_WORDS) - ({BLANK} if may_be_blank else set()))


NEVER_WORDS = (*limits.NEVER_TEXT, EOS)
"""What no position of a translation is, but for BLANK where a loss knows it."""


def one_pass_tokens(
    logits: Float[Array, "*axes width vocabulary"],
    lengths: Int[Array, "*axes"],
    *,
    may_be_blank: bool = False,
) -> tuple[Int[Array, "*axes width"], Float[Array, "*axes"]]:
    """The most probable word of each position within the length, and their mean log p. Blanks are dropped from
    the words but not from the mean."""
    best = best_words(logits, may_be_blank=may_be_blank)
    is_inside = jnp.arange(logits.shape[-2]) < lengths[..., None]
    total = jnp.where(is_inside, best.log_probabilities, 0.0).sum(axis=-1)
    tokens = jnp.where(is_inside, best.tokens, PAD)
    if may_be_blank:
        tokens = without_blanks(tokens)
    return tokens, total / jnp.maximum(lengths, 1)


def without_blanks(tokens: Int[Array, "*axes width"]) -> Int[Array, "*axes width"]:
    """The words in their order, packed to the left. Equal neighbours stay: blanks separate nothing."""
    tokens = jnp.where(tokens == BLANK, PAD, tokens)
    words_first = jnp.argsort(tokens == PAD, axis=-1, stable=True)
    return jnp.take_along_axis(tokens, words_first, axis=-1)


def remove_repeats(tokens: Int[Array, "*axes width"]) -> Int[Array, "*axes width"]:
    """One of every run of equal words, as one-pass models are often cleaned (Lee et al. 2018, arXiv:1802.06901)."""
    is_first = (jnp.diff(tokens, axis=-1, prepend=PAD) != 0) & (tokens != PAD)
    order = jnp.argsort(~is_first, axis=-1)  # stable: kept words keep their order
    is_kept = jnp.arange(tokens.shape[-1]) < is_first.sum(axis=-1, keepdims=True)
    return jnp.where(is_kept, jnp.take_along_axis(tokens, order, axis=-1), PAD)
