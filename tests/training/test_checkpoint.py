"""What a run keeps on disk comes back as it was, and the right steps are kept."""

import asyncio
import contextlib
import dataclasses
import gc
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar.nn import layers
from nat_ar.training import checkpoint, reads, step
from nat_ar.training.checkpoint import Checkpoints, DamagedCheckpointError
from nat_ar.training.loop import Progress
from nat_ar.training.step import TrainState

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


def test_as_many_of_the_best_are_kept_as_asked_for(tmp_path: Path) -> None:
    kept = []
    for at, score in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 3.0), (6, 0.5)]:
        checkpoints = Checkpoints(tmp_path, keep_best=2)  # each save by a process of its own
        checkpoints.save(state_of(at=at), PROGRESS, score=score)
        checkpoints.close()
        kept.append(steps_in(tmp_path))
    assert kept == [[1], [1, 2], [1, 3], [1, 3, 4], [1, 5], [1, 5, 6]]
    reader = Checkpoints(tmp_path, is_read_only=True)
    assert reader.chosen("best") == (5,)
    assert reader.chosen("average:1") == (5,)
    assert reader.chosen("average:2") == (1, 5)
    assert reader.chosen("average:3") == (1, 5, 6)  # the latest has a score, too
    assert reader.chosen("average:6,5") == (5, 6)
    reader.close()


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("average:3", r"needs 3 checkpoints with a validation, .* has 2 \(1, 2\).*keep_best 3"),
        ("average:0", "expected average:N, of the N best.*got 'average:0'"),
        ("average:", "expected average:N"),
        ("average:best", "expected average:N"),
        ("average:1,7", "best, latest or one of 1, 2; got '7'"),
    ],
)
def test_an_average_of_what_there_is_not_is_refused(
    two_steps: Path, which: str, message: str
) -> None:
    reader = Checkpoints(two_steps, is_read_only=True)
    with pytest.raises(ValueError, match=message):
        reader.chosen(which)
    reader.close()


def test_the_average_of_two_checkpoints_is_their_mean(two_steps: Path) -> None:
    """Of the parameters that translate: those of the moving average."""
    reader, like = Checkpoints(two_steps, is_read_only=True), state_of().params
    steps = reader.chosen("average:2")
    assert steps == (1, 2)
    params, digest = reader.translating(steps, like)
    one, two = (jax.tree.leaves(state_of(at=at, seed=at).average) for at in (1, 2))
    for found, first, second in zip(jax.tree.leaves(params), one, two, strict=True):
        assert found.dtype == first.dtype
        np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-6)
    hashes = [reader.params_hash(at, like) for at in (1, 2)]
    assert digest not in hashes
    assert reader.translating(steps, like)[1] == digest
    assert reader.translating((2,), like)[1] == hashes[1]
    reader.close()


def test_counters_are_not_averaged() -> None:
    states = [nnx.State({"x": jnp.array([n, 5.0]), "count": jnp.int32(n)}) for n in (1, 2, 6)]
    found = checkpoint.mean(states)
    np.testing.assert_array_equal(found["x"], [3.0, 5.0])
    assert found["count"] == 6


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


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 (best) and 2."""
    directory = tmp_path_factory.mktemp("two_steps") / "checkpoints"
    checkpoints = Checkpoints(directory)
    checkpoints.save(state_of(at=1, seed=1), PROGRESS, score=2.0)
    checkpoints.save(state_of(at=2, seed=2), PROGRESS, score=1.0)
    checkpoints.close()
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half])
def test_damage_to_any_file_is_found(
    two_steps: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Each file of step 2 in its turn: what is read is what was written, or it is an error that names the
    place and step 1 takes over."""
    names = sorted(
        path.relative_to(two_steps) for path in (two_steps / "2").rglob("*") if path.is_file()
    )
    assert {name.parts[1] for name in names} >= {"params", "training", "progress"}
    written = {step: arrays_of(state_of(at=step, seed=step)) for step in (1, 2)}
    fallen_back = set()
    for number, name in enumerate(names):
        directory = tmp_path / str(number) / "checkpoints"
        shutil.copytree(two_steps, directory)
        damage(directory / name)
        like = state_of()
        reader = Checkpoints(directory, is_read_only=True)
        params = None
        with contextlib.suppress(DamagedCheckpointError):
            params = reader.params(2, like.params)
        if params is not None:
            for found, expected in zip(
                jax.tree.leaves(params), jax.tree.leaves(state_of(seed=2).average), strict=True
            ):
                np.testing.assert_array_equal(found, expected)
        reader.close()
        checkpoints = Checkpoints(directory)
        restored, _ = checkpoints.restore(like)
        checkpoints.close()
        at = int(restored.step)
        for found, expected in zip(arrays_of(restored), written[at], strict=True):
            np.testing.assert_array_equal(found, expected)
        if at == 1:
            fallen_back.add(name.parts[1])
            assert checkpoints.latest_step == 1
            assert len(checkpoints.damaged) == 1
            assert (directory.with_name("damaged") / "2").is_dir()
        shutil.rmtree(directory.parent)
    assert fallen_back >= {"params", "training", "progress"}


