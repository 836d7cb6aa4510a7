"""Kernels for decoding on a CPU, in C++ that XLA's programs call (cpu_kernels.cc, built at first use).

Products with packed weights (nat_ar.nn.packed): a decoder that goes step by step multiplies each weight with one
vector for each hypothesis, a one-pass decoder with one for each position of a sentence. At 2 to 32 rows XLA's
libraries (YNNPACK, Eigen) reach a tenth to a third of the processor's rate: most time goes into loading weights.
Weights of 8 bits meet states of 8 bits: a quarter of the bytes, and 2 to 4 times the products an instruction.

Attention of few queries: XLA multiplies with every position and slot that a cache has room for, in a dozen
operations. The kernel is one operation and stops at the last position that counts.

All blocks of an encoder or a decoder: one operation for some sixteen a block (nat_ar.nn.fused).

Layer normalisation: one operation for XLA's five, each of which takes no longer than its start. Argmax of many
logits: one pass for XLA's three.

The result of a row depends on no other row: products, norms and attention of k rows have the bits of k single
rows. Float32 only, without gradients."""

import ctypes
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from nat_ar.runtime import xla_kernels

PRODUCT, PRODUCT_INT8 = "nat_ar_packed_product", "nat_ar_packed_product_int8"
ATTEND, NORMALISE, LIKELIEST = "nat_ar_attend", "nat_ar_normalise", "nat_ar_likeliest"
DECODER_STEP, PASS_BLOCKS = "nat_ar_decoder_step", "nat_ar_pass_blocks"
PROJECT_SOURCES = "nat_ar_project_sources"
"""Their names in XLA's programs."""
INT8_LEVELS = ("plain", "dot", "avx2", "vnni")
"""Ways to compute products of 8 bits, in the order of int8_products.h."""
PANEL = 16
"""Columns of a packed weight that are stored together."""
QUAD = 4
"""Neighbours along the depth that a packed weight of 8 bits has together."""
NOTHING, ONE_SLOT = np.zeros(0, np.float32), np.zeros(0, np.int32)


@functools.cache
def are_available() -> bool:
    """Whether this process has kernels: on a CPU, if cpu_kernels.cc is or can be built."""
    library = xla_kernels.load(
        Path(__file__).with_suffix(".cc"),
        without="decoding on a CPU takes up to twice as long",
        parts=(
            "crew.h",
            "decoding_attention.h",
            "fused_blocks.h",
            "int8_products.h",
            "packed_products.h",
            "shared_work.h",
            "vectors.h",
        ),
        targets={
            PRODUCT: "NatArPackedProduct",
            PRODUCT_INT8: "NatArPackedProductInt8",
            ATTEND: "NatArAttend",
            NORMALISE: "NatArNormalise",
            LIKELIEST: "NatArLikeliest",
            DECODER_STEP: "NatArDecoderStep",
            PASS_BLOCKS: "NatArPassBlocks",
            PROJECT_SOURCES: "NatArProjectSources",
        },
    )
    if library is None:
        return False
    library.NatArInt8Levels.restype = ctypes.c_int64
    bits = library.NatArInt8Levels()
    _int8_levels.extend(level for i, level in enumerate(INT8_LEVELS) if bits >> i & 1)
    return True


_int8_levels: list[str] = []


def int8_levels() -> tuple[str, ...]:
    """Those of INT8_LEVELS that this processor can run; products take the last, which is the fastest."""
    return tuple(_int8_levels) if are_available() else ()


_switch = xla_kernels.Switch("decoding_kernels")
in_use, are_in_use = _switch.set, _switch.is_on
"""Where code that holds no packed network (a search) may call kernels too."""


def product(
    states: Float[Array, "rows depth"],
    panels: Float[Array, "panels depth 16"],
    bias: Float[Array, "width"] | None,
    width: int,
    *,
    is_rectified: bool = False,
) -> Float[Array, "rows width"]:
    """states @ weight + bias, of a packed weight with `width` columns; at least 0 where it is rectified."""
    call = jax.ffi.ffi_call(PRODUCT, jax.ShapeDtypeStruct((states.shape[0], width), jnp.float32))
    offset = NOTHING if bias is None else bias
    return call(states, panels, offset, is_rectified=np.bool_(is_rectified))


