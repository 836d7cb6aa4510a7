"""Caches of keys and values for a decoder that goes position by position.

The hypotheses of a source share one memory, in which each writes into a slot of its own. When a search continues one
hypothesis from another, nothing is copied: `origin` records which slot wrote each of its positions. The scores of all
slots are one matrix product for all hypotheses of a source, out of which each takes its own. Copying caches at every
position took most of the time of a beam."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar.nn import dot_product
from nat_ar.nn.dot_product import NEGATIVE, Implementation, KeyValue, heads_first, products
from nat_ar.runtime import cpu_kernels
from nat_ar.types import pytree_dataclass

Position = Int[Array, ""] | Int[Array, "batch"]
"""Where hypotheses write next: one position for all rows, or one for each."""


@pytree_dataclass
class Slots:
    """Keys and values of one block. A place is a slot at a position: place = position * slots + slot. The slots of a
    position are neighbours, so that a step writes one piece of memory and both products read the whole as it is;
    XLA would copy it at every step if it were reshaped in between."""

    key: Float[Array, "batch heads head_dim places"]
    value: Float[Array, "batch heads places head_dim"]


@pytree_dataclass
class Cache:
    """The past of every hypothesis of a decoder."""

    blocks: list[Slots]
    origin: Int[Array, "batch beam positions"]
    """The slot that holds each position of each hypothesis."""

    def reordered(self, beams: Int[Array, "batch beam"]) -> "Cache":
        """The cache in which hypothesis n continues hypothesis beams[n]."""
        return Cache(self.blocks, jnp.take_along_axis(self.origin, beams[..., None], axis=1))

    def at(self, position: Position) -> "Cache":
        """Ready for `position`, which every hypothesis is about to write into its own slot."""
        batch, beam, length = self.origin.shape
        position = scalar_where_possible(position)
        own = jnp.arange(beam, dtype=self.origin.dtype)[:, None]
        if position.ndim == 0:
            own = jnp.broadcast_to(own, (batch, beam, 1))
            origin = jax.lax.dynamic_update_slice_in_dim(self.origin, own, position, axis=2)
        else:
            is_here = jnp.arange(length) == position[:, None, None]
            origin = jnp.where(is_here, own, self.origin)
        return Cache(self.blocks, origin)


def empty(blocks: list[Slots], batch: int, beam: int, max_length: int) -> Cache:
    """Room for max_length positions in the empty slots of each block."""
    return Cache(blocks, jnp.zeros((batch, beam, max_length), jnp.int32))


def empty_slots(
    batch: int, beam: int, max_length: int, *, num_heads: int, head_dim: int, dtype: str
) -> Slots:
    """Room for max_length positions in one block."""
    places = max_length * beam
    keys = jnp.zeros((batch, num_heads, head_dim, places), dtype)
    values = jnp.zeros((batch, num_heads, places, head_dim), dtype)
    return Slots(keys, values)


def scalar_where_possible(position: Position) -> Position:
    """The position of an only row as one for all rows: then a write touches one position, not the whole cache."""
    return position[0] if position.shape == (1,) else position


def _of_row(position: Position) -> Int[Array, "#batch 1 1 1"]:
    """Broadcast against [batch, heads, beam, positions]."""
    return position.reshape(-1, 1, 1, 1)


def write(
    slots: Slots,
    key: Float[Array, "batch beam heads head_dim"],
    value: Float[Array, "batch beam heads head_dim"],
    position: Position,
) -> Slots:
    """The slots with the key and value of every hypothesis at `position`; what they held there is overwritten."""
    beam, places = key.shape[1], slots.key.shape[-1]
    keys, values = jnp.moveaxis(key, 1, -1), heads_first(value)  # beam last, as places are
    position = scalar_where_possible(position)
    if position.ndim == 0:
        start = position * beam
        return Slots(
            jax.lax.dynamic_update_slice_in_dim(slots.key, keys, start, axis=3),
            jax.lax.dynamic_update_slice_in_dim(slots.value, values, start, axis=2),
        )
    # On a CPU a pass over the whole cache is quicker than XLA's scatter.
    is_here = (jnp.arange(places) // beam == position[:, None])[
        :, None, None
    ]  # [batch, 1, 1, places]
    repeats = places // beam
    return Slots(
        jnp.where(is_here, jnp.tile(keys, repeats), slots.key),
        jnp.where(jnp.swapaxes(is_here, 2, 3), jnp.tile(values, (repeats, 1)), slots.value),
    )


def write_several(
    slots: Slots,
    key: Float[Array, "batch new heads head_dim"],
    value: Float[Array, "batch new heads head_dim"],
    position: Position,
) -> Slots:
    """The slots with `new` keys and values from `position` on, in a cache of one hypothesis a row."""
    new, places = key.shape[1], slots.key.shape[-1]
    keys, values = jnp.moveaxis(key, 1, -1), heads_first(value)
    position = scalar_where_possible(position)
    if position.ndim == 0:
        return Slots(
            jax.lax.dynamic_update_slice_in_dim(slots.key, keys, position, axis=3),
            jax.lax.dynamic_update_slice_in_dim(slots.value, values, position, axis=2),
        )
    index = jnp.arange(places) - position[:, None]  # [batch, places], into the new ones
    is_new = (index >= 0) & (index < new)
    index = jnp.clip(index, 0, new - 1)
    keys = jnp.take_along_axis(
        keys, index[:, None, None], axis=3
    )  # [batch, heads, head_dim, places]
    values = jnp.take_along_axis(values, index[:, None, :, None], axis=2)
    return Slots(
        jnp.where(is_new[:, None, None], keys, slots.key),
        jnp.where(is_new[:, None, :, None], values, slots.value),
    )


def scores_of_several(
    query: Float[Array, "batch new heads head_dim"], slots: Slots, position: Position
) -> Float[Array, "batch heads new positions"]:
    """q k / sqrt(head_dim) of queries at `position`, `position` + 1, ..., with the positions of an only hypothesis,
    NEGATIVE after their own."""
    own = position.reshape(-1, 1) + jnp.arange(query.shape[1])  # [batch or 1, new]
    is_past = jnp.arange(slots.key.shape[-1]) <= own[:, None, :, None]
    return jnp.where(is_past, products(heads_first(query), slots.key), NEGATIVE)


def attend_several(
    query: Float[Array, "batch new heads head_dim"],
    slots: Slots,
    position: Position,
    *,
    bias: Float[Array, "#batch #heads new positions"] | None = None,
    implementation: Implementation = "xla",
) -> Float[Array, "batch new heads head_dim"]:
    """Causal self-attention of queries at `position`, `position` + 1, ..., in a cache of one hypothesis a row. By
    kernels each result has the bits of `attend`, one position at a time."""
    new, places = query.shape[1], slots.key.shape[-1]
    counts = position.reshape(-1, 1) + 1 + jnp.arange(new)  # [batch or 1, new]
    if implementation == "kernel" and bias is None:
        counts = jnp.broadcast_to(counts, query.shape[:2])
        return cpu_kernels.attend(query, slots.key, slots.value, counts)
    memory = KeyValue(slots.key, slots.value)
    mask = jnp.arange(places) < counts[..., None]
    return dot_product.attend(query, memory, mask=mask, bias=bias)


def scores(
    query: Float[Array, "batch beam heads head_dim"],
    slots: Slots,
    origin: Int[Array, "batch beam positions"],
    position: Position,
    bias: Float[Array, "#batch #heads #beam positions"] | None = None,
) -> Float[Array, "batch heads beam positions"]:
    """q k / sqrt(head_dim) + bias of each hypothesis with its own positions, NEGATIVE after `position`."""
    _, num_slots, length = origin.shape
    of_all = products(heads_first(query), slots.key)
    of_all = of_all.reshape(*of_all.shape[:3], length, num_slots)
    mine = of_all[..., 0]
    for slot in range(1, num_slots):
        mine = jnp.where(origin[:, None] == slot, of_all[..., slot], mine)
    if bias is not None:
        mine = mine + bias
    return jnp.where(jnp.arange(length) <= _of_row(position), mine, NEGATIVE)


def mix(
    weights: Float[Array, "batch heads beam positions"],
    slots: Slots,
    origin: Int[Array, "batch beam positions"],
) -> Float[Array, "batch beam heads head_dim"]:
    """The sum of each hypothesis' values by its weights."""
    num_slots = origin.shape[1]
    if num_slots > 1:
        is_mine = origin[:, None, ..., None] == jnp.arange(num_slots)
        weights = jnp.where(is_mine, weights[..., None], 0)
        weights = weights.reshape(*weights.shape[:3], -1)
    return heads_first(weights @ slots.value)


def attend(
    query: Float[Array, "batch beam heads head_dim"],
    slots: Slots,
    origin: Int[Array, "batch beam positions"],
    position: Position,
    *,
    bias: Float[Array, "#batch #heads #beam positions"] | None = None,
    implementation: Implementation = "xla",
) -> Float[Array, "batch beam heads head_dim"]:
    """Causal self-attention of every hypothesis at `position`, softmax in float32. With a bias, "kernel" runs XLA's
    operations."""
    if implementation == "kernel" and bias is None:
        counts = jnp.broadcast_to(position + 1, query.shape[:1])
        return cpu_kernels.attend(query, slots.key, slots.value, counts, origin)
    weights = jax.nn.softmax(scores(query, slots, origin, position, bias), axis=-1)
    return mix(weights.astype(slots.value.dtype), slots, origin)
