"""The floor of a run: the FLOPs of its matrix products and the weights that they read.

XLA's `cost_analysis` counts a loop body once and a switch as its most expensive branch, so it misjudges a decode
of 25 steps. Here a program is cut into blocks, stretches without a loop or a branch. The cost of a block comes
from its equations; how often it runs is counted by the program itself, rewritten to carry counters through its
loops and branches. Exact for every method, without code for any of them."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.runtime import cpu_kernels, training_kernels

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",  # what jax.checkpoint is by now
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Equations that only wrap others -> the parameter that holds those."""
UNOPTIMISED: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""A counting program runs once a sentence: fast compilation matters more than fast code."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A stretch of a program without a loop or a branch."""

    kind: str
    """ "program", "loop" (one iteration) or "branch" """
    flops: dict[str, int]
    """of its matrix products, by the type of their operands: 2 m n k for [m, k] times [k, n]. Additions, norms,
    softmax and sorting are left out"""
    weight_bytes: int
    """of the parameters that its matrix products read, each counted once, in the smaller of their stored form and
    the form that the product reads. Activations and caches are left out"""

    def least_seconds(self, peaks: Peaks) -> tuple[float, float]:
        """(arithmetic at the matmul peak, reading the weights)."""
        products = [peaks.product_seconds(flops, dtype) for dtype, flops in self.flops.items()]
        return math.fsum(products), peaks.read_seconds(self.weight_bytes)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a run, or the mean of several."""

    flops: float
    weight_bytes: float
    """the weights of a loop count once an iteration: each sequential step reads them again"""
    arithmetic_seconds: float
    """the arithmetic floor: FLOPs at the machine's matmul peak"""
    memory_seconds: float
    """the memory floor: weight_bytes at the machine's bandwidth"""
    floor_seconds: float
    """the larger of the two for each block, summed: blocks run one after the other"""
    bound: str
    """ "arithmetic" or "memory": which of the two sets most of the floor"""


@dataclasses.dataclass(frozen=True)
class CountedProgram:
    """A program compiled to count how often each of its blocks runs."""

    blocks: tuple[Block, ...]
    program: Any

    def counts(self, *arguments: Any) -> Int[np.ndarray, "blocks"]:
        """Runs of each block in one run on arguments of the compiled shapes."""
        return np.asarray(self.program(*arguments))

    def cost(self, counts: Int[np.ndarray, "blocks"], peaks: Peaks) -> Cost:
        """The cost of a run with these counts."""
        flops = weight_bytes = arithmetic = memory = floor = by_arithmetic = 0.0
        for block, times in zip(self.blocks, map(float, counts), strict=True):
            mine, reading = block.least_seconds(peaks)
            flops += times * sum(block.flops.values())
            weight_bytes += times * block.weight_bytes
            arithmetic, memory = arithmetic + times * mine, memory + times * reading
            floor += times * max(mine, reading)
            by_arithmetic += times * mine if mine >= reading else 0.0
        bound = "arithmetic" if by_arithmetic >= floor / 2 else "memory"
        return Cost(flops, weight_bytes, arithmetic, memory, floor, bound)


def mean(costs: Sequence[Cost]) -> Cost:
    """The mean run."""
    weights = dict.fromkeys(("arithmetic", "memory"), 0.0)
    for cost in costs:
        weights[cost.bound] += cost.floor_seconds
    numbers = np.mean([dataclasses.astuple(cost)[:-1] for cost in costs], axis=0)
    flops, weight_bytes, arithmetic, memory, floor = numbers.tolist()
    bound = max(weights, key=lambda name: weights[name])
    return Cost(flops, weight_bytes, arithmetic, memory, floor, bound)


def compile_counter(
    function: Callable[..., Any], arguments: Sequence[Any], is_weight: Sequence[bool]
) -> CountedProgram:
    """Compiles the counter of function(*arguments). Arguments are pytrees of arrays or of their shapes;
    `is_weight` is True for those whose arrays are parameters.

    Raises ValueError for an equation that hides matrix products which cannot be counted here."""
    closed = jax.make_jaxpr(function)(*arguments)
    weights: list[_Weight | None] = []
    for argument, is_parameter in zip(arguments, is_weight, strict=True):
        for leaf in jax.tree.leaves(argument):
            size = math.prod(leaf.shape) * leaf.dtype.itemsize
            weights.append(_Weight(len(weights), size) if is_parameter else None)
    survey = _Survey()
    root = survey.block("program")
    survey.read(closed.jaxpr, weights, root)

    def count(*arguments: Any) -> Int[Array, "blocks"]:
        counts = jnp.zeros(len(survey.nodes), jnp.int32).at[root.index].set(1)
        leaves = jax.tree.leaves(arguments)
        # Only the counts come back: XLA removes what no loop and no branch depends on.
        return _run(closed.jaxpr, closed.consts, leaves, iter(root.children), counts)[1]

    options = UNOPTIMISED if jax.default_backend() == "cpu" else None
    program = jax.jit(count).lower(*arguments).compile(compiler_options=options)
    return CountedProgram(tuple(node.block() for node in survey.nodes), program)


