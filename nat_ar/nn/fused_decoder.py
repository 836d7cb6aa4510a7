"""A Decoder whose steps are one call each (cpu_kernels.decoder_step) instead of some sixteen operations a block.

Single operations on a row or two take longer to start than to run: they are most of a small decoder's step. States have
the bits of the packed modules, run one by one."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.nn import layers
from nat_ar.nn.attention import CrossAttention, SelfAttention
from nat_ar.nn.cache import Cache, Position, Slots, scalar_where_possible
from nat_ar.nn.decoder import Decoder, DecoderBlock
from nat_ar.nn.dot_product import KeyValue
from nat_ar.runtime import cpu_kernels


def fits(decoder: Decoder) -> bool:
    """Whether the kernel computes its blocks: plain attention in float32, and positions that are added once."""
    config = decoder.config
    return (
        config.dtype == "float32"
        and config.decoder_positions == "once"
        and config.positions.is_added
        and all(
            type(block) is DecoderBlock
            and block.positional_attention is None
            and type(block.self_attention) is SelfAttention
            and type(block.cross_attention) is CrossAttention
            for block in decoder.blocks
        )
    )


class FusedDecoder(Decoder):
    """A decoder of packed blocks; where the kernel cannot (a mask over the source), they run one by one."""

    def __init__(self, decoder: Decoder) -> None:
        self.blocks = decoder.blocks
        self.positions = decoder.positions
        self.final_norm = decoder.final_norm
        self.config = decoder.config

    @jax.named_scope("decoder")
    def step(
        self,
        inputs: Float[Array, "batch beam d_model"],
        old: Cache,
        position: Position,
        memory: list[KeyValue],
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "batch #beam source_length"] | None = None,
    ) -> tuple[Float[Array, "batch beam d_model"], Cache]:
        if memory_mask is not None:
            return super().step(inputs, old, position, memory, memory_lengths, memory_mask)
        beam = inputs.shape[1]
        position = scalar_where_possible(position)
        old = old.at(position) if beam > 1 else old  # an only slot is always its own
        at = jnp.broadcast_to(position.reshape(-1, 1), inputs.shape[:2])
        places = at * beam + jnp.arange(beam, dtype=at.dtype)
        return self._at(inputs, old, at, places, memory, memory_lengths)

    @jax.named_scope("decoder")
    def extend(
        self,
        inputs: Float[Array, "batch new d_model"],
        old: Cache,
        position: Position,
        memory: list[KeyValue],
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "batch #new source_length"] | None = None,
    ) -> tuple[Float[Array, "batch new d_model"], Cache]:
        if memory_mask is not None or old.origin.shape[1] != 1:
            return super().extend(inputs, old, position, memory, memory_lengths, memory_mask)
        new = jnp.arange(inputs.shape[1], dtype=position.dtype)
        at = jnp.broadcast_to(position.reshape(-1, 1) + new, inputs.shape[:2])
        return self._at(inputs, old, at, at, memory, memory_lengths)

    def _at(
        self,
        inputs: Float[Array, "batch new d_model"],
        old: Cache,
        at: Int[Array, "batch new"],
        places: Int[Array, "batch new"],
        memory: list[KeyValue],
        memory_lengths: Int[Array, "batch"],
    ) -> tuple[Float[Array, "batch new d_model"], Cache]:
        """Positions `at`, which are written into these places of the cache."""
        num_slots, length = old.origin.shape[1:]
        x = inputs
        if self.positions is not None:
            table = jnp.asarray(self.positions(length), inputs.dtype)
            x = x + table[at]
        states, caches = cpu_kernels.decoder_step(
            x,
            places,
            at + 1,
            old.origin if num_slots > 1 else None,
            memory_lengths,
            [part for slots in old.blocks for part in (slots.key, slots.value)],
            [part for block in memory for part in (block.key, block.value)],
            self._weights(),
            num_heads=self.config.num_heads,
            d_hidden=self.config.d_hidden,
            is_pre=self.final_norm is not None,
            epsilon=layers.LAYER_NORM_EPSILON,
        )
        blocks = [Slots(*pair) for pair in zip(caches[::2], caches[1::2], strict=True)]
        return states, Cache(blocks, old.origin)

    def _weights(self) -> list[Array]:
        """In the order in which decoder_step reads them."""
        block: Any  # packed: its maps have arrays that Linear has not
        modules: list[Any] = []
        for block in self.blocks:
            modules += [
                block.around_self_attention.norm,
                block.self_attention.project,
                block.self_attention.output,
                block.around_cross_attention.norm,
                block.cross_attention.query,
                block.cross_attention.output,
                block.around_feed_forward.norm,
                block.feed_forward.expand,
                block.feed_forward.contract,
            ]
        modules += [] if self.final_norm is None else [self.final_norm]
        return [array for module in modules for array in module.arrays]
