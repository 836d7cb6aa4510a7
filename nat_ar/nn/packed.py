"""Weights laid out for products with a few rows, which is what decoding on a CPU consists of.

A decoder that goes step by step multiplies each weight with one vector for each hypothesis, a one-pass decoder with
one for each place of a sentence. At 2 to 32 rows XLA's libraries (YNNPACK, Eigen) reach a tenth to a third of the
processor's rate: the time goes into bringing the weights in. Packed, a weight is read from its first byte to its
last, once for all rows, by packed.cc, which is built at first use (nat_ar.native). `bash scripts/benchmark_cpu.sh
--only products` measures all three.

Float32 on CPUs only, and without gradients: `pack` makes of a trained network one that decodes the same."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nat_ar import native
from nat_ar.nn import layers

PANEL = 16
"""Columns of a weight that lie together; packed.cc knows it as kPanel."""
TARGET = "nat_ar_packed_product"
"""What XLA's programs call the product."""
NO_BIAS = np.zeros(0, np.float32)


@functools.cache
def is_available() -> bool:
    """Whether networks can be packed: on a CPU, where packed.cc is or can be built."""
    if jax.default_backend() != "cpu":
        return False
    library = native.load(Path(__file__).with_suffix(".cc"))
    if library is None:
        return False
    handler = jax.ffi.pycapsule(library.NatArPackedProduct)
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    return True


def panels_of(weight: Float[np.ndarray, "depth width"]) -> Float[np.ndarray, "panels depth 16"]:
    """The columns of a weight, PANEL at a time; zeros fill up the last panel."""
    depth, width = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -width % PANEL)))
    return np.ascontiguousarray(padded.reshape(depth, -1, PANEL).swapaxes(0, 1))


def product(
    states: Float[Array, "rows depth"],
    panels: Float[Array, "panels depth 16"],
    bias: Float[Array, "width"] | None,
    width: int,
) -> Float[Array, "rows width"]:
    """states @ weight + bias, of a packed weight with `width` columns."""
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct((states.shape[0], width), jnp.float32))
    return call(states, panels, NO_BIAS if bias is None else bias)


def is_product(equation: jex.JaxprEqn) -> bool:
    return equation.primitive.name == "ffi_call" and equation.params["target_name"] == TARGET


def depth_of(equation: jex.JaxprEqn) -> int:
    """The columns of the states of such a product."""
    return equation.invars[0].aval.shape[1]  # type: ignore[attr-defined]


class PackedLinear(nnx.Module):
    """A Linear whose weight is packed."""

    def __init__(self, linear: layers.Linear) -> None:
        self.panels = nnx.Param(jnp.asarray(panels_of(np.asarray(linear.kernel[...]))))
        self.bias = nnx.Param(linear.bias[...])

    def __call__(self, x: Float[Array, "... d_in"]) -> Float[Array, "... d_out"]:
        bias = self.bias[...]
        flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        y = product(flat, self.panels[...], bias, len(bias))
        return y.reshape(*x.shape[:-1], len(bias))


class PackedEmbedding(layers.Embedding):
    """An Embedding that holds its table a second time, packed, for the projection on the vocabulary."""

    def __init__(self, embedding: layers.Embedding) -> None:
        self.table = nnx.Param(embedding.table[...])
        self.panels = nnx.Param(jnp.asarray(panels_of(np.asarray(embedding.table[...]).T)))
        self.dtype = embedding.dtype

    @jax.named_scope("vocabulary")
    def attend(self, states: Float[Array, "... d_model"]) -> Float[Array, "... vocabulary"]:
        flat = states.reshape(-1, states.shape[-1])
        logits = product(flat, self.panels[...], None, self.table.shape[0])
        return logits.reshape(*states.shape[:-1], logits.shape[-1])


def pack(network: nnx.Module) -> None:
    """Puts the packed kind in the place of every Linear and Embedding that computes in float32."""
    kinds: dict[type, Any] = {layers.Linear: PackedLinear, layers.Embedding: PackedEmbedding}
    made: dict[int, nnx.Module] = {}  # a table may stand in two places

    def packed(child: Any) -> nnx.Module | None:
        kind = kinds.get(type(child))
        if kind is None or child.dtype != "float32":
            return None
        if id(child) not in made:
            made[id(child)] = kind(child)
        return made[id(child)]

    for _, module in list(nnx.iter_modules(network)):
        for name, child in list(vars(module).items()):
            replacement = packed(child)
            if replacement is not None:
                setattr(module, name, replacement)
