"""Kernels for decoding on a CPU, in C++ that XLA's programs call (cpu_kernels.cc, built at first use).

Products with packed weights (nat_ar.nn.packed): a decoder that goes step by step multiplies each weight with one
vector for each hypothesis, a one-pass decoder with one for each position of a sentence. At 2 to 32 rows XLA's
libraries (YNNPACK, Eigen) reach a tenth to a third of the processor's rate: most time goes into loading weights.

Attention of few queries: XLA multiplies with every position and slot that a cache has room for, in a dozen
operations. The kernel is one operation and stops at the last position that counts.

Layer normalisation: one operation for XLA's five, each of which takes no longer than its start. Argmax of many
logits: one pass for XLA's three.

The result of a row depends on no other row: products, norms and attention of k rows have the bits of k single
rows. Float32 only, without gradients."""

import contextlib
import contextvars
import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from nat_ar.runtime import native_library

PRODUCT, PRODUCT_INT8 = "nat_ar_packed_product", "nat_ar_packed_product_int8"
ATTEND, NORMALISE, LIKELIEST = "nat_ar_attend", "nat_ar_normalise", "nat_ar_likeliest"
"""Their names in XLA's programs."""
PANEL = 16
"""Columns of a packed weight that are stored together."""
NOTHING, ONE_SLOT = np.zeros(0, np.float32), np.zeros(0, np.int32)


@functools.cache
def are_available() -> bool:
    """Whether this process has kernels: on a CPU, if cpu_kernels.cc is or can be built."""
    if jax.default_backend() != "cpu":
        return False
    library = native_library.load(
        Path(__file__).with_suffix(".cc"),
        without="decoding on a CPU takes up to twice as long",
        headers=native_library.Headers(jax.ffi.include_dir(), importlib.metadata.version("jaxlib")),
    )
    if library is None:
        return False
    for name, symbol in (
        (PRODUCT, library.NatArPackedProduct),
        (PRODUCT_INT8, library.NatArPackedProductInt8),
        (ATTEND, library.NatArAttend),
        (NORMALISE, library.NatArNormalise),
        (LIKELIEST, library.NatArLikeliest),
    ):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(symbol), platform="cpu")
    return True


_in_use: contextvars.ContextVar[bool] = contextvars.ContextVar("in_use", default=False)


@contextlib.contextmanager
def in_use(are: bool) -> Iterator[None]:
    """Inside this context, code that holds no packed network (a search) may call kernels too.

    It is a variable of the context, not an argument: a search gets logits from a step function and knows no
    network, and every search and method between Model.decode and search.argmax would have to pass it on. It is read
    while a program is traced, so a compiled program keeps the choice it was traced with."""
    token = _in_use.set(are)
    try:
        yield
    finally:
        _in_use.reset(token)


def are_in_use() -> bool:
    """The choice of the innermost `in_use`; False outside, as for gradients and programs for other machines."""
    return _in_use.get()


def product(
    states: Float[Array, "rows depth"],
    panels: Float[Array, "panels depth 16"] | Int8[Array, "panels depth 16"],
    bias: Float[Array, "width"] | None,
    width: int,
    *,
    scale: Float[Array, "width"] | None = None,
    is_rectified: bool = False,
) -> Float[Array, "rows width"]:
    """(states @ weight) * scale + bias, of a packed weight with `width` columns; at least 0 where it is rectified."""
    target = PRODUCT_INT8 if panels.dtype == jnp.int8 else PRODUCT
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((states.shape[0], width), jnp.float32))
    factor, offset = (NOTHING if x is None else x for x in (scale, bias))
    return call(states, panels, factor, offset, is_rectified=np.bool_(is_rectified))


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


def is_product(equation: jex.JaxprEqn) -> bool:
    """Whether an equation of a traced program is a product with a packed weight."""
    return equation.primitive.name == "ffi_call" and equation.params["target_name"] in (
        PRODUCT,
        PRODUCT_INT8,
    )


def depth_of(equation: jex.JaxprEqn) -> int:
    """The columns of the states of such a product."""
    return equation.invars[0].aval.shape[1]  # type: ignore[attr-defined]
