"""What a decoder sees of a source that is still coming: wait-k (Ma et al. 2019, arXiv:1810.08398).

Token t of the target, from 0, sees the first k + t tokens of the source. A decoder of frames is not told where its
words will be: the frames of source token i see the first k + i tokens, and each other only if they are of that token or
of earlier ones (chunk wait-k: Ma et al. 2023, arXiv:2310.14883). Either way what is written does not change when the
source goes on."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int

from nat_ar.config_json import ConfigError
from nat_ar.nn.transformer import TransformerConfig


def require_causal_encoder(config: TransformerConfig) -> None:
    """Raises ConfigError where the states of a source change as it goes on, or attention takes no mask."""
    if config.encoder_attention != "causal":
        raise ConfigError(
            "wait-k translates a source that goes on, whose first states must stay: set "
            f"transformer.encoder_attention to 'causal', got {config.encoder_attention!r}"
        )
    if config.implementation == "cudnn":
        raise ConfigError(
            "wait-k masks attention, which 'cudnn' cannot: set transformer.implementation to 'xla'"
        )


def source_mask(
    wait_k: int | Int[Array, ""], batch: int, target_length: int, source_length: int
) -> Bool[Array, "batch target_length source_length"]:
    """True where a target token sees a source token: token t (from 0) the first wait_k + t."""
    visible = wait_k + jnp.arange(target_length)
    mask = jnp.arange(source_length) < visible[:, None]
    return jnp.broadcast_to(mask, (batch, target_length, source_length))


def source_mask_of_frames(
    wait_k: int | Int[Array, ""], batch: int, source_length: int, factor: int
) -> Bool[Array, "batch frames source_length"]:
    """True where a frame sees a source token: the `factor` frames of token i (from 0) the first wait_k + i."""
    return jnp.repeat(source_mask(wait_k, batch, source_length, source_length), factor, axis=1)


def mask_among_frames(source_length: int, factor: int) -> Bool[Array, "1 frames frames"]:
    """True where a frame sees another: those of its own source token, and of the tokens before."""
    token = jnp.arange(source_length * factor) // factor
    return (token <= token[:, None])[None]


def read_at_frames(
    wait_k: int | Int[Array, ""],
    source_lengths: Int[Array, "batch"],
    source_length: int,
    factor: int,
) -> Int[Array, "batch frames"]:
    """The source tokens that have been read when each frame is written: what it sees, and never more than there are."""
    token = jnp.arange(source_length * factor) // factor
    return jnp.minimum(wait_k + token, source_lengths[:, None])


def drawn(wait_k: tuple[int, ...], rngs: nnx.Rngs | None) -> int | Int[Array, ""] | None:
    """The k of a batch: one of several, drawn by `rngs` (multi-path training, Elbayad et al. 2020, arXiv:2005.08595);
    without rngs the largest. None: every token sees the whole source."""
    if rngs is None or len(wait_k) < 2:
        return max(wait_k, default=None)
    return jax.random.choice(rngs.dropout(), jnp.asarray(wait_k))
