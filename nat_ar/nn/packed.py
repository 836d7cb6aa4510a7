"""Packed networks, with which a CPU decodes: weights in the layout of cpu_kernels.product, attention and norms by
kernels.

A packed weight is read from its first byte to its last, once for all rows. `bash scripts/benchmark_cpu.sh --only
products` compares it with XLA's libraries."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int8, Shaped

from nat_ar.nn import attention, fused, layers
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.fused import FusedDecoder, FusedEncoder
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.runtime.cpu_kernels import PANEL, QUAD

Weights = Literal["float32", "int8"]
ATTENTIONS = (attention.SelfAttention, attention.CrossAttention)


def panels_of(weight: Shaped[np.ndarray, "depth width"]) -> Shaped[np.ndarray, "panels depth 16"]:
    """The columns of a weight, PANEL at a time; zeros fill up the last panel."""
    depth, width = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -width % PANEL)))
    return np.ascontiguousarray(padded.reshape(depth, -1, PANEL).swapaxes(0, 1))


def quantised(
    weight: Float[np.ndarray, "depth width"],
) -> tuple[Int8[np.ndarray, "depth width"], Float[np.ndarray, "width"]]:
    """Integers from -127 to 127 and a scale for each column; their product is the weight, rounded."""
    scale = np.abs(weight).max(axis=0, initial=0.0) / 127
    scale[scale == 0] = 1.0
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def int8_panels_of(
    weight: Int8[np.ndarray, "depth width"],
) -> tuple[Int8[np.ndarray, "panels quads 16 4"], Int[np.ndarray, "panels 16"]]:
    """The columns of a weight of integers, PANEL at a time and QUAD neighbours along the depth together, and the sum of
    each column; zeros fill up the last of both."""
    padded = np.pad(weight, ((0, -weight.shape[0] % QUAD), (0, 0)))
    columns = panels_of(padded)  # [panels, depth, 16]
    quads = columns.reshape(len(columns), -1, QUAD, PANEL).swapaxes(2, 3)
    return np.ascontiguousarray(quads), columns.sum(axis=1, dtype=np.int32)


class Packed(nnx.Module):
    """A weight as cpu_kernels.product reads it."""

    def __init__(self, weight: Float[np.ndarray, "depth width"]) -> None:
        self.depth, self.width = weight.shape
        self.panels = nnx.Param(jnp.asarray(panels_of(weight)))

    @property
    def arrays(self) -> list[Array]:
        """As kernels take them."""
        return [self.panels[...]]

    def __call__(
        self,
        x: Float[Array, "... depth"],
        bias: Float[Array, "width"] | None = None,
        *,
        is_rectified: bool = False,
    ) -> Float[Array, "... width"]:
        flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        y = self.product(flat, bias, is_rectified=is_rectified)
        return y.reshape(*x.shape[:-1], self.width)

    def product(
        self,
        states: Float[Array, "rows depth"],
        bias: Float[Array, "width"] | None,
        *,
        is_rectified: bool,
    ) -> Float[Array, "rows width"]:
        return cpu_kernels.product(
            states, self.panels[...], bias, self.width, is_rectified=is_rectified
        )


class PackedInt8(Packed):
    """A weight of 8 bits as cpu_kernels.product_int8 reads it."""

    def __init__(self, weight: Float[np.ndarray, "depth width"]) -> None:
        self.depth, self.width = weight.shape
        integers, scale = quantised(weight)
        panels, sums = int8_panels_of(integers)
        self.panels = nnx.Param(jnp.asarray(panels))
        self.sums = nnx.Param(jnp.asarray(sums))
        self.scale = nnx.Param(jnp.asarray(scale))

    @property
    def arrays(self) -> list[Array]:
        return list(self._weight())

    def _weight(self) -> tuple[Array, Array, Array]:
        return self.panels[...], self.sums[...], self.scale[...]

    def product(
        self,
        states: Float[Array, "rows depth"],
        bias: Float[Array, "width"] | None,
        *,
        is_rectified: bool,
    ) -> Float[Array, "rows width"]:
        return cpu_kernels.product_int8(
            states, *self._weight(), bias, self.width, is_rectified=is_rectified
        )


KINDS: dict[Weights, type[Packed]] = {"float32": Packed, "int8": PackedInt8}


class PackedLinear(nnx.Module):
    """A Linear whose weight is packed."""

    def __init__(self, linear: layers.Linear, weights: Weights) -> None:
        self.packed = KINDS[weights](np.asarray(linear.kernel[...]))
        self.bias = nnx.Param(linear.bias[...])
        self.is_rectified = linear.is_rectified

    @property
    def arrays(self) -> list[Array]:
        return [*self.packed.arrays, self.bias[...]]

    def __call__(self, x: Float[Array, "... d_in"]) -> Float[Array, "... d_out"]:
        return self.packed(x, self.bias[...], is_rectified=self.is_rectified)


class PackedEmbedding(layers.Embedding):
    """An Embedding with a second, packed copy of its table for the projection to the vocabulary."""

    def __init__(self, embedding: layers.Embedding, weights: Weights) -> None:
        self.table = nnx.Param(embedding.table[...])
        self.packed = KINDS[weights](np.asarray(embedding.table[...]).T)
        self.dtype = embedding.dtype

    @jax.named_scope("vocabulary")
    def attend(self, states: Float[Array, "... d_model"]) -> Float[Array, "... vocabulary"]:
        return self.packed(states)


class FusedLayerNorm(layers.LayerNorm):
    """A LayerNorm that is one operation."""

    def __init__(self, norm: layers.LayerNorm) -> None:
        self.scale, self.bias = nnx.Param(norm.scale[...]), nnx.Param(norm.bias[...])

    @property
    def arrays(self) -> list[Array]:
        return [self.scale[...], self.bias[...]]

    def __call__(self, x: Float[Array, "... d_model"]) -> Float[Array, "... d_model"]:
        wide = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        y = cpu_kernels.normalise(
            wide, self.scale[...], self.bias[...], epsilon=layers.LAYER_NORM_EPSILON
        )
        return y.astype(x.dtype).reshape(x.shape)


def pack(network: nnx.Module, weights: Weights = "float32") -> None:
    """Replaces every Linear and Embedding by its packed kind and every LayerNorm by one operation, in place; attention
    between packed maps runs by the kernel, and encoders and decoders are fused. With int8 weights each column has a
    scale, and states are rounded to 8 bits, row by row, on their way into a product; all else is float32, also in a
    network that was trained in bfloat16."""
    _compute_in_float32(network)
    kinds: dict[type, Any] = {layers.Linear: PackedLinear, layers.Embedding: PackedEmbedding}
    made: dict[int, nnx.Module] = {}  # two modules may share a table

    def packed(child: Any) -> nnx.Module | None:
        if type(child) is Decoder and fused.fits(child):
            return FusedDecoder(child)
        if type(child) is Encoder and fused.fits(child):
            return FusedEncoder(child)
        if type(child) is layers.LayerNorm:
            return FusedLayerNorm(child)
        kind = kinds.get(type(child))
        if kind is None:
            return None
        if id(child) not in made:
            made[id(child)] = kind(child, weights)
        return made[id(child)]

    for _, module in list(nnx.iter_modules(network)):
        for name, child in list(vars(module).items()):
            replacement = packed(child)
            if replacement is not None:
                setattr(module, name, replacement)
        if isinstance(module, ATTENTIONS) and type(module.output) is PackedLinear:
            module.implementation = "kernel"


def _compute_in_float32(network: nnx.Module) -> None:
    """Turns the modules of a network in bfloat16, and the sizes that they keep, to float32."""
    for _, module in list(nnx.iter_modules(network)):
        for name, value in list(vars(module).items()):
            if name == "dtype":
                setattr(module, name, "float32")
            elif isinstance(value, TransformerConfig | RecurrentConfig):
                setattr(module, name, dataclasses.replace(value, dtype="float32"))
