"""Multi-head attention over right-padded keys.

Padding is said by lengths, never by a mask array that the caller builds: key i of a row takes part if
i < lengths[row]. Rows of queries may be several times as many as rows of keys (hypotheses of one
source): they then attend to the same keys, which are not repeated."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar.nn import layers
from nat_ar.runtime import cpu_kernels
from nat_ar.types import pytree_dataclass

Implementation = Literal["xla", "cudnn", "kernel"]
"""XLA's own operations; cuDNN's; cpu_kernels.attend where it can, and XLA's where not"""
NEGATIVE = -1e9  # a masked score: exp gives exactly 0 beside any real score, and no NaN if all are


@pytree_dataclass
class KeyValue:
    """Keys and values of a sequence as both products read them: a loop that asks again and again
    transposes nothing."""

    key: Float[Array, "*rows heads head_dim keys"]
    value: Float[Array, "*rows heads keys head_dim"]


def attend(
    query: Float[Array, "rows queries heads head_dim"],
    memory: KeyValue,
    *,
    mask: Bool[Array, "#rows #queries keys"] | None = None,
    lengths: Int[Array, "rows"] | None = None,
    is_causal: bool = False,
    implementation: Implementation = "xla",
) -> Float[Array, "rows queries heads head_dim"]:
    """softmax(q k / sqrt(head_dim)) v (Vaswani et al. 2017, section 3.2.1), softmax in float32.

    `mask` (True takes part) is for what lengths and causality cannot say; cuDNN refuses it here. A
    query to whom it leaves nothing attends to what lengths and causality allow, never to padding."""
    if implementation == "cudnn":
        if mask is not None:
            raise ValueError(
                "attention 'cudnn' takes no mask, only lengths and causality; "
                "set attention to 'xla' for a method with a mask of its own"
            )
        return jax.nn.dot_product_attention(
            query,
            jnp.moveaxis(memory.key, -1, -3),
            jnp.swapaxes(memory.value, 1, 2),
            key_value_seq_lengths=lengths,
            is_causal=is_causal,
            implementation="cudnn",
        )
    num_queries, num_keys = query.shape[1], memory.key.shape[-1]
    if implementation == "kernel" and mask is None and not is_causal:
        everything = jnp.full(query.shape[0], num_keys)
        counts = everything if lengths is None else lengths
        return cpu_kernels.attend(query, memory.key, memory.value, counts)
    scores = products(jnp.swapaxes(query, 1, 2), memory.key)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, NEGATIVE)
    allowed = None
    if lengths is not None:
        allowed = (jnp.arange(num_keys) < lengths[:, None])[:, None, None]
    if is_causal:
        before = jnp.tril(jnp.ones((num_queries, num_keys), bool))[None, None]
        allowed = before if allowed is None else allowed & before
    if allowed is not None:
        scores = jnp.where(allowed, scores, 2 * NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(memory.value.dtype)
    return jnp.swapaxes(weights @ memory.value, 1, 2)


def products(
    query: Float[Array, "*rows queries head_dim"], key: Float[Array, "*rows head_dim keys"]
) -> Float[Array, "*rows queries keys"]:
    """q k / sqrt(head_dim) in float32."""
    found = jnp.matmul(query, key, preferred_element_type=jnp.float32)
    return found * query.shape[-1] ** -0.5


def key_value(
    key: Float[Array, "*rows keys heads head_dim"], value: Float[Array, "*rows keys heads head_dim"]
) -> KeyValue:
    """As a projection makes them, put into the order of KeyValue."""
    return KeyValue(jnp.moveaxis(key, -3, -1), heads_first(value))


def heads_first(
    x: Float[Array, "*rows keys heads head_dim"],
) -> Float[Array, "*rows heads keys head_dim"]:
    return jnp.swapaxes(x, -2, -3)


class SelfAttention(nnx.Module):
    """Attention of a sequence to itself."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        implementation: Implementation = "xla",
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        self.project = layers.Linear(d_model, d_model, parts=3, dtype=dtype, rngs=rngs)
        self.output = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads
        self.implementation: Implementation = implementation

    def heads(self, x: Float[Array, "*axes d_model"]) -> list[Array]:
        """Query, key and value, each [*axes, heads, head_dim]."""
        parts = jnp.split(self.project(x), 3, axis=-1)
        return [part.reshape(*part.shape[:-1], self.num_heads, -1) for part in parts]

    def __call__(
        self,
        x: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        *,
        is_causal: bool = False,
        sees_itself: bool = True,
    ) -> Float[Array, "rows length d_model"]:
        """`sees_itself` False hides each position from itself (Gu et al. 2018, section 3.1)."""
        query, key, value = self.heads(x)
        length = x.shape[1]
        mask = None if sees_itself else ~jnp.eye(length, dtype=bool)[None]
        if mask is not None and lengths is not None:
            # A single word has nobody else: without itself it would see the padding.
            mask = mask | (lengths == 1)[:, None, None]
        states = attend(
            query,
            key_value(key, value),
            mask=mask,
            lengths=lengths,
            is_causal=is_causal,
            implementation=self.implementation,
        )
        return self.output(states.reshape(x.shape))


class CrossAttention(nnx.Module):
    """Attention of decoder rows to encoder states."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        implementation: Implementation = "xla",
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        self.query = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.key_value = layers.Linear(d_model, d_model, parts=2, dtype=dtype, rngs=rngs)
        self.output = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads
        self.implementation: Implementation = implementation

    def memory(self, states: Float[Array, "batch source_length d_model"]) -> KeyValue:
        """Keys and values of a source, computed once however many positions will ask."""
        parts = jnp.split(self.key_value(states), 2, axis=-1)
        key, value = (p.reshape(*p.shape[:-1], self.num_heads, -1) for p in parts)
        return key_value(key, value)

    def __call__(
        self,
        x: Float[Array, "rows length d_model"],
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
    ) -> Float[Array, "rows length d_model"]:
        """`rows` is a multiple of `batch`: rows i * (rows / batch) ... belong to source i."""
        batch, d_model = memory.key.shape[0], x.shape[-1]
        query = self.query(x).reshape(batch, -1, self.num_heads, d_model // self.num_heads)
        states = attend(query, memory, lengths=memory_lengths, implementation=self.implementation)
        return self.output(states.reshape(x.shape))


class PositionalAttention(nnx.Module):
    """Queries and keys are position encodings, values are the states (Gu et al. 2018, section 3.1):
    lets a one-pass decoder order its words by place alone."""

    def __init__(
        self, d_model: int, num_heads: int, *, dtype: str = "float32", rngs: nnx.Rngs
    ) -> None:
        self.query_key = layers.Linear(d_model, d_model, parts=2, dtype=dtype, rngs=rngs)
        self.value = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.output = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads

    def __call__(
        self,
        x: Float[Array, "rows length d_model"],
        positions: Float[Array, "length d_model"],
        lengths: Int[Array, "rows"] | None,
    ) -> Float[Array, "rows length d_model"]:
        rows, length, d_model = x.shape
        shape = (1, length, self.num_heads, d_model // self.num_heads)
        query, key = (p.reshape(shape) for p in jnp.split(self.query_key(positions), 2, axis=-1))
        value = self.value(x).reshape(rows, *shape[1:])
        query, key = jnp.broadcast_to(query, value.shape), jnp.broadcast_to(key, value.shape)
        memory = key_value(key, value)
        states = attend(query, memory, lengths=lengths)
        return self.output(states.reshape(x.shape))
