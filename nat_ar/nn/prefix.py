"""One Transformer stack over a source and its target: the source is a prefix that every position sees,
the target is causal.

No position of the source sees the target. So the one sequence [source | target] falls into two passes
through the same blocks: the source, whose keys and values every block hands on, and the target, which
attends to them and to itself. That is the masked pass over both at once, less what its mask would hide,
and several hypotheses share one source. The source's padding lies between the two: lengths hide it, and
target positions count on from each row's own source length. Arrays only: no text, no search."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.nn import cache, dot_product, layers, transformer
from nat_ar.nn.attention import Full
from nat_ar.nn.cache import Cache, Position, Slots
from nat_ar.nn.dot_product import NEGATIVE, KeyValue
from nat_ar.nn.transformer import EncoderBlock, TransformerConfig
from nat_ar.types import Encoded, pytree_dataclass

SOURCE, TARGET = 0, 1  # segments


@pytree_dataclass
class PrefixEncoded(Encoded):
    """The source after the whole stack, and its keys and values in each block."""

    memory: list[KeyValue]


def attend_after(
    query: Float[Array, "batch beam queries heads head_dim"],
    prefix: KeyValue,
    prefix_lengths: Int[Array, "batch"],
    own: KeyValue,
) -> Float[Array, "batch beam queries heads head_dim"]:
    """One softmax over a prefix, rows [batch], and, causally, over a hypothesis' own keys, rows
    [batch, beam]."""
    batch, beam, queries, *heads = query.shape
    before = prefix_scores(query.reshape(batch, -1, *heads), prefix, prefix_lengths)
    before = jnp.swapaxes(before.reshape(batch, heads[0], beam, queries, -1), 1, 2)
    seen = jnp.tril(jnp.ones((queries, queries), bool))
    since = dot_product.products(dot_product.heads_first(query), own.key)
    both = jnp.concatenate([before, jnp.where(seen, since, NEGATIVE)], axis=-1)
    weights = jax.nn.softmax(both, axis=-1).astype(query.dtype)
    width = before.shape[-1]
    flat = jnp.swapaxes(weights[..., :width], 1, 2).reshape(batch, heads[0], -1, width)
    states = prefix_mix(flat, prefix).reshape(query.shape)
    return states + jnp.swapaxes(weights[..., width:] @ own.value, -2, -3)


def prefix_scores(
    query: Float[Array, "batch queries heads head_dim"],
    prefix: KeyValue,
    prefix_lengths: Int[Array, "batch"],
) -> Float[Array, "batch heads queries source_length"]:
    """q k / sqrt(head_dim), NEGATIVE where the prefix has ended."""
    scores = dot_product.products(jnp.swapaxes(query, 1, 2), prefix.key)
    is_source = jnp.arange(scores.shape[-1]) < prefix_lengths[:, None, None, None]
    return jnp.where(is_source, scores, NEGATIVE)


def prefix_mix(
    weights: Float[Array, "batch heads queries source_length"], prefix: KeyValue
) -> Float[Array, "batch queries heads head_dim"]:
    return jnp.swapaxes(weights @ prefix.value, 1, 2)


class PrefixBlock(EncoderBlock):
    """The parameters of an encoder block, for both segments."""

    def read(
        self,
        x: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        is_causal: bool,
        rngs: nnx.Rngs | None,
    ) -> tuple[Float[Array, "batch length d_model"], KeyValue]:
        """The source, and its keys and values."""
        query, key, value = self.attention.heads(self.around_attention.enter(x))
        memory = dot_product.key_value(key, value)
        states = dot_product.attend(query, memory, lengths=lengths, is_causal=is_causal)
        return self._rest(x, states, rngs), memory

    def write(
        self,
        x: Float[Array, "batch beam length d_model"],
        prefix: KeyValue,
        prefix_lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "batch beam length d_model"]:
        """All positions of the targets at once."""
        query, key, value = self.attention.heads(self.around_attention.enter(x))
        own = dot_product.key_value(key, value)
        states = attend_after(query, prefix, prefix_lengths, own)
        return self._rest(x, states, rngs)

    def step(
        self,
        x: Float[Array, "batch beam d_model"],
        slots: Slots,
        origin: Int[Array, "batch beam positions"],
        position: Position,
        prefix: KeyValue,
        prefix_lengths: Int[Array, "batch"],
    ) -> tuple[Float[Array, "batch beam d_model"], Slots]:
        """One position of the targets, and the slots that now hold it."""
        query, key, value = self.attention.heads(self.around_attention.enter(x))
        slots = cache.write(slots, key, value, position)
        before = prefix_scores(query, prefix, prefix_lengths)
        since = cache.scores(query, slots, origin, position)
        weights = jax.nn.softmax(jnp.concatenate([before, since], axis=-1), axis=-1)
        weights, width = weights.astype(query.dtype), before.shape[-1]
        states = prefix_mix(weights[..., :width], prefix)
        states = states + cache.mix(weights[..., width:], slots, origin)
        return self._rest(x, states, None), slots

    def extend(
        self,
        x: Float[Array, "batch new d_model"],
        slots: Slots,
        position: Position,
        prefix: KeyValue,
        prefix_lengths: Int[Array, "batch"],
    ) -> tuple[Float[Array, "batch new d_model"], Slots]:
        """Several positions of one target a row, and the slots that now hold them."""
        query, key, value = self.attention.heads(self.around_attention.enter(x))
        slots = cache.write_several(slots, key, value, position)
        before = prefix_scores(query, prefix, prefix_lengths)
        since = cache.scores_of_several(query, slots, position)
        weights = jax.nn.softmax(jnp.concatenate([before, since], axis=-1), axis=-1)
        weights, width = weights.astype(query.dtype), before.shape[-1]
        states = prefix_mix(weights[..., :width], prefix)
        states = states + dot_product.heads_first(weights[..., width:] @ slots.value)
        return self._rest(x, states, None), slots

    def _rest(
        self,
        x: Float[Array, "*rows d_model"],
        states: Float[Array, "*rows heads head_dim"],
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "*rows d_model"]:
        y = self.attention.output(states.reshape(x.shape))
        x = self.around_attention.leave(x, y, rngs)
        y = self.feed_forward(self.around_feed_forward.enter(x), rngs=rngs)
        return self.around_feed_forward.leave(x, y, rngs)


def require_prefix(config: TransformerConfig) -> None:
    """Raises ConfigError where a prefix stack cannot be of this kind: a query's keys are those of the prefix and
    those of the target, in two parts, of which only Full attention and positions added to embeddings know."""
    if type(config.attention) is not Full or not config.positions.is_added:
        raise ConfigError(
            "one stack over source and target takes attention Full and positions that are added to embeddings "
            f"(Sinusoidal, Learned), got {config.attention} and {config.positions}"
        )
    if config.encoder_attention != "bidirectional":
        raise ConfigError(
            "one stack over source and target has no encoder, got encoder_attention "
            f"{config.encoder_attention!r}; set source_attention of DecoderOnly"
        )
    if config.decoder_positions != "once" or config.decoder_memory != "last_layer":
        raise ConfigError(
            "one stack over source and target adds positions once and has one layer's keys in each block, got "
            f"decoder_positions {config.decoder_positions!r} and decoder_memory {config.decoder_memory!r}; set them "
            "to 'once' and 'last_layer'"
        )
    if config.implementation == "cudnn":
        raise ConfigError(
            "attention by 'cudnn' cannot see a padded prefix and what follows it; set "
            "transformer.implementation to 'xla'"
        )


class PrefixStack(nnx.Module):
    """Embeddings to states, as many blocks as encoder and decoder of the config have together.

    `is_source_causal`: a position of the source sees those before it only."""

    def __init__(
        self, config: TransformerConfig, *, is_source_causal: bool = False, rngs: nnx.Rngs
    ) -> None:
        require_prefix(config)
        depth = config.num_encoder_layers + config.num_decoder_layers
        self.blocks = nnx.List([PrefixBlock(config, rngs=rngs) for _ in range(depth)])
        self.positions = transformer.position_table(config, rngs=rngs)
        self.segments = layers.Embedding(2, config.d_model, dtype=config.dtype, rngs=rngs)
        self.final_norm = layers.LayerNorm(config.d_model) if config.norm == "pre" else None
        self.is_source_causal = is_source_causal
        self.config = config

    def read(
        self,
        embeddings: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> PrefixEncoded:
        """The source through all blocks."""
        x = embeddings + self.segments(jnp.int32(SOURCE))
        x, memory = transformer.add_positions(x, self.positions, self.config, rngs=rngs), []
        for block in self.blocks:
            x, key_value = block.read(x, lengths, is_causal=self.is_source_causal, rngs=rngs)
            memory.append(key_value)
        return PrefixEncoded(self._final(x), lengths, memory)

    @jax.named_scope("decoder")
    def write(
        self,
        inputs: Float[Array, "rows length d_model"],
        encoded: PrefixEncoded,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows length d_model"]:
        """Targets after their sources, all positions at once. rows = batch * hypotheses; the rows of one
        source are neighbours. Causality hides the padding on the right."""
        length, d_model = inputs.shape[1:]
        transformer.require_positions(length, self.config)
        x = inputs.reshape(encoded.lengths.shape[0], -1, length, d_model)
        x = x + self._added(encoded, jnp.arange(length)[None], length)[:, None]
        x = layers.dropout(x, self.config.dropout_rate, rngs=rngs)
        for block, memory in zip(self.blocks, encoded.memory, strict=True):
            x = block.write(x, memory, encoded.lengths, rngs=rngs)
        return self._final(x).reshape(inputs.shape)

    def empty_cache(self, batch: int, beam: int, max_length: int) -> Cache:
        """Room for max_length target positions."""
        return transformer.empty_cache(
            self.config, [block.attention for block in self.blocks], batch, beam, max_length
        )

    @jax.named_scope("decoder")
    def step(
        self,
        inputs: Float[Array, "batch beam d_model"],
        old: Cache,
        position: Position,
        encoded: PrefixEncoded,
    ) -> tuple[Float[Array, "batch beam d_model"], Cache]:
        """States at target position `position`, one for all rows or one for each, and the cache that now holds
        it."""
        old, new = old.at(position), []
        x = inputs + self._added(encoded, position.reshape(-1, 1), old.origin.shape[2])
        for block, slots, memory in zip(self.blocks, old.blocks, encoded.memory, strict=True):
            x, slots = block.step(x, slots, old.origin, position, memory, encoded.lengths)
            new.append(slots)
        return self._final(x), Cache(new, old.origin)

    @jax.named_scope("decoder")
    def extend(
        self,
        inputs: Float[Array, "batch new d_model"],
        old: Cache,
        position: Position,
        encoded: PrefixEncoded,
    ) -> tuple[Float[Array, "batch new d_model"], Cache]:
        """As Decoder.extend."""
        new: list[Slots] = []
        at = position.reshape(-1, 1) + jnp.arange(inputs.shape[1])
        x = inputs + self._added(encoded, at, old.origin.shape[2])
        for block, slots, memory in zip(self.blocks, old.blocks, encoded.memory, strict=True):
            x, slots = block.extend(x, slots, position, memory, encoded.lengths)
            new.append(slots)
        return self._final(x), Cache(new, old.origin)

    def _added(
        self, encoded: PrefixEncoded, target_positions: Int[Array, "#batch positions"], length: int
    ) -> Float[Array, "batch positions d_model"]:
        """What is added to target embeddings at positions below `length`: their segment, and position encodings that
        count on from the end of each row's source."""
        assert self.positions is not None  # as require_prefix saw to
        width = encoded.states.shape[1]
        table = jnp.asarray(self.positions(width + length), self.config.dtype)
        in_sequence = encoded.lengths[:, None] + target_positions
        return table[in_sequence] + self.segments(jnp.int32(TARGET))

    def _final(self, x: Float[Array, "*rows d_model"]) -> Float[Array, "*rows d_model"]:
        return x if self.final_norm is None else self.final_norm(x)
