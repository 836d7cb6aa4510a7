"""Adam or Muon with the schedules of the field."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from optax import contrib

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.runtime import training_kernels
from nat_ar.training import trees


@dataclasses.dataclass(frozen=True)
class Muon(config_json.Config):
    """Momentum made orthogonal, for the kernels of linear maps (Jordan et al. 2024, github.com/KellerJordan/Muon).

    All else stays with Adam: embeddings, norms, biases, and heads, which predict lengths or fertilities. Maps that
    are fused in one kernel, such as query, key and value, are matrices of their own."""

    momentum: float = 0.95
    """decay of the mean of gradients; Nesterov's form of it is what is made orthogonal"""
    update_rms: float = 0.2
    """root mean square of a matrix's update at a rate of 1. Adam's is about this (Liu et al. 2025, arXiv:2502.16982,
    section 2.2), so that one learning rate serves both"""
    iterations: int = 5
    """of Newton and Schulz, each three products of matrices"""

    def __post_init__(self) -> None:
        config_json.require_share("muon.momentum", self.momentum, may_be_one=False)
        if self.update_rms <= 0 or self.iterations < 1:
            raise ConfigError(
                "muon.update_rms must be above 0 and muon.iterations at least 1, got "
                f"{self.update_rms} and {self.iterations}"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(config_json.Config):
    """Adam or AdamW (weight_decay > 0) with warm-up; Muon for matrices where asked."""

    peak_learning_rate: float = 1e-3
    """learning rate at the end of the warm-up"""
    warmup_steps: int = 800
    """steps over which the rate rises from 0 in a line"""
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "inverse_sqrt"
    """after the warm-up: peak * sqrt(warmup / step), half a cosine, a line, or the peak throughout; cosine and line end
    near 0 at training.max_steps"""
    cooldown_share: float = 0.0
    """share of training.max_steps at whose end the rate falls to 0 in a line, whatever it was; for the schedules that
    do not end there by themselves"""
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
    muon: Muon | None = None
    """update the kernels of linear maps by Muon; None: Adam throughout"""
    encoder_rate: float = 1.0
    """factor on the rate of what encoder_from_teacher copies, embeddings and encoder; 0: they stay as they are"""
    encoder_frozen_steps: int = 0
    """so many updates leave embeddings and encoder as they are: no gradient, no moments"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, there was Adam for all parameters alike."""
        new = {"cooldown_share": 0.0, "muon": None, "encoder_rate": 1.0, "encoder_frozen_steps": 0}
        return {**new, **data}

    def __post_init__(self) -> None:
        if self.peak_learning_rate <= 0 or self.warmup_steps < 1:
            raise ConfigError(
                "peak_learning_rate must be above 0 and warmup_steps at least 1, got "
                f"{self.peak_learning_rate} and {self.warmup_steps}"
            )
        config_json.require_share("cooldown_share", self.cooldown_share)
        config_json.require_share("beta1", self.beta1, may_be_one=False)
        config_json.require_share("beta2", self.beta2, may_be_one=False)
        config_json.require_above(0, epsilon=self.epsilon)
        config_json.require_at_least(0, weight_decay=self.weight_decay, clip_norm=self.clip_norm)
        if self.cooldown_share and self.schedule in ("cosine", "linear"):
            raise ConfigError(
                f"schedule {self.schedule!r} ends at 0 by itself: set cooldown_share to 0, got "
                f"{self.cooldown_share}, or take 'constant' or 'inverse_sqrt'"
            )
        if self.encoder_rate < 0 or self.encoder_frozen_steps < 0:
            raise ConfigError(
                "encoder_rate and encoder_frozen_steps must be at least 0, got "
                f"{self.encoder_rate} and {self.encoder_frozen_steps}"
            )

    def ends_with_training(self) -> bool:
        """Whether the rate of a step depends on max_steps, so that more of them would be another training."""
        return self.schedule in ("cosine", "linear") or self.cooldown_share > 0.0

    def freezes_encoder(self, step: int) -> bool:
        """Whether the update after `step` others leaves embeddings and encoder as they are."""
        return self.encoder_rate == 0.0 or step < self.encoder_frozen_steps


def schedule(config: OptimizerConfig, *, max_steps: int) -> optax.Schedule:
    """Learning rate of each step, counted from 0."""
    peak, warmup = config.peak_learning_rate, config.warmup_steps
    cooldown = config.cooldown_share * max_steps

    def rate(count: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(count, jnp.float32) + 1.0
        rising = step / warmup
        progress = jnp.clip((step - warmup) / max(max_steps - warmup, 1), 0.0, 1.0)
        falling = {
            "inverse_sqrt": jnp.sqrt(warmup / jnp.maximum(step, warmup)),
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
            "constant": jnp.ones_like(step),
        }[config.schedule]
        found = peak * jnp.minimum(rising, falling)
        if not cooldown:
            return found
        return found * jnp.clip((max_steps - step) / cooldown, 0.0, 1.0)

    return rate


def build(config: OptimizerConfig, *, max_steps: int) -> optax.GradientTransformation:
    """The optimizer; its state is a pytree of arrays."""
    rate = schedule(config, max_steps=max_steps)
    directions = _directions(config)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts += _with_slow_encoder(config, directions)
    parts.append(optax.scale_by_learning_rate(rate))
    chain = optax.chain(*parts)
    is_adam_alone = parts[-2] is directions[0] and len(directions) == 1 and config.muon is None
    return _by_kernels(chain, config, rate) if is_adam_alone else chain


def _by_kernels(
    chain: optax.GradientTransformation, config: OptimizerConfig, rate: optax.Schedule
) -> optax.GradientTransformation:
    """A chain of clipping (if any), Adam and the learning rate, as one operation where kernels are in use; its state is
    that of the chain."""

    def update(
        gradients: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if not trees.have_kernels(gradients):
            return chain.update(gradients, state, params)
        assert isinstance(state, tuple)
        *clipping, adam, schedule = state
        scale = jnp.float32(1)
        if clipping:
            scale = jnp.minimum(1.0, config.clip_norm / trees.norm(gradients))
        count = optax.safe_increment(adam.count)
        leaves, structure = jax.tree.flatten(gradients)
        made = training_kernels.adam(
            leaves,
            jax.tree.leaves(adam.mu),
            jax.tree.leaves(adam.nu),
            1.0 - jnp.array([config.beta1, config.beta2]) ** count,
            scale,
            -rate(schedule.count),
            beta1=config.beta1,
            beta2=config.beta2,
            epsilon=config.epsilon,
        )
        updates, means, squares = (jax.tree.unflatten(structure, found) for found in made)
        after = (
            *clipping,
            optax.ScaleByAdamState(count, means, squares),
            optax.ScaleByScheduleState(optax.safe_increment(schedule.count)),
        )
        return updates, after

    return optax.GradientTransformation(chain.init, update)


def _directions(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """From clipped gradients to updates at a rate of 1."""
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    parts = [adam]
    if config.muon is not None:
        parts = [optax.partition({"muon": _muon(config.muon), "adam": adam}, _kinds)]
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=_matrices))
    return parts


def _with_slow_encoder(
    config: OptimizerConfig, parts: list[optax.GradientTransformation]
) -> list[optax.GradientTransformation]:
    """The same parts for all parameters, or with embeddings and encoder slower or later than the others."""
    if config.encoder_rate == 1.0 and not config.encoder_frozen_steps:
        return parts
    others = optax.chain(*parts)
    encoder = optax.chain(others, optax.scale(config.encoder_rate))
    if config.encoder_frozen_steps:
        frozen = config.encoder_frozen_steps
        encoder = optax.conditionally_mask(encoder, lambda step: step >= frozen)
    if not config.encoder_rate:
        encoder = optax.set_to_zero()
    return [optax.partition({"encoder": encoder, "others": others}, _places)]


def _places(params: optax.Params) -> optax.Params:
    """Where an array stands: "encoder" (embeddings too) or "others"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "encoder" if base.is_encoder(path) else "others", params
    )


def _muon(config: Muon) -> optax.GradientTransformation:
    orthogonal = contrib.scale_by_muon(
        ns_steps=config.iterations,
        beta=config.momentum,
        weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda _: contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=-1), tree
        ),
    )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        made, state = orthogonal.update(_apart(updates), state)

        def scaled(whole: Array, matrices: Array) -> Array:
            # The rows or columns of an orthogonal matrix have norm 1: its root mean square is one over the root of
            # its longer side.
            size = max(matrices.shape[0], matrices.shape[-1]) ** 0.5
            return (config.update_rms * size * matrices).reshape(whole.shape)

        return jax.tree.map(scaled, updates, made), state

    return optax.GradientTransformation(lambda params: orthogonal.init(_apart(params)), update)


def _apart(tree: optax.Params) -> optax.Params:
    """The same tree with every fused kernel as [d_in, parts, d_out]."""

    def apart(node: Any) -> Any:
        if not isinstance(node, nnx.Variable) or not jax.tree.leaves(node):
            return node
        parts = node.get_metadata().get("parts", 1)
        return jax.tree.map(lambda x: x.reshape(x.shape[0], parts, -1) if parts > 1 else x, node)

    return jax.tree.map(apart, tree, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _kinds(params: optax.Params) -> optax.Params:
    """Which rule updates an array: "muon" for the kernels of linear maps that are no heads, else "adam"."""

    def kind(path: tuple[Any, ...], leaf: Any) -> str:
        names = base.names_of(path)
        is_head = any(name.endswith("head") for name in names)
        return "muon" if names[-1] == "kernel" and not is_head else "adam"

    return jax.tree_util.tree_map_with_path(kind, params)


def _matrices(params: optax.Params) -> optax.Params:
    """True for what weight decay may shrink: not for biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