# The cost of a block


class _Weight(NamedTuple):
    """A parameter, or an array made of one parameter alone: cast, transposed, sliced."""

    root: int
    num_bytes: int
    """in its stored form"""


@dataclasses.dataclass
class _Node:
    """A block while its equations are read; its children are the blocks inside it, in order."""

    index: int
    kind: str
    flops: collections.Counter[str]
    weights: dict[int, int]
    children: list["_Node"]

    def block(self) -> Block:
        return Block(self.kind, dict(self.flops), sum(self.weights.values()))


class _Survey:
    """Reads equations into nodes."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []

    def block(self, kind: str, parent: _Node | None = None) -> _Node:
        node = _Node(len(self.nodes), kind, collections.Counter(), {}, [])
        self.nodes.append(node)
        if parent is not None:
            parent.children.append(node)
        return node

    def read(
        self, jaxpr: jex.Jaxpr, inputs: Sequence[_Weight | None], node: _Node
    ) -> list[_Weight | None]:
        """Adds the equations to the node; returns for each output the weight that it is, or None."""
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        for equation in jaxpr.eqns:
            name, parameters = equation.primitive.name, equation.params
            operands = [_known(atom, known) for atom in equation.invars]
            outputs: list[_Weight | None] = [None] * len(equation.outvars)
            if name in CALLS:
                outputs = self.read(_open(parameters[CALLS[name]])[0], operands, node)
            elif name == "while":
                first = parameters["cond_nconsts"]
                body = parameters["body_jaxpr"].jaxpr
                inside = operands[first : first + parameters["body_nconsts"]]
                self.read(body, _padded(inside, body), self.block("loop", node))
            elif name == "scan":
                body = parameters["jaxpr"].jaxpr
                inside = operands[: parameters["num_consts"]]
                self.read(body, _padded(inside, body), self.block("loop", node))
            elif name == "cond":
                for branch in parameters["branches"]:
                    self.read(branch.jaxpr, operands[1:], self.block("branch", node))
            elif name == "dot_general":
                (contracted, _), _ = parameters["dimension_numbers"]
                shape = equation.invars[0].aval.shape  # type: ignore[attr-defined]
                depth = math.prod(shape[axis] for axis in contracted)
                _add_product(equation, operands, depth, node)
            elif packed := cpu_kernels.products_in(equation):
                for index, flops in packed:
                    node.flops[str(jnp.dtype(jnp.float32))] += flops
                    _read_weight(equation.invars[index], operands[index], node)
            elif (counted := training_kernels.flops_in(equation))[1]:
                dtype, flops = counted
                node.flops[dtype] += flops
                for atom, weight in zip(equation.invars[:2], operands[:2], strict=True):
                    _read_weight(atom, weight, node)
            else:
                _refuse_hidden_products(equation)
                arrays = [
                    operand
                    for atom, operand in zip(equation.invars, operands, strict=True)
                    if not isinstance(atom, jex.Literal)
                ]
                made_of = [operand for operand in arrays if operand is not None]
                if made_of and len(made_of) == len(arrays):
                    outputs = [max(made_of, key=lambda weight: weight.num_bytes)] * len(outputs)
            known |= zip(equation.outvars, outputs, strict=True)
        return [_known(atom, known) for atom in jaxpr.outvars]


def _add_product(
    equation: jex.JaxprEqn, operands: Sequence[_Weight | None], depth: int, node: _Node
) -> None:
    """Adds the product of the first two operands; `depth` terms are summed for each value of the result."""
    dtype = equation.invars[0].aval.dtype  # type: ignore[attr-defined]
    results = equation.outvars[0].aval.size  # type: ignore[attr-defined]
    node.flops[str(dtype)] += 2 * depth * results
    for atom, weight in zip(equation.invars[:2], operands[:2], strict=True):
        _read_weight(atom, weight, node)


def _read_weight(atom: Any, weight: _Weight | None, node: _Node) -> None:
    if weight is not None:
        mine = min(weight.num_bytes, atom.aval.size * atom.aval.dtype.itemsize)
        node.weights[weight.root] = max(node.weights.get(weight.root, 0), mine)


def _refuse_hidden_products(equation: jex.JaxprEqn) -> None:
    inner = list(jex.jaxprs_in_params(equation.params))
    while inner:
        jaxpr = inner.pop()
        for below in jaxpr.eqns:
            if below.primitive.name == "dot_general":
                raise ValueError(
                    f"cannot count what {equation.primitive.name} does: expected calls, loops and "
                    f"branches ({', '.join(CALLS)}, while, scan, cond) around matrix products; teach "
                    "nat_ar/evaluation/speed/floor.py this one"
                )
            inner += jex.jaxprs_in_params(below.params)


def _known(atom: Any, known: dict[Any, _Weight | None]) -> _Weight | None:
    return None if isinstance(atom, jex.Literal) else known.get(atom)


def _padded(inputs: list[_Weight | None], jaxpr: jex.Jaxpr) -> list[_Weight | None]:
    """A loop's constants come first; its carried values and the rows that it scans are not weights."""
    return inputs + [None] * (len(jaxpr.invars) - len(inputs))


