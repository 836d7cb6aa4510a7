"""Decoder inputs made from source embeddings: copies by fertility, uniform copies, soft copies.

Rows are right-padded, and their lengths are given."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def fertility_sources(
    fertilities: Int[Array, "batch source_length"], target_length: int
) -> Int[Array, "batch target_length"]:
    """The source position that each target position copies: source position j is repeated fertilities[j] times, in
    order (Gu et al. 2018, section 3.2). Target positions beyond their sum copy the last source position."""
    ends = jnp.cumsum(fertilities, axis=1)
    positions = jnp.arange(target_length)
    copied = (ends[:, None, :] <= positions[:, None]).sum(axis=-1)
    return jnp.minimum(copied, fertilities.shape[1] - 1)


def uniform_sources(
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
    target_length: int,
) -> Int[Array, "batch target_length"]:
    """Target position t copies source position round(t * source_length / target_length), at most the last one
    (Gu et al. 2018, section 3.1)."""
    positions = jnp.arange(target_length)
    ratio = source_lengths[:, None] / jnp.maximum(target_lengths, 1)[:, None]
    copied = jnp.round(positions * ratio).astype(jnp.int32)
    return jnp.clip(copied, 0, jnp.maximum(source_lengths - 1, 0)[:, None])


def copy(
    embeddings: Float[Array, "batch source_length d_model"],
    sources: Int[Array, "batch target_length"],
) -> Float[Array, "batch target_length d_model"]:
    """Target position t gets the embedding of source position sources[t]."""
    return jnp.take_along_axis(embeddings, sources[..., None], axis=1)


def soft_copy(
    embeddings: Float[Array, "batch source_length d_model"],
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
    target_length: int,
    *,
    temperature: float,
) -> Float[Array, "batch target_length d_model"]:
    """Target position t gets a mean of the embeddings of all source positions j, weighted by
    softmax(-|j - t * source_length / target_length| / temperature)
    (Wei et al. 2019, arXiv:1906.02041, section 3.2; used by GLAT)."""
    ratio = source_lengths[:, None] / jnp.maximum(target_lengths, 1)[:, None]
    centres = jnp.arange(target_length) * ratio  # [batch, target_length]
    sources = jnp.arange(embeddings.shape[1])
    distance = jnp.abs(sources - centres[..., None])
    is_source = sources < source_lengths[:, None, None]
    weights = jax.nn.softmax(jnp.where(is_source, -distance / temperature, -1e9), axis=-1)
    return jnp.einsum("bts,bsd->btd", weights.astype(embeddings.dtype), embeddings)


def even_copies(
    embeddings: Float[Array, "batch source_length d_model"],
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
    target_length: int,
    *,
    kind: Literal["uniform", "soft"],
    temperature: float,
) -> Float[Array, "batch target_length d_model"]:
    """The source embeddings spread evenly over the target positions: a uniform or a soft copy. `temperature` is the
    soft copy's."""
    if kind == "uniform":
        sources = uniform_sources(source_lengths, target_lengths, target_length)
        return copy(embeddings, sources)
    return soft_copy(
        embeddings, source_lengths, target_lengths, target_length, temperature=temperature
    )


def repeat(
    embeddings: Float[Array, "batch source_length d_model"], factor: int
) -> Float[Array, "batch frames d_model"]:
    """Every source position `factor` times in a row: uniform copies for a decoder with `factor` times as many positions
    as the source (Gu & Kong 2020, arXiv:2012.15833)."""
    return jnp.repeat(embeddings, factor, axis=1)


def split(
    states: Float[Array, "batch source_length wide"], factor: int
) -> Float[Array, "batch frames d_model"]:
    """The state of every source position split into `factor` states of wide / factor features (Libovicky & Helcl 2018,
    arXiv:1811.04719, section 3, state splitting)."""
    batch, length, wide = states.shape
    return states.reshape(batch, factor * length, wide // factor)
