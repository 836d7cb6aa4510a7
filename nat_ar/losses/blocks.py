"""Losses over the vocabulary whose logits exist for a block of rows at a time.

The logits of a batch are its tokens times the vocabulary, and a loss that JAX differentiates holds arrays of that size
three times over: logits, exponentials, gradient. Here a block of rows is multiplied with the vocabulary, compared with
what should be there, and its gradient goes back through the product at once, while it is in a cache. That needs no
cotangent from outside: the loss is a sum over rows, so that whatever is done with it later scales all gradients alike.
Nothing is computed twice. Rows that are not used, such as padding, are left out: those that are come first, and the
loop ends with the last of them.

Under a mesh (training.step) each device loops over its own rows; the sums over devices are the only exchange."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from nat_ar.runtime import training_kernels
from nat_ar.types import Prediction

POSITIONS = 512
"""of a block, about, unless a row alone has more: the product with the vocabulary is as fast as one of all, and no
more than half a block of the last one is empty on average (docs/speed.md)"""

Compare = Callable[[Float[Array, "rows *axes vocabulary"], Any], tuple[Float[Array, ""], Any]]
"""Logits of some rows and what belongs to these rows in; what to minimise, summed over the rows, and arrays to report,
with an entry for each row, out. A row of zeros, which fills the last block, must cost nothing."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def total(
    compare: Compare,
    prediction: Prediction,
    rows: PyTree[Array],
    is_used: Bool[Array, "rows"],
) -> tuple[Float[Array, ""], Any]:
    """The sum of `compare` over the rows in use, and its reports, 0 for other rows.

    The states are [rows, *axes, d_model]; every array of `rows` begins with the same rows. The gradient goes to the
    prediction; neither `rows` nor reports have one. `compare` closes over no traced value."""
    objective, reports, _ = _over_devices(compare, prediction, rows, is_used, has_gradient=False)
    return objective, reports


def _forward(
    compare: Compare, prediction: Prediction, rows: PyTree[Array], is_used: Bool[Array, "rows"]
) -> tuple[tuple[Float[Array, ""], Any], Prediction | None]:
    objective, reports, gradient = _over_devices(
        compare, prediction, rows, is_used, has_gradient=True
    )
    return (objective, reports), gradient


def _backward(
    compare: Compare, gradient: Prediction, cotangents: tuple[Float[Array, ""], Any]
) -> tuple[Prediction, None, None]:
    scale, _ = cotangents
    return jax.tree.map(lambda x: (scale * x).astype(x.dtype), gradient), None, None


total.defvjp(_forward, _backward)


def _over_devices(
    compare: Compare,
    prediction: Prediction,
    rows: PyTree[Array],
    is_used: Bool[Array, "rows"],
    *,
    has_gradient: bool,
) -> tuple[Float[Array, ""], Any, Prediction | None]:
    """Objective, reports, and the gradient of the objective where asked for."""
    mesh = jax.sharding.get_abstract_mesh()
    compute = functools.partial(_over_blocks, compare, has_gradient=has_gradient)
    if mesh.empty or mesh.size == 1:
        return compute(prediction, rows, is_used)
    axes = mesh.axis_names
    by_row, everywhere = PartitionSpec(axes), PartitionSpec()
    of_prediction = Prediction(by_row, everywhere)  # type: ignore[arg-type]

    def own_rows(
        prediction: Prediction, rows: PyTree[Array], is_used: Bool[Array, "rows"]
    ) -> tuple[Float[Array, ""], Any, Prediction | None]:
        objective, reports, gradient = compute(prediction, rows, is_used)
        if gradient is not None:
            gradient = Prediction(gradient.states, jax.lax.psum(gradient.table, axes))
        return jax.lax.psum(objective, axes), reports, gradient

    return jax.shard_map(
        own_rows,
        in_specs=(of_prediction, by_row, by_row),
        out_specs=(everywhere, by_row, of_prediction if has_gradient else None),
        check_vma=False,  # a loop whose length differs between devices
    )(prediction, rows, is_used)