def _open(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """(equations, constants) of a jaxpr, closed or not."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, jex.ClosedJaxpr) else (jaxpr, ())


# How often it runs


def _run(
    jaxpr: jex.Jaxpr,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    blocks: Iterator[_Node],
    counts: Int[Array, "blocks"],
) -> tuple[list[Any], Int[Array, "blocks"]]:
    """(outputs, counts after the run). `blocks` are those inside the jaxpr, in the order of the survey."""
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        operands = [read(atom) for atom in equation.invars]
        if name in CALLS:
            inner, inner_constants = _open(parameters[CALLS[name]])
            outputs, counts = _run(inner, inner_constants, operands, blocks, counts)
        elif name == "while":
            outputs, counts = _run_while(parameters, operands, next(blocks), counts)
        elif name == "scan":
            outputs, counts = _run_scan(parameters, operands, next(blocks), counts)
        elif name == "cond":
            branches = [_counted(branch, next(blocks)) for branch in parameters["branches"]]
            index = operands[0].astype(jnp.int32)
            counts, *outputs = jax.lax.switch(index, branches, counts, *operands[1:])
        else:
            bound = equation.primitive.bind(*operands, **parameters)
            outputs = bound if equation.primitive.multiple_results else [bound]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars], counts


def _counted(closed: jex.ClosedJaxpr, block: _Node) -> Callable[..., tuple[Any, ...]]:
    """(counts, *arguments) -> (counts, *outputs), with the run of the block counted."""

    def run(counts: Int[Array, "blocks"], *arguments: Any) -> tuple[Any, ...]:
        counts = counts.at[block.index].add(1)
        outputs, counts = _run(closed.jaxpr, closed.consts, arguments, iter(block.children), counts)
        return counts, *outputs

    return run


def _run_while(
    parameters: dict[str, Any], operands: list[Any], block: _Node, counts: Int[Array, "blocks"]
) -> tuple[list[Any], Int[Array, "blocks"]]:
    first = parameters["cond_nconsts"]
    second = first + parameters["body_nconsts"]
    condition = jex.jaxpr_as_fun(parameters["cond_jaxpr"])
    body = _counted(parameters["body_jaxpr"], block)
    counts, *state = jax.lax.while_loop(
        lambda carry: condition(*operands[:first], *carry[1:])[0],
        lambda carry: body(carry[0], *operands[first:second], *carry[1:]),
        (counts, *operands[second:]),
    )
    return state, counts


def _run_scan(
    parameters: dict[str, Any], operands: list[Any], block: _Node, counts: Int[Array, "blocks"]
) -> tuple[list[Any], Int[Array, "blocks"]]:
    first = parameters["num_consts"]
    second = first + parameters["num_carry"]
    body = _counted(parameters["jaxpr"], block)

    def advance(carry: tuple[Any, ...], row: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        outputs = body(carry[0], *operands[:first], *carry[1:], *row)
        return outputs[: len(carry)], outputs[len(carry) :]

    (counts, *state), rows = jax.lax.scan(
        advance,
        (counts, *operands[first:second]),
        tuple(operands[second:]),
        length=parameters["length"],
        reverse=parameters["reverse"],
    )
    return [*state, *rows], counts
