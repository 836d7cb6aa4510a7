"""Order-agnostic cross entropy, OaXE (Du et al. 2021, arXiv:2106.05093, section 3): the cross entropy of the best
order of the target words, whatever order that is.

The best order is an assignment of words to places, found by the Hungarian algorithm. From scratch it would
teach bags of words, so training begins with the plain cross entropy, and words that even their best place
finds improbable may be left out (loss truncation)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.special_tokens import PAD

MOST = 1e4
"""No word's cost counts for more nats than this, so that NEVER outweighs a whole sentence."""
NEVER = 1e9
"""The cost of a word on padding, and of padding on a place."""


@dataclasses.dataclass(frozen=True)
class Oaxe:
    """Order-agnostic cross entropy: words may stand at any place (Du et al. 2021)."""

    start_step: int = 0
    """optimizer steps of plain cross entropy alone (the paper's initialisation)"""
    anneal_steps: int = 100_000
    """steps after start_step over which the weight of the plain cross entropy falls linearly from 1 to
    0 (the paper's joint training); 1 is a switch"""
    truncation_margin: float = 0.15
    """words less probable than this at their best place cost nothing; 0 leaves none out"""

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


def best_order(
    logits: Float[Array, "batch length vocabulary"], target: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """The words of each target, each at the place that the cheapest assignment gives it; PAD stays at
    the end. A choice: no gradient goes through it."""
    logits = jax.lax.stop_gradient(logits)
    normaliser = jax.nn.logsumexp(logits, axis=-1)[..., None]
    costs = normaliser - jnp.take_along_axis(logits, target[:, None], axis=2)
    words = cheapest_words(jnp.swapaxes(costs, 1, 2), (target != PAD).sum(axis=1))
    return jnp.take_along_axis(target, words, axis=1)


def cheapest_words(
    costs: Float[Array, "batch words places"], lengths: Int[Array, "batch"]
) -> Int[Array, "batch places"]:
    """The word of each place under the assignment of least total cost, one word a place, within the
    first `lengths` words and places; padding goes to padding.

    Costs that are no number (a training that diverges) count as MOST: the algorithm, a loop until
    something is found, would not end."""
    is_inside = jnp.arange(costs.shape[1]) < lengths[:, None]
    costs = jnp.clip(jnp.nan_to_num(costs, nan=MOST), 0.0, MOST)
    is_word, is_place = is_inside[:, :, None], is_inside[:, None, :]
    costs = jnp.where(is_word & is_place, costs, jnp.where(is_word | is_place, NEVER, 0.0))
    words, places = jax.vmap(optax.assignment.hungarian_algorithm)(costs)
    return jnp.take_along_axis(words, jnp.argsort(places, axis=1), axis=1)
