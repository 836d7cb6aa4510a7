"""How a network learns the order of its tokens."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError


@dataclasses.dataclass(frozen=True)
class Positions(config_json.Open):
    """An open kind of setting: what a network does about positions. A member overrides what it does; the defaults
    do nothing."""

    has_bias: ClassVar[bool] = False
    """adds to the scores of attention, which then runs on XLA's operations"""
    is_added: ClassVar[bool] = False
    """is added to embeddings, and does nothing else"""

    def require_fit(self, head_dim: int) -> None:
        """Raises ConfigError where heads of this size cannot have such positions."""

    def table(self, max_length: int, d_model: int, *, rngs: nnx.Rngs) -> "Table | None":
        """What is added to embeddings."""
        return None

    def rotated(
        self, x: Float[Array, "*rows heads head_dim"], at: Int[Array, "*#rows"]
    ) -> Float[Array, "*rows heads head_dim"]:
        """Queries or keys at positions `at`, as their inner products should see them."""
        return x

    def bias(
        self, num_heads: int, distance: Int[Array, "*axes queries keys"]
    ) -> Float[Array, "*axes heads queries keys"] | None:
        """What is added to the scores of self-attention; `distance` is the query's position less the key's."""
        return None


class Table(nnx.Module):
    """A vector for each position."""

    def __call__(self, length: int) -> Float[Array | np.ndarray, "length d_model"]:
        """Those of the first `length` positions."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Sinusoidal(Positions):
    """Sines and cosines added to embeddings (Vaswani et al. 2017, section 3.5)."""

    is_added: ClassVar[bool] = True

    def table(self, max_length: int, d_model: int, *, rngs: nnx.Rngs) -> Table:
        return SinusoidTable(d_model)


SINUSOIDAL = Sinusoidal()


@dataclasses.dataclass(frozen=True)
class Learned(Positions):
    """A learned vector for each of max_length positions, added to embeddings (Gehring et al. 2017)."""

    is_added: ClassVar[bool] = True

    def table(self, max_length: int, d_model: int, *, rngs: nnx.Rngs) -> Table:
        return LearnedTable(max_length, d_model, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Rotary(Positions):
    """Queries and keys of self-attention are rotated by angles that grow with their position, so that their inner
    product depends on the distance alone (Su et al. 2021, arXiv:2104.09864, section 3.2).

    Coordinates i and i + head_dim / 2 of each head are a point in a plane, which turns by
    position / base^(2i / head_dim)."""

    base: float = 10_000.0
    """the slowest plane turns about this many times more slowly than the fastest"""

    def __post_init__(self) -> None:
        config_json.require_above(0, base=self.base)

    def require_fit(self, head_dim: int) -> None:
        if head_dim % 2:
            raise ConfigError(
                f"positions Rotary need an even number of coordinates a head, got {head_dim}; change d_model or "
                "num_heads"
            )

    def rotated(
        self, x: Float[Array, "*rows heads head_dim"], at: Int[Array, "*#rows"]
    ) -> Float[Array, "*rows heads head_dim"]:
        rates = self.base ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])
        angles = at[..., None, None] * jnp.asarray(rates, jnp.float32)  # [*rows, 1, head_dim / 2]
        sine, cosine = jnp.sin(angles), jnp.cos(angles)
        left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        turned = [left * cosine - right * sine, left * sine + right * cosine]
        return jnp.concatenate(turned, axis=-1).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Alibi(Positions):
    """Attention with linear biases (Press et al. 2022, arXiv:2108.12409): the score of query i and key j of a
    sequence falls by slope * |i - j|, with a slope for each head. Nothing is added to embeddings."""

    has_bias: ClassVar[bool] = True

    def bias(
        self, num_heads: int, distance: Int[Array, "*axes queries keys"]
    ) -> Float[Array, "*axes heads queries keys"]:
        slopes = jnp.asarray(alibi_slopes(num_heads))[:, None, None]
        return -slopes * jnp.abs(distance)[..., None, :, :]


def alibi_slopes(num_heads: int) -> Float[np.ndarray, "heads"]:
    """2^(-8h / heads) for heads h = 1, 2, ...; where their number is no power of two, those of the power below it,
    then every other of twice that power (Press et al. 2022, section 3, and their code)."""
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    finer = 2.0 ** (-8 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([slopes, finer])[:num_heads].astype(np.float32)


class SinusoidTable(Table):
    """Constants of the compiled program, not parameters."""

    def __init__(self, d_model: int) -> None:
        self.d_model = d_model

    def __call__(self, length: int) -> Float[np.ndarray, "length d_model"]:
        return sinusoids(length, self.d_model)


class LearnedTable(Table):
    """A parameter with a row for each position."""

    def __init__(self, max_length: int, d_model: int, *, rngs: nnx.Rngs) -> None:
        initial = jax.nn.initializers.normal(d_model**-0.5)
        self.vectors = nnx.Param(initial(rngs.params(), (max_length, d_model)))

    def __call__(self, length: int) -> Float[Array, "length d_model"]:
        vectors = self.vectors[...]
        if length > vectors.shape[0]:
            raise ConfigError(
                f"{length} positions do not fit the {vectors.shape[0]} that are learned; raise "
                "transformer.max_length or shorten the buckets"
            )
        return vectors[:length]


def sinusoids(length: int, d_model: int) -> Float[np.ndarray, "length d_model"]:
    """Row p holds sin(p / 10000^(2i/d)) in its first half and the cosines in its second."""
    rates = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)
    angles = np.arange(length)[:, None] * rates[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :d_model].astype(np.float32)