def product_int8(
    states: Float[Array, "rows depth"],
    panels: Int8[Array, "panels quads 16 4"],
    sums: Int[Array, "panels 16"],
    scale: Float[Array, "width"],
    bias: Float[Array, "width"] | None,
    width: int,
    *,
    is_rectified: bool = False,
    level: str | None = None,
) -> Float[Array, "rows width"]:
    """states @ (weight * scale) + bias of a packed weight of integers from -127 to 127; at least 0 where it is
    rectified.
    `sums`: of each column of the weight.

    Each row of states is rounded to integers from -127 to 127 times its largest size / 127, and the sums of products
    are exact: a result depends on no other row, and is the same by every level. A row that is not finite gives NaN.
    `level`: one of int8_levels(), for tests; None: the fastest."""
    target, rows = PRODUCT_INT8, states.shape[0]
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((rows, width), jnp.float32))
    offset = NOTHING if bias is None else bias
    number = np.int64(-1 if level is None else INT8_LEVELS.index(level))
    return call(
        states, panels, sums, scale, offset, is_rectified=np.bool_(is_rectified), level=number
    )


def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch heads head_dim places"],
    value: Float[Array, "batch heads places head_dim"],
    counts: Int[Array, "batch"] | Int[Array, "batch queries"],
    origin: Int[Array, "batch queries positions"] | None = None,
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q k / sqrt(head_dim)) v over the first `counts` positions of each sentence, or of each query; 0 where
    that is none. The result for a query depends on its own count only, whichever queries are beside it.

    With `origin` each position has several slots, and origin[b, q, p] is the one that query q reads at p; key and
    value then hold positions * slots places, the slots of a position side by side."""
    call = jax.ffi.ffi_call(ATTEND, jax.ShapeDtypeStruct(query.shape, jnp.float32))
    return call(query, key, value, counts, ONE_SLOT if origin is None else origin)


def normalise(
    x: Float[Array, "rows width"],
    scale: Float[Array, "width"],
    bias: Float[Array, "width"],
    *,
    epsilon: float,
) -> Float[Array, "rows width"]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, mean and variance over each row."""
    call = jax.ffi.ffi_call(NORMALISE, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    return call(x, scale, bias, epsilon=np.float32(epsilon))


def likeliest(
    logits: Float[Array, "rows vocabulary"], never: Sequence[int]
) -> tuple[Int[Array, "rows"], Float[Array, "rows"], Float[Array, "rows"]]:
    """Argmax of each row over the tokens not in `never` (ascending), its logit, and the log of the sum of the
    exponentials of all logits. Ties go to the lowest id."""
    rows = (logits.shape[0],)
    results = [jax.ShapeDtypeStruct(rows, dtype) for dtype in (jnp.int32, jnp.float32, jnp.float32)]
    call = jax.ffi.ffi_call(LIKELIEST, results)
    places, values, normalisers = call(logits, never=np.array(never, np.int64))
    return places, values, normalisers


def decoder_step(
    inputs: Float[Array, "batch new d_model"],
    places: Int[Array, "batch new"],
    counts: Int[Array, "batch new"],
    origin: Int[Array, "batch new positions"] | None,
    source_lengths: Int[Array, "batch"],
    caches: Sequence[Float[Array, "batch heads _ _"]],
    memories: Sequence[Float[Array, "batch heads _ _"]],
    weights: Sequence[Array],
    *,
    num_heads: int,
    d_hidden: int,
    is_pre: bool,
    epsilon: float,
) -> tuple[Float[Array, "batch new d_model"], list[Array]]:
    """The states of new positions after all blocks of a decoder, and the caches that now hold their keys and values at
    `places`; each sees `counts` positions.

    `caches` and `memories` are a key and a value for each block, laid out as `attend` reads them (`origin`: as there);
    `weights` are in the order of fused_blocks.h. A result depends on its own position only, and has the bits of
    product, attend and normalise one after the other."""
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (inputs, *caches)]
    aliases = {5 + i: 1 + i for i in range(len(caches))}
    call = jax.ffi.ffi_call(DECODER_STEP, results, input_output_aliases=aliases)
    states, *written = call(
        inputs,
        places,
        counts,
        ONE_SLOT if origin is None else origin,
        source_lengths,
        *caches,
        *memories,
        *weights,
        blocks=np.int64(len(caches) // 2),
        heads=np.int64(num_heads),
        d_hidden=np.int64(d_hidden),
        places=np.int64(caches[0].shape[-1]),
        source_length=np.int64(memories[0].shape[-1]),
        is_pre=np.bool_(is_pre),
        is_int8=_are_int8(weights),
        epsilon=np.float32(epsilon),
    )
    return states, written


def pass_blocks(
    inputs: Float[Array, "rows length d_model"],
    lengths: Int[Array, "rows"],
    source_lengths: Int[Array, "batch"] | None,
    memories: Sequence[Float[Array, "batch heads _ _"]],
    weights: Sequence[Array],
    *,
    blocks: int,
    num_heads: int,
    d_hidden: int,
    is_pre: bool,
    epsilon: float,
) -> Float[Array, "rows length d_model"]:
    """The states of all positions after all blocks; each sees the first `lengths` positions of its row. Of a decoder
    with `source_lengths` and, for each block, a key and a value of the source in `memories`, where the rows of one
    source are neighbours; of an encoder without.

    `weights` and bits of the results: as decoder_step has them."""
    call = jax.ffi.ffi_call(PASS_BLOCKS, jax.ShapeDtypeStruct(inputs.shape, inputs.dtype))
    reads_source = source_lengths is not None
    states: Array = call(
        inputs,
        lengths,
        source_lengths if reads_source else ONE_SLOT,
        *memories,
        *weights,
        blocks=np.int64(blocks),
        heads=np.int64(num_heads),
        d_hidden=np.int64(d_hidden),
        source_length=np.int64(memories[0].shape[-1] if reads_source else 0),
        reads_source=np.bool_(reads_source),
        is_pre=np.bool_(is_pre),
        is_int8=_are_int8(weights),
        epsilon=np.float32(epsilon),
    )
    return states


def project_sources(
    states: Float[Array, "batch length d_model"],
    weights: Sequence[Array],
    *,
    blocks: int,
    num_heads: int,
) -> list[Array]:
    """A key [batch, heads, head_dim, length] and a value [batch, heads, length, head_dim] for each block of a decoder,
    laid out as `attend` reads them. `weights`: of each the packed map of both, and its bias."""
    batch, length, d_model = states.shape
    depth = d_model // num_heads
    shapes = [(batch, num_heads, depth, length), (batch, num_heads, length, depth)] * blocks
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(PROJECT_SOURCES, results)
    return list(call(states, *weights, heads=np.int64(num_heads), is_int8=_are_int8(weights)))


def _are_int8(weights: Sequence[Array]) -> np.bool_:
    return np.bool_(any(weight.dtype == jnp.int8 for weight in weights))


def products_in(equation: jex.JaxprEqn) -> list[tuple[int, int]]:
    """Of an equation of a traced program, the arguments that are packed weights, each with the FLOPs of its product; a
    multiplication and an addition are two."""
    if equation.primitive.name != "ffi_call":
        return []
    shapes = [atom.aval.shape for atom in equation.invars]  # type: ignore[attr-defined]
    target = equation.params["target_name"]
    if target in (PRODUCT, PRODUCT_INT8):
        (rows, depth), (_, width) = shapes[0], equation.outvars[0].aval.shape  # type: ignore[attr-defined]
        return [(1, 2 * rows * depth * width)]
    if target not in (DECODER_STEP, PASS_BLOCKS, PROJECT_SOURCES):
        return []
    batch, new, d_model = shapes[0]
    attributes = dict(equation.params["attributes"])
    reads_source = bool(attributes.get("reads_source", target == DECODER_STEP))
    if target == PROJECT_SOURCES:
        first, maps = 1, [(d_model, 2 * d_model)]
    else:
        d_hidden = int(attributes["d_hidden"])
        maps = [
            (d_model, 3 * d_model),
            *[(d_model, d_model)] * (3 if reads_source else 1),
            (d_model, d_hidden),
            (d_hidden, d_model),
        ]
        pairs = int(attributes["blocks"]) * (2 if target == DECODER_STEP else int(reads_source))
        first = (5 if target == DECODER_STEP else 3) + 2 * pairs  # behind caches and memories
    packed = [i for i in range(first, len(shapes)) if len(shapes[i]) >= 3]
    return [
        (index, 2 * batch * new * depth * width)
        for index, (depth, width) in zip(packed, itertools.cycle(maps), strict=False)
    ]
