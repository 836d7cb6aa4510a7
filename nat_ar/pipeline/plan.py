"""What a training would take on devices that are not there: memory, arithmetic, what they exchange, and time.

The train step is compiled ahead of time for a mesh of virtual CPU devices, with shapes for arrays, in a process of its
own: the number of devices is fixed before JAX starts. `python -m nat_ar.pipeline.plan` is that process."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.evaluation.speed import collectives, floor, training_cost
from nat_ar.evaluation.speed.collectives import Exchange
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.base import VocabularySizes
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.pipeline import row_multiple
from nat_ar.training import optimizer, step
from nat_ar.training.step import TrainState
from nat_ar.translation.model import vocabulary_sizes
from nat_ar.types import Batch

LENGTH = 32


@dataclasses.dataclass(frozen=True)
class Rates:
    """What the devices are said to do; nothing of it is measured here."""

    peak: float
    """FLOP/s of a device, in the type that the network computes in"""
    bandwidth: float
    """bytes/s that a device sends to the others of its machine"""
    network: float | None = None
    """bytes/s that a device sends to other machines; None: as within one"""
    efficiency: float = 0.4
    """share of the peak at which a step computes its matrix products, and all else meanwhile"""

    def __post_init__(self) -> None:
        config_json.require_above(0, peak=self.peak, bandwidth=self.bandwidth)
        if self.network is not None:
            config_json.require_above(0, network=self.network)
        config_json.require_above(0, efficiency=self.efficiency)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A train step on one mesh, as it was compiled."""

    mesh: str
    devices: int
    parameters: int
    """numbers that are learned"""
    rows: int
    """sentences of a batch"""
    width: int
    """places of each; all of them hold a word"""
    steps: int
    """of the training"""
    state_bytes: int
    """on a device: parameters, optimizer, average and batch"""
    temporary_bytes: int
    """on a device, beside them, at the step's peak, as the compiler for CPUs plans it"""
    flops: float
    """of a step's matrix products, on all devices together"""
    exchanges: tuple[Exchange, ...]
    """of a step"""

    def arithmetic_seconds(self, rates: Rates) -> float:
        return self.flops / self.devices / (rates.peak * rates.efficiency)

    def exchange_seconds(self, rates: Rates) -> float:
        network = rates.bandwidth if rates.network is None else rates.network
        return sum(
            one.sent_bytes / (network if one.crosses else rates.bandwidth) for one in self.exchanges
        )

    def step_seconds(self, rates: Rates) -> float:
        """Where nothing is exchanged while devices compute: at worst."""
        return self.arithmetic_seconds(rates) + self.exchange_seconds(rates)

    def sent_bytes(self, *kinds: str) -> float:
        """By each device in a step."""
        return sum(one.sent_bytes for one in self.exchanges if one.kind in kinds)


def plan(
    config: ExperimentConfig, mesh: str, *, length: int = LENGTH, devices_per_machine: int = 8
) -> Plan:
    """The train step of an experiment on a mesh, "data=8,fsdp=8", for batches of the bucket that holds sentences of
    this length. No data are read, but for the sizes of a vocabulary that is prepared.

    Raises ConfigError for a mesh that says no numbers, or by whose devices the batches cannot be shared."""
    data, fsdp = _sizes(mesh)
    devices = data * fsdp
    if config.method.needs_teacher:
        raise ConfigError(
            f"{type(config.method).__name__} as configured learns from a teacher, which plan does not count: set "
            "that to 0 or None"
        )
    network = config.method.network
    if isinstance(network, TransformerConfig) and network.implementation == "cudnn":
        raise ConfigError(
            "plan compiles for CPUs: set the network's implementation (transformer.implementation) to 'xla'"
        )
    multiple = row_multiple.of_new_run(config.training, devices)
    batching = dataclasses.replace(config.training.batching, row_multiple=multiple)
    width = next((bucket for bucket in batching.buckets if bucket >= length), batching.buckets[-1])
    words = config_json.to_json(config)
    shape = {"config": words, "rows": batching.rows(width), "width": width}
    compiled = _in_child(
        {**shape, "data": data, "fsdp": fsdp, "devices_per_machine": devices_per_machine}, devices
    )
    exchanges = tuple(Exchange(**exchange) for exchange in compiled.pop("exchanges"))
    return Plan(
        mesh=mesh,
        devices=devices,
        rows=batching.rows(width),
        width=width,
        steps=config.training.max_steps,
        flops=_flops(json.dumps(shape, sort_keys=True)),
        exchanges=exchanges,
        **compiled,
    )


def _sizes(mesh: str) -> tuple[int, int]:
    """(data, fsdp); either is 1 where it is left out."""
    whole = mesh if step.DATA in mesh else f"{step.DATA}=1,{mesh}"
    if "-1" in whole:
        raise ConfigError(
            f"plan has no devices of which some could be left: say --mesh data=N,fsdp=M in numbers, got {mesh!r}"
        )
    return step.sizes_of(whole, 1)


@functools.cache
def _flops(shape: str) -> float:
    """The same on every mesh."""
    return _in_child(json.loads(shape), 1)["flops"]


