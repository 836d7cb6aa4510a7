"""The teacher's distributions over words at every place of the distilled targets, for students to learn from.

Word-level distillation on the teacher's own translations (Kim & Rush 2016, section 3.3, do both): each target is shown
to the teacher, whose most probable words at each place are kept."""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.data import loader, ragged, word_distributions
from nat_ar.data.batching import BatchingConfig, BatchPlan
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.ragged import Ragged
from nat_ar.runtime import bars
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import EOS
from nat_ar.translation.model import Model

LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
"""Pairs are padded to these; `prepare` drops those of more than 200 tokens unless told otherwise."""


def write(
    directory: Path,
    source: Ragged,
    target: Ragged,
    *,
    teacher: Model,
    number: int,
    vocabulary_size: int,
    batch_tokens: int,
) -> None:
    """Keeps the `number` most probable words at each place of the targets, EOS's included."""
    batching = BatchingConfig(max(batch_tokens, LENGTHS[-1]), LENGTHS)
    plan = BatchPlan(LengthOrder.of_lengths(source.lengths, target.lengths), batching, seed=0)
    if plan.num_left_out:
        raise ValueError(
            f"word distributions are for pairs of up to {LENGTHS[-1] - 1} tokens, got {plan.num_left_out} longer ones; "
            "distil data that were prepared with a smaller max_tokens"
        )
    dtype = ragged.token_type(vocabulary_size)
    kept = word_distributions.create(directory, target, number, dtype)
    batches = bars.Bar(plan.epoch(0), unit="batch", desc="word distributions")
    for rows, width in batches:
        sides = (loader.pad_rows(side, rows, width, end=EOS) for side in (source, target))
        nats, tokens = jax.device_get(_likely(teacher.graphdef, teacher.params, *sides, number))
        for index, row in enumerate(rows.tolist()):
            if row >= 0:
                begin, end = word_distributions.places_of(target, row)
                kept.tokens[begin:end] = tokens[index, : end - begin]
                kept.nats[begin:end] = nats[index, : end - begin]
    for array in kept:
        array.flush()  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _likely(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    source: Int[Array, "batch width"] | np.ndarray,
    target: Int[Array, "batch width"] | np.ndarray,
    number: int,
) -> tuple[Float[Array, "batch width number"], Int[Array, "batch width number"]]:
    logits = nnx.merge(graphdef, params).logits(source, target)
    return top_k(jax.nn.log_softmax(logits), number)
