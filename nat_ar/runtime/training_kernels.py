"""Kernels for training on a CPU, in C++ that XLA's programs call (training_kernels.cc, built at first use).

Products of bfloat16 numbers: processors with AMX multiply them at several times the rate of float32, and AMD's with
AVX512-BF16 at twice it; XLA makes no use of either, and is slower in bfloat16 than in float32. Factors may be float32,
and are rounded to bfloat16, to the nearest and to even, on their way in; sums are float32.

The softmax over a vocabulary whose logits are never in memory, for losses that ask for a few words at each position.

Attention of all positions to all, forward and backward: XLA multiplies the small matrices of each head at a fraction of
the processor's rate, and copies every operand into another order first.

What an optimizer does to all parameters: one call for lists of arrays, where XLA compiles and runs several operations
for each array.

The result of a row, or of a sentence, depends on no other, and none on the number of threads."""

import ctypes
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nat_ar.runtime import processor, xla_kernels

PRODUCT = "nat_ar_bfloat16_product"
LOOK_UP, LOOK_UP_BACKWARD = "nat_ar_vocabulary", "nat_ar_vocabulary_backward"
ATTEND, ATTEND_BACKWARD = "nat_ar_training_attention", "nat_ar_training_attention_backward"
NORM, MOVE, ADAM = "nat_ar_norm", "nat_ar_move", "nat_ar_adam"
"""Their names in XLA's programs."""
LEVELS = ("plain", "dots", "amx")
"""Ways to compute a product, in the order of bfloat16_products.h."""
NOTHING = np.zeros(0, np.float32)


@functools.cache
def levels() -> tuple[str, ...]:
    """Those of LEVELS that this processor can run; products take the last. None: no CPU, or nothing was built."""
    library = xla_kernels.load(
        Path(__file__).with_suffix(".cc"),
        without="trainings on this CPU compile for up to twice as long",
        parts=(
            "bfloat16_products.h",
            "shared_work.h",
            "training_attention.h",
            "training_trees.h",
            "training_vocabulary.h",
            "vectors.h",
        ),
        targets={
            PRODUCT: "NatArBfloat16Product",
            LOOK_UP: "NatArVocabulary",
            LOOK_UP_BACKWARD: "NatArVocabularyBackward",
            ATTEND: "NatArTrainingAttention",
            ATTEND_BACKWARD: "NatArTrainingAttentionBackward",
            NORM: "NatArNorm",
            MOVE: "NatArMove",
            ADAM: "NatArAdam",
        },
    )
    if library is None:
        return ()
    library.NatArBfloat16Levels.restype = ctypes.c_int64
    bits = library.NatArBfloat16Levels()
    return tuple(level for i, level in enumerate(LEVELS) if bits >> i & 1)


def are_available() -> bool:
    """Whether this process has kernels: on a CPU, if training_kernels.cc is or can be built."""
    return bool(levels())


def multiply_bfloat16() -> bool:
    """Whether they multiply bfloat16 faster than XLA multiplies float32: by AMX, and by dot products on AMD's."""
    return "amx" in levels() or ("dots" in levels() and processor.vendor() == "AuthenticAMD")


_switch = xla_kernels.Switch("training_kernels")
in_use, are_in_use = _switch.set, _switch.is_on
"""Where networks and the optimizer call kernels: their programs run on one device, the CPU of this machine."""


def multiply(dtype: Any) -> bool:
    """Whether a network in this type should multiply by `linear` and `inner` where it is traced."""
    return jnp.dtype(dtype) == jnp.bfloat16 and are_in_use() and multiply_bfloat16()


def product(
    left: Float[Array, "_ _"],
    right: Float[Array, "_ _"],
    bias: Float[Array, "width"] | None = None,
    *,
    is_left_transposed: bool = False,
    is_right_transposed: bool = False,
    is_rectified: bool = False,
    dtype: str = "float32",
    level: str | None = None,
) -> Float[Array, "rows width"]:
    """left @ right + bias, at least 0 where it is rectified, as an array of `dtype` ("float32" or "bfloat16").

    left is [rows, depth], or [depth, rows] where transposed; right is [depth, width] or [width, depth]. Either may be
    float32 or bfloat16; bias is float32. level: one of levels(), for tests; None: the fastest."""
    rows, width = left.shape[is_left_transposed], right.shape[not is_right_transposed]
    call = jax.ffi.ffi_call(PRODUCT, jax.ShapeDtypeStruct((rows, width), dtype))
    return call(
        left,
        right,
        NOTHING if bias is None else bias,
        is_left_transposed=np.bool_(is_left_transposed),
        is_right_transposed=np.bool_(is_right_transposed),
        is_rectified=np.bool_(is_rectified),
        level=_number_of(level),
    )


