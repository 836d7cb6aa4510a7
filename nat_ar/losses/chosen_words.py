"""What most losses ask of a vocabulary: the logits of a few words at each position, all logits' normaliser and mean.

Where kernels multiply (bfloat16 on a CPU), `look_up` finds these without an array of logits, forward and backward
(runtime/training_vocabulary.h). Elsewhere logits exist for a block of rows at a time, as in losses.blocks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from nat_ar.losses import blocks
from nat_ar.runtime import training_kernels
from nat_ar.types import Prediction


class ChosenWords(NamedTuple):
    """Of the logits of each position."""

    logits: Float[Array, "*axes number"]
    """those of the words that are asked for there"""
    normaliser: Float[Array, "*axes"]
    """log of the sum of the exponentials of all"""
    mean: Float[Array, "*axes"]
    """of all"""
    likeliest: Float[Array, "*axes"]
    """the largest of words that may be said, of which there is no gradient"""


Compare = Callable[[ChosenWords, Any], tuple[Float[Array, ""], Any]]
"""As blocks.Compare. Nothing may depend on positions that are not used."""


def of_logits(
    logits: Float[Array, "rows *axes vocabulary"],
    words: Int[Array, "rows number"],
    never: Sequence[int] = (),
) -> ChosenWords:
    """The same words at all positions of a row. never: words that are not the likeliest of any position."""
    positions = logits.shape[:-1]
    words = words.reshape(len(words), *(1,) * (len(positions) - 1), -1)
    words = jnp.broadcast_to(words, (*positions, words.shape[-1]))
    chosen = jnp.take_along_axis(logits, words, axis=-1)
    is_allowed = np.isin(np.arange(logits.shape[-1]), np.array(never), invert=True)
    allowed = jnp.where(is_allowed, jax.lax.stop_gradient(logits), -jnp.inf)
    return ChosenWords(
        chosen, jax.nn.logsumexp(logits, axis=-1), logits.mean(axis=-1), allowed.max(axis=-1)
    )


def may_look_up(prediction: Prediction) -> bool:
    """Whether `look_up` can be traced here."""
    return training_kernels.multiply(prediction.states.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def look_up(
    prediction: Prediction,
    words: Int[Array, "rows number"],
    is_used: Bool[Array, "rows *axes"],
    never: tuple[int, ...] = (),
) -> ChosenWords:
    """As of_logits of a prediction whose states are [rows, *axes, d_model]; 0 where a position is not used."""
    return _look_up(prediction, words, is_used, never)[0]


Kept = tuple[Prediction, Int[Array, "rows number"], Bool[Array, "rows *axes"], Array]


def _look_up(
    prediction: Prediction,
    words: Int[Array, "rows number"],
    is_used: Bool[Array, "rows *axes"],
    never: tuple[int, ...],
) -> tuple[ChosenWords, Kept]:
    flat = prediction.states.reshape(is_used.size, -1)
    normaliser, mean, likeliest, chosen = training_kernels.look_up(
        flat, prediction.table, words, is_used.reshape(-1), never=never
    )
    found = ChosenWords(
        chosen.reshape(*is_used.shape, -1),
        normaliser.reshape(is_used.shape),
        mean.reshape(is_used.shape),
        likeliest.reshape(is_used.shape),
    )
    return found, (prediction, words, is_used, normaliser)


def _look_up_backward(
    never: tuple[int, ...], kept: Kept, gradient: ChosenWords
) -> tuple[Prediction, None, None]:
    prediction, words, is_used, normaliser = kept
    to_states, to_table = training_kernels.look_up_backward(
        prediction.states.reshape(is_used.size, -1),
        prediction.table,
        words,
        is_used.reshape(-1),
        normaliser,
        (
            gradient.normaliser.reshape(-1),
            gradient.mean.reshape(-1),
            gradient.logits.reshape(is_used.size, -1),
        ),
    )
    return Prediction(to_states.reshape(prediction.states.shape), to_table), None, None


look_up.defvjp(_look_up, _look_up_backward)


def total(
    compare: Compare,
    prediction: Prediction,
    words: Int[Array, "rows number"],
    rows: PyTree[Array],
    is_used: Bool[Array, "rows *axes"],
    never: tuple[int, ...] = (),
) -> tuple[Float[Array, ""], Any]:
    """As blocks.total, of a loss that needs no more than these words at the positions in use; rows without any are left
    out."""
    axes = tuple(range(1, is_used.ndim))
    is_row = is_used.any(axis=axes)
    if not may_look_up(prediction):

        def compare_logits(logits: Array, rows: Any) -> tuple[Float[Array, ""], Any]:
            own_words, own_rows = rows
            return compare(of_logits(logits, own_words, never), own_rows)

        return blocks.total(compare_logits, prediction, (words, rows), is_row)

    def where_used(x: Array) -> Array:
        return jnp.where(is_row.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)

    found = look_up(prediction, words, is_used, never)
    objective, reports = compare(found, jax.tree.map(where_used, rows))
    return objective, jax.tree.map(lambda x: jax.lax.stop_gradient(where_used(x)), reports)
