"""Adam with the schedules of the field."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam or AdamW (weight_decay > 0) with warm-up."""

    peak_learning_rate: float = 1e-3
    """learning rate at the end of the warm-up"""
    warmup_steps: int = 800
    """steps over which the rate rises from 0 in a line"""
    schedule: Literal["inverse_sqrt", "cosine", "linear"] = "inverse_sqrt"
    """after the warm-up: peak * sqrt(warmup / step), half a cosine, or a line; the latter two end near 0
    at training.max_steps"""
    beta1: float = 0.9
    """decay of the mean of gradients"""
    beta2: float = 0.98  # Vaswani et al. 2017, section 5.3
    """decay of the mean of squared gradients"""
    epsilon: float = 1e-9
    """added to the root of the mean square"""
    weight_decay: float = 0.0
    """decoupled weight decay (Loshchilov & Hutter 2019), on matrices only"""
    clip_norm: float = 1.0
    """gradients with a larger global norm are scaled down to it; 0 switches this off"""

    def __post_init__(self) -> None:
        if self.peak_learning_rate <= 0 or self.warmup_steps < 1:
            raise ConfigError(
                "peak_learning_rate must be above 0 and warmup_steps at least 1, got "
                f"{self.peak_learning_rate} and {self.warmup_steps}"
            )


def schedule(config: OptimizerConfig, *, max_steps: int) -> optax.Schedule:
    """Learning rate of each step, counted from 0."""
    peak, warmup = config.peak_learning_rate, config.warmup_steps

    def rate(count: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(count, jnp.float32) + 1.0
        rising = step / warmup
        progress = jnp.clip((step - warmup) / max(max_steps - warmup, 1), 0.0, 1.0)
        falling = {
            "inverse_sqrt": jnp.sqrt(warmup / jnp.maximum(step, warmup)),
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
        }[config.schedule]
        return peak * jnp.minimum(rising, falling)

    return rate


def build(config: OptimizerConfig, *, max_steps: int) -> optax.GradientTransformation:
    """The optimizer; its state is a pytree of arrays."""
    rate = schedule(config, max_steps=max_steps)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.epsilon))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=_matrices))
    parts.append(optax.scale_by_learning_rate(rate))
    return optax.chain(*parts)


def _matrices(params: optax.Params) -> optax.Params:
    """True for what weight decay may shrink: not for biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
