"""The fertility of each source token, from a classifier over the encoder's states: its losses, and the fine-tuning that
one of them is for (Gu et al. 2018, arXiv:1711.02281, sections 3.2 and 4.3).

Class c of a source token is c target tokens."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.search import fertility
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean


@dataclasses.dataclass(frozen=True)
class FineTuning(config_json.Config):
    """The stage after distillation, against the teacher itself (section 4.3)."""

    weight: float = 0.25
    """lambda: share of the two fine-tuning terms; the distillation loss has the rest"""
    reinforce_weight: float = 0.1
    """weight of the REINFORCE term on the fertilities beside the back-propagated term"""
    extra_length: int = 10
    """sampled translations may be this much longer than the longest target of the batch can be; the
    share of sentences that would be longer still and lose their end is the term `trimmed_samples`"""

    def __post_init__(self) -> None:
        config_json.require_share("fine_tuning.weight", self.weight)
        if self.reinforce_weight < 0.0 or self.extra_length < 0:
            raise ConfigError(
                "fine_tuning.reinforce_weight and fine_tuning.extra_length must not be below 0, got "
                f"{self.reinforce_weight} and {self.extra_length}"
            )


def fertility_loss(
    logits: Float[Array, "batch source_length classes"],
    source: Int[Array, "batch source_length"],
    fertilities: Int[Array, "batch source_length"],
) -> tuple[Mean, Mean]:
    """Cross entropy over source text, and the share of its tokens whose true fertility exceeds the largest class
    and counts as that (here only: copies stay true)."""
    is_text, largest = fertility.is_source_text(source), logits.shape[-1] - 1
    classes = jnp.clip(fertilities, 0, largest)
    is_clipped = (fertilities > largest).astype(jnp.float32)
    loss = cross_entropy.class_cross_entropy(logits, classes, is_text)
    return loss, cross_entropy.masked_mean(is_clipped, is_text)


def reinforce(
    logits: Float[Array, "batch source_length classes"],
    source: Int[Array, "batch source_length"],
    sampled: Int[Array, "batch source_length"],
    cost: Callable[[Int[Array, "batch source_length"]], Float[Array, "batch"]],
    row_limits: Int[Array, "batch"],
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """A number whose gradient estimates that of the expected cost over the fertilities f:

        grad E[cost(f)] = E[(cost(f) - cost(mean f)) grad log p(f)]

    (Williams 1992; section 4.3). `sampled` is one draw of f. Only the logits get a gradient. `cost` takes fertilities
    that may exceed a row's limit; the share of such samples is the term `trimmed_samples`."""
    is_text, is_sentence = fertility.is_source_text(source), (source != PAD).any(axis=1)
    advantage = jax.lax.stop_gradient(cost(sampled) - cost(fertility.mean_fertilities(logits)))
    log_p = jnp.where(is_text, cross_entropy.token_log_probabilities(logits, sampled), 0.0)
    surrogate = cross_entropy.masked_mean(advantage * log_p.sum(axis=1), is_sentence)
    length = jnp.where(is_text, sampled, 0).sum(axis=1)
    is_trimmed = (length > row_limits).astype(jnp.float32)
    return surrogate.value, {
        "sample_excess_kl": cross_entropy.masked_mean(advantage, is_sentence),
        "trimmed_samples": cross_entropy.masked_mean(is_trimmed, is_sentence),
    }
