"""Glancing: training reveals some of the true words to the decoder, fewer as the model gets better (Qian et al.
2021, arXiv:2008.07905, section 3.2).

A first pass predicts. The second pass sees ratio * errors of the true words, where the ratio falls with the step; its
loss is taken over the positions that stay hidden. The authors' code rounds that number down, so that a sentence with
a single error is never helped. Here it is rounded at random, and right on average; other authors' counts are choices
(`count`)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words, cross_entropy
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.search import one_pass
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, Prediction, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Glancing(config_json.Config):
    """Revealed positions for each error; the ratio falls linearly with the step."""

    start_ratio: float = 0.5
    """the ratio at step 0"""
    end_ratio: float = 0.3
    """the ratio from `anneal_steps` on"""
    anneal_steps: int = 300_000
    """optimizer steps until end_ratio; in the paper the whole training"""
    count: Literal[
        "stochastic", "round", "floor_half_up", "uniform", "fixed", "bernoulli", "poisson"
    ] = "stochastic"
    """how many of a sentence's positions are revealed. stochastic: ratio * errors, rounded up with the probability of
    its fraction; round: to the nearest, halves to even; floor_half_up: to the nearest, halves up (DA-Transformer,
    number-random); uniform: any share of the positions, whatever ratio and errors (its `cmlm`); fixed: ratio *
    positions (its `fix`); bernoulli: each position with probability ratio * errors / positions (DSLP, GLAT with CTC);
    poisson: a Poisson number around ratio * errors, one position stays hidden (Gu & Kong 2020)"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Before there was a choice, halves were rounded to even."""
        return {"count": "round", **data}

    def __post_init__(self) -> None:
        if not 0.0 <= self.end_ratio <= self.start_ratio <= 1.0:
            raise ConfigError(
                "glancing needs 0 <= end_ratio <= start_ratio <= 1, got start_ratio "
                f"{self.start_ratio} and end_ratio {self.end_ratio}"
            )
        if self.anneal_steps < 1:
            raise ConfigError(f"glancing.anneal_steps must be at least 1, got {self.anneal_steps}")

    def ratio(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The ratio at an optimizer step."""
        done = jnp.minimum(step / self.anneal_steps, 1.0)
        return self.start_ratio + (self.end_ratio - self.start_ratio) * done

    def revealed(
        self,
        is_wrong: Bool[Array, "batch width"],
        is_position: Bool[Array, "batch width"],
        step: Int[Array, ""],
        key: PRNGKeyArray,
    ) -> Bool[Array, "batch width"]:
        """True at the positions that an optimizer step reveals, drawn from right and wrong ones alike. Errors elsewhere
        do not count."""
        ratio, positions = self.ratio(step), is_position.sum(axis=1)
        expected = ratio * (is_wrong & is_position).sum(axis=1)
        noise = jax.random.uniform(key, is_position.shape)
        if self.count == "bernoulli":
            shares = expected / jnp.maximum(positions, 1)
            return (noise < shares[:, None]) & is_position
        draw = jax.random.uniform(jax.random.fold_in(key, 1), positions.shape)
        if self.count == "stochastic":
            number = jnp.floor(expected + draw)
        elif self.count == "round":
            number = jnp.round(expected)
        elif self.count == "floor_half_up":
            number = jnp.floor(expected + 0.5)
        elif self.count == "uniform":
            number = jnp.floor(draw * positions + 0.5)
        elif self.count == "fixed":
            number = jnp.floor(ratio * positions + 0.5)
        else:
            # Arrivals within `expected` units of time, at one a unit. As many as positions are enough: one fewer
            # is the most that is used.
            waits = jax.random.exponential(jax.random.fold_in(key, 2), is_position.shape)
            arrivals = (jnp.cumsum(waits, axis=1) <= expected[:, None]).sum(axis=1)
            number = jnp.minimum(arrivals, positions - 1).astype(jnp.float32)
        ranks = jnp.argsort(jnp.argsort(jnp.where(is_position, noise, 2.0), axis=1), axis=1)
        return (ranks < number[:, None]) & is_position


Predict = Callable[[Int[Array, "batch width"] | None, nnx.Rngs | None], list[Prediction]]
"""The words that the decoder is shown, PAD elsewhere, and rngs in; the predictions of every layer that learns out, the
model's own last."""


def check(glancing: Glancing | None, token_loss: TokenLoss) -> None:
    """Raises ConfigError where words are not learned at the positions at which they are revealed."""
    if glancing is not None and not token_loss.is_in_place:
        raise ConfigError(
            "glancing counts and reveals the words at their own positions and needs token_loss "
            f"CrossEntropy, got {type(token_loss).__name__}; set glancing to None or "
            "token_loss to CrossEntropy()"
        )


@pytree_dataclass
class Seen:
    """What a model with a position for each word predicts, and learns from."""

    layers: list[Prediction]
    """of every layer that learns, in the last pass"""
    hidden: Int[Array, "batch width"]
    """the words that were not revealed, which have the loss, PAD elsewhere"""
    first: dict[str, Mean]
    """nats of the first pass by word, and the shares of words that it got wrong and that are revealed; nothing where
    one pass was all"""

    def terms(self, learned: dict[str, Mean]) -> dict[str, Mean]:
        """Those of the objective: with glancing `token` is of the first pass, and `glanced` of the second."""
        return {**self.first, "glanced": learned["token"]} if self.first else learned


def passes(
    settings: Glancing | None,
    predict: Predict,
    target: Int[Array, "batch width"],
    *,
    step: Int[Array, ""],
    rngs: nnx.Rngs | None,
) -> Seen:
    """The passes of an update: with glancing two, otherwise, and without rngs, one. The target ends with its last
    word."""
    if settings is None or rngs is None:
        return Seen(predict(None, rngs), target, {})
    key = rngs.dropout()  # one key, the same dropout in both passes
    first = jax.lax.stop_gradient(predict(None, nnx.Rngs(dropout=key))[-1])
    is_word = target != PAD
    is_wrong, nats = judged(first, target)
    is_revealed = settings.revealed(is_wrong, is_word, step, rngs.dropout())
    shown = jnp.where(is_revealed, target, PAD)
    return Seen(
        layers=predict(shown, nnx.Rngs(dropout=key)),
        hidden=jnp.where(is_revealed, PAD, target),
        first={
            "token": cross_entropy.masked_mean(nats, is_word),
            "wrong": cross_entropy.masked_mean(is_wrong.astype(jnp.float32), is_word),
            "revealed": cross_entropy.masked_mean(is_revealed.astype(jnp.float32), is_word),
        },
    )


def judged(
    prediction: Prediction, target: Int[Array, "batch width"]
) -> tuple[Bool[Array, "batch width"], Float[Array, "batch width"]]:
    """Whether another word than the target's is the most probable, and the nats of the target's; False and 0 at PAD."""
    flat = target.reshape(-1)
    states = prediction.states.reshape(target.size, -1)
    _, found = chosen_words.total(
        judge,
        Prediction(states, prediction.table),
        flat[:, None],
        None,
        flat != PAD,
        never=one_pass.NEVER_WORDS,
    )
    is_wrong, nats = (x.reshape(target.shape) for x in found)
    return is_wrong, nats


def judge(
    found: ChosenWords, _: None
) -> tuple[Float[Array, ""], tuple[Bool[Array, "rows"], Float[Array, "rows"]]]:
    """For losses.chosen_words: nothing to minimise; where another word than the one asked for is more probable, and the
    nats of that one."""
    asked = found.logits[:, 0]
    return jnp.float32(0.0), (asked < found.likeliest, found.normaliser - asked)
