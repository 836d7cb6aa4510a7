"""Ancestral sampling over a step function: every token is drawn from the model's distribution.

The loop is that of greedy search. The draws of a sentence depend on the seed, its source tokens and the position
alone: neither batch nor padding changes them. Knows token ids and logits only."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import greedy, limits
from nat_ar.search.base import StepwiseDecoding, penalised
from nat_ar.search.step_function import Cache, StepFunction
from nat_ar.types import Hypotheses

HASH_BASE = 0x9E3779B1  # odd, so that no power of it vanishes modulo 2**32


@dataclasses.dataclass(frozen=True)
class Sampling(StepwiseDecoding):
    """Every token drawn from the model's distribution (ancestral sampling)."""

    former_names: ClassVar[tuple[str, ...]] = ("Sampled",)

    temperature: float = 1.0
    """divides the logits before drawing: above 1 more variety, below 1 less"""
    top_k: int = 0
    """draw among this many most probable tokens; 0: among all"""
    seed: int = 0
    """another seed draws other translations"""

    def __post_init__(self) -> None:
        config_json.require_seed(self.seed)
        if self.temperature <= 0.0:
            raise ConfigError(
                f"Sampling needs a temperature above 0, got {self.temperature}; "
                "Greedy() is its limit at 0"
            )
        if self.top_k < 0:
            raise ConfigError(
                f"Sampling needs top_k of at least 1, or 0 for all tokens, got {self.top_k}"
            )

    @property
    def own_score(self) -> str:
        return penalised("log p", 0.0)

    def search(
        self,
        step: StepFunction,
        empty_cache: Callable[[int], Cache],
        source: Int[Array, "batch source_length"],
        *,
        max_length: int,
    ) -> Hypotheses:
        """One drawn translation of every row, by the loop of greedy.search. Scores are log p under the model
        itself, without temperature and top_k, in nats."""
        keys = row_keys(source, seed=self.seed)

        def draw(
            logits: Float[Array, "batch vocabulary"], position: Int[Array, ""]
        ) -> Int[Array, "batch"]:
            places = jnp.broadcast_to(position, (*keys.shape, 1))
            perturbed = self.perturbed(logits[:, None], keys, places)
            return perturbed[:, 0].argmax(axis=-1).astype(jnp.int32)

        length_limits, is_sentence = limits.of_sources(source, max_length)
        return greedy.search(
            step,
            empty_cache(1),
            length_limits=length_limits,
            is_sentence=is_sentence,
            max_length=max_length,
            choose=draw,
        )

    def perturbed(
        self,
        logits: Float[Array, "batch places vocabulary"],
        keys: Key[Array, "batch"],
        places: Int[Array, "batch places"],
    ) -> Float[Array, "batch places vocabulary"]:
        """Logits whose largest is the draw of each place: Gumbel noise is added (Maddison et al. 2014,
        arXiv:1411.0030). A key is for a sentence (`row_keys`); places are positions in it, and decide the noise."""
        logits = most_probable(logits / self.temperature, self.top_k)

        def noise(key: Key[Array, ""], place: Int[Array, ""]) -> Float[Array, "vocabulary"]:
            return jax.random.gumbel(
                jax.random.fold_in(key, place), logits.shape[-1:], logits.dtype
            )

        of_row = jax.vmap(noise, (None, 0))
        return logits + jax.vmap(of_row)(keys, places)


def most_probable(
    logits: Float[Array, "*axes vocabulary"], top_k: int
) -> Float[Array, "*axes vocabulary"]:
    """Logits of the top_k largest of every row, -inf for the rest; 0 keeps all."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    values, token_ids = jax.lax.top_k(logits, top_k)
    nothing = jnp.full_like(logits, -jnp.inf)
    return jnp.put_along_axis(nothing, token_ids, values, axis=-1, inplace=False)


def row_keys(source: Int[Array, "batch source_length"], *, seed: int) -> Key[Array, "batch"]:
    """One key per sentence: the seed's key with the hash sum_i token_i * HASH_BASE**(i + 1) modulo 2**32 of its
    tokens folded in. PAD is 0 and adds nothing. Two sentences with the same hash share their random numbers, not
    their translation."""
    powers = np.cumprod(np.full(source.shape[1], HASH_BASE, np.uint32), dtype=np.uint32)
    digest = (source.astype(jnp.uint32) * powers).sum(axis=1, dtype=jnp.uint32)
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(root, digest)
