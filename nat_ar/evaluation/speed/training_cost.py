"""The cost of a train step of each method: memory as the compiler planned it, and time relative to another method.

All methods get the same batch of random tokens: sentences of one length, one target token for each source
token. The steps of all methods take turns, round by round, so that the noise of the machine hits all alike, and
ratios are taken within a round."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nat_ar.evaluation.speed import floor
from nat_ar.evaluation.speed.floor import Cost
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.special_tokens import EOS, NUM_SPECIAL
from nat_ar.training import optimizer, step
from nat_ar.training.optimizer import OptimizerConfig
from nat_ar.types import Batch


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One method's train step."""

    name: str
    parameters: int
    """numbers that are learned"""
    state_bytes: int
    """the inputs of a step: parameters, Adam's two moments and the batch"""
    temporary_bytes: int
    """memory beside them at the step's peak, as the compiler planned it"""
    compile_seconds: float
    seconds: tuple[float, ...]
    """of every timed step"""
    ratios: tuple[float, ...]
    """each of them / the first method's step of the same round"""

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)


def measure(
    methods: Mapping[str, Method],
    sizes: VocabularySizes,
    *,
    batch_tokens: int,
    length: int,
    rounds: int,
    on_round: Callable[[], Any] = lambda: None,
) -> list[StepCost]:
    """The costs, in the order of `methods`; ratios refer to the first.

    Batches have batch_tokens // length sentences of `length` tokens each, EOS counted. on_round is called
    after every round."""
    batch = random_batch(batch_tokens // length, length, sizes)
    steps = [TrainStep(method, sizes, batch) for method in methods.values()]
    times: list[list[float]] = [[] for _ in steps]
    for is_warm in (False, *[True] * rounds):  # the first round is not counted
        for mine, train in zip(times, steps, strict=True):
            start = time.perf_counter()
            train(batch)
            if is_warm:
                mine.append(time.perf_counter() - start)
        on_round()
    return [
        train.cost(name, mine, times[0])
        for name, mine, train in zip(methods, times, steps, strict=True)
    ]


def random_batch(rows: int, length: int, sizes: VocabularySizes, seed: int = 0) -> Batch:
    """Sentences of the same length, without padding; every target word is aligned to one source word."""
    generator = np.random.default_rng(seed)
    source = generator.integers(NUM_SPECIAL, sizes.source, (rows, length), dtype=np.int32)
    target = generator.integers(NUM_SPECIAL, sizes.target, (rows, length), dtype=np.int32)
    source[:, -1] = target[:, -1] = EOS
    fertilities = np.ones_like(source)
    fertilities[:, -1] = 0
    return Batch(jnp.asarray(source), jnp.asarray(target), jnp.asarray(fertilities))


class TrainStep:
    """The compiled train step of a method, with random parameters and Adam, for batches of one shape.

    A call is one update: it returns when the new state is there."""

    def __init__(self, method: Method, sizes: VocabularySizes, batch: Batch) -> None:
        graphdef, params, carried = step.split(method.build(sizes, rngs=nnx.Rngs(0)))
        updates = optimizer.build(OptimizerConfig(), max_steps=10_000)
        mesh = step.data_mesh(1)
        state = step.initial_state(params, updates, seed=0, has_average=False, carried=carried)
        self.state = step.place(mesh, state, is_batch=False)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        train_step: Any = step.build_train_step(
            graphdef, updates, mesh, has_kernels=step.may_have_kernels(mesh)
        )
        self.train_step: step.TrainStep = train_step
        start = time.perf_counter()
        self.compiled = train_step.lower(self.state, batch, None).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self, batch: Batch) -> None:
        self.state, terms = self.compiled(self.state, batch, None)
        jax.block_until_ready((self.state, terms))

    def product_cost(self, batch: Batch, peaks: Peaks) -> Cost:
        """The matrix products of an update, as floor.py counts them; compiles the step again, with counters."""
        arguments = self.state, batch
        counted = floor.compile_counter(
            lambda state, batch: self.train_step(state, batch, None), arguments, (True, False)
        )
        return counted.cost(counted.counts(*arguments), peaks)

    def cost(self, name: str, seconds: Sequence[float], reference: Sequence[float]) -> StepCost:
        """`reference`: the seconds of the first method's steps, in the same rounds."""
        memory = self.compiled.memory_analysis()
        return StepCost(
            name=name,
            parameters=self.parameters,
            state_bytes=memory.argument_size_in_bytes,
            temporary_bytes=memory.temp_size_in_bytes,
            compile_seconds=self.compile_seconds,
            seconds=tuple(seconds),
            ratios=tuple(a / b for a, b in zip(seconds, reference, strict=True)),
        )


def markdown(costs: list[StepCost]) -> str:
    """A table; ratios are medians with the middle half of them."""
    lines = [
        "| method | parameters | state MiB | temporary MiB | step ms (median) | × the first | compile s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for cost in costs:
        low, middle, high = np.quantile(cost.ratios, (0.25, 0.5, 0.75))
        lines.append(
            f"| {cost.name} | {cost.parameters / 1e6:.2f}M | {cost.state_bytes / 2**20:.0f} "
            f"| {cost.temporary_bytes / 2**20:.0f} | {1e3 * cost.median_seconds:.0f} "
            f"| {middle:.2f} [{low:.2f}, {high:.2f}] | {cost.compile_seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"
