"""Compiles a function ahead of time, for a CPU with the library that its matrix products are fastest in.

Matters only without a C++ compiler: packed weights (runtime.cpu_kernels) bypass it. XLA's CPU backend
computes products by YNNPACK, or by Eigen where YNNPACK is switched off for a program. Which is faster depends on the
rows, that is, on how many vectors a weight is multiplied with at a time: a decoder that goes step by step has one for
each hypothesis, a one-pass decoder one for each place. `bash scripts/benchmark_cpu.sh --only products` measures it for
d_model 256; the other sizes were tried once by hand. Time of a decoder step's products by Eigen over that by YNNPACK
(two AMD EPYC cores, 2026-11-25):

    rows            1     2     4     8    16    32    64   128
    d_model 128  1.13  1.19  1.12  1.04  0.81  0.87  0.80  0.63
    d_model 256  0.99  1.99  1.62  0.89  0.79  0.84  0.83  1.09
    d_model 512  0.98  2.34  1.29  0.70  0.78  0.85  1.02  1.29"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex

from nat_ar.runtime import cache, console

EIGEN: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""No product for YNNPACK."""
EIGEN_ROWS = range(8, 65)
LOOPS = ("while", "scan")
CACHE = "NAT_AR_COMPILATION_CACHE"
"""the environment's word for where compiled programs are kept"""
SETTING = "jax_compilation_cache_dir"
"""JAX's own"""


def use_cache() -> None:
    """Lets JAX keep compiled programs on disk: in $NAT_AR_COMPILATION_CACHE, else where the user has told JAX to, else
    in the user's cache directory."""
    directory = os.environ.get(CACHE) or jax.config.values[SETTING]
    if not directory:
        try:
            directory = str(cache.directory("xla"))
        except OSError as error:
            console.say(f"warning: compiled programs are not kept: {error}")
            return
    jax.config.update(SETTING, directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Product(NamedTuple):
    """A matrix product of a program, a weight's or what looks like it: without batch dimensions."""

    rows: int
    """of the left operand"""
    flops: int
    is_repeated: bool
    """inside a loop"""


def compile_ahead(function: Callable[..., Any], *arguments: Any) -> jax.stages.Compiled:
    """The program for arrays of these shapes. Arguments are pytrees of arrays or of their shapes."""
    traced = jax.jit(function).trace(*arguments)
    options = None
    if jax.default_backend() == "cpu":
        rows = typical_rows(traced.jaxpr.jaxpr)
        options = EIGEN if rows in EIGEN_ROWS else None
    return traced.lower().compile(compiler_options=options)


def typical_rows(jaxpr: jex.Jaxpr) -> int:
    """The rows of the product in the middle, each with the weight of its FLOPs; 0 where there is none.

    Where products stand in loops, those alone count: a loop runs often, and what runs once besides, such as the
    encoder of a decoder that goes step by step, has so many rows that the libraries differ little."""
    found = list(products(jaxpr))
    found = [product for product in found if product.is_repeated] or found
    half, passed = sum(product.flops for product in found) / 2, 0
    for product in sorted(found):
        passed += product.flops
        if passed >= half:
            return product.rows
    return 0


def products(jaxpr: jex.Jaxpr, *, is_repeated: bool = False) -> Iterator[Product]:
    """Every product of the program, those inside calls, loops and branches among them."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape  # type: ignore[attr-defined]
            if not batched:
                depth = math.prod(shape[axis] for axis in contracted)
                flops = 2 * depth * equation.outvars[0].aval.size  # type: ignore[attr-defined]
                yield Product(math.prod(shape) // depth, flops, is_repeated)
        for inner in jex.jaxprs_in_params(equation.params):
            yield from products(inner, is_repeated=is_repeated or name in LOOPS)
