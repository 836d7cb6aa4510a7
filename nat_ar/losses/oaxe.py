"""Order-agnostic cross entropy, OaXE (Du et al. 2021, arXiv:2106.05093, section 3): the cross entropy of the best
order of the target words, whatever order that is.

The best order is an assignment of words to positions, by the Hungarian algorithm. From scratch it would teach bags
of words, so that training begins with the plain cross entropy; words that are improbable even at their best position
may be left out (loss truncation)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean

MOST = 1e4
"""The largest cost of a word, in nats, so that NEVER outweighs a whole sentence."""
NEVER = 1e9
"""The cost of a word on padding, and of padding on a position."""


@dataclasses.dataclass(frozen=True)
class Oaxe(TokenLoss):
    """Order-agnostic cross entropy: words in any order (Du et al. 2021)."""

    start_step: int = 0
    """optimizer steps of plain cross entropy alone (the paper's initialisation)"""
    anneal_steps: int = 100_000
    """steps after start_step over which the weight of the plain cross entropy falls linearly from 1 to
    0 (the paper's joint training); 1 is a switch"""
    truncation_margin: float = 0.15
    """words less probable than this at their best position cost nothing; 0 leaves none out"""

    def __post_init__(self) -> None:
        if self.start_step < 0 or self.anneal_steps < 1:
            raise ConfigError(
                "Oaxe needs a start_step not below 0 and anneal_steps of at least 1, got "
                f"{self.start_step} and {self.anneal_steps}"
            )
        config_json.require_share("truncation_margin", self.truncation_margin, may_be_one=False)

    def plain_weight(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Weight of the plain cross entropy at an optimizer step; the order-agnostic has the rest."""
        return 1.0 - jnp.clip((step - self.start_step) / self.anneal_steps, 0.0, 1.0)

    def __call__(
        self,
        logits: Float[Array, "batch width vocabulary"],
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The cross entropies of the target as given and in its best order, weighted by step. `token` is of the
        best order, with no word left out; `in_place` of the target as given; `left_out` the share of truncated
        words."""
        weight = self.plain_weight(step)
        ordered = jax.lax.cond(
            weight < 1.0, best_order, lambda logits, target: target, logits, target
        )
        in_place, plain_in_place = cross_entropy.smoothed_cross_entropy(
            logits, target, smoothing=smoothing
        )
        log_p = cross_entropy.token_log_probabilities(jax.lax.stop_gradient(logits), ordered)
        is_left_out = jnp.exp(log_p) < self.truncation_margin
        kept = jnp.where(is_left_out, PAD, ordered)
        in_order, _ = cross_entropy.smoothed_cross_entropy(logits, kept, smoothing=smoothing)
        in_order = Mean(in_order.total, in_place.count)  # per word, truncated ones included
        is_word = ordered != PAD
        terms = {
            "token": cross_entropy.masked_mean(-log_p, is_word),
            "in_place": plain_in_place,
            "left_out": cross_entropy.masked_mean(is_left_out.astype(jnp.float32), is_word),
        }
        return weight * in_place.value + (1.0 - weight) * in_order.value, terms


def best_order(
    logits: Float[Array, "batch length vocabulary"], target: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """The words of each target, each at its position in the cheapest assignment; PAD stays at the end. No gradient
    passes."""
    logits = jax.lax.stop_gradient(logits)
    normaliser = jax.nn.logsumexp(logits, axis=-1)[..., None]
    costs = normaliser - jnp.take_along_axis(
        logits, target[:, None], axis=2
    )  # [batch, positions, words]
    words = cheapest_words(jnp.swapaxes(costs, 1, 2), (target != PAD).sum(axis=1))
    return jnp.take_along_axis(target, words, axis=1)


def cheapest_words(
    costs: Float[Array, "batch words positions"], lengths: Int[Array, "batch"]
) -> Int[Array, "batch positions"]:
    """The word of each position in the assignment of least total cost, one word a position, within the
    first `lengths` words and positions; padding goes to padding.

    Costs that are NaN (a training that diverges) count as MOST: the loop of the algorithm would not end."""
    is_inside = jnp.arange(costs.shape[1]) < lengths[:, None]
    costs = jnp.clip(jnp.nan_to_num(costs, nan=MOST), 0.0, MOST)
    is_word, is_position = is_inside[:, :, None], is_inside[:, None, :]
    costs = jnp.where(is_word & is_position, costs, jnp.where(is_word | is_position, NEVER, 0.0))
    words, positions = jax.vmap(optax.assignment.hungarian_algorithm)(costs)
    return jnp.take_along_axis(words, jnp.argsort(positions, axis=1), axis=1)
