"""The facts that stand beside every number."""

import jax

from nat_ar import machine


def test_the_device_is_named() -> None:
    platform, _, kind = machine.device_name().partition(": ")
    assert platform == jax.default_backend()
    assert kind
    assert machine.num_threads() >= 1
