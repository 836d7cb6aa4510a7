"""Programs are compiled at the same time, and come back in order."""

import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from nat_ar import machine
from nat_ar.compilation import compile_together


def test_programs_come_in_order_with_their_seconds() -> None:
    lowered = (jax.jit(lambda x, n=n: x + n).lower(jnp.float32(0)) for n in range(5))
    found = list(compile_together(lowered))
    assert [float(program(jnp.float32(1))) for program, _ in found] == [1, 2, 3, 4, 5]
    assert all(seconds > 0 for _, seconds in found)
    assert list(compile_together([])) == []


class Meeting(jax.stages.Lowered):
    """Stands for a program; its compiler waits until two are being compiled."""

    barrier = threading.Barrier(2)

    def __init__(self) -> None:
        self.real = jax.jit(jnp.negative).lower(jnp.float32(0))

    def compile(self) -> Any:
        self.barrier.wait(timeout=20)
        return self.real.compile()


def test_as_many_at_a_time_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_threads", lambda: 2)
    found = list(compile_together([Meeting() for _ in range(4)]))
    assert [float(program(jnp.float32(1))) for program, _ in found] == [-1] * 4


def test_an_error_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of 100 fails; two at a time were compiled meanwhile, and the rest never are."""
    monkeypatch.setattr(machine, "num_threads", lambda: 2)
    begun = []

    class Broken(jax.stages.Lowered):
        def __init__(self) -> None: ...

        def compile(self) -> Any:
            begun.append(self)
            time.sleep(0.05)
            raise MemoryError("RESOURCE_EXHAUSTED")

    with pytest.raises(MemoryError):
        list(compile_together([Broken() for _ in range(100)]))
    assert len(begun) < 50
