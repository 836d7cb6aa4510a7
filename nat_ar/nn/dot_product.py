"""Scaled dot-product attention over right-padded keys.

Padding is given by lengths, never by a mask array that the caller builds: key i of a row takes part if
i < lengths[row]."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.runtime import cpu_kernels, training_kernels
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
    if (
        training_kernels.are_in_use()
        and mask is None
        and bias is None
        and isinstance(is_causal, bool)
    ):
        # The transposes undo those of `key_value`, and XLA leaves out both.
        key, value = jnp.moveaxis(memory.key, -1, -3), jnp.swapaxes(memory.value, 1, 2)
        counts = jnp.full(query.shape[0], key.shape[1]) if lengths is None else lengths
        return training_kernels.attend(query, key, value, counts, is_causal)
    if bias is not None:
        shares = weights(query, memory, mask=mask, bias=bias, lengths=lengths, is_causal=is_causal)
        return jnp.swapaxes(shares.astype(memory.value.dtype) @ memory.value, 1, 2)
    is_seen = _seen(query, memory, mask=mask, lengths=lengths, is_causal=is_causal)
    by_heads = jnp.swapaxes(query, 1, 2), jnp.swapaxes(memory.key, -1, -2), memory.value
    return jnp.swapaxes(_attend(mask is not None, *by_heads, is_seen), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    may_see_nothing: bool,
    query: Float[Array, "rows heads queries head_dim"],
    key: Float[Array, "rows heads keys head_dim"],
    value: Float[Array, "rows heads keys head_dim"],
    is_seen: Bool[Array, "#rows #heads #queries keys"] | None,
) -> Float[Array, "rows heads queries head_dim"]:
    """`attend` without a bias. `may_see_nothing`: a query may have no key, and its result is 0.

    The gradient is written out, so that each of its products reads what it sums over as it lies, on the last axis of
    one operand: differentiated by JAX, two of the six do not, and XLA's CPU backend has no library for those."""
    return _attend_forward(may_see_nothing, query, key, value, is_seen)[0]


def _attend_forward(
    may_see_nothing: bool, query: Array, key: Array, value: Array, is_seen: Array | None
) -> tuple[Array, tuple[Array, Array, Array, Array, Array | None]]:
    scores = products(query, jnp.swapaxes(key, -1, -2))
    shares = _softmax(scores, is_seen, may_see_nothing=may_see_nothing)
    return shares.astype(value.dtype) @ value, (query, key, value, shares, is_seen)


def _attend_backward(
    may_see_nothing: bool,
    kept: tuple[Array, Array, Array, Array, Array | None],
    gradient: Float[Array, "rows heads queries head_dim"],
) -> tuple[Array, Array, Array, None]:
    """With scores s = q k / root, p = softmax(s), o = p v and g = dL/do: dL/dv = g p, dL/dp = g v and
    dL/ds = p (dL/dp - sum of p dL/dp)."""
    query, key, value, shares, is_seen = kept
    to_shares = jnp.matmul(
        gradient, jnp.swapaxes(value, -1, -2), preferred_element_type=jnp.float32
    )
    along = (shares * to_shares).sum(axis=-1, keepdims=True)
    to_scores = shares * (to_shares - along) * query.shape[-1] ** -0.5
    if is_seen is not None:
        to_scores = jnp.where(is_seen, to_scores, 0.0)
    to_scores = to_scores.astype(query.dtype)
    # The barrier keeps XLA from folding the transposes into products that it would compute by itself.
    by_key = [jnp.swapaxes(x, -1, -2) for x in (to_scores, shares.astype(value.dtype))]
    to_scores_by_key, shares_by_key = jax.lax.optimization_barrier(by_key)
    return to_scores @ key, to_scores_by_key @ query, shares_by_key @ gradient, None


_attend.defvjp(_attend_forward, _attend_backward)


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
    scores = products(jnp.swapaxes(query, 1, 2), memory.key)
    if bias is not None:
        scores = scores + bias
    is_seen = _seen(query, memory, mask=mask, lengths=lengths, is_causal=is_causal)
    return _softmax(scores, is_seen, may_see_nothing=mask is not None)


def _seen(
    query: Float[Array, "rows queries heads head_dim"],
    memory: KeyValue,
    *,
    mask: Bool[Array, "#rows #queries keys"] | None,
    lengths: Int[Array, "rows"] | None,
    is_causal: bool | Bool[Array, ""],
) -> Bool[Array, "#rows #heads #queries keys"] | None:
    """True for the keys that take part; None for all."""
    num_queries, num_keys = query.shape[1], memory.key.shape[-1]
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
    return functools.reduce(jnp.logical_and, allowed) if allowed else None


def _softmax(
    scores: Float[Array, "rows heads queries keys"],
    is_seen: Bool[Array, "#rows #heads #queries keys"] | None,
    *,
    may_see_nothing: bool,
) -> Float[Array, "rows heads queries keys"]:
    """Over the keys that are seen; all 0 where none is, if that may be."""
    if is_seen is None:
        return jax.nn.softmax(scores, axis=-1)
    shares = jax.nn.softmax(jnp.where(is_seen, scores, NEGATIVE), axis=-1)
    return jnp.where(is_seen, shares, 0.0) if may_see_nothing else shares


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