def flops_in(equation: jex.JaxprEqn) -> tuple[str, int]:
    """Of an equation of a traced program, the type and the FLOPs of the products that it calls a kernel for; 0 where it
    calls none. Attention has two, and four in its backward pass, what is computed again not counted."""
    if equation.primitive.name != "ffi_call":
        return "float32", 0
    target = equation.params["target_name"]
    shapes = [atom.aval.shape for atom in equation.invars]  # type: ignore[attr-defined]
    if target == PRODUCT:
        is_transposed = dict(equation.params["attributes"])["is_left_transposed"]
        depth = shapes[0][not is_transposed]
        return "bfloat16", int(2 * depth * equation.outvars[0].aval.size)  # type: ignore[attr-defined]
    if target in (LOOK_UP, LOOK_UP_BACKWARD):
        (positions, depth), (words, _) = shapes[:2]
        product = 2 * positions * depth * words
        return "bfloat16", product * (1 if target == LOOK_UP else 2)
    if target in (ATTEND, ATTEND_BACKWARD):
        query, key = shapes[:2]
        product = 2 * math.prod(query) * key[1]
        return "float32", product * (2 if target == ATTEND else 4)
    return "float32", 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
    x: Float[Array, "rows depth"],
    weight: Float[Array, "depth width"],
    bias: Float[Array, "width"],
    is_rectified: bool,
) -> Float[Array, "rows width"]:
    """x @ weight + bias in bfloat16, with gradients whose products are of the same kind: those of weight and bias stay
    float32."""
    return product(x, weight, bias, is_rectified=is_rectified, dtype="bfloat16")


