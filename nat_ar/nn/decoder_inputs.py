"""What a one-pass decoder reads in place of words: copies of the source, and what tells neighbouring copies apart.

Gu et al. 2018 (arXiv:1711.02281) copy source embeddings, Gu & Kong 2020 (arXiv:2012.15833) in their code the encoder's
states. The decoder adds the positions of the target; neighbours among them are much alike, and two copies of one
token differ in nothing else unless these settings make them differ. Arrays only: which words a training method shows
instead is the method's."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import layers, upsampling
from nat_ar.nn.positions import sinusoids
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.nn.upsampling import EvenCopy, Spread
from nat_ar.special_tokens import PAD
from nat_ar.types import Encoded, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Copies(config_json.Config):
    """What is copied into a one-pass decoder, and what a copy knows of where it comes from."""

    of: Literal["embeddings", "states"] = "embeddings"
    """the source tokens' embeddings, or the encoder's states of them"""
    source_positions: bool = False
    """add the sinusoids of the source position that is copied, or their mean where the copy is one (Gu et al. 2018, in
    their code)"""
    told_apart_by: Literal["nothing", "vector", "map"] = "nothing"
    """how the first, second, ... copy of a token differ: not at all, by a learned vector that is added, or by a learned
    linear map, as the frames of CTC's split states"""
    places: int = 4
    """copies of a token that are told apart; all behind them are as the last one"""
    copies_eos: bool = True
    """even copies run from the first source token to EOS; False: to the last token before it, which the last target
    position then copies"""
    learned_temperature: bool = False
    """the width of soft copies is learned, from the given one on (Gu & Kong 2020, in their code)"""

    def __post_init__(self) -> None:
        if self.places < 1:
            raise ConfigError(f"inputs.places must be at least 1, got {self.places}")


def require_fit(copies: Copies, kind: str, temperature: float) -> None:
    """Raises ConfigError where copies of this kind cannot have these settings."""
    if temperature <= 0.0:
        raise ConfigError(f"soft_copy_temperature must be above 0, got {temperature}")
    if kind == "none" and copies != Copies():
        raise ConfigError(
            f"inputs says what is copied, but copy is 'none': got {copies}; set copy to 'uniform', 'soft' or 'squared'"
        )
    if copies.learned_temperature and kind not in ("soft", "squared"):
        raise ConfigError(
            f"inputs.learned_temperature needs copy 'soft' or 'squared', got {kind!r}; set one of them"
        )
    if not copies.copies_eos and kind == "fertility":
        raise ConfigError(
            "inputs.copies_eos is a choice of even copies, and EOS has no fertility: got copies_eos False and copy "
            "'fertility'; leave it True"
        )


@pytree_dataclass
class Inputs:
    """The inputs of a one-pass decoder, in two parts."""

    copied: Float[Array, "rows width d_model"]
    """in place of the words"""
    marks: Float[Array, "rows width d_model"] | None
    """what is added to say where each comes from; None: nothing"""

    def read(
        self,
        shown: Int[Array, "rows width"] | None = None,
        embedding: layers.Embedding | None = None,
    ) -> Float[Array, "rows width d_model"]:
        """The sum of both. At positions where `shown` is a word, not PAD, that takes the place of the copy."""
        read = self.copied
        if shown is not None and embedding is not None:
            read = jnp.where((shown != PAD)[..., None], embedding(shown), read)
        return read if self.marks is None else read + self.marks


class Copier(nnx.Module):
    """Source embeddings and encoder states to decoder inputs."""

    def __init__(
        self,
        config: Copies,
        transformer: TransformerConfig,
        *,
        kind: EvenCopy,
        temperature: float,
        rngs: nnx.Rngs,
    ) -> None:
        """`kind` and `temperature` are those of even copies."""
        d_model, dtype = transformer.d_model, transformer.dtype
        self.vectors = (
            layers.Embedding(config.places, d_model, dtype=dtype, rngs=rngs)
            if config.told_apart_by == "vector"
            else None
        )
        self.map = (
            layers.Linear(d_model, d_model, parts=config.places, dtype=dtype, rngs=rngs)
            if config.told_apart_by == "map"
            else None
        )
        self.log_temperature = (
            nnx.Param(jnp.log(jnp.float32(temperature))) if config.learned_temperature else None
        )
        self.kind: EvenCopy = kind
        self.temperature = temperature
        self.config = config

    def evenly(
        self,
        embeddings: Float[Array, "batch source_length d_model"],
        encoded: Encoded,
        target_lengths: Int[Array, "rows"],
        width: int,
    ) -> Inputs:
        """The source spread evenly over each target length; the rows of one source are neighbours."""
        lengths = jnp.repeat(encoded.lengths, target_lengths.shape[0] // encoded.lengths.shape[0])
        if not self.config.copies_eos:
            lengths = lengths - 1
        temperature: float | Float[Array, ""] = self.temperature
        if self.log_temperature is not None:
            temperature = jnp.exp(self.log_temperature[...])
        spread = upsampling.even_spread(
            lengths,
            target_lengths,
            (embeddings.shape[1], width),
            kind=self.kind,
            temperature=temperature,
            is_end_aligned=not self.config.copies_eos,
        )
        return self._inputs(spread, embeddings, encoded)

    def by_fertility(
        self,
        embeddings: Float[Array, "batch source_length d_model"],
        encoded: Encoded,
        fertilities: Int[Array, "rows source_length"],
        width: int,
    ) -> Inputs:
        """Every source token as often as its fertility says; the rows of one source are neighbours."""
        spread = Spread(upsampling.fertility_sources(fertilities, width))
        return self._inputs(spread, embeddings, encoded)

    def _inputs(
        self,
        spread: Spread,
        embeddings: Float[Array, "batch source_length d_model"],
        encoded: Encoded,
    ) -> Inputs:
        copied = spread.copy(encoded.states if self.config.of == "states" else embeddings)
        place = jnp.minimum(upsampling.copy_numbers(spread.sources), self.config.places - 1)
        if self.map is not None:
            each = self.map(copied).reshape(*copied.shape[:-1], self.config.places, -1)
            copied = jnp.take_along_axis(each, place[..., None, None], axis=2)[:, :, 0]
        marks = []
        if self.config.source_positions:
            table = jnp.asarray(sinusoids(*embeddings.shape[1:]), copied.dtype)
            marks.append(spread.copy(jnp.broadcast_to(table, embeddings.shape)))
        if self.vectors is not None:
            marks.append(self.vectors(place))
        return Inputs(copied, sum(marks[1:], marks[0]) if marks else None)
