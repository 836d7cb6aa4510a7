"""Choosing among parallel candidates, by their own score or by a rescorer's."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from nat_ar.search import limits
from nat_ar.search.base import Decoding
from nat_ar.types import Hypotheses, pytree_dataclass


@runtime_checkable
class Scorer(Protocol):
    """Any autoregressive model: rescores the candidates of any other."""

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
        *,
        length_penalty: float | None = None,
    ) -> Float[Array, "batch n_best"]: ...


Score = Callable[[Int[Array, "batch candidates width"]], Float[Array, "batch candidates"]]
Ladder = Callable[[int], Sequence[int]]
"""max_length -> the widths at which candidates may be decoded, ascending; the last one is max_length."""


@pytree_dataclass
class Candidates:
    """Parallel translations of every source row."""

    tokens: Int[Array, "batch candidates width"]
    scores: Float[Array, "batch candidates"]
    """the model's own"""
    passes: Int[Array, "batch"]
    """decoder passes that the row's candidates took"""


def rescorer(
    decoding: Decoding, source: Int[Array, "batch source_length"], scorer: Scorer | None
) -> Score | None:
    """The score by which the decoding chooses; None: the candidates' own. Raises ValueError if it rescores and
    there is no scorer."""
    if not decoding.rescore:
        return None
    if scorer is None:
        name = type(decoding).__name__
        raise ValueError(f"{name}(rescore=True) needs a teacher to rescore with; got none")
    return functools.partial(scorer.score, source)


def best_candidates(
    decode_at: Callable[[int], Candidates],
    lengths: Int[Array, "batch candidates"],
    *,
    max_length: int,
    n_best: int,
    score: Score | None,
    widths: Ladder = limits.width_ladder,
) -> Hypotheses:
    """The n_best candidates of every row, decoded at the smallest width that holds all `lengths`.

    With a `score` they are ordered by it, which takes one more pass; rows of length 0 are no sentence."""

    def choose_at(width: int) -> Hypotheses:
        candidates = decode_at(width)
        scores, passes = candidates.scores, candidates.passes
        if score is not None:
            scores, passes = score(candidates.tokens), passes + (lengths > 0).any(axis=1)
        return best_first(candidates.tokens, scores, passes, n_best=n_best)

    return limits.at_width(lengths.max(), widths(max_length), choose_at)


def best_first(
    tokens: Int[Array, "batch candidates length"],
    scores: Float[Array, "batch candidates"],
    passes: Int[Array, "batch"],
    *,
    n_best: int,
) -> Hypotheses:
    """The n_best candidates of every row by score; ties go to the candidate on the left."""
    scores, chosen = jax.lax.top_k(scores, n_best)
    return Hypotheses(jnp.take_along_axis(tokens, chosen[..., None], axis=1), scores, passes)


def best_index(scores: Float[Array, "batch candidates"]) -> Int[Array, "batch"]:
    """The candidate that best_first puts first."""
    return jnp.argmax(scores, axis=1)


def chosen(
    values: Shaped[Array, "batch candidates *axes"], index: Int[Array, "batch"]
) -> Shaped[Array, "batch *axes"]:
    """The values of one candidate of every row."""
    return values[jnp.arange(index.shape[0]), index]
