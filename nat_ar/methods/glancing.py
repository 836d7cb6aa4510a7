"""Glancing: training shows the decoder some of the true words, the fewer the better it already does (Qian
et al. 2021, arXiv:2008.07905, section 3.2).

A first pass predicts; the number of its errors times a ratio, which falls with the step, says how many
places are revealed in the second pass, whose loss is taken over the places that stay hidden."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nat_ar.config_json import ConfigError


@dataclasses.dataclass(frozen=True)
class Glancing:
    """How many of the wrong places are revealed, from the first step to the last of the annealing."""

    start_ratio: float = 0.5
    """revealed places for each error at step 0"""
    end_ratio: float = 0.3
    """the same from `anneal_steps` on; between the two the ratio falls linearly"""
    anneal_steps: int = 300_000
    """optimizer steps until end_ratio is reached; the paper's: all of its training"""

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
    is_wrong: Bool[Array, "batch width"],
    is_place: Bool[Array, "batch width"],
    ratio: Float[Array, ""],
    key: PRNGKeyArray,
) -> Bool[Array, "batch width"]:
    """True at round(ratio * errors) of each row's places, chosen evenly among all of them, right and
    wrong alike; halves round to even. Errors outside the places do not count."""
    wanted = jnp.round(ratio * (is_wrong & is_place).sum(axis=1))
    noise = jnp.where(is_place, jax.random.uniform(key, is_place.shape), 2.0)
    ranks = jnp.argsort(jnp.argsort(noise, axis=1), axis=1)
    return (ranks < wanted[:, None]) & is_place
