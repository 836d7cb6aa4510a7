"""Every method's train step and decode in bfloat16, lowered for CUDA: what a GPU would be given, without one."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from nat_ar.evaluation.speed import training_cost
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.runtime import cpu_kernels
from nat_ar.search import limits
from nat_ar.training import optimizer, step
from nat_ar.training.optimizer import OptimizerConfig
from nat_ar.translation.model import Model
from scripts.benchmark_cpu.models import System
from scripts.gpu_study import scale
from scripts.torture import models

SIZES = VocabularySizes(40, 40, is_joint=True)
METHODS = models.with_options()
STUDY = scale.methods(scale.SMALLEST, 9)
"""What scripts/gpu_study.sh trains, in bfloat16 as it stands there; `SYSTEMS` is what it times."""
SYSTEMS = scale.systems(scale.FULL)


def in_bfloat16(method: Method) -> Method:
    fields = {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    (field,) = fields & {"transformer", "network"}
    network = dataclasses.replace(getattr(method, field), dtype="bfloat16")
    return dataclasses.replace(method, **{field: network})  # type: ignore[type-var]


def products_of(program: str) -> set[str]:
    """The types of what its matrix products multiply."""
    types = re.findall(r"stablehlo\.dot_general.*: \(tensor<[\dx]*(\w+)>", program)
    return set(types)


def calls_of(program: str) -> set[str]:
    """The functions of libraries that it calls: lowering does not ask whether the platform has them."""
    return set(re.findall(r"custom_call @([\w.$]+)", program))


@pytest.mark.parametrize(
    "method",
    [*(in_bfloat16(method) for method in METHODS.values()), *STUDY.values()],
    ids=[*METHODS, *(f"gpu_study, {name}" for name in STUDY)],
)
def test_a_train_step_is_lowered_for_cuda(method: Method) -> None:
    graphdef, params, carried = step.split(method.build(SIZES, rngs=nnx.Rngs(0)))
    adam = optimizer.build(OptimizerConfig(), max_steps=10)
    train_step = step.build_train_step(graphdef, adam, step.data_mesh(1))
    state = step.initial_state(params, adam, seed=1, has_average=True, carried=carried)
    batch = training_cost.random_batch(2, 6, SIZES)
    lowered = train_step.trace(state, batch, None).lower(lowering_platforms=("cuda",))
    program = lowered.as_text()
    assert "bf16" in products_of(program)
    assert not [name for name in calls_of(program) if name.startswith("nat_ar")]


def lowered_decode(method: Method, model: Model, chosen: Any = None) -> str:
    def decode(leaves: list[jax.Array], source: jax.Array) -> jax.Array:
        longest = limits.length_limit(source.shape[1])
        decoding = method.decoding if chosen is None else chosen
        return model.decode(leaves, source, decoding=decoding, max_length=longest).tokens

    source = jnp.full((2, 8), 7, jnp.int32)
    traced = jax.jit(decode).trace(model.leaves, source)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def random_model(method: Method) -> Model:
    return Model(*nnx.split(method.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param))


@pytest.mark.parametrize("name", models.by_default())
def test_a_decode_is_lowered_for_cuda(name: str) -> None:
    method = in_bfloat16(METHODS[name])
    program = lowered_decode(method, random_model(method))
    assert "bf16" in products_of(program)
    assert calls_of(program) == set()


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_what_the_gpu_study_times_is_lowered_for_cuda(system: System) -> None:
    """Its methods and decodings, of a small size."""
    assert system.method.network.dtype == "bfloat16"
    method = dataclasses.replace(system.method, transformer=scale.SMALLEST)  # type: ignore[call-arg]
    program = lowered_decode(method, random_model(method), system.decoding)
    assert "bf16" in products_of(program)
    assert calls_of(program) == set()


@pytest.mark.skipif(not cpu_kernels.are_available(), reason="needs the kernels")
def test_kernels_for_a_cpu_would_be_noticed() -> None:
    method = METHODS["length_nat"]
    calls = calls_of(lowered_decode(method, random_model(method).packed()))
    assert {"nat_ar_project_sources", "nat_ar_pass_blocks"} <= calls
