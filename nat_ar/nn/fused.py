"""An Encoder and a Decoder that are one call each (runtime/fused_blocks.h) instead of some sixteen operations a block.

Single operations on a few rows take longer to start than to run: they are most of a small decoder's step. States have
the bits of the packed modules, run one by one."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar.nn import layers, transformer
from nat_ar.nn.attention import CrossAttention, SelfAttention
from nat_ar.nn.cache import Cache, Position, Slots, scalar_where_possible
from nat_ar.nn.decoder import Decoder, DecoderBlock
from nat_ar.nn.dot_product import KeyValue
from nat_ar.nn.transformer import Encoder, EncoderBlock, LayeredEncoded
from nat_ar.runtime import cpu_kernels
from nat_ar.types import Encoded


def fits(network: Encoder | Decoder) -> bool:
    """Whether the kernel computes its blocks: plain attention in float32, positions that are added once, and an encoder
    that sees all of a sentence and whose last states alone are read."""
    config = network.config
    if config.dtype != "float32" or not config.positions.is_added:
        return False
    if isinstance(network, Encoder):
        return (
            config.encoder_attention == "bidirectional"
            and config.decoder_memory == "last_layer"
            and all(
                type(block) is EncoderBlock and type(block.attention) is SelfAttention
                for block in network.blocks
            )
        )
    return config.decoder_positions == "once" and all(
        type(block) is DecoderBlock
        and block.positional_attention is None
        and type(block.self_attention) is SelfAttention
        and type(block.cross_attention) is CrossAttention
        for block in network.blocks
    )


def _arrays(modules: Iterable[Any], final_norm: Any) -> list[Array]:
    """Those of packed modules and of the last norm, as fused_blocks.h reads them."""
    last = [] if final_norm is None else [final_norm]
    return [array for module in (*modules, *last) for array in module.arrays]


def _sizes(network: Encoder | Decoder) -> dict[str, Any]:
    """What the kernel has to know beside the shapes of its arrays."""
    return {
        "num_heads": network.config.num_heads,
        "d_hidden": network.config.d_hidden,
        "is_pre": network.final_norm is not None,
        "epsilon": layers.LAYER_NORM_EPSILON,
    }


class FusedEncoder(Encoder):
    """An encoder of packed blocks."""

    def __init__(self, encoder: Encoder) -> None:
        self.blocks = encoder.blocks
        self.positions = encoder.positions
        self.final_norm = encoder.final_norm
        self.config = encoder.config

    def __call__(
        self,
        embeddings: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None,
    ) -> Encoded:
        if rngs is not None:  # dropout
            return super().__call__(embeddings, lengths, rngs=rngs)
        x = transformer.add_positions(embeddings, self.positions, self.config, rngs=None)
        modules: list[Any] = []
        for block in self.blocks:
            modules += [
                block.around_attention.norm,
                block.attention.project,
                block.attention.output,
                block.around_feed_forward.norm,
                block.feed_forward.expand,
                block.feed_forward.contract,
            ]
        states = cpu_kernels.pass_blocks(
            x,
            lengths,
            None,
            [],
            _arrays(modules, self.final_norm),
            blocks=len(self.blocks),
            **_sizes(self),
        )
        return Encoded(states, lengths)


class FusedDecoder(Decoder):
    """A decoder of packed blocks; what the kernel does not know (masks, causality of all positions at once, something
    between the blocks) runs block by block."""

    def __init__(self, decoder: Decoder) -> None:
        self.blocks = decoder.blocks
        self.positions = decoder.positions
        self.final_norm = decoder.final_norm
        self.config = decoder.config

    @jax.named_scope("decoder")
    def memory(self, encoded: Encoded) -> list[KeyValue]:
        if isinstance(encoded, LayeredEncoded):
            return super().memory(encoded)
        arrays = cpu_kernels.project_sources(
            encoded.states,
            _arrays((block.cross_attention.key_value for block in self.blocks), None),
            blocks=len(self.blocks),
            num_heads=self.config.num_heads,
        )
        return [KeyValue(*pair) for pair in zip(arrays[::2], arrays[1::2], strict=True)]

    @jax.named_scope("decoder")
    def __call__(
        self,
        inputs: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        encoded: Encoded,
        *,
        memory: list[KeyValue] | None = None,
        is_causal: bool | Bool[Array, ""] = False,
        sees_itself: bool = True,
        **more: Any,
    ) -> Float[Array, "rows length d_model"]:
        """As Decoder has it; `more`: masks, what comes between the blocks, and dropout."""
        has_more = any(x is not None for x in more.values())
        if lengths is None or is_causal is not False or not sees_itself or has_more:
            return super().__call__(
                inputs,
                lengths,
                encoded,
                memory=memory,
                is_causal=is_causal,
                sees_itself=sees_itself,
                **more,
            )
        memories = self.memory(encoded) if memory is None else memory
        return cpu_kernels.pass_blocks(
            transformer.add_positions(inputs, self.positions, self.config, rngs=None),
            lengths,
            encoded.lengths,
            _parts(memories),
            self._weights(),
            blocks=len(self.blocks),
            **_sizes(self),
        )

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
            _parts(old.blocks),
            _parts(memory),
            self._weights(),
            **_sizes(self),
        )
        blocks = [Slots(*pair) for pair in zip(caches[::2], caches[1::2], strict=True)]
        return states, Cache(blocks, old.origin)

    def _weights(self) -> list[Array]:
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
        return _arrays(modules, self.final_norm)


def _parts(blocks: Iterable[KeyValue | Slots]) -> list[Array]:
    """A key and a value for each block."""
    return [part for block in blocks for part in (block.key, block.value)]
