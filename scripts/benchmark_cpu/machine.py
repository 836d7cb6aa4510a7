"""machine: the peak rates of the cores."""

import jax
import jax.numpy as jnp

from nat_ar.evaluation.speed import intervals, machine
from scripts.benchmark_cpu import timing
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Row, Section

SIDE = 2048
"""Rows and columns of the matrices."""


class Matmul:
    """The product of two large float32 matrices: the reference rate of the train section."""

    flops = 2 * SIDE**3

    def __init__(self) -> None:
        self.matrix = jnp.full((SIDE, SIDE), 1 / SIDE)
        self.program = jax.jit(jnp.matmul).lower(self.matrix, self.matrix).compile()

    def __call__(self) -> None:
        jax.block_until_ready(self.program(self.matrix, self.matrix))


def run(section: Section, scale: Scale) -> None:
    (seconds,) = timing.take_turns(
        "matmul", [timing.timed(Matmul())], seconds=min(scale.seconds, 3.0)
    )
    peaks = machine.measure()
    rate = intervals.median(Matmul.flops / seconds / 1e9)
    rows: list[Row] = [{"what": f"float32 matmul {SIDE}^3, GFLOP/s, median", "rate": rate}]
    for dtype, flops in peaks.matmul.items():
        rows.append({"what": f"{dtype} matmul, GFLOP/s, best", "rate": flops / 1e9})
    for size, bandwidth in peaks.bandwidth.items():
        what = f"reading {size / machine.MIB:.0f} MiB, GB/s, best"
        rows.append({"what": what, "rate": bandwidth / 1e9})
    section.tables["The machine"] = rows
