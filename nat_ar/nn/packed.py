"""Networks whose weights are laid out for kernels.product, and whose attention is kernels.attend: what a CPU
decodes with.

Packed, a weight is read from its first byte to its last, once for all rows. `bash scripts/benchmark_cpu.sh --only
products` measures it beside XLA's libraries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nat_ar.nn import attention, kernels, layers
from nat_ar.nn.kernels import PANEL

ATTENTIONS = (attention.SelfAttention, attention.CrossAttention)


def panels_of(weight: Float[np.ndarray, "depth width"]) -> Float[np.ndarray, "panels depth 16"]:
    """The columns of a weight, PANEL at a time; zeros fill up the last panel."""
    depth, width = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -width % PANEL)))
    return np.ascontiguousarray(padded.reshape(depth, -1, PANEL).swapaxes(0, 1))


class PackedLinear(nnx.Module):
    """A Linear whose weight is packed."""

    def __init__(self, linear: layers.Linear) -> None:
        self.panels = nnx.Param(jnp.asarray(panels_of(np.asarray(linear.kernel[...]))))
        self.bias = nnx.Param(linear.bias[...])

    def __call__(self, x: Float[Array, "... d_in"]) -> Float[Array, "... d_out"]:
        bias = self.bias[...]
        flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        y = kernels.product(flat, self.panels[...], bias, len(bias))
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
        logits = kernels.product(flat, self.panels[...], None, self.table.shape[0])
        return logits.reshape(*states.shape[:-1], logits.shape[-1])


def pack(network: nnx.Module) -> None:
    """Puts the packed kind in the place of every Linear and Embedding that computes in float32, and has such
    maps attend by the kernel."""
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
        if isinstance(module, ATTENTIONS) and type(module.output) is PackedLinear:
            module.implementation = "kernel"
