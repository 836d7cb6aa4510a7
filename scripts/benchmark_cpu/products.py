"""products: the matrix products of a decoder step by our kernels and by both of XLA's CPU libraries, for several
numbers of rows.

It measures what runtime/cpu_kernels.py and runtime/compilation.py are for: the products of a step of the base decoder
(self-attention, cross attention without keys and values, feed-forward, vocabulary) in sequence, ten steps a call."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nat_ar.evaluation.speed import intervals
from nat_ar.nn.packed import Packed, PackedInt8
from nat_ar.runtime import compilation, cpu_kernels
from scripts.benchmark_cpu import timing
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Figure, Row, Section

ROWS = (1, 2, 3, 4, 6, 8, 16, 32, 64, 96, 128, 256)
WATCHED = (1, 4, 32)
"""Rows whose gain is recorded: greedy search, beam 4, and one pass or 32 sentences."""
STEPS = 10


def run(section: Section, scale: Scale) -> None:
    weights = _weights(scale)
    size = sum(weight.size for weight in weights)
    plain = [jnp.asarray(weight) for weight in weights]
    ways: dict[str, tuple[list[Any], Any]] = {
        "YNNPACK": (plain, None),
        "Eigen": (plain, compilation.EIGEN),
    }
    if cpu_kernels.are_available():
        ways |= {
            "kernel": ([Packed(weight) for weight in weights], None),
            "kernel, int8": ([PackedInt8(weight) for weight in weights], None),
        }
    table: list[Row] = []
    for rows in ROWS:
        normal = np.random.default_rng(rows).normal(size=(rows, scale.transformer.d_model))
        states = jnp.asarray(normal, jnp.float32)
        programs = [
            (jax.jit(_steps).lower(states, given).compile(compiler_options=options), given)
            for given, options in ways.values()
        ]
        seconds = timing.take_turns(
            f"products, {rows} rows",
            [_call(program, states, given) for program, given in programs],
            seconds=scale.seconds / len(ROWS),
        )
        of = dict(zip(ways, seconds, strict=True))
        rates = {
            f"{name}, GFLOP/s": intervals.median(STEPS * 2 * size * rows / mine / 1e9)
            for name, mine in of.items()
        }
        gains = {
            f"{name} over XLA": intervals.median_ratio(np.minimum(seconds[0], seconds[1]), of[name])
            for name in ways
            if name.startswith("kernel")
        }
        table.append({"rows": rows, **rates, **gains})
        if rows in WATCHED and gains:
            name = f"products/{rows} rows/kernel over XLA"
            section.figures.append(Figure(name, gains["kernel over XLA"]))
    section.tables["Products of a decoder step"] = table
    section.notes.append(
        "Over XLA: over the faster of its two libraries in each round. int8: weights and states of 8 bits."
    )


def _weights(scale: Scale) -> list[np.ndarray]:
    d_model, d_hidden = scale.transformer.d_model, scale.transformer.d_hidden
    generator = np.random.default_rng(0)
    shapes = [
        (d_model, 3 * d_model),
        *[(d_model, d_model)] * 3,
        (d_model, d_hidden),
        (d_hidden, d_model),
    ]
    layers = scale.transformer.num_decoder_layers
    return [
        (generator.normal(size=shape) / shape[0] ** 0.5).astype(np.float32)
        for shape in (*shapes * layers, (d_model, scale.vocabulary))
    ]


def _steps(states: jax.Array, weights: list[Any]) -> jax.Array:
    """Each product reads the result of the one before, so that none can be optimised away."""
    d_model = states.shape[1]

    def step(_: Any, states: jax.Array) -> jax.Array:
        x = states
        for weight in weights:
            depth = weight.depth if isinstance(weight, Packed) else len(weight)
            x = x if x.shape[1] == depth else x[:, :d_model]
            x = jax.nn.relu(weight(x) if isinstance(weight, Packed) else x @ weight)
        return states + 1e-6 * x.max(axis=1, keepdims=True)

    return jax.lax.fori_loop(0, STEPS, step, states)


def _call(program: Any, *arguments: Any) -> timing.Call:
    return timing.timed(lambda: jax.block_until_ready(program(*arguments)))
