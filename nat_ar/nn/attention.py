"""Multi-head attention: the open kind of setting that chooses one, and the modules.

Rows of queries may be several times as many as rows of keys (hypotheses of one source): they then attend to the
same keys, which are not repeated."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import cache, dot_product, layers
from nat_ar.nn.cache import Position, Slots
from nat_ar.nn.dot_product import Implementation, KeyValue
from nat_ar.nn.positions import SINUSOIDAL, Positions


@dataclasses.dataclass(frozen=True)
class Attention(config_json.Open):
    """An open kind of setting: which attention a Transformer has.

    A member, in any file, builds a module with the calls of SelfAttention: all positions at once, one position
    over a cache (`step`) and several (`extend`), with the cache that these read (`empty_slots`). A variant that
    only changes scores overrides SelfAttention.bias. One that cannot go step by step sets `has_steps = False`:
    left-to-right models then refuse it. Kernels compute plain attention only: a module with a bias falls back to
    XLA's operations by itself, and one that attends in its own way never calls them. `mask` is handed over by
    models whose frames wait (Ctc.wait_k) only. The prefix stack of DecoderOnly, CTranslate2 and "cudnn" know Full
    only, and refuse the others."""

    has_steps: ClassVar[bool] = True
    """whether its modules have `step`, `extend` and `empty_slots`"""

    def self_attention(
        self,
        d_model: int,
        num_heads: int,
        *,
        positions: Positions,
        implementation: Implementation,
        dtype: str,
        rngs: nnx.Rngs,
    ) -> "SelfAttention":
        """The attention of encoder and decoder states to those of their own sequence."""
        raise NotImplementedError

    def cross_attention(
        self,
        d_model: int,
        num_heads: int,
        *,
        implementation: Implementation,
        dtype: str,
        rngs: nnx.Rngs,
    ) -> "CrossAttention":
        """The attention of decoder states to the source."""
        return CrossAttention(
            d_model, num_heads, implementation=implementation, dtype=dtype, rngs=rngs
        )


@dataclasses.dataclass(frozen=True)
class Full(Attention):
    """Every query sees every key that lengths and causality allow (Vaswani et al. 2017, section 3.2)."""

    def self_attention(
        self,
        d_model: int,
        num_heads: int,
        *,
        positions: Positions,
        implementation: Implementation,
        dtype: str,
        rngs: nnx.Rngs,
    ) -> "SelfAttention":
        return SelfAttention(
            d_model,
            num_heads,
            positions=positions,
            implementation=implementation,
            dtype=dtype,
            rngs=rngs,
        )


def require_steps(attention: Attention) -> None:
    """Raises ConfigError where an attention cannot go step by step."""
    if not attention.has_steps:
        raise ConfigError(
            f"attention {type(attention).__name__} cannot go step by step, as left-to-right models do; set "
            "transformer.attention to Full()"
        )


class SelfAttention(nnx.Module):
    """Attention of a sequence to itself."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        positions: Positions = SINUSOIDAL,
        implementation: Implementation = "xla",
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        self.project = layers.Linear(d_model, d_model, parts=3, dtype=dtype, rngs=rngs)
        self.output = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.num_heads, self.head_dim, self.dtype = num_heads, d_model // num_heads, dtype
        self.positions = positions
        self.implementation: Implementation = implementation

    def heads(
        self, x: Float[Array, "*axes d_model"], at: Int[Array, "*#axes"] | None = None
    ) -> list[Float[Array, "*axes heads head_dim"]]:
        """Query, key and value of states at positions `at`; None: positions do not act on them."""
        parts = jnp.split(self.project(x), 3, axis=-1)
        query, key, value = (part.reshape(*part.shape[:-1], self.num_heads, -1) for part in parts)
        if at is not None:
            query, key = (self.positions.rotated(part, at) for part in (query, key))
        return [query, key, value]

    def bias(
        self, distance: Int[Array, "*axes queries keys"]
    ) -> Float[Array, "*axes #heads queries keys"] | None:
        """What is added to scores; `distance` is the query's position less the key's. None: nothing."""
        return self.positions.bias(self.num_heads, distance)

    def __call__(
        self,
        x: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        *,
        is_causal: bool | Bool[Array, ""] = False,
        sees_itself: bool = True,
        mask: Bool[Array, "#rows length length"] | None = None,
    ) -> Float[Array, "rows length d_model"]:
        """`sees_itself` False hides each position from itself (Gu et al. 2018, section 3.1), unless `is_causal`: the
        first would see nothing. `mask` (True takes part) is for what else a position does not see; it keeps kernels
        from running."""
        length = x.shape[1]
        at = jnp.arange(length)
        query, key, value = self.heads(x, at)
        if not sees_itself:
            # A single word has no other word to look at, and sees itself.
            is_single = jnp.array([length]) == 1 if lengths is None else lengths == 1
            sees_others = ~jnp.eye(length, dtype=bool) | is_single[:, None, None] | is_causal
            mask = sees_others if mask is None else mask & sees_others
        states = dot_product.attend(
            query,
            dot_product.key_value(key, value),
            mask=mask,
            bias=self.bias(at[:, None] - at),
            lengths=lengths,
            is_causal=is_causal,
            implementation=self.implementation,
        )
        return self.output(states.reshape(x.shape))

    def empty_slots(self, batch: int, beam: int, max_length: int) -> Slots:
        """The cache of this module, with room for max_length positions."""
        return cache.empty_slots(
            batch,
            beam,
            max_length,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
        )

    def step(
        self,
        x: Float[Array, "batch beam d_model"],
        slots: Slots,
        origin: Int[Array, "batch beam positions"],
        position: Position,
    ) -> tuple[Float[Array, "batch beam d_model"], Slots]:
        """Causal attention of every hypothesis at `position`, and the slots that now hold it."""
        at = position.reshape(-1, 1)  # [batch or 1, 1]
        query, key, value = self.heads(x, at)
        slots = cache.write(slots, key, value, position)
        distance = at - jnp.arange(origin.shape[-1])  # [batch or 1, positions]
        states = cache.attend(
            query,
            slots,
            origin,
            position,
            bias=self.bias(distance[:, None]),
            implementation=self.implementation,
        )
        return self.output(states.reshape(x.shape)), slots

    def extend(
        self, x: Float[Array, "batch new d_model"], slots: Slots, position: Position
    ) -> tuple[Float[Array, "batch new d_model"], Slots]:
        """As many steps as there are new positions, from `position` on, at once; one hypothesis a row."""
        at = position.reshape(-1, 1) + jnp.arange(x.shape[1])  # [batch or 1, new]
        query, key, value = self.heads(x, at)
        slots = cache.write_several(slots, key, value, position)
        distance = at[..., None] - jnp.arange(slots.key.shape[-1])  # [batch or 1, new, positions]
        states = cache.attend_several(
            query,
            slots,
            position,
            bias=self.bias(distance),
            implementation=self.implementation,
        )
        return self.output(states.reshape(x.shape)), slots


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
        mask: Bool[Array, "rows_or_batch #length source_length"] | None = None,
    ) -> Float[Array, "rows length d_model"]:
        """`rows` is a multiple of `batch`: rows i * (rows / batch) ... belong to source i. `mask` (True takes part)
        is for each row, or for all rows of a source alike, and keeps kernels from running."""
        states = dot_product.attend(
            self._queries(x, memory),
            memory,
            mask=None if mask is None else _by_source(mask, x, memory),
            lengths=memory_lengths,
            implementation=self.implementation,
        )
        return self.output(states.reshape(x.shape))

    def weights(
        self,
        x: Float[Array, "rows length d_model"],
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
        mask: Bool[Array, "rows_or_batch #length source_length"] | None = None,
    ) -> Float[Array, "rows heads length source_length"]:
        """The shares of each source position in what `__call__` reads."""
        rows, length, _ = x.shape
        shares = dot_product.weights(
            self._queries(x, memory),
            memory,
            mask=None if mask is None else _by_source(mask, x, memory),
            lengths=memory_lengths,
        )  # [batch, heads, queries, source_length]
        batch, heads, _, source_length = shares.shape
        shares = shares.reshape(batch, heads, rows // batch, length, source_length)
        return jnp.swapaxes(shares, 1, 2).reshape(rows, heads, length, source_length)

    def _queries(
        self, x: Float[Array, "rows length d_model"], memory: KeyValue
    ) -> Float[Array, "batch queries heads head_dim"]:
        """Those of all rows of a source side by side."""
        head_dim = x.shape[-1] // self.num_heads
        return self.query(x).reshape(memory.key.shape[0], -1, self.num_heads, head_dim)


def _by_source(
    mask: Bool[Array, "rows_or_batch #length source_length"],
    x: Float[Array, "rows length d_model"],
    memory: KeyValue,
) -> Bool[Array, "batch queries source_length"]:
    (rows, length, _), batch = x.shape, memory.key.shape[0]
    if mask.shape[0] not in (rows, batch):
        raise ValueError(
            f"a mask of cross attention has a row for each of {rows} rows or of {batch} sources, got "
            f"{mask.shape[0]}"
        )
    mask = jnp.repeat(mask, rows // mask.shape[0], axis=0)  # [rows, 1 or length, source_length]
    mask = jnp.broadcast_to(mask, (rows, length, mask.shape[-1]))
    return mask.reshape(batch, -1, mask.shape[-1])


class PositionalAttention(nnx.Module):
    """Queries and keys are position encodings, values are the states (Gu et al. 2018, section 3.1): lets a
    one-pass decoder order its words by position alone."""

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
        *,
        is_causal: bool | Bool[Array, ""] = False,
    ) -> Float[Array, "rows length d_model"]:
        rows, length, d_model = x.shape
        shape = (1, length, self.num_heads, d_model // self.num_heads)
        query, key = (p.reshape(shape) for p in jnp.split(self.query_key(positions), 2, axis=-1))
        value = self.value(x).reshape(rows, *shape[1:])
        query, key = jnp.broadcast_to(query, value.shape), jnp.broadcast_to(key, value.shape)
        memory = dot_product.key_value(key, value)
        states = dot_product.attend(query, memory, lengths=lengths, is_causal=is_causal)
        return self.output(states.reshape(x.shape))
