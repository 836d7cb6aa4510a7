"""The machine on which systems are timed: its name, the cores that a run may use, and its peaks.

A peak is a limit, and noise only lowers it: each is the best of several calls, and of two kernels where either may
be faster. Every kernel is compiled and called once before its clock starts."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nat_ar.config_json import ConfigError
from nat_ar.runtime import cpu_kernels, devices, distributed, processor

XLA_POOL = "tf_XLAEigen"
"""Linux's name of the threads in XLA's pool on a CPU."""
MIB = 2**20
CPU_SIDE, ACCELERATOR_SIDE = 1536, 8192
"""Rows and columns of the multiplied matrices: larger ones gave no higher rate."""
CPU_READS = (8 * MIB, 16 * MIB, 32 * MIB, 256 * MIB)
"""Bytes of the arrays that are read: the largest measures the memory, the others the caches, which hold the weights
of a small model."""
ACCELERATOR_READS = (2048 * MIB,)
"""A smaller array would time the launch of the kernel."""
BYTES_A_CALL = 256 * MIB
"""Smaller arrays are read repeatedly within a call, so that its dispatch costs nothing beside it."""
NUM_CALLS = 8
SECONDS_A_PEAK = 0.25
"""Calls of a kernel: NUM_CALLS, fewer once they take longer than this together."""


# Name and versions


def device_name() -> str:
    """Platform and kind of the device that times are of; for a CPU its model, since JAX calls every CPU "cpu"."""
    return _name(devices.local()[0])


def _name(device: jax.Device) -> str:
    kind = processor.name() if device.platform == "cpu" else device.device_kind
    return f"{device.platform}: {kind}"


def summary(dtypes: Iterable[str]) -> str:
    """What computes, on one line: the kinds of devices, how many there are in all processes, the dtypes of activations,
    and CPU threads. Raises ConfigError where there is no device of the platform that was asked for."""
    found, threads = devices.all_processes(), num_threads()
    number, kinds = len(found), " and ".join(dict.fromkeys(map(_name, found)))
    processes = f" of {distributed.count()} processes" if distributed.count() > 1 else ""
    return (
        f"nat-ar: {kinds}, {number} device{'s' * (number > 1)}{processes}, {', '.join(dict.fromkeys(dtypes))}, "
        f"{threads} CPU thread{'s' * (threads > 1)}"
    )


def versions() -> dict[str, str]:
    """Of the software that decides the speed; `products`: whose matrix products a CPU decodes with."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    products = "nat_ar" if cpu_kernels.are_available() else "XLA"
    return {"python": platform.python_version(), **packages, "products": products}


# Cores


def num_threads() -> int:
    """CPU cores that this process may use, and threads of XLA's pool."""
    return len(cores()) or os.cpu_count() or 1


def cores() -> tuple[int, ...]:
    """The numbers of those cores; empty if the platform does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def pin(threads: int) -> None:
    """Pins this process to `threads` hardware threads, one of each core first, and so sets the size of XLA's pool.
    Call it before JAX is asked for its devices.

    Raises ConfigError if there are fewer cores, the platform cannot pin, or XLA's pool already exists with another
    size."""
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(
            f"threads {threads}: expected a platform that can pin a process to cores, got {sys.platform}; "
            "leave threads out"
        )
    allowed = cores()
    if not 1 <= threads <= len(allowed):
        raise ConfigError(
            f"threads: expected 1 to {len(allowed)}, the cores that this process may use, got {threads}; "
            "ask for fewer, or run on a machine with more"
        )
    running = num_pool_threads()
    if running not in (0, threads):
        raise ConfigError(
            f"threads: expected before XLA starts its threads, got {threads} when {running} are running; time "
            "systems in a process of their own"
        )
    chosen = sorted(allowed, key=lambda core: (_threads_before(core), core))[:threads]
    for task in os.listdir(
        "/proc/self/task"
    ):  # a new thread inherits it from the one that starts it
        os.sched_setaffinity(int(task), chosen)


def num_pool_threads() -> int:
    """Threads of XLA's pool on the CPU; 0 before JAX has started it, or without /proc."""
    names = Path("/proc/self/task").glob("*/comm")
    return sum(name.read_text().strip() == XLA_POOL for name in names)


