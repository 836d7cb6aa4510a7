"""The train step is one function of (state, batch): how a batch is cut over time or over devices changes
the clock and nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jaxtyping import Array, Float, Int

import many_devices
from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Teacher, VocabularySizes
from nat_ar.training import optimizer, step
from nat_ar.training.optimizer import OptimizerConfig
from nat_ar.training.step import TrainState
from nat_ar.types import Batch, Loss, Mean
from toys import TINY, sentences

VOCABULARY = 16
# Adam would hide a wrong scale of the gradient behind its own normalisation.
DESCENT = optax.sgd(0.5)


def ragged_batch() -> Batch:
    """8 rows with 1 to 8 tokens, the last one empty."""
    source = sentences(0, [8, 1, 3, 2, 5, 4, 2, 0], 8, vocabulary=VOCABULARY)
    return Batch(source, sentences(1, [1, 8, 2, 7, 1, 3, 4, 0], 8, vocabulary=VOCABULARY))


@functools.cache
def autoregressive(dtype: str = "float32") -> tuple[nnx.GraphDef, nnx.State]:
    """Parameters stay in the host's memory: a step donates those on the device."""
    sizes = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
    method = Autoregressive(dataclasses.replace(TINY, dtype=dtype))
    graphdef, params = nnx.split(method.build(sizes, rngs=nnx.Rngs(0)), nnx.Param)
    return graphdef, jax.device_get(params)


def after_one_step(
    *,
    accumulation: int = 1,
    num_devices: int = 1,
    dtype: str = "float32",
) -> tuple[TrainState, dict[str, Mean]]:
    graphdef, params = autoregressive(dtype)
    mesh = step.data_mesh(num_devices)
    train_step = step.build_train_step(graphdef, DESCENT, mesh, accumulation=accumulation)
    state = step.initial_state(params, DESCENT, seed=1, has_average=False)
    state = step.place(mesh, state, is_batch=False)
    return train_step(state, step.place(mesh, ragged_batch(), is_batch=True), None)


def assert_equal_steps(
    one: tuple[TrainState, dict[str, Mean]], other: tuple[TrainState, dict[str, Mean]]
) -> None:
    assert one[1].keys() == other[1].keys()
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    leaves = [jax.tree.leaves(state.params) for state, _ in (one, other)]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def whole() -> tuple[TrainState, dict[str, Mean]]:
    """One step on the whole batch on one device."""
    return after_one_step()


def test_a_step_moves_the_parameters_and_reports_its_terms(
    whole: tuple[TrainState, dict[str, Mean]],
) -> None:
    state, terms = whole
    norms_of_step = {"gradient_norm", "update_norm", "parameter_norm"}
    assert set(terms) == {"token", "objective", *norms_of_step}
    assert int(state.step) == 1
    assert float(terms["token"].count) == 26  # 1 + 8 + 2 + 7 + 1 + 3 + 4
    norms = [
        float(jnp.linalg.norm(x - y))
        for x, y in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(autoregressive()[1]), strict=True
        )
    ]
    moved = float(np.linalg.norm(norms))  # gradient descent: rate times the norm of the gradient
    assert moved == pytest.approx(0.5 * float(terms["gradient_norm"].value), rel=1e-4)
    assert moved == pytest.approx(float(terms["update_norm"].value), rel=1e-4)
    size = np.linalg.norm([float(jnp.linalg.norm(x)) for x in jax.tree.leaves(state.params)])
    assert float(terms["parameter_norm"].value) == pytest.approx(float(size), rel=1e-4)


def test_parts_one_after_the_other_are_the_whole_batch(
    whole: tuple[TrainState, dict[str, Mean]],
) -> None:
    """Every second row: the two parts hold 8 and 18 target tokens and may not weigh the same."""
    assert_equal_steps(whole, after_one_step(accumulation=2))


def test_bfloat16_is_for_activations_only() -> None:
    state, terms = after_one_step(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(terms)} == {jnp.dtype("float32")}
    before = jax.tree.leaves(autoregressive()[1])
    # The masters keep small changes that bfloat16, with 8 bits, could not.
    changed = [
        np.asarray(x != y) for x, y in zip(jax.tree.leaves(state.params), before, strict=True)
    ]
    assert all(change.any() for change in changed)
    assert any((x != x.astype(jnp.bfloat16)).any() for x in jax.tree.leaves(state.params))


