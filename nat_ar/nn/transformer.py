"""Transformer encoder and decoder (Vaswani et al. 2017), pre- or post-norm, of any depth.

The decoder serves both families: causal with caches, step by step, for autoregressive models; all
positions at once, with Gu's options, for non-autoregressive ones. Arrays only: no text, no search."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import attention, cache, layers
from nat_ar.nn.attention import Attention, Full, PositionalAttention, SelfAttention
from nat_ar.nn.cache import Cache, Position, Slots
from nat_ar.nn.dot_product import KeyValue
from nat_ar.nn.positions import SINUSOIDAL, Positions, Table, sinusoids
from nat_ar.types import Encoded


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a Transformer; the defaults are a model for two CPU cores."""

    d_model: int = 256
    """width of the residual stream"""
    d_hidden: int = 1024
    """width of the feed-forward layers"""
    num_heads: int = 4
    """attention heads; d_model must be divisible by it"""
    num_encoder_layers: int = 6
    """encoder depth"""
    num_decoder_layers: int = 6
    """decoder depth"""
    dropout_rate: float = 0.1
    """dropout on embeddings, on each sublayer's output and inside the feed-forward layers"""
    norm: Literal["pre", "post"] = "pre"
    """layer normalisation before (pre) or after (post, the original) each sublayer"""
    max_length: int = 1024
    """positions that the model knows, source and target each; longer batches are refused"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """type of activations; parameters stay float32"""
    attention: Attention = Full()
    """which keys a query sees, and how it weighs them"""
    implementation: Literal["xla", "cudnn"] = "xla"
    """of attention; cudnn: fused kernels, NVIDIA GPUs with bfloat16 only; never falls back by itself"""
    positions: Positions = SINUSOIDAL
    """how the network learns the order of its tokens"""
    encoder_attention: Literal["bidirectional", "causal"] = "bidirectional"
    """causal: a source token sees those before it only, so that states of a prefix stay when the source goes on"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, `attention` was the implementation, positions were sinusoidal and encoders bidirectional."""
        if data.get("attention") in ("xla", "cudnn"):
            data = {
                **data,
                "attention": {"type": "Full"},
                "implementation": data["attention"],
                "positions": {"type": "Sinusoidal"},
                "encoder_attention": "bidirectional",
            }
        return data

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads or self.d_model % 2:
            raise ConfigError(
                f"d_model must be even and divisible by num_heads, got d_model {self.d_model} and "
                f"num_heads {self.num_heads}; change one of them"
            )
        if min(self.num_encoder_layers, self.num_decoder_layers, self.d_hidden) < 1:
            raise ConfigError(
                "num_encoder_layers, num_decoder_layers and d_hidden must be at least 1, got "
                f"{self.num_encoder_layers}, {self.num_decoder_layers} and {self.d_hidden}"
            )
        config_json.require_share("dropout_rate", self.dropout_rate, may_be_one=False)
        for field, kind in (("attention", Attention), ("positions", Positions)):
            if not isinstance(value := getattr(self, field), kind):
                raise ConfigError(
                    f"{field} must be an nn.{field}.{kind.__name__}, such as {getattr(type(self), field)}, got "
                    f"{value!r}; 'xla' and 'cudnn' are values of implementation"
                )
        self.positions.require_fit(self.d_model // self.num_heads)
        if self.implementation == "cudnn":
            if self.dtype != "bfloat16":
                raise ConfigError(
                    "implementation 'cudnn' needs dtype 'bfloat16', got "
                    f"{self.dtype!r}; set one of them"
                )
            if self.positions.has_bias or not isinstance(self.attention, Full):
                raise ConfigError(
                    "implementation 'cudnn' knows attention Full and positions without a bias, got "
                    f"{self.attention} and {self.positions}; set transformer.implementation to 'xla'"
                )


class FeedForward(nnx.Module):
    """Two linear maps with a ReLU between (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        dtype = config.dtype
        self.expand = layers.Linear(
            config.d_model, config.d_hidden, is_rectified=True, dtype=dtype, rngs=rngs
        )
        self.contract = layers.Linear(config.d_hidden, config.d_model, dtype=dtype, rngs=rngs)
        self.dropout_rate = config.dropout_rate

    def __call__(
        self, x: Float[Array, "... d_model"], *, rngs: nnx.Rngs | None
    ) -> Float[Array, "... d_model"]:
        hidden = layers.dropout(self.expand(x), self.dropout_rate, rngs=rngs)
        return self.contract(hidden)


class Residual(nnx.Module):
    """The place of the norm and the dropout around one sublayer: enter -> sublayer -> leave."""

    def __init__(self, config: TransformerConfig) -> None:
        self.norm = layers.LayerNorm(config.d_model)
        self.is_pre = config.norm == "pre"
        self.dropout_rate = config.dropout_rate

    def enter(self, x: Float[Array, "... d_model"]) -> Float[Array, "... d_model"]:
        return self.norm(x) if self.is_pre else x

    def leave(
        self,
        x: Float[Array, "... d_model"],
        y: Float[Array, "... d_model"],
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "... d_model"]:
        total = x + layers.dropout(y, self.dropout_rate, rngs=rngs)
        return total if self.is_pre else self.norm(total)


def self_attention_of(config: TransformerConfig, *, rngs: nnx.Rngs) -> SelfAttention:
    """The self-attention of one block."""
    return config.attention.self_attention(
        config.d_model,
        config.num_heads,
        positions=config.positions,
        implementation=config.implementation,
        dtype=config.dtype,
        rngs=rngs,
    )


class EncoderBlock(nnx.Module):
    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.attention = self_attention_of(config, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.around_attention = Residual(config)
        self.around_feed_forward = Residual(config)

    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        is_causal: bool = False,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "batch length d_model"]:
        y = self.attention(self.around_attention.enter(x), lengths, is_causal=is_causal)
        x = self.around_attention.leave(x, y, rngs)
        y = self.feed_forward(self.around_feed_forward.enter(x), rngs=rngs)
        return self.around_feed_forward.leave(x, y, rngs)


def require_positions(length: int, config: TransformerConfig) -> None:
    """Raises ConfigError where a batch is longer than the model's positions."""
    if length > config.max_length:
        raise ConfigError(
            f"a batch of length {length} does not fit max_length {config.max_length} of the model; "
            "raise transformer.max_length or shorten the buckets"
        )


def position_table(config: TransformerConfig, *, rngs: nnx.Rngs) -> Table | None:
    """What a network adds to its embeddings."""
    return config.positions.table(config.max_length, config.d_model, rngs=rngs)


def add_positions(
    x: Float[Array, "rows length d_model"],
    table: Table | None,
    config: TransformerConfig,
    *,
    rngs: nnx.Rngs | None,
) -> Float[Array, "rows length d_model"]:
    """Embeddings plus the vectors of their positions, with dropout on the sum."""
    require_positions(x.shape[1], config)
    if table is not None:
        x = x + jnp.asarray(table(x.shape[1]), x.dtype)
    return layers.dropout(x, config.dropout_rate, rngs=rngs)


class Encoder(nnx.Module):
    """Source embeddings to Encoded."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List(
            [EncoderBlock(config, rngs=rngs) for _ in range(config.num_encoder_layers)]
        )
        self.positions = position_table(config, rngs=rngs)
        self.final_norm = layers.LayerNorm(config.d_model) if config.norm == "pre" else None
        self.config = config

    def __call__(
        self,
        embeddings: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None,
    ) -> Encoded:
        x = add_positions(embeddings, self.positions, self.config, rngs=rngs)
        is_causal = self.config.encoder_attention == "causal"
        for block in self.blocks:
            x = block(x, lengths, is_causal=is_causal, rngs=rngs)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return Encoded(x, lengths)


class DecoderBlock(nnx.Module):
    def __init__(
        self, config: TransformerConfig, *, has_positional_attention: bool, rngs: nnx.Rngs
    ) -> None:
        size, dtype = (config.d_model, config.num_heads), config.dtype
        self.self_attention = self_attention_of(config, rngs=rngs)
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
        is_causal: bool,
        sees_itself: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "rows length d_model"]:
        x = self.attend_to_itself(
            x, lengths, is_causal=is_causal, sees_itself=sees_itself, rngs=rngs
        )
        return self.attend_to_source(x, memory, memory_lengths, memory_mask, rngs)

    def attend_to_itself(
        self,
        x: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        *,
        is_causal: bool,
        sees_itself: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "rows length d_model"]:
        """The sublayers below cross attention."""
        y = self.self_attention(
            self.around_self_attention.enter(x),
            lengths,
            is_causal=is_causal,
            sees_itself=sees_itself,
        )
        x = self.around_self_attention.leave(x, y, rngs)
        if self.positional_attention is not None and self.around_positional is not None:
            length, d_model = x.shape[1:]
            places = jnp.asarray(sinusoids(length, d_model), x.dtype)
            y = self.positional_attention(self.around_positional.enter(x), places, lengths)
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
        """One position of the causal decoder, and the slots that now hold it. The beam stands where
        `__call__` has positions: in cross attention both are just queries to the same source."""
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
        self.positions = position_table(config, rngs=rngs)
        self.final_norm = layers.LayerNorm(config.d_model) if config.norm == "pre" else None
        self.config = config

    @jax.named_scope("decoder")
    def memory(self, encoded: Encoded) -> list[KeyValue]:
        """Keys and values of the source for each block."""
        return [block.cross_attention.memory(encoded.states) for block in self.blocks]

    @jax.named_scope("decoder")
    def __call__(
        self,
        inputs: Float[Array, "rows length d_model"],
        lengths: Int[Array, "rows"] | None,
        encoded: Encoded,
        *,
        memory: list[KeyValue] | None = None,
        memory_mask: Bool[Array, "rows_or_batch #length source_length"] | None = None,
        is_causal: bool = False,
        sees_itself: bool = True,
        between_blocks: BetweenBlocks | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows length d_model"]:
        """All positions at once. `lengths` None: the causal mask already hides the padding on the
        right. rows = batch * hypotheses; the rows of one source are neighbours. `memory` is the result of
        `memory(encoded)`, for a caller that decodes more than once. `memory_mask` (True takes part) limits what
        cross attention sees of the source, beside its lengths. `between_blocks` is called after every block but
        the last, before the final norm."""
        memories = self.memory(encoded) if memory is None else memory
        x = add_positions(inputs, self.positions, self.config, rngs=rngs)
        for index, (block, block_memory) in enumerate(zip(self.blocks, memories, strict=True)):
            if between_blocks is not None and index > 0:
                x = between_blocks(index - 1, x)
            x = block(
                x,
                lengths,
                block_memory,
                encoded.lengths,
                memory_mask,
                is_causal=is_causal,
                sees_itself=sees_itself,
                rngs=rngs,
            )
        return x if self.final_norm is None else self.final_norm(x)

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
        x = add_positions(inputs, self.positions, self.config, rngs=None)
        of_blocks = []
        for index, (block, memory) in enumerate(
            zip(self.blocks, self.memory(encoded), strict=True)
        ):
            if between_blocks is not None and index > 0:
                x = between_blocks(index - 1, x)
            x = block.attend_to_itself(
                x, lengths, is_causal=is_causal, sees_itself=sees_itself, rngs=None
            )
            source = (memory, encoded.lengths, memory_mask)
            of_blocks.append(block.cross_attention_weights(x, *source))
            x = block.attend_to_source(x, *source, None)
        return of_blocks

    def empty_cache(self, batch: int, beam: int, max_length: int) -> Cache:
        """Room for max_length positions. Raises ConfigError where the attention cannot go step by step."""
        return empty_cache(
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
        old, new = old.at(position), []
        x = inputs
        if self.positions is not None:
            table = jnp.asarray(self.positions(old.origin.shape[2]), inputs.dtype)
            here = table[position]  # [d_model], or [batch, d_model]
            x = inputs + (here if position.ndim == 0 else here[:, None])
        for block, slots, block_memory in zip(self.blocks, old.blocks, memory, strict=True):
            x, slots = block.step(
                x, slots, old.origin, position, block_memory, memory_lengths, memory_mask
            )
            new.append(slots)
        states = x if self.final_norm is None else self.final_norm(x)
        return states, Cache(new, old.origin)

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
        it. Packed, the states have the bits of single steps."""
        if old.origin.shape[1] != 1:
            raise ValueError(
                f"extend goes on with one hypothesis a row, got a cache of {old.origin.shape[1]}; use step"
            )
        x, new = inputs, []
        if self.positions is not None:
            table = jnp.asarray(self.positions(old.origin.shape[2]), inputs.dtype)
            x = inputs + table[position.reshape(-1, 1) + jnp.arange(inputs.shape[1])]
        for block, slots, block_memory in zip(self.blocks, old.blocks, memory, strict=True):
            x, slots = block.extend(x, slots, position, block_memory, memory_lengths, memory_mask)
            new.append(slots)
        states = x if self.final_norm is None else self.final_norm(x)
        return states, Cache(new, old.origin)


def empty_cache(
    config: TransformerConfig,
    attentions: list[SelfAttention],
    batch: int,
    beam: int,
    max_length: int,
) -> Cache:
    """Room for max_length positions in each of these attentions."""
    attention.require_steps(config.attention)
    slots = [module.empty_slots(batch, beam, max_length) for module in attentions]
    return cache.empty(slots, batch, beam, max_length)
