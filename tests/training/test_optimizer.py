"""The learning rate by hand, and what Adam's surroundings do to a gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.training import optimizer
from nat_ar.training.optimizer import OptimizerConfig


def rates(schedule: str, *, max_steps: int = 1000) -> dict[int, float]:
    """Update (counted from 1) -> learning rate, with a peak of 0.5 at update 100."""
    config = OptimizerConfig(peak_learning_rate=0.5, warmup_steps=100, schedule=schedule)
    rate = optimizer.schedule(config, max_steps=max_steps)
    return {step: float(rate(step - 1)) for step in (1, 50, 100, 400, 550, 1000)}


def test_inverse_sqrt_by_hand() -> None:
    found = rates("inverse_sqrt")
    # 1 % of the peak, half way up, the peak, half the peak at four times the warm-up
    assert [found[step] for step in (1, 50, 100, 400)] == pytest.approx([0.005, 0.25, 0.5, 0.25])
    assert found[1000] == pytest.approx(0.5 * math.sqrt(0.1))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_cosine_and_linear_end_at_zero(schedule: str) -> None:
    found = rates(schedule)
    assert [found[step] for step in (1, 50, 100)] == pytest.approx([0.005, 0.25, 0.5])
    assert found[550] == pytest.approx(0.25)  # half way down, for both
    assert found[1000] == pytest.approx(0.0, abs=1e-6)


def test_cosine_falls_slowly_at_first() -> None:
    third = 0.5 * 0.5 * (1 + math.cos(math.pi / 3))  # 300 of 900 steps
    assert rates("cosine")[400] == pytest.approx(third)
    assert rates("linear")[400] == pytest.approx(0.5 * 2 / 3)


def test_the_rate_is_the_same_inside_jit() -> None:
    rate = optimizer.schedule(OptimizerConfig(warmup_steps=3), max_steps=10)
    for count in (0, 2, 7):
        assert float(jax.jit(rate)(jnp.int32(count))) == pytest.approx(float(rate(count)))


@pytest.mark.parametrize("wrong", [{"peak_learning_rate": 0.0}, {"warmup_steps": 0}])
def test_a_rate_of_zero_or_no_warm_up_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"peak_learning_rate must be above 0 and warmup_steps"):
        OptimizerConfig(**wrong)


def first_update(config: OptimizerConfig, params: dict, grads: dict) -> dict:
    adam = optimizer.build(config, max_steps=10)
    return adam.update(grads, adam.init(params), params)[0]


def test_the_first_update_is_the_rate_against_the_sign_of_the_gradient() -> None:
    config = OptimizerConfig(peak_learning_rate=0.1, warmup_steps=1, clip_norm=0.0)
    params = {"bias": jnp.zeros(2)}
    update = first_update(config, params, {"bias": jnp.array([4.0, -0.25])})
    np.testing.assert_allclose(update["bias"], [-0.1, 0.1], rtol=1e-5)


def test_weight_decay_shrinks_matrices_only() -> None:
    config = OptimizerConfig(peak_learning_rate=0.1, warmup_steps=1, weight_decay=0.5)
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    nothing = jax.tree.map(jnp.zeros_like, params)
    update = first_update(config, params, nothing)
    np.testing.assert_allclose(update["kernel"], np.full((2, 2), -0.1 * 0.5 * 3.0), rtol=1e-6)
    np.testing.assert_array_equal(update["bias"], [0.0, 0.0])


def first_moment(clip_norm: float, gradient: list[float]) -> np.ndarray:
    """What Adam was given: its mean of gradients after one step is (1 - beta1) of that."""
    config = OptimizerConfig(clip_norm=clip_norm, beta1=0.75)
    adam = optimizer.build(config, max_steps=10)
    params = {"bias": jnp.zeros(2)}
    _, state = adam.update({"bias": jnp.array(gradient)}, adam.init(params), params)
    return np.asarray(optax.tree_utils.tree_get(state, "mu")["bias"]) / 0.25


def test_gradients_are_clipped_to_the_global_norm() -> None:
    np.testing.assert_allclose(first_moment(1.0, [30.0, -40.0]), [0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(first_moment(1.0, [0.3, -0.4]), [0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(first_moment(0.0, [30.0, -40.0]), [30.0, -40.0], rtol=1e-6)
