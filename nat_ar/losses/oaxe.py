"""Order-agnostic cross entropy, OaXE (Du et al. 2021, arXiv:2106.05093, section 3): the cross entropy of the best
order of the target words, whatever order that is.

The best order is an assignment of words to positions, by the Hungarian algorithm. From scratch it would teach bags
of words, so that training begins with the plain cross entropy; words that are improbable even at their best position
may be left out (loss truncation)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, Prediction, lengths_of

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
        prediction: Prediction,
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The cross entropies of the target as given and in its best order, weighted by step. `token` is of the
        best order, with no word left out; `in_place` of the target as given; `left_out` the share of truncated
        words."""
        compare = functools.partial(
            _compare, truncation_margin=self.truncation_margin, smoothing=smoothing
        )
        is_word = target != PAD
        share = jnp.broadcast_to(1.0 - self.plain_weight(step), (len(target),))
        objective, totals = chosen_words.total(
            compare, prediction, target, (target, share), is_word
        )
        number = is_word.sum().astype(jnp.float32)
        terms = {name: Mean(total.sum(), number) for name, total in totals.items()}
        return Mean(objective, number).value, terms


def _compare(
    found: ChosenWords,
    rows: tuple[Int[Array, "rows width"], Float[Array, "rows"]],
    *,
    truncation_margin: float,
    smoothing: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, "rows"]]]:
    """What to minimise, and to report of each sentence, summed over words. Of the rows, too, the weight of the best
    order: where it is 0 nothing is searched."""
    target, share = rows
    is_word = target != PAD
    costs = found.normaliser[..., None] - found.logits  # [rows, positions, words]
    own = jnp.broadcast_to(jnp.arange(target.shape[1]), target.shape)
    words = jax.lax.cond(
        share.max() > 0.0,
        lambda costs: cheapest_words(jnp.swapaxes(costs, 1, 2), lengths_of(target)),
        lambda _: own,
        jax.lax.stop_gradient(costs),
    )
    in_place, in_order = (
        jnp.take_along_axis(costs, chosen[..., None], axis=2)[..., 0] for chosen in (own, words)
    )
    is_left_out = jnp.exp(-in_order) < truncation_margin
    uniform = found.normaliser - found.mean

    def learned(nats: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
        return (1.0 - smoothing) * nats + smoothing * uniform

    mixed = (1.0 - share)[:, None] * learned(in_place)
    mixed += share[:, None] * jnp.where(is_left_out, 0.0, learned(in_order))
    reports = {"token": in_order, "in_place": in_place, "left_out": is_left_out}
    return jnp.where(is_word, mixed, 0.0).sum(), {
        name: jnp.where(is_word, x, 0.0).sum(axis=1) for name, x in reports.items()
    }


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