def _in_child(request: dict[str, Any], devices: int) -> dict[str, Any]:
    """What `_answer` says in a process that sees so many CPU devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program from there does not know its memory
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}".strip(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "nat_ar.pipeline.plan"],
        env=environment,
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise ChildProcessError(
            f"compiling for {devices} devices ended with exit status {done.returncode}; what it said stands above"
        )
    return json.loads(done.stdout)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Of a step on the mesh that is asked for what its program says; without one, its FLOPs."""
    config = config_json.from_json(ExperimentConfig, request["config"])
    sizes = _vocabulary_sizes(config)
    batch = training_cost.random_batch(request["rows"], request["width"], sizes)
    if not config.method.needs_fertilities:
        batch = dataclasses.replace(batch, fertilities=None)
    if "data" in request:
        return _compiled(config, sizes, batch, request)
    return {"flops": _counted(config, sizes, batch)}


def _compiled(
    config: ExperimentConfig, sizes: VocabularySizes, batch: Batch, request: dict[str, Any]
) -> dict[str, Any]:
    data, fsdp = request["data"], request["fsdp"]
    mesh = step.data_mesh(data * fsdp, fsdp)
    build, state = _step_and_state(config, sizes)
    shardings = step.shardings_of(mesh, state)
    by_row = NamedSharding(mesh, PartitionSpec((step.DATA, step.FSDP)))

    def placed(array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    train_step = build(mesh=mesh, accumulation=config.training.accumulation, shardings=shardings)
    program = train_step.lower(
        jax.tree.map(placed, state, shardings),
        jax.tree.map(lambda array: placed(array, by_row), batch),
        None,
    ).compile(compiler_options=floor.UNOPTIMISED)
    memory = program.memory_analysis()
    exchanges = collectives.of_program(
        program.as_text(), devices_per_machine=request["devices_per_machine"]
    )
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "exchanges": [dataclasses.asdict(exchange) for exchange in exchanges],
    }


def _counted(config: ExperimentConfig, sizes: VocabularySizes, batch: Batch) -> float:
    """FLOPs of a step's matrix products, on a whole batch at once: parts have as many."""
    build, shapes = _step_and_state(config, sizes)
    train_step = build(mesh=step.data_mesh(1))
    counted = floor.compile_counter(
        lambda state, batch: train_step(state, batch, None), (shapes, batch), (True, False)
    )
    times = counted.counts(jax.jit(functools.partial(_zeros, shapes))(), batch)
    return float(
        sum(
            int(number) * sum(block.flops.values())
            for number, block in zip(times, counted.blocks, strict=True)
        )
    )


def _zeros(shapes: TrainState) -> TrainState:
    """How often a loop of a train step runs does not depend on the state."""
    arrays = dataclasses.replace(shapes, key=jnp.int32(0))
    zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), arrays)
    return dataclasses.replace(zeros, key=jax.random.key(0, impl=step.GENERATOR))


def _step_and_state(
    config: ExperimentConfig, sizes: VocabularySizes
) -> tuple[Callable[..., Any], TrainState]:
    """What builds the train step of most of a training, and the shapes of its state."""
    training, last = config.training, config.training.max_steps - 1
    updates = optimizer.build(training.optimizer, max_steps=training.max_steps)
    has_average = training.average_decay is not None

    def made() -> TrainState:
        _, params, carried = step.split(config.method.build(sizes, rngs=nnx.Rngs(0)))
        return step.initial_state(params, updates, seed=0, has_average=has_average, carried=carried)

    stage = config.method.at(last)
    graphdef, _, _ = step.split(nnx.eval_shape(lambda: stage.build(sizes, rngs=nnx.Rngs(0))))
    build = functools.partial(
        step.build_train_step,
        graphdef,
        updates,
        average_decay=training.average_decay,
        skips_non_finite=training.skip_non_finite > 0,
        freezes_encoder=training.optimizer.freezes_encoder(last),
    )
    return build, jax.eval_shape(made)


def _vocabulary_sizes(config: ExperimentConfig) -> VocabularySizes:
    """Of the vocabulary that is prepared; before that, as the config says."""
    directory = Path(config.training_directory) / "vocabulary"
    if directory.exists():
        return vocabulary_sizes(Vocabulary.load(directory))
    words = config.data.vocabulary
    return VocabularySizes(words.size, words.size, words.joint)


def markdown(plans: list[Plan], rates: Rates | None) -> str:
    """A table, a mesh a line; times where rates are given."""
    titles = ["mesh", "sentences", "state MiB", "temporary MiB", "GFLOPs a device"]
    titles += ["gathered MiB", "reduced MiB"]
    if rates is not None:
        titles += ["arithmetic ms", "exchange ms", "step ms", "hours", "device hours"]
    lines = [f"| {' | '.join(titles)} |", "|---" + "|--:" * (len(titles) - 1) + "|"]
    for one in plans:
        cells = [one.mesh, f"{one.rows:,}"]
        cells += (f"{b / 2**20:,.0f}" for b in (one.state_bytes, one.temporary_bytes))
        cells.append(f"{one.flops / one.devices / 1e9:,.0f}")
        for kinds in (("all-gather", "all-to-all", "collective-permute"), _SUMS):
            cells.append(f"{one.sent_bytes(*kinds) / 2**20:,.0f}")
        if rates is not None:
            seconds = one.step_seconds(rates)
            hours = seconds * one.steps / 3600
            for part in (one.arithmetic_seconds(rates), one.exchange_seconds(rates), seconds):
                cells.append(f"{1e3 * part:,.1f}")
            cells += [f"{hours:,.1f}", f"{hours * one.devices:,.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_SUMS = ("all-reduce", "reduce-scatter")

if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
