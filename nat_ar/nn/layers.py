"""Linear maps, normalisation, embeddings and dropout: what every network here is made of.

Parameters are float32; computation happens in `dtype`. Tokens are flattened to two dimensions before
every matrix product: XLA's CPU backend computes the weight gradient of a three-dimensional product so
badly that a whole train step took 1.45 times as long."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from nat_ar.runtime import training_kernels
from nat_ar.types import Prediction

LAYER_NORM_EPSILON = 1e-6
"""added to the variance"""


class Linear(nnx.Module):
    """y = x W + b over the last axis, or max(y, 0) where it is rectified. `parts` > 1 fuses several maps of the
    same input: each part is initialised as a matrix of its own and the output is their concatenation."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        parts: int = 1,
        is_rectified: bool = False,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        initial = jax.nn.initializers.xavier_uniform()
        kernels = [initial(rngs.params(), (d_in, d_out)) for _ in range(parts)]
        self.kernel = nnx.Param(jnp.concatenate(kernels, axis=1), parts=parts)
        self.bias = nnx.Param(jnp.zeros(parts * d_out))
        self.is_rectified = is_rectified
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... d_in"]) -> Float[Array, "... d_out"]:
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        weight, bias = self.kernel[...], self.bias[...]
        if training_kernels.multiply(self.dtype):
            y = training_kernels.linear(flat, weight, bias, self.is_rectified)
        else:
            y = flat @ weight.astype(self.dtype) + bias.astype(self.dtype)
            y = jax.nn.relu(y) if self.is_rectified else y
        return y.reshape(*x.shape[:-1], y.shape[-1])


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016) with statistics in float32."""

    def __init__(self, d_model: int) -> None:
        self.scale = nnx.Param(jnp.ones(d_model))
        self.bias = nnx.Param(jnp.zeros(d_model))

    def __call__(self, x: Float[Array, "... d_model"]) -> Float[Array, "... d_model"]:
        wide = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        return _normalise(wide, self.scale[...], self.bias[...]).astype(x.dtype).reshape(x.shape)


@jax.custom_vjp
def _normalise(
    x: Float[Array, "rows d_model"], scale: Float[Array, "d_model"], bias: Float[Array, "d_model"]
) -> Float[Array, "rows d_model"]:
    """Every row to mean 0 and variance 1, then scaled and shifted.

    The gradient is written out: differentiated by JAX it takes twice as many sums over rows, and keeps more."""
    return _normalise_forward(x, scale, bias)[0]


def _normalise_forward(
    x: Float[Array, "rows d_model"], scale: Float[Array, "d_model"], bias: Float[Array, "d_model"]
) -> tuple[Float[Array, "rows d_model"], tuple[Array, Array, Array]]:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    rate = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    normal = centred * rate
    return normal * scale + bias, (normal, rate, scale)


def _normalise_backward(
    kept: tuple[Array, Array, Array], gradient: Float[Array, "rows d_model"]
) -> tuple[Array, Array, Array]:
    """With y = n s + b, n = (x - mean) r and g = dL/dn: dL/dx = r (g - mean(g) - n mean(g n))."""
    normal, rate, scale = kept
    inner = gradient * scale
    along = (inner * normal).mean(axis=-1, keepdims=True)
    to_input = rate * (inner - inner.mean(axis=-1, keepdims=True) - normal * along)
    return to_input, (gradient * normal).sum(axis=0), gradient.sum(axis=0)


_normalise.defvjp(_normalise_forward, _normalise_backward)


class Embedding(nnx.Module):
    """Token vectors, scaled by sqrt(d_model) on the way in and, where tied, used as the output
    projection on the way out (Vaswani et al. 2017, section 3.4)."""

    def __init__(
        self, vocabulary_size: int, d_model: int, *, dtype: str = "float32", rngs: nnx.Rngs
    ) -> None:
        initial = jax.nn.initializers.normal(d_model**-0.5)
        self.table = nnx.Param(initial(rngs.params(), (vocabulary_size, d_model)))
        self.dtype = dtype

    def __call__(self, token_ids: Int[Array, "..."]) -> Float[Array, "... d_model"]:
        table = self.table[...]
        return table[token_ids].astype(self.dtype) * table.shape[1] ** 0.5

    @jax.named_scope("vocabulary")
    def attend(self, states: Float[Array, "... d_model"]) -> Float[Array, "... vocabulary"]:
        """Logits in float32: the inner product with every token's vector."""
        return self.predict(states).logits()

    def predict(self, states: Float[Array, "... d_model"]) -> Prediction:
        """What `attend` multiplies out, for a loss that never has all logits at once."""
        return Prediction(states.astype(self.dtype), self.table[...])


def dropout(x: Float[Array, "..."], rate: float, *, rngs: nnx.Rngs | None) -> Float[Array, "..."]:
    """Sets a share `rate` of the values to 0 and scales the rest; the identity where rngs is None."""
    if rngs is None or rate == 0.0:
        return x
    keep = _hashed_bits(rngs.dropout(), x.shape) >= np.uint32(rate * 2**32)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def _hashed_bits(key: PRNGKeyArray, shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """32 random bits a value: each value's index, mixed with two words of the key by a 32-bit hash.

    JAX's generators fill arrays in memory: they took 30 % (rbg) of a whole train step on a CPU. A hash
    of the index fuses into the operation that uses it. Two rounds of xor-shift and multiply flip every
    output bit with a probability near 1/2 for each input bit, which is more than dropout asks."""
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    x = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape) * np.uint32(0x9E3779B9) + seeds[0]
    x = (x ^ (x >> 16)) * np.uint32(0x21F0AAAD)
    x = ((x ^ (x >> 15)) + seeds[1]) * np.uint32(0x735A2D97)
    return x ^ (x >> 15)
