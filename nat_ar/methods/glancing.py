"""Glancing: training reveals some of the true words to the decoder, fewer as the model gets better (Qian et al.
2021, arXiv:2008.07905, section 3.2).

A first pass predicts. The second pass sees ratio * errors of the true words, where the ratio falls with the step; its
loss is taken over the positions that stay hidden."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nat_ar.config_json import ConfigError


@dataclasses.dataclass(frozen=True)
class Glancing:
    """Revealed positions for each error; the ratio falls linearly with the step."""

    start_ratio: float = 0.5
    """the ratio at step 0"""
    end_ratio: float = 0.3
    """the ratio from `anneal_steps` on"""
    anneal_steps: int = 300_000
    """optimizer steps until end_ratio; in the paper the whole training"""

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
    is_position: Bool[Array, "batch width"],
    ratio: Float[Array, ""],
    key: PRNGKeyArray,
) -> Bool[Array, "batch width"]:
    """True at round(ratio * errors) of each row's positions, drawn uniformly from right and wrong ones alike; halves
    round to even. Errors elsewhere do not count."""
    wanted = jnp.round(ratio * (is_wrong & is_position).sum(axis=1))
    noise = jnp.where(is_position, jax.random.uniform(key, is_position.shape), 2.0)
    ranks = jnp.argsort(jnp.argsort(noise, axis=1), axis=1)
    return (ranks < wanted[:, None]) & is_position
