"""Everything Orbax: what a run keeps on disk, and how it comes back.

Three items a step: `params` (all that translating needs: averages where there are some, and carried arrays),
`training` (raw parameters, optimizer, step, key, carried arrays; a run that was passed on has none) and `progress`
(JSON: epoch, position, best score, seconds, its own SHA-256, and a checksum of the arrays of each of the others). The
latest and the best by validation are kept, one or several. What comes back is checked against its checksum: a file that
lost a bit is an error, or an older step, never other numbers.

Processes that train together save and restore together, from one file system; the first decides from which step. Each
writes and reads what its own devices hold, on whatever mesh the step was saved. The checksum (training.checksum) is the
same on all; checkpoints of early versions have the SHA-256 of whole arrays instead, and are checked by that."""

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from nat_ar.runtime import distributed, files
from nat_ar.training import checksum, reads
from nat_ar.training.step import TrainState


@dataclasses.dataclass
class LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the latest step and the `number` with the highest scores. Orbax 0.12 forgets the metrics of a
    save when no `best_fn` (deprecated) is set, so the scores are read from our `progress` item."""

    scores: dict[int, float | None]
    number: int = 1

    @property
    def best_steps(self) -> list[int]:
        """The steps that have a score, best first; of equal scores the later step first."""
        ranked = [(score, step) for step, score in self.scores.items() if score is not None]
        return [step for _, step in sorted(ranked, reverse=True)]

    def should_preserve(
        self,
        checkpoints: Sequence[Any],  # PolicyCheckpointInfo, a protocol that cannot be checked
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        self.scores = {step: self.scores.get(step) for step in steps}
        keep = {max(steps), *self.best_steps[: self.number]} if steps else set()
        return [step in keep for step in steps]


AVERAGE = "average:"
"""before the number of best checkpoints, or two or more steps, whose mean is wanted"""
Expected = tuple[str, str]
"""a checksum's kind and itself"""
MARGIN = 2**20
"""bytes of a checkpoint besides its arrays: names, shapes, directories"""