def _threads_before(core: int) -> int:
    """How many hardware threads of the same core have a lower number."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    if not siblings.exists():
        return 0
    bounds = [part.split("-") for part in siblings.read_text().strip().split(",")]
    numbers = [
        number for low, *high in bounds for number in range(int(low), int((high or [low])[0]) + 1)
    ]
    return sum(number < core for number in numbers)


# Peaks


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The limits of the device."""

    matmul: dict[str, float]
    """FLOP/s of a large matrix product by the type of its operands; a multiplication and an addition are two FLOP.
    In JAX's default precision: on an accelerator, float32 may be multiplied with a shorter mantissa"""
    bandwidth: dict[int, float]
    """bytes/s of reading an array by its size in bytes, ascending; the last is that of the memory"""

    def best(self, other: "Peaks") -> "Peaks":
        """The higher of two measurements, number by number."""
        return Peaks(
            {dtype: max(rate, other.matmul[dtype]) for dtype, rate in self.matmul.items()},
            {size: max(rate, other.bandwidth[size]) for size, rate in self.bandwidth.items()},
        )

    def product_seconds(self, flops: int, dtype: str) -> float:
        """The least time of matrix products; a type that was not measured gets the best rate."""
        return flops / self.matmul.get(dtype, max(self.matmul.values()))

    def read_seconds(self, num_bytes: int) -> float:
        """The least time of reading so many bytes, from the nearest memory that could hold them.

        The rate is the best of the largest measured array that is not larger (else the smallest) and all larger
        ones, since a smaller array is not read more slowly."""
        fitting = [size for size in self.bandwidth if size <= num_bytes]
        nearest = max(fitting, default=min(self.bandwidth))
        return num_bytes / max(rate for size, rate in self.bandwidth.items() if size >= nearest)


def measure() -> Peaks:
    """The peaks of the default device; 2 to 3 seconds on two CPU cores, compilation included."""
    if jax.default_backend() == "cpu":
        matmul = {"float32": _matmul(CPU_SIDE, "float32")}
        return Peaks(matmul, {size: _read(size) for size in CPU_READS})
    dtypes = ("float32", "bfloat16")
    matmul = {dtype: _matmul(ACCELERATOR_SIDE, dtype) for dtype in dtypes}
    return Peaks(matmul, {size: _read(size) for size in ACCELERATOR_READS})


def _matmul(side: int, dtype: str) -> float:
    x = jnp.full((side, side), 1 / side, dtype)
    return 2 * side**3 / _best(lambda x: x @ x, x)


def _read(num_bytes: int) -> float:
    """bytes/s of the faster of two kernels: a row times a square matrix, repeated as in a step-by-step decoder, and
    the maxima of the matrix's rows."""
    side = math.isqrt(num_bytes // 4)
    matrix = jnp.full((side, side), 1 / side)  # float32
    times = max(1, BYTES_A_CALL // num_bytes)

    def products(matrix: jax.Array) -> jax.Array:
        row = jnp.ones((1, side))  # the product is ones again
        return jax.lax.fori_loop(0, times, lambda _, row: row @ matrix, row)

    rate = times * matrix.nbytes / _best(products, matrix)
    return max(rate, matrix.nbytes / _best(lambda matrix: matrix.max(axis=1), matrix))


def _best(function: Callable[[jax.Array], Any], argument: jax.Array) -> float:
    """Seconds of the fastest call."""
    program = jax.jit(function).lower(argument).compile()
    jax.block_until_ready(program(argument))
    best, end = math.inf, time.perf_counter() + SECONDS_A_PEAK
    for _ in range(NUM_CALLS):
        start = time.perf_counter()
        jax.block_until_ready(program(argument))
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            break
    return best
