"""Fuzzy alignment of a graph's paths with a target (Ma et al. 2023, arXiv:2303.06662, FA-DAT): the n-grams that a
random path of the graph shares with the target, wherever they stand, instead of the probability of the target itself.

A random translation follows the transitions and draws a token at every vertex. With E_g the expected number of times
that it holds the n-gram g, and C_g the number of times that the target does,

    precision = sum over the target's n-grams g of min(E_g, C_g) / expected number of all its n-grams
    score = precision * min(1, exp(1 - target length / expected length))

E_g is a sum over paths: visits[i] emission[g_1, i] transition[i, j] emission[g_2, j] ... over i < j < ..., a product of
matrices. BOS at vertex 0 and EOS at the last vertex are tokens of both sides. Where the likelihood wants one path for
the whole target, the score rewards every piece that comes out right and punishes what is mixed up. It teaches a model
that the likelihood has trained (in the paper 5,000 steps after 300,000); from random parameters it has nothing to
reward."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import ngrams
from nat_ar.types import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class FuzzyAlignment(config_json.Config):
    """The objective is minus the score, averaged over sentences."""

    ngram: int = 2
    """tokens of an n-gram; 2 in the paper"""

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ConfigError(f"fuzzy_alignment.ngram must be at least 1, got {self.ngram}")


@pytree_dataclass
class Overlap:
    """What a random path of each graph shares with its target."""

    precision: Float[Array, "batch"]
    """expected n-grams that the target has, by all expected n-grams"""
    brevity: Float[Array, "batch"]
    """1, less where the expected length is below the target's"""


def expected_overlap(
    emissions: Float[Array, "batch target graph"],
    transitions: Float[Array, "batch graph graph"],
    visits: Float[Array, "batch graph"],
    target: Int[Array, "batch target"],
    target_lengths: Int[Array, "batch"],
    graph_lengths: Int[Array, "batch"],
    *,
    ngram: int,
) -> Overlap:
    """Arguments as for dag.log_likelihood; beside them p(a random path visits a vertex), and the target's token ids. 0
    for rows without a sentence."""
    vertices, last = jnp.arange(emissions.shape[2]), graph_lengths[:, None] - 1
    emits = (vertices > 0) & (vertices < last)
    is_eos = jnp.arange(emissions.shape[1]) == target_lengths[:, None] - 1
    words = jnp.where(emits[:, None], jnp.exp(emissions), 0.0)
    words = jnp.where(is_eos[..., None], (vertices == last)[:, None], words)
    # [batch, tokens, graph]: p of each token of the target at each vertex, BOS in front; what follows EOS is 0.
    bos = jnp.broadcast_to(vertices == 0, words[:, :1].shape)
    words = jnp.concatenate([bos, words], axis=1)
    is_token = jnp.arange(words.shape[1]) <= target_lengths[:, None]
    words = jnp.where(is_token[..., None], words, 0.0)
    num_starts = words.shape[1]
    words = jnp.pad(words, ((0, 0), (0, ngram - 1), (0, 0)))
    ids = jnp.pad(target, ((0, 0), (1, ngram - 1)), constant_values=ngrams.BOS_ID)

    moves = jnp.exp(transitions)
    precision = jax.lax.Precision.HIGHEST  # else accelerators round every sum to a thousandth
    ending = visits[:, None] * words[:, :num_starts]  # [batch, starts, graph]
    going = visits  # p(a path has that many tokens, the last of them at the vertex)
    for offset in range(1, ngram):
        ending = jnp.einsum("bsi,bij->bsj", ending, moves, precision=precision)
        ending *= words[:, offset : offset + num_starts]
        going = jnp.einsum("bi,bij->bj", going, moves, precision=precision)

    matched = ngrams.shared(ending.sum(axis=2), ids, target_lengths + 2 - ngram, ngram=ngram)
    num_ngrams, length = going.sum(axis=1), visits.sum(axis=1)
    num_ngrams = jnp.where(num_ngrams > 0.0, num_ngrams, 1.0)  # no path of a short graph has any
    is_sentence = target_lengths > 0
    return Overlap(
        jnp.where(is_sentence, matched / num_ngrams, 0.0),
        jnp.where(is_sentence, jnp.exp(jnp.minimum(1.0 - (target_lengths + 1) / length, 0.0)), 0.0),
    )
