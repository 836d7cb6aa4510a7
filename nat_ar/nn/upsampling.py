"""Which source positions a one-pass decoder copies: by fertility, evenly, or as means of neighbours.

Rows are right-padded, and their lengths are given."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar.types import pytree_dataclass

EvenCopy = Literal["uniform", "soft", "squared"]


@pytree_dataclass
class Spread:
    """What each target position copies of its source."""

    sources: Int[Array, "rows target_length"]
    """a source position; of a mean, the nearest one to its centre"""
    weights: Float[Array, "rows target_length source_length"] | None = None
    """the share of every source position in a mean; None: the copy is that of `sources` alone"""

    def copy(
        self, vectors: Float[Array, "batch source_length d_model"]
    ) -> Float[Array, "rows target_length d_model"]:
        """A vector for each target position. rows = batch * hypotheses; the rows of one source are neighbours."""
        vectors = jnp.repeat(vectors, self.sources.shape[0] // vectors.shape[0], axis=0)
        if self.weights is None:
            return copy(vectors, self.sources)
        return jnp.einsum("bts,bsd->btd", self.weights.astype(vectors.dtype), vectors)


def fertility_sources(
    fertilities: Int[Array, "batch source_length"], target_length: int
) -> Int[Array, "batch target_length"]:
    """The source position that each target position copies: source position j is repeated fertilities[j] times, in
    order (Gu et al. 2018, section 3.2). Target positions beyond their sum copy the last source position."""
    ends = jnp.cumsum(fertilities, axis=1)
    positions = jnp.arange(target_length)
    copied = (ends[:, None, :] <= positions[:, None]).sum(axis=-1)
    return jnp.minimum(copied, fertilities.shape[1] - 1)


def even_centres(
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
    target_length: int,
    *,
    is_end_aligned: bool = False,
) -> Float[Array, "batch target_length"]:
    """Where in its source each target position lies: t * source / target (Gu et al. 2018, section 3.1), or end-aligned,
    so that the last target position lies on the last source position, t * (source - 1) / (target - 1)."""
    if is_end_aligned:
        source_lengths = jnp.maximum(source_lengths - 1, 0)
        target_lengths = target_lengths - 1
    ratio = source_lengths[:, None] / jnp.maximum(target_lengths, 1)[:, None]
    return jnp.arange(target_length) * ratio


def uniform_sources(
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
    target_length: int,
    *,
    is_end_aligned: bool = False,
) -> Int[Array, "batch target_length"]:
    """Target position t copies the source position nearest to its centre, halves rounded to even, kept inside the
    source."""
    centres = even_centres(
        source_lengths, target_lengths, target_length, is_end_aligned=is_end_aligned
    )
    copied = jnp.round(centres).astype(jnp.int32)
    return jnp.clip(copied, 0, jnp.maximum(source_lengths - 1, 0)[:, None])


def copy(
    embeddings: Float[Array, "batch source_length d_model"],
    sources: Int[Array, "batch target_length"],
) -> Float[Array, "batch target_length d_model"]:
    """Target position t gets the embedding of source position sources[t]."""
    return jnp.take_along_axis(embeddings, sources[..., None], axis=1)


def soft_weights(
    centres: Float[Array, "batch target_length"],
    source_lengths: Int[Array, "batch"],
    source_length: int,
    *,
    temperature: float | Float[Array, ""],
    is_squared: bool = False,
) -> Float[Array, "batch target_length source_length"]:
    """softmax(-d / temperature) over the source positions, d being their distance to the centre (Wei et al. 2019,
    arXiv:1906.02041, section 3.2; used by GLAT), or its square: Gu & Kong 2020 (arXiv:2012.15833) take 0.3 in their
    code, which gives a neighbour 1/28 of a position's own share."""
    sources = jnp.arange(source_length)
    distance = jnp.abs(sources - centres[..., None])
    if is_squared:
        distance = distance**2
    is_source = sources < jnp.maximum(source_lengths, 1)[:, None, None]
    return jax.nn.softmax(jnp.where(is_source, -distance / temperature, -1e9), axis=-1)


def even_spread(
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
    widths: tuple[int, int],
    *,
    kind: EvenCopy,
    temperature: float | Float[Array, ""],
    is_end_aligned: bool = False,
) -> Spread:
    """The source spread evenly over the target: one position each, or a mean of all around it; `widths` of arrays of
    sources and of targets. The temperature is that of means."""
    lengths, width = (source_lengths, target_lengths, widths[1]), widths[0]
    sources = uniform_sources(*lengths, is_end_aligned=is_end_aligned)
    if kind == "uniform":
        return Spread(sources)
    weights = soft_weights(
        even_centres(*lengths, is_end_aligned=is_end_aligned),
        source_lengths,
        width,
        temperature=temperature,
        is_squared=kind == "squared",
    )
    return Spread(sources, weights)


def copy_numbers(sources: Int[Array, "batch target_length"]) -> Int[Array, "batch target_length"]:
    """0 for the first of neighbouring copies of one source position, 1 for the second, ..."""
    positions = jnp.arange(sources.shape[1])
    is_first = jnp.diff(sources, axis=1, prepend=-1) != 0
    return positions - jax.lax.cummax(jnp.where(is_first, positions, 0), axis=1)


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