def _linear_forward(
    x: Array, weight: Array, bias: Array, is_rectified: bool
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    y = linear(x, weight, bias, is_rectified)
    return y, (x, weight, y if is_rectified else None)


def _linear_backward(
    is_rectified: bool,
    kept: tuple[Array, Array, Array | None],
    gradient: Float[Array, "rows width"],
) -> tuple[Array, Array, Array]:
    x, weight, y = kept
    if y is not None:
        gradient = jnp.where(y > 0, gradient, 0)
    to_x = product(gradient, weight, is_right_transposed=True, dtype=str(x.dtype))
    to_weight = product(x, gradient, is_left_transposed=True)
    return to_x, to_weight, gradient.astype(jnp.float32).sum(axis=0)


linear.defvjp(_linear_forward, _linear_backward)


@jax.custom_vjp
def inner(
    states: Float[Array, "rows depth"], table: Float[Array, "width depth"]
) -> Float[Array, "rows width"]:
    """The inner product of every state with every row of a table, in float32; its gradient as that of `linear`."""
    return product(states, table, is_right_transposed=True)


def _inner_forward(states: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
    return inner(states, table), (states, table)


def inner_backward(
    kept: tuple[Float[Array, "rows depth"], Float[Array, "width depth"]],
    gradient: Float[Array, "rows width"],
) -> tuple[Float[Array, "rows depth"], Float[Array, "width depth"]]:
    """What the gradient of inner(states, table) is for (states, table)."""
    states, table = kept
    to_states = product(gradient, table, dtype=str(states.dtype))
    return to_states, product(gradient, states, is_left_transposed=True)


inner.defvjp(_inner_forward, inner_backward)


def look_up(
    states: Float[Array, "positions depth"],
    table: Float[Array, "words depth"],
    asked: Int[Array, "groups number"],
    is_used: Bool[Array, "positions"],
    *,
    never: Sequence[int] = (),
    level: str | None = None,
) -> tuple[
    Float[Array, "positions"],
    Float[Array, "positions"],
    Float[Array, "positions"],
    Float[Array, "positions number"],
]:
    """Of the logits states @ table.T, products of bfloat16, at each position: log sum exp, mean, the largest of words
    that are not in `never` (16 at most), and those of the words asked for by its group (so many positions one after
    the other); 0 where a position is not used, and not looked at. level: as in `product`."""
    positions = len(states)
    shapes = (*((positions,),) * 3, (positions, asked.shape[1]))
    call = jax.ffi.ffi_call(LOOK_UP, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])
    forbidden = np.array(never, np.int32)
    normaliser, mean, likeliest, chosen = call(
        states, table, asked, is_used, forbidden, level=_number_of(level)
    )
    return normaliser, mean, likeliest, chosen


def look_up_backward(
    states: Float[Array, "positions depth"],
    table: Float[Array, "words depth"],
    asked: Int[Array, "groups number"],
    is_used: Bool[Array, "positions"],
    normaliser: Float[Array, "positions"],
    gradients: tuple[Array, Array, Array],
    *,
    level: str | None = None,
) -> tuple[Float[Array, "positions depth"], Float[Array, "words depth"]]:
    """What `gradients`, of normaliser, mean and chosen logits, are for states and table; that of the table is float32.
    normaliser: what look_up gave."""
    results = (
        jax.ShapeDtypeStruct(states.shape, states.dtype),
        jax.ShapeDtypeStruct(table.shape, jnp.float32),
    )
    call = jax.ffi.ffi_call(LOOK_UP_BACKWARD, results)
    to_states, to_table = call(
        states, table, asked, is_used, normaliser, *gradients, level=_number_of(level)
    )
    return to_states, to_table


def _number_of(level: str | None) -> np.int64:
    return np.int64(-1 if level is None else LEVELS.index(level))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    counts: Int[Array, "batch"],
    is_causal: bool,
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q k / sqrt(head_dim)) v over the first `counts` keys of each sentence (evenly over all where that is
    none), up to a query's own position where it is causal. Arrays are all of float32 or all of bfloat16; what is
    between is float32."""
    call = jax.ffi.ffi_call(ATTEND, jax.ShapeDtypeStruct(query.shape, query.dtype))
    return call(query, key, value, counts, is_causal=np.bool_(is_causal))


def _attend_forward(
    query: Array, key: Array, value: Array, counts: Array, is_causal: bool
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    return attend(query, key, value, counts, is_causal), (query, key, value, counts)


def _attend_backward(
    is_causal: bool,
    kept: tuple[Array, Array, Array, Array],
    gradient: Float[Array, "batch queries heads head_dim"],
) -> tuple[Array, Array, Array, None]:
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in kept[:3]]
    call = jax.ffi.ffi_call(ATTEND_BACKWARD, like)
    to_query, to_key, to_value = call(*kept, gradient, is_causal=np.bool_(is_causal))
    return to_query, to_key, to_value, None


attend.defvjp(_attend_forward, _attend_backward)


def norm(arrays: Sequence[Float[Array, "..."]]) -> Float[Array, ""]:
    """The Euclidean norm of all values; squares are added up in float64, stretch by stretch."""
    return jax.ffi.ffi_call(NORM, jax.ShapeDtypeStruct((), jnp.float32))(*arrays)


def move(
    arrays: Sequence[Float[Array, "..."]],
    others: Sequence[Float[Array, "..."]],
    rate: Float[Array, ""] | float,
    *,
    is_toward: bool = False,
) -> list[Float[Array, "..."]]:
    """Each array plus `rate` times its other; where it is toward that, plus `rate` times what is missing to it."""
    results = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in arrays]
    aliases = {1 + i: i for i in range(len(arrays))}
    call = jax.ffi.ffi_call(MOVE, results, input_output_aliases=aliases)
    found = call(
        jnp.asarray(rate, jnp.float32),
        *arrays,
        *others,
        is_toward=np.bool_(is_toward),
    )
    return list(found)


def adam(
    gradients: Sequence[Float[Array, "..."]],
    means: Sequence[Float[Array, "..."]],
    squares: Sequence[Float[Array, "..."]],
    corrections: Float[Array, "2"],
    scale: Float[Array, ""],
    rate: Float[Array, ""],
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[list[Array], list[Array], list[Array]]:
    """Updates and new moments (Kingma & Ba 2015, algorithm 1), means and squares, of `scale` times the gradients;
    `corrections`: 1 - beta^t of both; updates are `rate` times the direction."""
    arrays = [*gradients, *means, *squares]
    results = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in arrays]
    aliases = {1 + i: i for i in range(len(arrays))}
    call = jax.ffi.ffi_call(ADAM, results, input_output_aliases=aliases)
    found = list(
        call(
            jnp.stack([*corrections, scale, rate]),
            *arrays,
            beta1=np.float32(beta1),
            beta2=np.float32(beta2),
            epsilon=np.float32(epsilon),
        )
    )
    count = len(gradients)
    return found[:count], found[count : 2 * count], found[2 * count :]
