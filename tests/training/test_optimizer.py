"""The learning rate by hand, and what Adam, Muon and their surroundings do to a gradient."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.length_nat import LengthNat
from nat_ar.training import optimizer, step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.optimizer import Muon, OptimizerConfig
from toys import TINY


def rates(schedule: str, *, cooldown_share: float = 0.0, max_steps: int = 1000) -> dict[int, float]:
    """Update (counted from 1) -> learning rate, with a peak of 0.5 at update 100."""
    config = OptimizerConfig(
        peak_learning_rate=0.5,
        warmup_steps=100,
        schedule=schedule,
        cooldown_share=cooldown_share,
    )
    rate = optimizer.schedule(config, max_steps=max_steps)
    return {step: float(rate(step - 1)) for step in (1, 50, 100, 400, 550, 600, 800, 1000)}


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


def test_constant_stays_at_the_peak() -> None:
    found = rates("constant")
    assert [found[step] for step in (1, 50, 100)] == pytest.approx([0.005, 0.25, 0.5])
    assert [found[step] for step in (400, 1000)] == [0.5, 0.5]


def test_a_cooldown_is_a_line_from_whatever_the_rate_was_to_zero() -> None:
    found = rates("constant", cooldown_share=0.4)
    assert [found[step] for step in (100, 600, 800, 1000)] == pytest.approx([0.5, 0.5, 0.25, 0.0])
    found = rates("inverse_sqrt", cooldown_share=0.4)
    assert found[400] == pytest.approx(0.25)  # before it, as without
    assert found[800] == pytest.approx(0.5 * math.sqrt(1 / 8) / 2)
    assert found[1000] == 0.0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_cooldown_after_a_schedule_that_ends_at_zero_is_refused(schedule: str) -> None:
    with pytest.raises(
        ConfigError, match=f"'{schedule}' ends at 0 by itself: set cooldown_share to 0"
    ):
        OptimizerConfig(schedule=schedule, cooldown_share=0.2)


def test_the_rate_is_the_same_inside_jit() -> None:
    rate = optimizer.schedule(OptimizerConfig(warmup_steps=3), max_steps=10)
    for count in (0, 2, 7):
        assert float(jax.jit(rate)(jnp.int32(count))) == pytest.approx(float(rate(count)))


@pytest.mark.parametrize("wrong", [{"peak_learning_rate": 0.0}, {"warmup_steps": 0}])
def test_a_rate_of_zero_or_no_warm_up_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"peak_learning_rate must be above 0 and warmup_steps"):
        OptimizerConfig(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cooldown_share": 1.5}, "cooldown_share must be from 0 to 1, got 1.5"),
        (
            {"encoder_rate": -1.0},
            "encoder_rate and encoder_frozen_steps must be at least 0, got -1",
        ),
        ({"encoder_frozen_steps": -1}, "must be at least 0, got 1.0 and -1"),
    ],
)
def test_shares_and_encoders_that_cannot_be_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"update_rms": 0.0}, {"iterations": 0}])
def test_a_muon_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"muon.{next(iter(wrong))} "):
        Muon(**wrong)


def test_the_config_of_an_earlier_run_is_adam_for_all_parameters_alike() -> None:
    new = ("cooldown_share", "muon", "encoder_rate", "encoder_frozen_steps")
    written = config_json.to_json(OptimizerConfig(schedule="cosine"))
    earlier = {name: value for name, value in written.items() if name not in new}
    assert config_json.from_json(OptimizerConfig, earlier) == OptimizerConfig(schedule="cosine")


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


PLAIN = OptimizerConfig(peak_learning_rate=0.1, warmup_steps=1, schedule="constant", clip_norm=0.0)
MUON = dataclasses.replace(PLAIN, muon=Muon())


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_muon_makes_the_gradient_of_a_kernel_orthogonal() -> None:
    """Newton's and Schulz's iterations bring every singular value to about 1: what is left are the directions."""
    gradient = noise(4, 9)
    update = first_update(MUON, {"kernel": jnp.zeros((4, 9))}, {"kernel": gradient})["kernel"]
    left, values, right = np.linalg.svd(gradient, full_matrices=False)
    ratio = values.max() / values.min()
    # 0.2 * sqrt(9) * orthogonal: a root mean square of 0.2 times the rate
    around = np.diag(left.T @ np.asarray(update) @ right.T) / (-0.1 * 0.2 * 3)
    assert ratio > 2
    assert np.all((around > 0.6) & (around < 1.3))
    assert float(jnp.sqrt(jnp.mean(update**2))) == pytest.approx(0.02, rel=0.2)
    again = first_update(MUON, {"kernel": jnp.zeros((4, 9))}, {"kernel": 1e-3 * gradient})["kernel"]
    np.testing.assert_allclose(again, update, rtol=1e-3, atol=1e-6)  # the size does not count


def test_muon_takes_what_is_fused_apart() -> None:
    """Three maps in one kernel move as three kernels do."""
    gradients = [noise(4, 5, seed=seed) for seed in range(3)]
    fused = {"kernel": nnx.Param(jnp.concatenate(gradients, axis=1), parts=3)}
    apart = {"kernel": nnx.Param(gradients[1], parts=1)}
    together, alone = (
        first_update(MUON, jax.tree.map(jnp.zeros_like, tree), tree)["kernel"][...]
        for tree in (fused, apart)
    )
    np.testing.assert_allclose(together[:, 5:10], alone, rtol=1e-5)


def length_nat() -> nnx.State:
    sizes = VocabularySizes(16, 16, is_joint=True)
    model = LengthNat(transformer=TINY).build(sizes, rngs=nnx.Rngs(0))
    return nnx.state(model, nnx.Param)


def by_name(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(base.names_of(path)): np.asarray(leaf) for path, leaf in leaves}


def gradients_of(params: nnx.State) -> nnx.State:
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten([noise(*x.shape, seed=i) for i, x in enumerate(leaves)])


def updates_of(config: OptimizerConfig, params: nnx.State, *, number: int = 1) -> list[dict]:
    """The first updates by one and the same gradient."""
    chosen = optimizer.build(config, max_steps=10)
    state, gradient = chosen.init(params), gradients_of(params)
    found = []
    for _ in range(number):
        update, state = jax.jit(chosen.update)(gradient, state, params)
        found.append(by_name(update))
    return found


def test_embeddings_norms_biases_and_heads_stay_with_adam() -> None:
    params = length_nat()
    (muon,), (adam,) = updates_of(MUON, params), updates_of(PLAIN, params)
    same = {name for name in adam if np.array_equal(adam[name], muon[name])}
    kernels = {name for name in adam if name.endswith("kernel")}
    assert same == set(adam) - kernels | {"length_predictor.head.kernel"}
    assert {"target_embedding.table", "encoder.final_norm.scale"} < same
    parts = params["encoder"]["blocks"][0]["attention"]["project"]["kernel"].get_metadata()["parts"]
    assert parts == 3


def test_the_encoder_and_the_embeddings_may_be_slower() -> None:
    params = length_nat()
    (slow,) = updates_of(dataclasses.replace(MUON, encoder_rate=0.25), params)
    (usual,) = updates_of(MUON, params)
    is_shared = {name: name.startswith(("encoder.", "target_embedding.")) for name in usual}
    assert 0 < sum(is_shared.values()) < len(is_shared)
    for name, update in usual.items():
        factor = 0.25 if is_shared[name] else 1.0
        np.testing.assert_allclose(slow[name], factor * update, rtol=1e-6)


def test_a_frozen_encoder_thaws_as_if_training_began() -> None:
    """Moments of before do not count: the first update after two frozen ones is the first of all."""
    params = length_nat()
    frozen = dataclasses.replace(PLAIN, encoder_frozen_steps=2, weight_decay=0.1)
    found = updates_of(frozen, params, number=4)
    usual = updates_of(dataclasses.replace(frozen, encoder_frozen_steps=0), params, number=4)
    for name in usual[0]:
        if name.startswith(("encoder.", "target_embedding.")):
            assert not found[0][name].any()
            assert not found[1][name].any()
            np.testing.assert_array_equal(found[2][name], usual[0][name])
            np.testing.assert_array_equal(found[3][name], usual[1][name])
        else:
            for here, there in zip(found, usual, strict=True):
                np.testing.assert_array_equal(here[name], there[name])


def test_a_rate_of_zero_leaves_the_encoder_as_it_is() -> None:
    params = length_nat()
    (found,) = updates_of(dataclasses.replace(PLAIN, encoder_rate=0.0, weight_decay=0.1), params)
    still = {name for name, update in found.items() if not update.any()}
    assert still == {n for n in found if n.startswith(("encoder.", "target_embedding."))}


def test_when_the_encoder_is_frozen() -> None:
    assert not OptimizerConfig().freezes_encoder(0)
    thawing = OptimizerConfig(encoder_frozen_steps=2)
    assert [thawing.freezes_encoder(step) for step in (0, 1, 2)] == [True, True, False]
    assert OptimizerConfig(encoder_rate=0.0).freezes_encoder(10**6)


@pytest.mark.parametrize(
    "config", [MUON, dataclasses.replace(MUON, encoder_rate=0.5, encoder_frozen_steps=2)]
)
def test_an_optimizer_goes_on_from_a_checkpoint_bit_for_bit(
    tmp_path: Path, config: OptimizerConfig
) -> None:
    chosen = optimizer.build(config, max_steps=10)
    update = jax.jit(chosen.update)

    def after(number: int, state: step.TrainState) -> step.TrainState:
        for _ in range(number):
            gradient = gradients_of(state.params)
            updates, opt_state = update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            state = dataclasses.replace(
                state, step=state.step + 1, params=params, opt_state=opt_state
            )
        return state

    def start() -> step.TrainState:
        state = step.initial_state(length_nat(), chosen, seed=0, has_average=False)
        return step.place(step.data_mesh(1), state, is_batch=False)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(after(1, start()), {}, score=None)
    restored, _ = checkpoints.restore(start())
    checkpoints.close()
    resumed, straight = after(3, restored), after(4, start())
    for one, other in zip(
        jax.tree.leaves((resumed.params, resumed.opt_state)),
        jax.tree.leaves((straight.params, straight.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
