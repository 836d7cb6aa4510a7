import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.evaluation.speed import floor
from nat_ar.evaluation.speed.floor import Block
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn import packed
from nat_ar.runtime import cpu_kernels
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.special_tokens import EOS
from nat_ar.translation.model import Model
from toys import TINY

pytestmark = pytest.mark.slow

X, W = jnp.ones((8, 16)), jnp.ones((16, 16))
PRODUCT = 2 * 8 * 16 * 16
"""FLOPs of X @ W."""
WEIGHT = 16 * 16 * 4
"""Bytes of W."""
PEAKS = Peaks(matmul={"float32": 1e6}, bandwidth={8: 1e6})
"""A slow machine: 1 FLOP or 1 byte a microsecond."""


def run(function, *arguments) -> tuple[list[Block], list[int]]:
    """The blocks of function(weight, *arguments) and how often each ran."""
    is_weight = [True, *(False for _ in arguments)]
    counted = floor.compile_counter(function, (W, *arguments), is_weight)
    return list(counted.blocks), counted.counts(W, *arguments).tolist()


def test_a_product_costs_two_flop_for_each_multiplication_and_reads_its_weight() -> None:
    (block,), counts = run(lambda w, x: jnp.tanh(x @ w) + 1, X)
    assert block == Block("program", {"float32": PRODUCT}, WEIGHT)
    assert counts == [1]


def test_flops_are_those_of_xla_where_nothing_loops() -> None:
    def two(w, x):
        return (x @ w) @ w.T

    (block,), _ = run(two, X)
    assert sum(block.flops.values()) == 2 * PRODUCT
    assert jax.jit(two).lower(W, X).compile().cost_analysis()["flops"] == 2 * PRODUCT
    assert block.weight_bytes == WEIGHT  # read once, used twice


def test_a_weight_that_is_cast_is_read_in_the_smaller_type_and_an_activation_is_none() -> None:
    def half(w, x):
        return x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16).T + (x @ x.T).sum()

    (block,), _ = run(half, X)
    assert block.flops == {"bfloat16": PRODUCT, "float32": 2 * 8 * 8 * 16}
    assert block.weight_bytes == WEIGHT // 2


@pytest.mark.skipif(not cpu_kernels.are_available(), reason="no CPU or no C++ compiler")
def test_a_product_with_a_packed_weight_costs_the_same() -> None:
    def multiply(panels, x):
        return cpu_kernels.product(x, panels, None, 16)

    panels = jnp.asarray(packed.panels_of(np.asarray(W)))
    counted = floor.compile_counter(multiply, (panels, X), (True, False))
    assert counted.blocks == (Block("program", {"float32": PRODUCT}, WEIGHT),)


def test_a_loop_counts_as_often_as_it_goes_round() -> None:
    def loop(w, x, times):
        def advance(state):
            return state[0] + 1, jax.nn.relu(state[1] @ w)

        return jax.lax.while_loop(lambda state: state[0] < times, advance, (0, x))[1] @ w

    for times in (0, 5):
        blocks, counts = run(loop, X, jnp.int32(times))
        assert [block.kind for block in blocks] == ["program", "loop"]
        assert [sum(block.flops.values()) for block in blocks] == [PRODUCT, PRODUCT]
        assert counts == [1, times]
    # XLA, for comparison, counts the loop once, whatever it is given.
    program = jax.jit(loop).lower(W, X, 5).compile()
    assert program.cost_analysis()["flops"] == pytest.approx(2 * PRODUCT, rel=0.1)


def test_of_a_switch_the_branch_that_ran_counts_and_a_scan_all_its_rows() -> None:
    def choose(w, x, index):
        def scanned():
            return jax.lax.scan(lambda state, _: (state @ w, None), x, None, length=3)[0]

        return jax.lax.switch(index, [lambda: x, lambda: x @ w, scanned])

    for index, expected in enumerate(([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3])):
        blocks, counts = run(choose, X, jnp.int32(index))
        assert [block.kind for block in blocks] == ["program", *3 * ["branch"], "loop"]
        assert counts == [1, *expected]
        assert [sum(b.flops.values()) for b in blocks] == [0, 0, PRODUCT, 0, PRODUCT]


