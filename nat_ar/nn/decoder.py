"""Transformer decoder (Vaswani et al. 2017), pre- or post-norm, of any depth.

It serves both families: causal with caches, step by step or several positions at once, for left-to-right models; all
positions at once, with Gu's options, for one-pass models. Arrays only: no text, no search."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.nn import layers, transformer
from nat_ar.nn.attention import PositionalAttention, SelfAttention
from nat_ar.nn.cache import Cache, Position, Slots
from nat_ar.nn.dot_product import KeyValue
from nat_ar.nn.positions import sinusoids
from nat_ar.nn.transformer import FeedForward, LayeredEncoded, Residual, TransformerConfig
from nat_ar.types import Encoded


def require_fit(config: TransformerConfig, *, sees_itself: bool) -> None:
    """Raises ConfigError where a decoder's attention cannot hide a position from itself, and should."""
    if config.implementation == "cudnn" and not sees_itself:
        raise ConfigError(
            "attention by 'cudnn' cannot hide a position from itself; set transformer.implementation to "
            "'xla' or sees_itself to True"
        )


class DecoderBlock(nnx.Module):
    def __init__(
        self, config: TransformerConfig, *, has_positional_attention: bool, rngs: nnx.Rngs
    ) -> None:
        size, dtype = (config.d_model, config.num_heads), config.dtype
        self.self_attention = transformer.self_attention_of(config, rngs=rngs)
        self.around_self_attention = Residual(config)
        self.positional_attention = (
            PositionalAttention(*size, dtype=dtype, rngs=rngs) if has_positional_attention else None
        )
        self.around_positional = Residual(config) if has_positional_attention else None
        self.cross_attention = config.attention.cross_attention(
            *size, implementation=config.implementation, dtype=dtype, rngs=rngs
        )
        self.around_cross_attention = Residual(config)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.around_feed_forward = Residual(config)

    def __call__(
        self,
        x: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "rows_or_batch #length source_length"] | None = None,
        *,
        is_causal: bool | Bool[Array, ""],
        sees_itself: bool,
        self_mask: Bool[Array, "#rows length length"] | None = None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "rows length d_model"]:
        x = self.attend_to_itself(
            x,
            lengths,
            is_causal=is_causal,
            sees_itself=sees_itself,
            self_mask=self_mask,
            rngs=rngs,
        )
        return self.attend_to_source(x, memory, memory_lengths, memory_mask, rngs)

    def attend_to_itself(
        self,
        x: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        *,
        is_causal: bool | Bool[Array, ""],
        sees_itself: bool,
        self_mask: Bool[Array, "#rows length length"] | None = None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "rows length d_model"]:
        """The sublayers below cross attention."""
        y = self.self_attention(
            self.around_self_attention.enter(x),
            lengths,
            is_causal=is_causal,
            sees_itself=sees_itself,
            **({} if self_mask is None else {"mask": self_mask}),
        )
        x = self.around_self_attention.leave(x, y, rngs)
        if self.positional_attention is not None and self.around_positional is not None:
            length, d_model = x.shape[1:]
            encodings = jnp.asarray(sinusoids(length, d_model), x.dtype)
            y = self.positional_attention(
                self.around_positional.enter(x), encodings, lengths, is_causal=is_causal
            )
            x = self.around_positional.leave(x, y, rngs)
        return x

    def cross_attention_weights(
        self,
        x: Float[Array, "rows length d_model"],
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "rows_or_batch #length source_length"] | None,
    ) -> Float[Array, "rows heads length source_length"]:
        """Of states after `attend_to_itself`."""
        y = self.around_cross_attention.enter(x)
        return self.cross_attention.weights(y, memory, memory_lengths, memory_mask)

    def step(
        self,
        x: Float[Array, "batch beam d_model"],
        slots: Slots,
        origin: Int[Array, "batch beam positions"],
        position: Position,
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "batch #beam source_length"] | None = None,
    ) -> tuple[Float[Array, "batch beam d_model"], Slots]:
        """One position of the causal decoder, and the slots that now hold it. The beam has the axis
        of positions in `__call__`: to cross attention both are queries to the same source."""
        y = self.around_self_attention.enter(x)
        y, slots = self.self_attention.step(y, slots, origin, position)
        x = self.around_self_attention.leave(x, y)
        return self.attend_to_source(x, memory, memory_lengths, memory_mask, None), slots

    def extend(
        self,
        x: Float[Array, "batch new d_model"],
        slots: Slots,
        position: Position,
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "batch #new source_length"] | None = None,
    ) -> tuple[Float[Array, "batch new d_model"], Slots]:
        """Several positions of the causal decoder, and the slots that now hold them."""
        y = self.around_self_attention.enter(x)
        y, slots = self.self_attention.extend(y, slots, position)
        x = self.around_self_attention.leave(x, y)
        return self.attend_to_source(x, memory, memory_lengths, memory_mask, None), slots

    def attend_to_source(
        self,
        x: Float[Array, "rows length d_model"],
        memory: KeyValue,
        memory_lengths: Int[Array, "batch"],
        memory_mask: Bool[Array, "rows_or_batch #length source_length"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "rows length d_model"]:
        """Cross attention, and the feed-forward layers after it."""
        y = self.around_cross_attention.enter(x)
        y = self.cross_attention(y, memory, memory_lengths, memory_mask)
        x = self.around_cross_attention.leave(x, y, rngs)
        y = self.feed_forward(self.around_feed_forward.enter(x), rngs=rngs)
        return self.around_feed_forward.leave(x, y, rngs)


BetweenBlocks = Callable[
    [int, Float[Array, "rows length d_model"]], Float[Array, "rows length d_model"]
]
"""A block's index and its output in; what the next block reads out."""


class Decoder(nnx.Module):
    """Decoder inputs and Encoded to states; the vocabulary projection is the model's."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        has_positional_attention: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.blocks = nnx.List(
            [
                DecoderBlock(config, has_positional_attention=has_positional_attention, rngs=rngs)
                for _ in range(config.num_decoder_layers)
            ]
        )
        self.positions = transformer.position_table(config, rngs=rngs)
        self.final_norm = layers.LayerNorm(config.d_model) if config.norm == "pre" else None
        self.config = config

    @jax.named_scope("decoder")
    def memory(self, encoded: Encoded) -> list[KeyValue]:
        """Keys and values of the source for each block: of D blocks over E encoder layers, block d = 1, 2, ... reads
        layer d E / D, rounded up, if there are layers to choose from."""
        depth = len(self.blocks)
        states = [encoded.states] * depth
        if isinstance(encoded, LayeredEncoded):
            num_layers = len(encoded.layers)
            states = [encoded.layers[-(-d * num_layers // depth) - 1] for d in range(1, depth + 1)]
        return [
            block.cross_attention.memory(x) for block, x in zip(self.blocks, states, strict=True)
        ]

    @jax.named_scope("decoder")
    def __call__(
        self,
        inputs: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        encoded: Encoded,
        *,
        memory: list[KeyValue] | None = None,
        memory_mask: Bool[Array, "rows_or_batch #length source_length"] | None = None,
        is_causal: bool | Bool[Array, ""] = False,
        sees_itself: bool = True,
        self_mask: Bool[Array, "#rows length length"] | None = None,
        between_blocks: BetweenBlocks | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows length d_model"]:
        """All positions at once. `lengths` None: the causal mask already hides the padding on the
        right. rows = batch * hypotheses; the rows of one source are neighbours. `memory` is the result of
        `memory(encoded)`, for a caller that decodes more than once. `memory_mask` (True takes part) limits what
        cross attention sees of the source, beside its lengths; `self_mask` what self-attention sees. `between_blocks`
        is called after every block but the last, before the final norm."""
        memories = self.memory(encoded) if memory is None else memory
        x = transformer.add_positions(inputs, self.positions, self.config, rngs=rngs)
        for index, (block, block_memory) in enumerate(zip(self.blocks, memories, strict=True)):
            if index > 0:
                x = self._between(index, x, between_blocks)
            x = block(
                x,
                lengths,
                block_memory,
                encoded.lengths,
                memory_mask,
                is_causal=is_causal,
                sees_itself=sees_itself,
                self_mask=self_mask,
                rngs=rngs,
            )
        return x if self.final_norm is None else self.final_norm(x)

    def _between(
        self,
        index: int,
        x: Float[Array, "rows length d_model"],
        between_blocks: BetweenBlocks | None,
    ) -> Float[Array, "rows length d_model"]:
        """The output of the block before as the block `index` reads it."""
        if between_blocks is not None:
            x = between_blocks(index - 1, x)
        if self.positions is not None and self.config.decoder_positions == "every_layer":
            x = x + jnp.asarray(self.positions(x.shape[1]), x.dtype)
        return x

    def cross_attention_weights(
        self,
        inputs: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        encoded: Encoded,
        *,
        memory_mask: Bool[Array, "rows_or_batch #length source_length"] | None = None,
        is_causal: bool = False,
        sees_itself: bool = True,
        between_blocks: BetweenBlocks | None = None,
    ) -> list[Float[Array, "rows heads length source_length"]]:
        """For each block, the share of each source position in what `__call__` of the same arguments reads: rows of
        weights that add up to 1, and are 0 on padding."""
        x = transformer.add_positions(inputs, self.positions, self.config, rngs=None)
        of_blocks = []
        for index, (block, memory) in enumerate(
            zip(self.blocks, self.memory(encoded), strict=True)
        ):
            if index > 0:
                x = self._between(index, x, between_blocks)
            x = block.attend_to_itself(
                x, lengths, is_causal=is_causal, sees_itself=sees_itself, rngs=None
            )
            source = (memory, encoded.lengths, memory_mask)
            of_blocks.append(block.cross_attention_weights(x, *source))
            x = block.attend_to_source(x, *source, None)
        return of_blocks

    def empty_cache(self, batch: int, beam: int, max_length: int) -> Cache:
        """Room for max_length positions. Raises ConfigError where the attention cannot go step by step."""
        return transformer.empty_cache(
            self.config,
            [block.self_attention for block in self.blocks],
            batch,
            beam,
            max_length,
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
        """States at `position`, one for all rows or one for each, and the cache that now holds it."""
        old = old.at(position)
        new: list[Slots] = []
        x, here = inputs, None
        if self.positions is not None:
            table = jnp.asarray(self.positions(old.origin.shape[2]), inputs.dtype)
            here = table[position]  # [d_model], or [batch, d_model]
            here = here if position.ndim == 0 else here[:, None]
        for block, slots, block_memory in zip(self.blocks, old.blocks, memory, strict=True):
            if here is not None and (not new or self.config.decoder_positions == "every_layer"):
                x = x + here
            x, slots = block.step(
                x, slots, old.origin, position, block_memory, memory_lengths, memory_mask
            )
            new.append(slots)
        states = x if self.final_norm is None else self.final_norm(x)
        return states, Cache(new, old.origin)

    @property
    def extends_exactly(self) -> bool:
        """Whether the states of `extend` have the bits of those of `step`: where all products and attention run by
        kernels."""
        return self.config.positions.is_added and all(
            type(block.self_attention) is SelfAttention
            and block.self_attention.implementation == "kernel"
            for block in self.blocks
        )

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
        """As many steps as there are new inputs, at once: states at `position` (one for all rows or one for each),
        `position` + 1, ..., each seeing the inputs before it, and the cache that now holds them.

        The cache is of one hypothesis a row and has room for position + new positions. To take positions back,
        go on from an earlier one: what is behind the current position is never seen, and later writes replace
        it. Where `extends_exactly`, the states have the bits of single steps."""
        if old.origin.shape[1] != 1:
            raise ValueError(
                f"extend goes on with one hypothesis a row, got a cache of {old.origin.shape[1]}; use step"
            )
        new: list[Slots] = []
        x, here = inputs, None
        if self.positions is not None:
            table = jnp.asarray(self.positions(old.origin.shape[2]), inputs.dtype)
            here = table[position.reshape(-1, 1) + jnp.arange(inputs.shape[1])]
        for block, slots, block_memory in zip(self.blocks, old.blocks, memory, strict=True):
            if here is not None and (not new or self.config.decoder_positions == "every_layer"):
                x = x + here
            x, slots = block.extend(x, slots, position, block_memory, memory_lengths, memory_mask)
            new.append(slots)
        states = x if self.final_norm is None else self.final_norm(x)
        return states, Cache(new, old.origin)