class DamagedCheckpointError(ValueError):
    """Files of a checkpoint that cannot be read, or do not hold what was written."""


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Orbax warns that a directory opened for reading is read-only."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Checkpoints:
    """The checkpoints of one run directory. A writer keeps the latest and the `keep_best` best."""

    def __init__(self, directory: Path, *, is_read_only: bool = False, keep_best: int = 1) -> None:
        self.directory, self.is_read_only = directory.absolute(), is_read_only
        self.damaged: list[str] = []
        """what `restore` could not use, a line each"""
        self.policy = LatestAndBest({}, keep_best)
        if not is_read_only:
            distributed.from_first(lambda: self.directory.mkdir(parents=True, exist_ok=True))
        self.manager = _manager(self.directory, self.policy, is_read_only=is_read_only)
        self.own_reader: ocp.CheckpointManager | None = None
        self.policy.scores = {step: self._score(step) for step in self.manager.all_steps()}

    def _score(self, step: int) -> float | None:
        """A step that lost its progress has no score: it can be latest, but not best."""
        try:
            return self.progress(step)["score"]
        except DamagedCheckpointError:
            return None

    def progress(self, step: int) -> dict[str, Any]:
        """As `save` got it, with its score. Raises DamagedCheckpointError."""
        return self._progress_and_hashes(step)[0]

    def hashes(self, step: int) -> dict[str, str]:
        """Checksums of the arrays of "params" and of "training". Raises DamagedCheckpointError."""
        return {item: hash_ for item, (_, hash_) in self._progress_and_hashes(step)[1].items()}

    def _progress_and_hashes(self, step: int) -> tuple[dict[str, Any], dict[str, Expected]]:
        """Of a run from before there were hashes: none, and nothing is checked."""
        written = self._read(step, "progress", ocp.args.JsonRestore())
        try:
            if any(kind in written for kind in checksum.KINDS) and "checksum" not in written:
                raise ValueError("its checksum is missing")
            progress = files.without_checksum(written)
        except ValueError as error:
            raise self._damaged(step, "progress", str(error)) from error
        hashes = {
            item: (kind, hash_)
            for kind in checksum.KINDS
            for item, hash_ in progress.pop(kind, {}).items()
        }
        return progress, hashes

    def _read(self, step: int, item: str, args: Any) -> Any:
        try:
            with reads.none_abandoned():
                return self._reader().restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # of Orbax, TensorStore or JSON: anything may be damaged
            raise self._damaged(step, item, f"{type(error).__name__}: {_reason(error)}") from error

    def _reader(self) -> ocp.CheckpointManager:
        """Of processes that train together each reads for itself: one may find damage where others find none."""
        if self.is_read_only or distributed.count() == 1:
            return self.manager
        if self.own_reader is None:
            self.own_reader = _manager(self.directory, self.policy, is_read_only=True)
        self.own_reader.reload()
        return self.own_reader

    def _damaged(self, step: int, item: str, why: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(f"{self.directory / str(step) / item} cannot be used: {why}")

    def _read_arrays(
        self, step: int, item: str, like: dict[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.Array]:
        return self._read(step, item, ocp.args.StandardRestore(like))

    def _require(
        self, step: int, item: str, arrays: dict[str, jax.Array], expected: Expected | None
    ) -> None:
        """Raises DamagedCheckpointError where these are not the arrays that were written, and then in all processes
        that hold a part of them."""
        if expected is not None and checksum.KINDS[expected[0]](arrays) != expected[1]:
            raise self._damaged(step, item, "its checksum is not that of what was written")

    @property
    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any], *, score: float | None) -> None:
        """Writes all three items of state.step; a step that exists already is left as it is.

        Raises OSError where the disk does not take them."""
        items = {"params": _by_path(state.translating), "training": _by_path(_training(state))}
        self._save(int(state.step), items, progress, score)

    def save_translating(
        self, step: int, params: nnx.State, progress: dict[str, Any], *, score: float | None
    ) -> None:
        """Writes what translating needs, and its progress: training cannot go on from there. Otherwise as `save`."""
        self._save(step, {"params": _by_path(params)}, progress, score)

    def _save(
        self,
        step: int,
        items: dict[str, dict[str, jax.Array]],
        progress: dict[str, Any],
        score: float | None,
    ) -> None:
        if step in self.manager.all_steps():
            return
        sums = {item: checksum.sums(arrays) for item, arrays in items.items()}
        facts = {**progress, "score": score, checksum.SUMS: sums}
        size = sum(array.nbytes for arrays in items.values() for array in arrays.values())
        distributed.from_first(lambda: self._check_room(size))
        self.policy.scores[step] = score
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    **{item: ocp.args.StandardSave(arrays) for item, arrays in items.items()},
                    progress=ocp.args.JsonSave(files.signed(facts)),
                ),
            )
        except Exception as error:  # TensorStore's for a full disk is a ValueError
            raise OSError(
                f"{self.directory / str(step)} cannot be written: {_reason(error)}; the checkpoint before it "
                "is whole: remove the cause, and run the same command"
            ) from error

    def _check_room(self, size: int) -> None:
        """Before anything is written: Orbax's threads talk at length about a disk that fills up."""
        needed, free = size + MARGIN, shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(
                f"{self.directory}: a checkpoint needs {needed / 2**20:,.1f} MiB, the disk has "
                f"{free / 2**20:,.1f} MiB left: make room, and run the same command"
            )

    def only_translates(self, step: int) -> bool:
        """Whether `save_translating` wrote the step. Raises DamagedCheckpointError."""
        hashes = self.hashes(step)
        return "params" in hashes and "training" not in hashes

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state that is whole, of the shapes, types and placement of `like`, and its progress.

        Damaged steps after it are listed in `damaged`, and moved to `damaged/` beside the checkpoints unless
        these are only read.
        Raises DamagedCheckpointError, and moves nothing, where no step is whole."""
        damaged: list[DamagedCheckpointError] = []
        for step in distributed.from_first(lambda: sorted(self.manager.all_steps(), reverse=True)):
            try:
                restored = self._restore(step, like)
            except DamagedCheckpointError as error:
                damaged.append(error)
                continue
            if damaged and not self.is_read_only:
                self._set_aside([after for after in self.manager.all_steps() if after > step])
            self.damaged = [str(error) for error in damaged]
            return restored
        raise DamagedCheckpointError(
            f"{damaged[0]}; no older step is whole either: restore the files, or train again in another "
            "directory"
        )

    def _set_aside(self, steps: Sequence[int]) -> None:
        distributed.from_first(lambda: self._move_aside(steps))
        self.manager.reload()
        self.policy.scores = {step: self._score(step) for step in self.manager.all_steps()}

    def _move_aside(self, steps: Sequence[int]) -> None:
        place = self.directory.with_name("damaged")
        place.mkdir(exist_ok=True)
        for step in steps:
            names = itertools.chain([str(step)], (f"{step}.{n}" for n in itertools.count(1)))
            free = next(name for name in names if not (place / name).exists())
            os.replace(self.directory / str(step), place / free)

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Raises DamagedCheckpointError in all processes where one of them finds damage."""
        wanted: dict[str, Any] = {"training": _training(like)}
        if like.average is not None:
            wanted["params"] = like.translating
        try:
            with distributed.failing_together():
                progress, hashes = self._progress_and_hashes(step)
                read = {
                    item: self._read_arrays(step, item, _abstract(tree))
                    for item, tree in wanted.items()
                }
        except distributed.ProcessError as error:
            raise DamagedCheckpointError(str(error)) from error
        for item, arrays in read.items():
            self._require(step, item, arrays, hashes.get(item))
        saved = _from_paths(wanted["training"], read["training"])
        average = None if like.average is None else _from_paths(like.average, read["params"])
        key = jax.random.wrap_key_data(saved["key"], impl=jax.random.key_impl(like.key))
        state = TrainState(
            step=saved["step"],
            params=saved["params"],
            opt_state=saved["opt_state"],
            key=key,
            average=average,
            carried=saved["carried"],
        )
        return state, progress

    def chosen(self, which: str) -> tuple[int, ...]:
        """The step that `resolve` knows, or those whose mean is asked for, first to last: "average:5", the best five,
        or "average:300,400", these."""
        if not which.startswith(AVERAGE):
            return (self.resolve(which),)
        words = which.removeprefix(AVERAGE).split(",")
        if not all(word.isdecimal() for word in words) or words == ["0"]:
            raise ValueError(
                f"expected {AVERAGE}N, of the N best, or {AVERAGE} and steps, such as {AVERAGE}300,400; got {which!r}"
            )
        if len(words) > 1:
            return tuple(sorted({self.resolve(word) for word in words}))
        number, ranked = int(words[0]), self.policy.best_steps
        if len(ranked) < number:
            kept = ", ".join(map(str, sorted(ranked))) or "none"
            raise ValueError(
                f"{which} needs {number} checkpoints with a validation, {self.directory} has {len(ranked)} ({kept}): "
                f"train with training.validation.keep_best {number}"
            )
        return tuple(sorted(ranked[:number]))

    def resolve(self, which: str) -> int:
        """The step that `best`, `latest` or a number names."""
        steps = sorted(self.manager.all_steps())
        if not steps:
            raise ValueError(f"no checkpoint in {self.directory}: train this run first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            return next(iter(self.policy.best_steps), steps[-1])
        if which.isdecimal() and int(which) in steps:
            return int(which)
        kept = ", ".join(map(str, steps))
        raise ValueError(
            f"expected checkpoint best, latest or one of {kept}; got {which!r} ({AVERAGE}N is the mean of the N best)"
        )

    def translating(self, steps: Sequence[int], like: nnx.State) -> tuple[nnx.State, str]:
        """What translating needs, of one step or the mean of several, and its hash; see `params` and `params_hash`."""
        if len(steps) == 1:
            return self.params(steps[0], like), self.params_hash(steps[0], like)
        params = mean([self.params(step, like) for step in steps])
        return params, checksum.sha256(_by_path(params))

    def params(self, step: int, like: nnx.State) -> nnx.State:
        """What translating needs, of the shapes of `like` (jax.eval_shape will do).

        Raises DamagedCheckpointError."""
        try:
            _, hashes = self._progress_and_hashes(step)
            arrays = self._read_arrays(step, "params", _abstract(like))
            self._require(step, "params", arrays, hashes.get("params"))
        except DamagedCheckpointError as error:
            others = ", ".join(str(other) for other in self.manager.all_steps() if other != step)
            raise DamagedCheckpointError(
                f"{error}; restore the files, or name another step (there are: {others or 'none'})"
            ) from error
        return _from_paths(like, arrays)

    def params_hash(self, step: int, like: nnx.State) -> str:
        """Checksum of what translating needs: tells a model from any other that was ever at this path and step. Of an
        early checkpoint, which has none, SHA-256 is computed, as of the mean of several.

        Raises DamagedCheckpointError."""
        recorded = self.hashes(step).get("params")
        return checksum.sha256(_by_path(self.params(step, like))) if recorded is None else recorded

    def close(self) -> None:
        self.manager.close()
        if self.own_reader is not None:
            self.own_reader.close()


def _manager(
    directory: Path, policy: LatestAndBest, *, is_read_only: bool
) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        enable_async_checkpointing=False,
        create=False,
        multiprocessing_options=_processes(is_read_only),
        save_interval_steps=0 if is_read_only else 1,
        read_only=is_read_only,
        cleanup_tmp_directories=not is_read_only,
    )
    with _errors_only() if is_read_only else contextlib.nullcontext():
        return ocp.CheckpointManager(directory, options=options)


