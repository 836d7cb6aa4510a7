"""Everything Orbax: what a run keeps on disk, and how it comes back.

Three items a step: `params` (all that translating needs: the average where there is one), `training`
(raw parameters, optimizer, step, key) and `progress` (JSON: epoch, position, best score, seconds). The
latest and the best by validation are kept."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from nat_ar.types import TrainState


@dataclasses.dataclass
class LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the latest step and the one with the highest score. Orbax 0.12 forgets the metrics of a
    save when no `best_fn` (deprecated) is set, so the scores are read from our `progress` item."""

    scores: dict[int, float | None]

    @property
    def best_step(self) -> int | None:
        """Of equal scores the later step; None where no step has a score."""
        ranked = [(score, step) for step, score in self.scores.items() if score is not None]
        return max(ranked)[1] if ranked else None

    def should_preserve(
        self,
        checkpoints: Sequence[Any],  # PolicyCheckpointInfo, a protocol that cannot be checked
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        self.scores = {step: self.scores.get(step) for step in steps}
        keep = {max(steps), self.best_step} if steps else set()
        return [step in keep for step in steps]


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, directory: Path, *, is_read_only: bool = False) -> None:
        self.directory = directory.absolute()
        self.policy = LatestAndBest({})
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self.policy,
            enable_async_checkpointing=False,
            create=not is_read_only,
            save_interval_steps=0 if is_read_only else 1,
            read_only=is_read_only,
            cleanup_tmp_directories=not is_read_only,
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options)
        self.policy.scores = {
            step: self.progress(step)["score"] for step in self.manager.all_steps()
        }

    def progress(self, step: int) -> dict[str, Any]:
        item = ocp.args.JsonRestore()
        return self.manager.restore(step, args=ocp.args.Composite(progress=item))["progress"]

    @property
    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any], *, score: float | None) -> None:
        """Writes all three items of state.step; a step that exists already is left as it is."""
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        self.policy.scores[step] = score
        self.manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(_by_path(_translating(state))),
                training=ocp.args.StandardSave(_by_path(_training(state))),
                progress=ocp.args.JsonSave({**progress, "score": score}),
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, of the shapes, types and placement of `like`, and its progress."""
        training = _training(like)
        restored = self.manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(_abstract(_translating(like))),
                training=ocp.args.StandardRestore(_abstract(training)),
                progress=ocp.args.JsonRestore(),
            ),
        )
        saved = _from_paths(training, restored["training"])
        average = _from_paths(_translating(like), restored["params"])
        key = jax.random.wrap_key_data(saved["key"], impl=jax.random.key_impl(like.key))
        state = TrainState(
            step=saved["step"],
            params=saved["params"],
            opt_state=saved["opt_state"],
            key=key,
            average=None if like.average is None else average,
        )
        return state, restored["progress"]

    def resolve(self, which: str) -> int:
        """The step that `best`, `latest` or a number names."""
        steps = sorted(self.manager.all_steps())
        if not steps:
            raise ValueError(f"no checkpoint in {self.directory}: train this run first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            return steps[-1] if self.policy.best_step is None else self.policy.best_step
        if which.isdecimal() and int(which) in steps:
            return int(which)
        kept = ", ".join(map(str, steps))
        raise ValueError(f"expected checkpoint best, latest or one of {kept}; got {which!r}")

    def params(self, step: int, like: nnx.State) -> nnx.State:
        """What translating needs, of the shapes of `like` (jax.eval_shape will do)."""
        item = ocp.args.StandardRestore(_abstract(like))
        restored = self.manager.restore(step, args=ocp.args.Composite(params=item))
        return _from_paths(like, restored["params"])

    def close(self) -> None:
        self.manager.close()


def _translating(state: TrainState) -> nnx.State:
    return state.params if state.average is None else state.average


def _training(state: TrainState) -> dict[str, Any]:
    return {
        "params": state.params,
        "opt_state": state.opt_state,
        "step": state.step,
        "key": jax.random.key_data(state.key),
    }


def _by_path(tree: Any) -> dict[str, Any]:
    """A tree as a flat dictionary of arrays, named by their paths: independent of the classes of
    flax and optax that hold them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _from_paths(like: Any, arrays: dict[str, Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in _by_path(like)])


def _abstract(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    device = SingleDeviceSharding(jax.local_devices()[0])
    return {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device
        )
        for name, leaf in _by_path(tree).items()
    }