class Point(nnx.Module):
    """A single weight w and the loss (w - 10)^2 / 2: Adam's first steps go by its rate."""

    def __init__(self, at: float) -> None:
        self.weight = nnx.Param(jnp.full((), at))

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: Teacher | None = None,
    ) -> Loss:
        goal: Float[Array, ""] = 10.0 - self.weight[...]
        if teacher is not None:
            goal = teacher.weight[...] - self.weight[...]  # type: ignore[attr-defined]
        noise = jax.random.uniform(rngs.dropout()) if rngs is not None else 0.0
        terms = {"step": Mean(step + 0.0, jnp.float32(1)), "noise": Mean(noise, jnp.float32(1))}
        return Loss(goal**2 / 2, terms)


def test_the_average_follows_the_parameters() -> None:
    graphdef, params = nnx.split(Point(0.0), nnx.Param)
    descent = optax.sgd(1.0)  # of (w - 10)^2 / 2: one step to 10
    state = step.initial_state(params, descent, seed=0, has_average=True)
    train_step = step.build_train_step(graphdef, descent, step.data_mesh(1), average_decay=0.15)
    state, _ = train_step(state, ragged_batch(), None)
    assert state.params["weight"][...] == 10.0
    # decay 1 / 10 at the first step, so that the random start is forgotten soon: 0.1 * 0 + 0.9 * 10
    assert float(state.average["weight"][...]) == pytest.approx(9.0)
    state, _ = train_step(state, ragged_batch(), None)
    # then 2 / 11, but never more than 0.15: 0.15 * 9 + 0.85 * 10
    assert float(state.average["weight"][...]) == pytest.approx(9.85)


def test_every_step_has_its_own_number_and_its_own_noise() -> None:
    graphdef, params = nnx.split(Point(0.0), nnx.Param)
    train_step = step.build_train_step(graphdef, DESCENT, step.data_mesh(1), accumulation=2)

    def noises(seed: int) -> list[float]:
        state = step.initial_state(
            jax.tree.map(jnp.copy, params), DESCENT, seed=seed, has_average=False
        )
        found = []
        for number in range(3):
            state, terms = train_step(state, ragged_batch(), None)
            assert float(terms["step"].value) == number
            assert float(terms["noise"].count) == 2  # one draw for each part
            found.append(float(terms["noise"].total))
        return found

    first = noises(1)
    assert noises(1) == first
    assert len({*first, *noises(2)}) == 6


class Divided(nnx.Module):
    """Its loss is one over the number of target tokens that are not 7: infinite where all are."""

    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.float32(2.0))

    def loss(
        self, batch: Batch, *, step: Int[Array, ""], rngs: nnx.Rngs, teacher: Teacher | None = None
    ) -> Loss:
        share = self.weight[...] / (batch.target != 7).sum()
        return Loss(share, {"share": Mean(share, jnp.float32(1))})


@pytest.mark.parametrize("skips", [False, True])
def test_a_batch_that_is_not_finite_can_be_skipped(skips: bool) -> None:
    """Nothing of it is left in parameters, optimizer and average; the next batch has the next step's noise."""
    graphdef, params = nnx.split(Divided(), nnx.Param)
    adam, mesh = optax.adam(0.1), step.data_mesh(1)
    train_step = step.build_train_step(
        graphdef, adam, mesh, average_decay=0.5, skips_non_finite=skips
    )
    state = step.initial_state(params, adam, seed=1, has_average=True)
    state = step.place(mesh, state, is_batch=False)
    good, bad = (Batch(jnp.ones((1, 2), int), jnp.full((1, 2), token)) for token in (5, 7))
    state, _ = train_step(state, good, None)
    before = jax.device_get((state.params, state.opt_state, state.average))
    state, terms = train_step(state, bad, None)
    assert np.isinf(terms["share"].total)
    after = jax.device_get((state.params, state.opt_state, state.average))
    is_same = jax.tree.leaves(jax.tree.map(np.array_equal, before, after))
    assert all(is_same) == skips
    assert int(state.step) == 2
    state, _ = train_step(state, good, None)
    assert bool(jnp.isfinite(state.params["weight"][...])) == skips


