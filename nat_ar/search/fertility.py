"""Fertilities of a decoding (Gu et al. 2018, arXiv:1711.02281, section 3.3): the most probable ones, their rounded
means, or several samples.

Knows logits of fertilities and source tokens only: class c of a source token is c target tokens."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import sampling
from nat_ar.search.base import Decoding, require_n_best
from nat_ar.special_tokens import EOS, PAD


@dataclasses.dataclass(frozen=True)
class FertilityDecoding(Decoding, config_json.Open, abc.ABC):
    """A choice of fertilities, each of which leads to a candidate translation."""

    @property
    def own_score(self) -> str:
        return "log p of words and fertilities / number of words, nats a word"

    @abc.abstractmethod
    def search(
        self,
        logits: Float[Array, "batch source_length classes"],
        source: Int[Array, "batch source_length"],
    ) -> Int[Array, "batch candidates source_length"]:
        """The fertilities to try, not yet within any limit."""


@dataclasses.dataclass(frozen=True)
class Argmax(FertilityDecoding):
    """The most probable fertility of every source token (section 3.3, argmax decoding)."""

    remove_repeats: bool = False
    """return one of every run of equal words, and let a scorer see only that; own scores are those before"""

    def search(
        self,
        logits: Float[Array, "batch source_length classes"],
        source: Int[Array, "batch source_length"],
    ) -> Int[Array, "batch 1 source_length"]:
        return best_fertilities(logits)


@dataclasses.dataclass(frozen=True)
class Average(FertilityDecoding):
    """The mean fertility of every source token, rounded (section 3.3, average decoding)."""

    remove_repeats: bool = False
    """return one of every run of equal words, and let a scorer see only that; own scores are those before"""

    def search(
        self,
        logits: Float[Array, "batch source_length classes"],
        source: Int[Array, "batch source_length"],
    ) -> Int[Array, "batch 1 source_length"]:
        return mean_fertilities(logits)[:, None]


@dataclasses.dataclass(frozen=True)
class NoisyParallel(FertilityDecoding):
    """Several samples of the fertilities in parallel, the best translation of them (section 3.3).

    The samples of a sentence depend on the sentence and the seed only, never on its batch. Different
    fertilities may lead to the same translation, so the n_best can hold one more than once."""

    samples: int = 10
    """candidates, that of the most probable fertilities included"""
    rescore: bool = True
    """choose by the autoregressive teacher instead of by the model's own log p of words and
    fertilities, divided by the number of words"""
    temperature: float = 1.0
    """divides the fertility logits before sampling: above 1 more variety, below 1 less"""
    seed: int = 0
    """another seed draws other samples"""
    n_best: int = 1
    """translations returned, best first; at most samples"""
    remove_repeats: bool = False
    """return one of every run of equal words, and let a scorer see only that; own scores are those before"""

    def __post_init__(self) -> None:
        require_n_best(self, samples=self.samples)
        config_json.require_seed(self.seed)
        if self.temperature <= 0.0:
            raise ConfigError(
                f"NoisyParallel needs a temperature above 0, got {self.temperature}; "
                "Argmax() is its limit at 0"
            )

    def search(
        self,
        logits: Float[Array, "batch source_length classes"],
        source: Int[Array, "batch source_length"],
    ) -> Int[Array, "batch samples source_length"]:
        best = best_fertilities(logits)
        if self.samples == 1:
            return best
        sampled = sample_fertilities(
            logits / self.temperature,
            position_keys(source, seed=self.seed),
            num_samples=self.samples - 1,
        )
        return jnp.concatenate([best, sampled], axis=1)


def is_source_text(source: Int[Array, "*axes"]) -> Bool[Array, "*axes"]:
    """True where a source token can have a fertility: not on EOS and padding."""
    return (source != PAD) & (source != EOS)


def mean_fertilities(
    logits: Float[Array, "batch source_length classes"],
) -> Int[Array, "batch source_length"]:
    """The expected fertility of every source token, rounded, halves to even."""
    expected = (jax.nn.softmax(logits) * jnp.arange(logits.shape[-1])).sum(axis=-1)
    return jnp.round(expected).astype(jnp.int32)


def best_fertilities(
    logits: Float[Array, "batch source_length classes"],
) -> Int[Array, "batch 1 source_length"]:
    """The most probable fertility of every source token, as the only candidate."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)[:, None]


def position_keys(
    source: Int[Array, "batch source_length"], *, seed: int
) -> Key[Array, "batch source_length"]:
    """A key for every position of every sentence, independent of batch and padding."""
    keys, positions = sampling.row_keys(source, seed=seed), jnp.arange(source.shape[1])
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, positions)


def sample_fertilities(
    logits: Float[Array, "batch source_length classes"],
    keys: Key[Array, "batch source_length"],
    *,
    num_samples: int,
) -> Int[Array, "batch num_samples source_length"]:
    """Independent draws with one key a source token, by inverting the cumulative distribution: one
    random number a draw, where Gumbel noise would take one a class."""

    def draw(key: Key[Array, ""]) -> Float[Array, "num_samples"]:
        return jax.random.uniform(key, (num_samples,))

    heights = jax.vmap(jax.vmap(draw))(keys)  # [batch, source_length, num_samples]
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    classes = (cumulative[:, :, None] <= heights[..., None]).sum(axis=-1)
    classes = jnp.minimum(classes, logits.shape[-1] - 1)  # the last sum may round to below 1
    return classes.swapaxes(1, 2).astype(jnp.int32)


def within_limits(
    fertilities: Int[Array, "batch candidates source_length"],
    logits: Float[Array, "batch source_length classes"],
    source: Int[Array, "batch source_length"],
    row_limits: Int[Array, "batch"],
) -> Int[Array, "batch candidates source_length"]:
    """Fertilities that a decoder can use: none on EOS and padding, a sum of at most the limit (the last source tokens
    lose theirs first) and of at least 1: if all are 0, the token with the lowest p(fertility 0) gets 1."""
    is_text = is_source_text(source)
    trimmed = trim(jnp.where(is_text[:, None], fertilities, 0), row_limits[:, None])
    absence = jnp.where(is_text, jax.nn.log_softmax(logits)[..., 0], jnp.inf)
    least_absent = jax.nn.one_hot(jnp.argmin(absence, axis=1), source.shape[1], dtype=jnp.int32)
    is_empty = trimmed.sum(axis=-1, keepdims=True) == 0
    is_sentence = (source != PAD).any(axis=1)[:, None, None]
    return jnp.where(is_empty & is_sentence, least_absent[:, None], trimmed)


def trim(
    fertilities: Int[Array, "*axes source_length"], target_limits: Int[Array, "*#axes"]
) -> Int[Array, "*axes source_length"]:
    """The same fertilities, lessened from the last source token on until they sum to the limit."""
    ends = jnp.minimum(jnp.cumsum(fertilities, axis=-1), target_limits[..., None])
    return jnp.diff(ends, axis=-1, prepend=0)
