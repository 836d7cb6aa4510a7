"""Multi-head attention modules.

Rows of queries may be several times as many as rows of keys (hypotheses of one source): they then attend to the
same keys, which are not repeated."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.nn import dot_product, layers
from nat_ar.nn.dot_product import Implementation, KeyValue


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
        mask = None
        if not sees_itself:
            # A single word has no other word to look at, and sees itself.
            is_single = jnp.array([length]) == 1 if lengths is None else lengths == 1
            mask = ~jnp.eye(length, dtype=bool) | is_single[:, None, None]
        states = dot_product.attend(
            query,
            dot_product.key_value(key, value),
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
        return dot_product.key_value(key, value)

    def __call__(
        self,
        x: Float[Array, "rows length d_model"],
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
    ) -> Float[Array, "rows length d_model"]:
        """`rows` is a multiple of `batch`: rows i * (rows / batch) ... belong to source i."""
        batch, d_model = memory.key.shape[0], x.shape[-1]
        query = self.query(x).reshape(batch, -1, self.num_heads, d_model // self.num_heads)
        states = dot_product.attend(
            query, memory, lengths=memory_lengths, implementation=self.implementation
        )
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
        memory = dot_product.key_value(key, value)
        states = dot_product.attend(query, memory, lengths=lengths)
        return self.output(states.reshape(x.shape))
