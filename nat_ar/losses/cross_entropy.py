"""Cross entropies over logits: nats, float32, averaged over what is not PAD."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.losses import chosen_words
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, Prediction, SoftTargets


@dataclasses.dataclass(frozen=True)
class CrossEntropy(TokenLoss):
    """Every word at its own position."""

    is_in_place: ClassVar[bool] = True

    def __call__(
        self,
        prediction: Prediction,
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
        soft: SoftTargets | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        smoothed, plain = smoothed_cross_entropy(prediction, target, smoothing=smoothing, soft=soft)
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
    predicted: Float[Array, "*axes vocabulary"] | Prediction,
    target: Int[Array, "*axes"],
    *,
    smoothing: float,
    soft: SoftTargets | None = None,
) -> tuple[Mean, Mean]:
    """Cross entropy in nats over tokens that are not PAD: with label smoothing (Szegedy et al. 2016,
    section 7; the uniform part over the whole vocabulary) to minimise, and without, to report. With `soft`, the former
    compares with its words and weights instead of with the target's word alone.

    Of logits, or of a Prediction, whose logits then exist for a block of tokens at a time; only the former gives what
    is reported a gradient."""
    is_token = target != PAD
    words = target[..., None]
    if soft is not None:
        words = jnp.concatenate([words, soft.tokens], axis=-1)
    if not isinstance(predicted, Prediction):
        found = chosen_words.of_logits(
            predicted.reshape(target.size, -1), words.reshape(target.size, -1)
        )
        weights = None if soft is None else soft.weights.reshape(target.size, -1)
        nats = (x.reshape(target.shape) for x in _nats(found, weights, smoothing=smoothing))
        learned, plain = (masked_mean(x, is_token) for x in nats)
        return learned, plain
    states, words, rows, is_used = jax.tree.map(
        lambda x: x.reshape(target.size, *x.shape[target.ndim :]),
        (predicted.states, words, (target, soft), is_token),
    )
    prediction = Prediction(states, predicted.table)
    compare = functools.partial(_compare_tokens, smoothing=smoothing)
    smoothed, plain = chosen_words.total(compare, prediction, words, rows, is_used)
    number = is_token.sum().astype(jnp.float32)
    return Mean(smoothed, number), Mean(plain.sum(), number)


def _compare_tokens(
    found: ChosenWords,
    rows: tuple[Int[Array, "rows"], SoftTargets | None],
    *,
    smoothing: float,
) -> tuple[Float[Array, ""], Float[Array, "rows"]]:
    target, soft = rows
    weights = None if soft is None else soft.weights
    learned, plain = _nats(found, weights, smoothing=smoothing)
    return jnp.where(target != PAD, learned, 0.0).sum(), plain


def _nats(
    found: ChosenWords, soft_weights: Float[Array, "rows words"] | None, *, smoothing: float
) -> tuple[Float[Array, "rows"], Float[Array, "rows"]]:
    """Nats of each token, PAD not excepted: to minimise, and to report. The first word found is the target's, the
    others have the weights."""
    plain = found.normaliser - found.logits[:, 0]
    learned = plain
    if soft_weights is not None:
        learned = found.normaliser - (soft_weights * found.logits[:, 1:]).sum(axis=-1)
    if smoothing == 0.0:
        return learned, plain
    uniform = found.normaliser - found.mean
    return (1.0 - smoothing) * learned + smoothing * uniform, plain


def class_cross_entropy(
    logits: Float[Array, "*axes classes"],
    classes: Int[Array, "*axes"],
    mask: Bool[Array, "*axes"],
) -> Mean:
    """Cross entropy in nats of a classifier (lengths, fertilities) where the mask is True."""
    return masked_mean(-token_log_probabilities(logits, classes), mask)