def test_a_frozen_encoder_has_no_gradient_and_changes_no_other() -> None:
    graphdef, params = autoregressive()
    found = []
    for freezes_encoder in (False, True):
        train_step = step.build_train_step(
            graphdef, DESCENT, step.data_mesh(1), freezes_encoder=freezes_encoder
        )
        state = step.initial_state(params, DESCENT, seed=1, has_average=False)
        state, terms = train_step(
            step.place(step.data_mesh(1), state, is_batch=False), ragged_batch(), None
        )
        found.append((state.params, terms))
    (usual, usual_terms), (frozen, terms) = found
    for (path, before), free, held in zip(
        jax.tree_util.tree_flatten_with_path(params)[0],
        jax.tree.leaves(usual),
        jax.tree.leaves(frozen),
        strict=True,
    ):
        if base.is_encoder(path):
            np.testing.assert_array_equal(held, before)
        else:
            np.testing.assert_allclose(held, free, rtol=1e-5, atol=1e-7)
    assert float(terms["gradient_norm"].value) < float(usual_terms["gradient_norm"].value)
    np.testing.assert_allclose(terms["token"].total, usual_terms["token"].total, rtol=1e-6)


def test_the_teacher_is_seen_and_left_alone() -> None:
    graphdef, params = nnx.split(Point(0.0), nnx.Param)
    teacher_graphdef, teacher_params = nnx.split(Point(4.0), nnx.Param)
    train_step = step.build_train_step(
        graphdef, DESCENT, step.data_mesh(1), teacher_graphdef=teacher_graphdef
    )
    state = step.initial_state(params, DESCENT, seed=0, has_average=False)
    for expected in (2.0, 3.0):  # half of the way to the teacher at a rate of 0.5
        state, _ = train_step(state, ragged_batch(), teacher_params)
        assert state.params["weight"][...] == expected
    assert teacher_params["weight"][...] == 4.0


def test_the_state_is_donated() -> None:
    graphdef, params = nnx.split(Point(0.0), nnx.Param)
    adam = optimizer.build(OptimizerConfig(), max_steps=10)
    state = step.initial_state(params, adam, seed=0, has_average=True)
    train_step = step.build_train_step(graphdef, adam, step.data_mesh(1), average_decay=0.9)
    after, _ = train_step(state, ragged_batch(), None)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.average)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_devices_that_are_not_there_are_refused() -> None:
    there = jax.local_device_count()
    assert step.data_mesh().size == there
    assert step.data_mesh(1).size == 1
    for wrong in (0, -1, there + 1):
        with pytest.raises(ConfigError, match=f"num_devices, must be 1 to {there}.*got {wrong}"):
            step.data_mesh(wrong)


def test_a_wish_to_stop_comes_back_with_the_step() -> None:
    """And changes nothing else."""
    graphdef, params = nnx.split(Point(0.0), nnx.Param)
    mesh = step.data_mesh(1)
    train_step = step.build_train_step(graphdef, DESCENT, mesh)
    weights = []
    for is_asked in (False, True):
        state = step.initial_state(jax.device_get(params), DESCENT, seed=0, has_average=False)
        wishes = step.stop_wishes(mesh, is_asked)
        state, terms = train_step(state, ragged_batch(), None, wishes)
        assert terms[step.STOP_WISHES].total == is_asked
        weights.append(float(state.params["weight"][...]))
    assert weights[0] == weights[1]
    state = step.initial_state(jax.device_get(params), DESCENT, seed=0, has_average=False)
    assert step.STOP_WISHES not in train_step(state, ragged_batch(), None)[1]


@pytest.mark.slow
def test_eight_devices_are_one_device() -> None:
    """In a process of its own: the number of host devices is fixed before JAX starts."""
    program = f"""
import runpy
test = runpy.run_path({__file__!r})
one, eight = (test["after_one_step"](num_devices=number) for number in (1, 8))
assert len(eight[0].params["target_embedding"]["table"][...].devices()) == 8
test["assert_equal_steps"](one, eight)
"""
    many_devices.run(program)