def test_a_branch_within_a_loop_is_counted_by_what_it_carries() -> None:
    def collatz(w, start):
        def advance(state):
            number, x = state
            return jax.lax.cond(
                number % 2 == 0, lambda: (number // 2, x), lambda: (3 * number + 1, x @ w)
            )

        return jax.lax.while_loop(lambda state: state[0] != 1, advance, (start, X))

    # 6 -> 3 -> 10 -> 5 -> 16 -> 8 -> 4 -> 2 -> 1: eight times round, twice from an odd number.
    blocks, counts = run(collatz, jnp.int32(6))
    by_flops = {(b.kind, sum(b.flops.values())): n for b, n in zip(blocks, counts, strict=True)}
    assert by_flops[("loop", 0)] == 8
    assert by_flops[("branch", PRODUCT)] == 2
    assert by_flops[("branch", 0)] == 6


def test_what_is_computed_again_for_the_gradient_counts_again() -> None:
    """Forward, once more for the backward pass, and there for the weight alone and for the input."""

    @jax.checkpoint
    def squares(w, x):
        return (jnp.tanh(x @ w) ** 2).sum()

    (block,), _ = run(jax.value_and_grad(squares, argnums=(0, 1)), X)
    assert block.flops == {"float32": 4 * PRODUCT}


def test_a_product_where_nobody_looks_is_an_error() -> None:
    def hidden(w, x):
        return jax.lax.custom_linear_solve(lambda y: y @ w, x, solve=lambda f, y: y @ w)

    with pytest.raises(ValueError, match="cannot count what custom_linear_solve does"):
        run(hidden, X)


def test_the_floor_is_the_larger_of_both_block_by_block() -> None:
    dense = Block("program", {"float32": 1000}, 100)
    thin = Block("loop", {"float32": 10}, 100)
    assert thin.least_seconds(PEAKS) == (10e-6, 100e-6)
    counted = floor.CountedProgram((dense, thin), None)
    found = counted.cost(np.array([1, 5]), PEAKS)
    assert (found.flops, found.weight_bytes) == (1050, 600)
    assert found.arithmetic_seconds == pytest.approx(1050e-6)
    assert found.memory_seconds == pytest.approx(600e-6)
    assert found.floor_seconds == pytest.approx(1000e-6 + 5 * 100e-6)
    assert found.bound == "arithmetic"
    longer = counted.cost(np.array([1, 25]), PEAKS)
    assert longer.bound == "memory"
    middle = floor.mean([found, longer])
    assert middle.floor_seconds == pytest.approx((found.floor_seconds + longer.floor_seconds) / 2)
    assert (middle.flops, middle.bound) == (1150, "memory")


SIZES = base.VocabularySizes(24, 24, is_joint=True)


@pytest.mark.parametrize(
    ("method", "decoding"),
    [
        (Autoregressive(transformer=TINY), Greedy()),
        (Autoregressive(transformer=TINY), Beam(size=2)),
        (LengthNat(transformer=TINY), LengthBeam(size=2)),
    ],
    ids=["greedy", "beam", "length_nat"],
)
def test_a_model_costs_what_its_steps_cost(method: AnyMethod, decoding) -> None:
    model = Model(*nnx.split(method.build(SIZES, rngs=nnx.Rngs(1)), nnx.Param))

    def decode(leaves, source):
        return model.merge(leaves).decode(source, decoding=decoding, max_length=26)

    source = jnp.array([[9, 10, 11, EOS, 0, 0, 0, 0]], jnp.int32)
    counted = floor.compile_counter(decode, (model.leaves, source), (True, False))
    counts = counted.counts(model.leaves, source)
    (steps,) = jax.jit(decode)(model.leaves, source).passes.tolist()
    ran = {
        kind: sum(
            int(n)
            for b, n in zip(counted.blocks, counts, strict=True)
            if b.kind == kind and b.flops
        )
        for kind in ("program", "loop", "branch")
    }
    if isinstance(method, LengthNat):
        assert ran == {"program": 1, "loop": 0, "branch": 1}  # one width of the ladder
    else:
        assert ran == {"program": 1, "loop": steps, "branch": 0}
        (loop,) = (block for block in counted.blocks if block.kind == "loop" and block.flops)
        # Self attention 4 d², cross attention (query, output) 2 d², feed-forward 2 d h; vocabulary 24 d.
        d, hidden = 16, 32
        assert loop.weight_bytes == 4 * (4 * d * d + 2 * d * d + 2 * d * hidden + 24 * d)


def test_an_encoder_is_counted_as_xla_counts_it() -> None:
    model = Model(
        *nnx.split(Autoregressive(transformer=TINY).build(SIZES, rngs=nnx.Rngs(1)), nnx.Param)
    )

    def encode(leaves, source):
        return model.merge(leaves).encode(source)

    arguments = (model.leaves, jnp.ones((2, 8), jnp.int32))
    (block,) = floor.compile_counter(encode, arguments, (True, False)).blocks
    theirs = jax.jit(encode).lower(*arguments).compile().cost_analysis()["flops"]
    mine = sum(block.flops.values())
    d, hidden, tokens = 16, 32, 2 * 8
    assert mine == 2 * tokens * (4 * d * d + 2 * d * hidden) + 4 * tokens * 8 * d
    assert mine < theirs < 1.7 * mine  # norms, softmax and sums weigh more the smaller the model
