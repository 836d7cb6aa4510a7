"""What a train step does to all parameters, by kernels and without."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nat_ar.runtime import training_kernels
from nat_ar.training import optimizer, trees
from nat_ar.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.skipif(
    not training_kernels.are_available(), reason="no CPU, or no C++ compiler, or NAT_AR_NATIVE=0"
)
NUMBERS = np.random.default_rng(0)


def tree(scale: float = 1.0) -> dict[str, Any]:
    """Arrays smaller and larger than what one thread takes, one of them empty."""
    shapes = {"scalar": (), "empty": (0,), "bias": (37,), "table": (300, 129)}
    return {
        name: jnp.asarray(scale * NUMBERS.standard_normal(shape), jnp.float32)
        for name, shape in shapes.items()
    }


def by_kernels(function: Any, *arguments: Any) -> Any:
    def call(*arguments: Any) -> Any:
        with training_kernels.in_use(True):
            return function(*arguments)

    program = jax.jit(call)
    assert "nat_ar_" in program.lower(*arguments).as_text()
    return program(*arguments)


def test_the_norm_and_sums_are_those_of_the_values() -> None:
    a, b = tree(), tree()
    values = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(a)])
    assert float(by_kernels(trees.norm, a)) == pytest.approx(np.sqrt((values**2).sum()), rel=1e-6)
    jax.tree.map(np.testing.assert_array_equal, by_kernels(trees.added, a, b), trees.added(a, b))
    found = by_kernels(trees.towards, a, b, jnp.float32(0.25))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        found,
        trees.towards(a, b, jnp.float32(0.25)),
    )
    same = by_kernels(trees.towards, a, a, jnp.float32(0.1))
    jax.tree.map(np.testing.assert_array_equal, same, a)  # an average that has arrived stays


def test_arrays_of_another_type_are_left_to_jax() -> None:
    with training_kernels.in_use(True):
        assert trees.have_kernels(tree())
        assert not trees.have_kernels(tree(), {"count": jnp.int32(1)})


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
def test_adam_by_a_kernel_takes_the_steps_of_optax(clip_norm: float) -> None:
    """Five steps, with gradients that are clipped, or would be above a norm that none has, or not at all."""
    config = OptimizerConfig(warmup_steps=2, clip_norm=clip_norm)
    adam = optimizer.build(config, max_steps=10)
    params = {False: tree(), True: None}
    params[True] = params[False]
    states = {are: adam.init(params[are]) for are in params}

    def update(gradients: Any, state: Any, params: Any) -> Any:
        updates, state = adam.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for number in range(5):
        gradients = tree(0.1 + number)
        params[True], states[True] = by_kernels(update, gradients, states[True], params[True])
        params[False], states[False] = jax.jit(update)(gradients, states[False], params[False])
    jax.tree.map(lambda *_: None, states[True], states[False])  # of one structure
    for found, expected in zip(
        jax.tree.leaves((params[True], states[True])),
        jax.tree.leaves((params[False], states[False])),
        strict=True,
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "config", [OptimizerConfig(weight_decay=0.1), OptimizerConfig(encoder_rate=0.5)]
)
def test_what_is_more_than_adam_is_left_to_optax(config: OptimizerConfig) -> None:
    adam = optimizer.build(config, max_steps=10)
    params = tree()

    def update(gradients: Any, state: Any) -> Any:
        with training_kernels.in_use(True):
            return adam.update(gradients, state, params)

    assert "nat_ar_adam" not in jax.jit(update).lower(tree(), adam.init(params)).as_text()
