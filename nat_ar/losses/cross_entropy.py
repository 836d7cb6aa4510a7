"""Cross entropies over logits: nats, float32, averaged over what is not PAD."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.losses.token_loss import TokenLoss
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, SoftTargets


@dataclasses.dataclass(frozen=True)
class CrossEntropy(TokenLoss):
    """Every word at its own position."""

    is_in_place: ClassVar[bool] = True

    def __call__(
        self,
        logits: Float[Array, "batch width vocabulary"],
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        smoothed, plain = smoothed_cross_entropy(logits, target, smoothing=smoothing)
        return smoothed.value, {"token": plain}


def masked_mean(values: Float[Array, "*axes"], mask: Bool[Array, "*axes"]) -> Mean:
    """The mean of the values where the mask is True."""
    kept = jnp.where(mask, values, 0.0)
    return Mean(kept.sum(), mask.sum().astype(jnp.float32))


def token_log_probabilities(
    logits: Float[Array, "*axes vocabulary"], token_ids: Int[Array, "*axes"]
) -> Float[Array, "*axes"]:
    """log p of the given tokens, in nats."""
    chosen = jnp.take_along_axis(logits, token_ids[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def smoothed_cross_entropy(
    logits: Float[Array, "*axes vocabulary"],
    target: Int[Array, "*axes"],
    *,
    smoothing: float,
    soft: SoftTargets | None = None,
) -> tuple[Mean, Mean]:
    """Cross entropy in nats over tokens that are not PAD: with label smoothing (Szegedy et al. 2016,
    section 7; the uniform part over the whole vocabulary) to minimise, and without, to report. With `soft`, the former
    compares with its words and weights instead of with the target's word alone."""
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    plain = normaliser - chosen
    is_token = target != PAD
    learned = plain
    if soft is not None:
        likely = jnp.take_along_axis(logits, soft.tokens, axis=-1)
        learned = normaliser - (soft.weights * likely).sum(axis=-1)
    if smoothing == 0.0:
        return masked_mean(learned, is_token), masked_mean(plain, is_token)
    uniform = normaliser - logits.mean(axis=-1)
    smoothed = (1.0 - smoothing) * learned + smoothing * uniform
    return masked_mean(smoothed, is_token), masked_mean(plain, is_token)


def class_cross_entropy(
    logits: Float[Array, "*axes classes"],
    classes: Int[Array, "*axes"],
    mask: Bool[Array, "*axes"],
) -> Mean:
    """Cross entropy in nats of a classifier (lengths, fertilities) where the mask is True."""
    return masked_mean(-token_log_probabilities(logits, classes), mask)


def uniform_cross_entropy(
    logits: Float[Array, "*axes vocabulary"], mask: Bool[Array, "*axes"]
) -> Mean:
    """Cross entropy in nats against the uniform distribution over the vocabulary, where the mask is True: label
    smoothing for a loss without a word for each position."""
    return masked_mean(jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1), mask)
