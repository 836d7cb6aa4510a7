"""What the tests of several methods share."""

from collections.abc import Callable
from typing import Any

import jax
import optax
import pytest
from flax import nnx

Objective = Callable[[nnx.State, jax.Array], jax.Array]
Learn = Callable[..., tuple[nnx.State, jax.Array]]


@pytest.fixture(scope="session")
def learn() -> Learn:
    """learn(objective, params, draws, peak_learning_rate) -> (params, objective before each step): Adam with
    half a cosine, one step for each of `draws` (keys, or step numbers), compiled as one loop."""

    def run(
        objective: Objective, params: nnx.State, draws: jax.Array, peak_learning_rate: float = 1e-2
    ) -> tuple[nnx.State, jax.Array]:
        optimizer = optax.adam(optax.cosine_decay_schedule(peak_learning_rate, len(draws)))

        def update(state: tuple[Any, Any], draw: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, moments = state
            loss, gradients = jax.value_and_grad(objective)(params, draw)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        @jax.jit
        def train(params: nnx.State) -> tuple[nnx.State, jax.Array]:
            (params, _), history = jax.lax.scan(update, (params, optimizer.init(params)), draws)
            return params, history

        return train(params)

    return run