@pytest.mark.slow
def test_python_complains_of_no_read_that_a_damaged_file_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eighty arrays are read at once; most of them end after the one that failed."""
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    many = state_of(at=1)
    many = dataclasses.replace(
        many, params=nnx.State({f"layer_{n}": many.params for n in range(40)})
    )
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(dataclasses.replace(many, average=None), PROGRESS, score=None)
    checkpoints.close()
    (data,) = (tmp_path / "checkpoints" / "1" / "params" / "d").iterdir()
    cut_in_half(data)
    for _ in range(5):
        reader = Checkpoints(tmp_path / "checkpoints", is_read_only=True)
        with pytest.raises(DamagedCheckpointError):
            reader.params(1, many.params)
        reader.close()
        gc.collect()
    assert complaints == []


def test_a_failed_read_waits_for_the_others_however_late_they_end() -> None:
    ended = []

    async def fail() -> None:
        raise ValueError("damaged")

    async def read() -> None:
        await asyncio.to_thread(time.sleep, 0.3)
        ended.append("array")
        await asyncio.create_task(more())

    async def more() -> None:
        await asyncio.to_thread(time.sleep, 0.1)
        ended.append("and what it began")
        raise ValueError("damaged too")

    async def all_at_once() -> None:
        await asyncio.gather(read(), fail())

    with reads.none_abandoned():
        loop = asyncio.new_event_loop()
    with pytest.raises(ValueError, match="damaged"):
        loop.run_until_complete(all_at_once())
    assert ended == []
    loop.close()
    assert ended == ["array", "and what it began"]
    after = asyncio.new_event_loop()
    assert type(after) is not type(loop)
    after.close()


def test_where_nothing_is_whole_nothing_is_touched(two_steps: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_steps, directory)
    for path in directory.glob("*/training/**/*"):
        if path.is_file():
            cut_in_half(path)
    before = sorted(tmp_path.rglob("*"))
    checkpoints = Checkpoints(directory)
    with pytest.raises(DamagedCheckpointError, match="/2/training cannot be used"):
        checkpoints.restore(state_of())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_step_saved_after_damage_takes_its_place(two_steps: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_steps, directory)
    flip_a_bit(next((directory / "2" / "progress").rglob("metadata")))
    checkpoints = Checkpoints(directory)
    checkpoints.restore(state_of())
    checkpoints.save(state_of(at=2, seed=2), PROGRESS, score=3.0)
    assert checkpoints.resolve("best") == 2
    restored, _ = checkpoints.restore(state_of())
    np.testing.assert_array_equal(arrays_of(restored)[0], arrays_of(state_of(at=2, seed=2))[0])


def test_a_step_may_be_damaged_twice(two_steps: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_steps, directory)
    for _ in range(2):
        flip_a_bit(directory / "2" / "progress" / "metadata")
        checkpoints = Checkpoints(directory)
        restored, _ = checkpoints.restore(state_of())
        assert int(restored.step) == 1
        checkpoints.save(state_of(at=2, seed=2), PROGRESS, score=3.0)
        checkpoints.close()
        shutil.rmtree(directory)
        shutil.copytree(two_steps, directory)
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["2", "2.1"]


def test_a_reader_moves_no_damage(two_steps: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_steps, directory)
    flip_a_bit(directory / "2" / "progress" / "metadata")
    before = sorted(tmp_path.rglob("*"))
    restored, _ = Checkpoints(directory, is_read_only=True).restore(state_of())
    assert int(restored.step) == 1
    assert sorted(tmp_path.rglob("*")) == before