def _over_blocks(
    compare: Compare,
    prediction: Prediction,
    rows: PyTree[Array],
    is_used: Bool[Array, "rows"],
    *,
    has_gradient: bool,
) -> tuple[Float[Array, ""], Any, Prediction | None]:
    """As _over_devices, of the rows of this device."""
    number, *axes, _ = prediction.states.shape
    size = _rows_of_block(number, math.prod(axes))
    length = -(-number // size) * size
    order = jnp.nonzero(is_used, size=length, fill_value=number)[0]  # those in use, then none
    states, rows = jax.tree.map(
        lambda x: x.at[order].get(mode="fill", fill_value=0), (prediction.states, rows)
    )

    @jax.named_scope("vocabulary")
    def compared(start: Int[Array, ""]) -> tuple[Prediction, Float[Array, ""], Any]:
        """Of the block that begins there: the gradient, or the prediction itself; the objective; reports."""
        own_states, own_rows = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), (states, rows)
        )
        part = Prediction(own_states, prediction.table)
        if not has_gradient:
            return part, *compare(part.logits(), own_rows)
        objective, to_logits, reports = jax.vjp(
            lambda logits: compare(logits, own_rows), part.logits(), has_aux=True
        )
        (gradient,) = to_logits(jnp.ones_like(objective))
        return _gradient_of(part, gradient), objective, reports

    def add(
        index: Int[Array, ""], so_far: tuple[Prediction, Float[Array, ""], Any]
    ) -> tuple[Prediction, Float[Array, ""], Any]:
        gradient, objective, reports = so_far
        own_gradient, own_objective, own_reports = compared(index * size)

        def put(whole: Array, part: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, part, index * size, axis=0)

        if has_gradient:
            table = gradient.table + own_gradient.table
            gradient = Prediction(put(gradient.states, own_gradient.states), table)
        return gradient, objective + own_objective, jax.tree.map(put, reports, own_reports)

    _, objective_of_block, reports_of_block = jax.eval_shape(compared, jnp.int32(0))
    reports = jax.tree.map(lambda x: jnp.zeros((length, *x.shape[1:]), x.dtype), reports_of_block)
    gradient = jax.tree.map(jnp.zeros_like, Prediction(states, prediction.table))
    start = (gradient, jnp.zeros_like(objective_of_block), reports)
    used = is_used.sum()
    gradient, objective, reports = jax.lax.fori_loop(0, -(-used // size), add, start)

    place = jnp.where(is_used, jnp.cumsum(is_used) - 1, length)
    to_states, reports = jax.tree.map(
        lambda x: x.at[place].get(mode="fill", fill_value=0), (gradient.states, reports)
    )
    return objective, reports, Prediction(to_states, gradient.table) if has_gradient else None


def _rows_of_block(rows: int, positions: int) -> int:
    """The rows of blocks that are about equally long, of rows with so many positions each."""
    num_blocks = min(rows, -(-rows * positions // POSITIONS))
    return -(-rows // num_blocks)


def _gradient_of(prediction: Prediction, to_logits: Float[Array, "*axes vocabulary"]) -> Prediction:
    """The gradient through Prediction.logits, with products of its type; that of the table stays float32."""
    states = prediction.states.reshape(-1, prediction.states.shape[-1])
    to_logits = to_logits.reshape(states.shape[0], -1)
    if training_kernels.multiply(states.dtype):
        kept = states, prediction.table
        to_states, to_table = training_kernels.inner_backward(kept, to_logits)
    else:
        table = prediction.table.astype(states.dtype)
        gradient = to_logits.astype(states.dtype)
        to_states = jax.lax.dot_general(
            gradient, table, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        to_table = jax.lax.dot_general(
            gradient, states, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
    return Prediction(
        to_states.astype(states.dtype).reshape(prediction.states.shape),
        to_table.astype(prediction.table.dtype),
    )
