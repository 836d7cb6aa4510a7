"""Scaled dot-product attention over right-padded keys.

Padding is given by lengths, never by a mask array that the caller builds: key i of a row takes part if
i < lengths[row]."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.runtime import cpu_kernels
from nat_ar.types import pytree_dataclass

Implementation = Literal["xla", "cudnn", "kernel"]
"""XLA's own operations; cuDNN's; cpu_kernels.attend where it can, XLA's otherwise"""
NEGATIVE = -1e9  # a masked score: exp gives exactly 0 beside any real score, and no NaN if all are


@pytree_dataclass
class KeyValue:
    """Keys and values of a sequence in the layout that both products read: a loop that asks again and again
    transposes nothing."""

    key: Float[Array, "*rows heads head_dim keys"]
    value: Float[Array, "*rows heads keys head_dim"]


def attend(
    query: Float[Array, "rows queries heads head_dim"],
    memory: KeyValue,
    *,
    mask: Bool[Array, "#rows #queries keys"] | None = None,
    bias: Float[Array, "*#rows #heads queries keys"] | None = None,
    lengths: Int[Array, "rows"] | None = None,
    is_causal: bool | Bool[Array, ""] = False,
    implementation: Implementation = "xla",
) -> Float[Array, "rows queries heads head_dim"]:
    """softmax(q k / sqrt(head_dim) + bias) v (Vaswani et al. 2017, section 3.2.1), softmax in float32.

    `mask` (True takes part) is for what lengths and causality cannot express. A query whose mask leaves no key
    attends to nothing: its result is 0. With a mask or a bias, "kernel" runs XLA's operations; "cudnn" refuses
    both here. `is_causal` may be an array, which is known when the program runs only: "cudnn" takes none."""
    if implementation == "cudnn":
        if mask is not None or bias is not None or not isinstance(is_causal, bool):
            raise ValueError(
                "attention by 'cudnn' takes no mask and no bias, only lengths and a causality that is fixed; "
                "set transformer.implementation to 'xla'"
            )
        return jax.nn.dot_product_attention(
            query,
            jnp.moveaxis(memory.key, -1, -3),
            jnp.swapaxes(memory.value, 1, 2),
            key_value_seq_lengths=lengths,
            is_causal=is_causal,
            implementation="cudnn",
        )
    if implementation == "kernel" and mask is None and bias is None and is_causal is False:
        everything = jnp.full(query.shape[0], memory.key.shape[-1])
        counts = everything if lengths is None else lengths
        return cpu_kernels.attend(query, memory.key, memory.value, counts)
    shares = weights(query, memory, mask=mask, bias=bias, lengths=lengths, is_causal=is_causal)
    return jnp.swapaxes(shares.astype(memory.value.dtype) @ memory.value, 1, 2)


def weights(
    query: Float[Array, "rows queries heads head_dim"],
    memory: KeyValue,
    *,
    mask: Bool[Array, "#rows #queries keys"] | None = None,
    bias: Float[Array, "*#rows #heads queries keys"] | None = None,
    lengths: Int[Array, "rows"] | None = None,
    is_causal: bool | Bool[Array, ""] = False,
) -> Float[Array, "rows heads queries keys"]:
    """The softmax of `attend`, in float32. A row of length 0 without a mask attends to its padding, evenly."""
    num_queries, num_keys = query.shape[1], memory.key.shape[-1]
    scores = products(jnp.swapaxes(query, 1, 2), memory.key)
    if bias is not None:
        scores = scores + bias
    allowed = []  # [#rows, #heads, #queries, keys] each
    if lengths is not None:
        allowed.append((jnp.arange(num_keys) < lengths[:, None])[:, None, None])
    if is_causal is not False:
        is_before = jnp.tril(jnp.ones((num_queries, num_keys), bool))
        if is_causal is not True:
            is_before |= ~is_causal
        allowed.append(is_before[None, None])
    if mask is not None:
        allowed.append(mask[:, None])
    if not allowed:
        return jax.nn.softmax(scores, axis=-1)
    is_seen = functools.reduce(jnp.logical_and, allowed)
    shares = jax.nn.softmax(jnp.where(is_seen, scores, NEGATIVE), axis=-1)
    return shares if mask is None else jnp.where(is_seen, shares, 0.0)


def products(
    query: Float[Array, "*rows queries head_dim"], key: Float[Array, "*rows head_dim keys"]
) -> Float[Array, "*rows queries keys"]:
    """q k / sqrt(head_dim) in float32."""
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32)
    return scores * query.shape[-1] ** -0.5


def key_value(
    key: Float[Array, "*rows keys heads head_dim"], value: Float[Array, "*rows keys heads head_dim"]
) -> KeyValue:
    """Keys and values as a projection makes them, in the layout of KeyValue."""
    return KeyValue(jnp.moveaxis(key, -3, -1), heads_first(value))


def heads_first(
    x: Float[Array, "*rows keys heads head_dim"],
) -> Float[Array, "*rows heads keys head_dim"]:
    return jnp.swapaxes(x, -2, -3)