def _processes(is_read_only: bool) -> ocp.options.MultiprocessingOptions:
    """Of several processes each reads for itself, and all write together. That they are named makes Orbax wait for them
    through the coordination service, and not over their devices, which gives up after half a minute on CPUs."""
    if distributed.count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = distributed.index()
    if is_read_only:
        return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    return ocp.options.MultiprocessingOptions(active_processes=set(range(distributed.count())))


def mean(states: Sequence[nnx.State]) -> nnx.State:
    """The mean of several checkpoints of one run, each parameter for itself (Vaswani et al. 2017, section 6.1), summed
    in float64. Arrays of whole numbers, such as counters, are those of the last."""

    def mean_of(*arrays: jax.Array) -> jax.Array:
        dtype = arrays[0].dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            return arrays[-1]
        total = sum(np.asarray(array, np.float64) for array in arrays)
        return jnp.asarray(total / len(arrays), dtype)

    return jax.tree.map(mean_of, *states)


def _training(state: TrainState) -> dict[str, Any]:
    return {
        "params": state.params,
        "opt_state": state.opt_state,
        "step": state.step,
        "key": jax.random.key_data(state.key),
        "carried": state.carried,
    }


def _by_path(tree: Any) -> dict[str, Any]:
    """A tree as a flat dictionary of arrays, named by their paths: independent of the classes of
    flax and optax that hold them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _reason(error: Exception) -> str:
    """In one line, and the system's own where it is among TensorStore's words."""
    text = " ".join(str(error).split())
    system = [
        os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    ]
    return next((reason for reason in system if reason in text), text[:200])


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
