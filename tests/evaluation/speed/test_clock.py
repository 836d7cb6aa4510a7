import gc

import jax
import jax.numpy as jnp
import pytest

from nat_ar.evaluation.speed import clock


def test_systems_take_turns_sentence_by_sentence() -> None:
    order: list[str] = []

    def system(name: str):
        return lambda item: order.append(f"{name}{item}") or len(order)

    ticks: list[None] = []
    seconds, found = clock.interleaved([system("A"), system("B")], 2, 3, lambda: ticks.append(None))
    assert order == ["A0", "B0", "A1", "B1"] * 3
    assert seconds.shape == (2, 3, 2)
    assert (seconds >= 0).all()
    assert found == [[9, 11], [10, 12]]  # of the last repetition
    assert len(ticks) == 12


@pytest.mark.slow
def test_a_compilation_while_the_clock_runs_is_an_error() -> None:
    def double(x: jax.Array) -> jax.Array:
        return 2 * x

    program = jax.jit(double)
    three, four = jnp.zeros(3), jnp.zeros(4)
    program(three)
    with clock.no_compilation():
        assert not gc.isenabled()
        program(three)
    assert gc.isenabled()
    with (
        pytest.raises(clock.RecompilationError, match="1 programs"),
        clock.no_compilation(),
    ):
        program(four)
    program(jnp.zeros(5))  # nobody listens any more
    with clock.no_compilation():
        program(four)


def test_a_new_shape_while_the_clock_runs_is_an_error() -> None:
    compiled = {(1, 8): "program"}
    with clock.no_compilation([compiled]):
        compiled[1, 8] = "the same shape"
    with (
        pytest.raises(clock.RecompilationError, match="1 new shapes"),
        clock.no_compilation([compiled]),
    ):
        compiled[2, 8] = "another"
