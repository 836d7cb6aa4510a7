"""The sizes of a Transformer (Vaswani et al. 2017), what its blocks are made of, and its encoder, pre- or post-norm, of
any depth. The decoder is in nn/decoder.py."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import attention, cache, layers
from nat_ar.nn.attention import Attention, Full, SelfAttention
from nat_ar.nn.cache import Cache
from nat_ar.nn.positions import SINUSOIDAL, Positions, Table
from nat_ar.types import Encoded, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class TransformerConfig(config_json.Config):
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
    decoder_positions: Literal["once", "every_layer"] = "once"
    """where positions are added in decoders: to the embeddings, or to the input of every layer (GLAT, in its code)"""
    decoder_memory: Literal["last_layer", "same_layer"] = "last_layer"
    """encoder states that a decoder layer attends to: those of the last encoder layer, or of the one as high as itself
    (Gu et al. 2018, in their code)"""
    encoder_attention: Literal["bidirectional", "causal"] = "bidirectional"
    """causal: a source token sees those before it only, so that states of a prefix stay when the source goes on"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, `attention` was the implementation, positions were sinusoidal and added once, encoders were
        bidirectional, and decoders read their last layer."""
        if data.get("attention") in ("xla", "cudnn"):
            data = {
                **data,
                "attention": {"type": "Full"},
                "implementation": data["attention"],
                "positions": {"type": "Sinusoidal"},
                "encoder_attention": "bidirectional",
            }
        return {"decoder_positions": "once", "decoder_memory": "last_layer", **data}

    def __post_init__(self) -> None:
        config_json.require_at_least(
            1, d_model=self.d_model, num_heads=self.num_heads, max_length=self.max_length
        )
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
        self.positions.require_fit(self.d_model // self.num_heads)
        if self.decoder_positions == "every_layer" and not self.positions.is_added:
            raise ConfigError(
                "decoder_positions 'every_layer' needs positions that are added to embeddings (Sinusoidal, "
                f"Learned), got {self.positions}, which act in every layer; set decoder_positions to 'once'"
            )
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
    """Norm and dropout around one sublayer: enter -> sublayer -> leave."""

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


@pytree_dataclass
class LayeredEncoded(Encoded):
    """A source whose decoder reads other layers than the last."""

    layers: list[Float[Array, "batch source_length d_model"]]
    """the states after each block; the last ones are `states`"""


class Encoder(nnx.Module):
    """Source embeddings to Encoded, or to LayeredEncoded where the config says so."""

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
        outputs = []
        for block in self.blocks:
            x = block(x, lengths, is_causal=is_causal, rngs=rngs)
            outputs.append(x)
        has_layers = self.config.decoder_memory == "same_layer"
        outputs = outputs if has_layers else outputs[-1:]
        if self.final_norm is not None:
            outputs = [self.final_norm(x) for x in outputs]
        if has_layers:
            return LayeredEncoded(outputs[-1], lengths, outputs)
        return Encoded(outputs[-1], lengths)


class KnownEncoder(nnx.Module):
    """In the place of an Encoder that another model, whose encoder is the same, has run already."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = nnx.data(encoded)

    def __call__(
        self,
        embeddings: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None,
    ) -> Encoded:
        return self.encoded


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
