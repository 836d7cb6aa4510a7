"""What a run keeps on disk comes back as it was, and the right steps are kept."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar.nn import layers
from nat_ar.training import step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.loop import Progress
from nat_ar.types import TrainState

PROGRESS: dict[str, Any] = dataclasses.asdict(Progress(epoch=3, window={"token": [0.1, 3.0]}))


def state_of(d_out: int = 3, *, at: int = 0, seed: int = 0, has_average: bool = True) -> TrainState:
    """A small state with a past: no two of its arrays are equal."""
    module = layers.Linear(2, d_out, rngs=nnx.Rngs(seed))
    params = nnx.state(module, nnx.Param)
    state = step.initial_state(params, optax.adam(0.1), seed=seed, has_average=has_average)
    leaves, structure = jax.tree.flatten(state.opt_state)
    opt_state = structure.unflatten([leaf + i + 1 for i, leaf in enumerate(leaves)])
    average = None if state.average is None else jax.tree.map(lambda x: x + 0.1, state.average)
    state = dataclasses.replace(state, step=jnp.int32(at), opt_state=opt_state, average=average)
    return step.place(step.data_mesh(1), state, is_batch=False)


def arrays_of(state: TrainState) -> list[np.ndarray]:
    key = jax.random.key_data(state.key)
    return [np.asarray(x) for x in jax.tree.leaves(dataclasses.replace(state, key=key))]


@pytest.mark.parametrize("has_average", [True, False])
def test_a_state_comes_back_bit_for_bit(tmp_path: Path, has_average: bool) -> None:
    saved = state_of(at=7, seed=1, has_average=has_average)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(saved, PROGRESS, score=2.5)
    checkpoints.close()

    checkpoints = Checkpoints(tmp_path)
    like = state_of(seed=2, has_average=has_average)
    restored, progress = checkpoints.restore(like)
    assert progress == {**PROGRESS, "score": 2.5}
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for before, after in zip(arrays_of(saved), arrays_of(restored), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    draws = [jax.random.bits(state.key, (4,)) for state in (saved, restored)]
    np.testing.assert_array_equal(*draws)
    assert restored.params["kernel"][...].sharding == like.params["kernel"][...].sharding

    # Translating gets the average where there is one.
    params = checkpoints.params(7, jax.eval_shape(lambda: like.params))
    expected = saved.average if has_average else saved.params
    for before, after in zip(jax.tree.leaves(expected), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(before, after)
    checkpoints.close()


def steps_in(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def test_latest_and_best_are_kept_over_restarts(tmp_path: Path) -> None:
    kept = []
    # 20 is the best until 50 is as good; each save is made by a process of its own
    for at, score in [(10, 1.0), (20, 5.0), (30, 4.0), (35, None), (40, 4.5), (50, 5.0), (60, 0.0)]:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state_of(at=at), PROGRESS, score=score)
        assert checkpoints.latest_step == at
        checkpoints.close()
        reader = Checkpoints(tmp_path, is_read_only=True)
        kept.append((reader.resolve("best"), reader.resolve("latest")))
        reader.close()
        assert steps_in(tmp_path) == sorted(set(kept[-1]))
    assert kept == [(10, 10), (20, 20), (20, 30), (20, 35), (20, 40), (50, 50), (50, 60)]


def test_latest_and_best_are_kept_in_one_process(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for at, score in [(1, 3.0), (2, 1.0), (3, None), (4, 3.0), (5, 2.0)]:
        checkpoints.save(state_of(at=at), PROGRESS, score=score)
    assert steps_in(tmp_path) == [4, 5]
    assert checkpoints.resolve("best") == 4
    checkpoints.close()


def test_without_scores_the_latest_is_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for at in (3, 4):
        checkpoints.save(state_of(at=at), PROGRESS, score=None)
    assert steps_in(tmp_path) == [4]
    assert checkpoints.resolve("best") == 4
    checkpoints.close()


def test_a_step_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(at=5, seed=1), PROGRESS, score=2.0)
    checkpoints.save(state_of(at=5, seed=2), PROGRESS, score=None)
    assert checkpoints.progress(5)["score"] == 2.0
    restored, _ = checkpoints.restore(state_of())
    np.testing.assert_array_equal(
        restored.params["kernel"][...], state_of(seed=1).params["kernel"][...]
    )
    checkpoints.close()


def test_a_checkpoint_is_named_by_best_latest_or_its_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint in .*: train this run first"):
        checkpoints.resolve("best")
    checkpoints.save(state_of(at=9), PROGRESS, score=2.0)
    checkpoints.save(state_of(at=12), PROGRESS, score=1.0)
    assert [checkpoints.resolve(which) for which in ("best", "latest", "9", "12")] == [9, 12, 9, 12]
    for wrong in ("10", "last", "-9"):
        with pytest.raises(ValueError, match=f"best, latest or one of 9, 12; got '{wrong}'"):
            checkpoints.resolve(wrong)
    checkpoints.close()


def test_another_shape_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(3, at=1), PROGRESS, score=None)
    with pytest.raises(ValueError, match="shape"):
        checkpoints.restore(state_of(4))
    with pytest.raises(ValueError, match="shape"):
        checkpoints.params(1, state_of(4).params)
    checkpoints.close()


def test_a_reader_makes_and_removes_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(at=1), PROGRESS, score=None)
    checkpoints.close()
    half = tmp_path / "2.orbax-checkpoint-tmp"  # a writer may be at work
    half.mkdir()
    reader = Checkpoints(tmp_path, is_read_only=True)
    assert reader.resolve("latest") == 1
    reader.close()
    assert half.exists()
