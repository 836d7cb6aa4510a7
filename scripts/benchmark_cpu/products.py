"""products: the matrix products of a decoder step by both of XLA's CPU libraries, at every number of rows.

What nat_ar/compilation.py decides by. The products of a step of the base decoder (self-attention, cross attention
without keys and values, feed-forward, vocabulary), one after the other, ten steps a call."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nat_ar import compilation
from scripts.benchmark_cpu import report, timing
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Row, Section

ROWS = (1, 2, 3, 4, 6, 8, 16, 32, 64, 96, 128, 256)
STEPS = 10


def run(section: Section, scale: Scale) -> None:
    weights, vocabulary = _weights(scale)
    size = sum(weight.size for weight in (*weights, vocabulary))
    table: list[Row] = []
    for rows in ROWS:
        states = jnp.asarray(
            np.random.default_rng(rows).normal(size=(rows, scale.transformer.d_model))
        )
        arguments = (states.astype(jnp.float32), weights, vocabulary)
        lowered = jax.jit(_steps).lower(*arguments)
        programs = [
            lowered.compile(compiler_options=options) for options in (None, compilation.EIGEN)
        ]
        seconds = timing.take_turns(
            f"products, {rows} rows",
            [_call(program, arguments) for program in programs],
            seconds=scale.seconds / len(ROWS),
        )
        rates = STEPS * 2 * size * rows / seconds / 1e9
        chosen = rows in compilation.EIGEN_ROWS
        table.append(
            {
                "rows": rows,
                "YNNPACK, GFLOP/s": report.median(rates[0]).cell(),
                "Eigen, GFLOP/s": report.median(rates[1]).cell(),
                "Eigen over YNNPACK": report.ratio(seconds[0], seconds[1]).cell(),
                "nat_ar takes": "Eigen" if chosen else "YNNPACK",
            }
        )
    section.tables["Products of a decoder step"] = table


def _weights(scale: Scale) -> tuple[list[jax.Array], jax.Array]:
    d_model, d_hidden = scale.transformer.d_model, scale.transformer.d_hidden
    generator = np.random.default_rng(0)

    def weight(d_in: int, d_out: int) -> jax.Array:
        return jnp.asarray(generator.normal(size=(d_in, d_out)) / d_in**0.5, jnp.float32)

    shapes = [
        (d_model, 3 * d_model),
        *[(d_model, d_model)] * 3,
        (d_model, d_hidden),
        (d_hidden, d_model),
    ]
    layers = scale.transformer.num_decoder_layers
    return [weight(*shape) for shape in shapes * layers], weight(scale.vocabulary, d_model)


def _steps(states: jax.Array, weights: list[jax.Array], vocabulary: jax.Array) -> jax.Array:
    d_model = states.shape[1]

    def step(_: Any, states: jax.Array) -> jax.Array:
        x = states
        for weight in weights:  # each reads what the one before wrote, and nothing can be left out
            x = jax.nn.relu((x if x.shape[1] == weight.shape[0] else x[:, :d_model]) @ weight)
        logits = jax.lax.dot_general(x, vocabulary, (((1,), (1,)), ((), ())))
        return states + 1e-6 * logits.max(axis=1, keepdims=True)

    return jax.lax.fori_loop(0, STEPS, step, states)


def _call(program: Any, arguments: tuple[Any, ...]) -> timing.Call:
    return timing.timed(lambda: jax.block_until_ready(program(*arguments)))
