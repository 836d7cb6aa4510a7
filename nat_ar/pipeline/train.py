"""Trains the model of an experiment, or resumes its training.

The same command after an interruption resumes at the last checkpoint, to the same parameters, data
order and log, bit for bit. A directory with another config is refused."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Bool

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import arrays, prepare, references
from nat_ar.data.arrays import PreparedData
from nat_ar.data.batching import BatchPlan
from nat_ar.data.checked import Check
from nat_ar.data.loader import Loader, Pairs
from nat_ar.data.ragged import Ragged
from nat_ar.data.subword_regularisation import SampledPieces
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.experiment import run as runs
from nat_ar.experiment.config import ExperimentConfig, load_experiment
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.pipeline import initial, row_multiple, validation
from nat_ar.runtime import bars, devices, distributed, malloc, out_of_memory
from nat_ar.training import loop, optimizer, step, tracking
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.logging import RunLog
from nat_ar.training.loop import Progress
from nat_ar.training.step import TrainState, TrainStep
from nat_ar.translation import decodings
from nat_ar.translation.model import require_device, vocabulary_sizes

_PART = 1 << 20
"""pairs that are looked at together"""


def train(
    config: ExperimentConfig | str | Path,
    run: Run | str | Path | None = None,
    *,
    mesh: str | None = None,
) -> Run:
    """Trains to the end, or from where the run stopped to the end, and returns the run.

    `config`: an experiment or its Python file; `run`: its directory, runs/NAME by default; `mesh`: which devices share
    each batch, "data=8" or "data=-1" for all, and how many of them share a copy of the state, "data=8,fsdp=4"; by
    default what training.num_devices says. Processes that train together
    (runtime.distributed) all call it alike. Raises ConfigError where another process is training this run, or the
    directory holds another experiment."""
    bars.is_muted = not distributed.is_first()
    malloc.keep_freed_memory()  # for callers from Python; the command line has done so before JAX started
    if not isinstance(config, ExperimentConfig):
        config = load_experiment(config)
    config = dataclasses.replace(config, data=prepare.as_begun(config.data))
    to = Run.of(f"runs/{config.name}" if run is None else run)
    smaller = "take a smaller model (its d_model, d_hidden and numbers of layers)"
    reading = bars.line(f"{config.name}: reading {config.training_directory}")
    with distributed.failing_together(), out_of_memory.explained(smaller), reading:
        references.require(config.data.corpus.tokenizer)
        require_device(config.method)
        # One file system: what the first process finds in order is so for all.
        check: Check = "usual" if distributed.is_first() else "sizes"
        data = PreparedData.load(config.training_directory, check=check)
        if not to.has_work():  # else the hashes of what it was trained on are compared
            _check_data(config, data)
        teacher = None if config.teacher is None else Run.of(config.teacher).load()
        before = None if config.start_from is None else Run.of(config.start_from).load()
        for other in (teacher, before):
            _check_vocabularies(data.vocabulary, other)
        _check_teacher(config, teacher)
        number = config.training.num_devices
        shared = step.data_mesh(number) if mesh is None else step.mesh_of(mesh)
        if not to.has_work():  # one that began on a GPU may go on here
            devices.require_fast_training(config.method.network.dtype, shared.size)
        multiple = row_multiple.of_new_run(config.training, shared.size)
        batches = loader_of(data, config).with_row_multiple(multiple)
        is_sharded = shared.shape[step.FSDP] > 1
        model, notes = initial.model(config, data.vocabulary, teacher, before, is_sharded)
        if config.training.tracker is not None:
            tracking.require(config.training.tracker)
        validation.require_criterion(config, data)
        if not to.has_work():
            _check_lost(config, batches)
    require_same(config, data)
    # Last: an impossible config must not claim the directory.
    started = to.started(config, data, teacher=teacher, start_from=before)
    with out_of_memory.explained(smaller), started:
        _train(config, to, data, teacher, shared, batches, model, notes)
    return to


def require_same(config: ExperimentConfig, data: PreparedData) -> None:
    """Raises ConfigError in a process that was not given what the first was, and ProcessError in the others."""
    own = {"config": config_json.to_json(config), "data": data.hash}
    distributed.require_same(own, "all processes train one experiment")


def _train(
    config: ExperimentConfig,
    to: Run,
    data: PreparedData,
    teacher: TrainedModel | None,
    mesh: Mesh,
    batches: Loader,
    model: nnx.Module,
    notes: Sequence[str],
) -> None:
    checkpoints = Checkpoints(
        to.checkpoints_directory, keep_best=config.training.validation.keep_best
    )
    if _only_translates(to, checkpoints, config):
        return
    graphdef, params, carried = step.split(model)
    updates = optimizer.build(config.training.optimizer, max_steps=config.training.max_steps)
    is_new = distributed.from_first(lambda: checkpoints.latest_step is None)
    state = initial.state(config, data.vocabulary, params, carried, updates, mesh, is_new)
    state, progress = _resume(state, checkpoints)
    progress.reconsider(int(state.step), config.training)
    if progress.is_finished:
        checkpoints.close()
        _say_finished(config, progress, int(state.step))
        return
    warnings = [
        f"{damage}; moved to {to.directory / 'damaged'}, going on from an older step"
        for damage in checkpoints.damaged
    ]
    if at := int(state.step):
        known = row_multiple.of_resumed_run(batches, progress, at, config.training, mesh.size)
        if known is None:
            warnings.append(
                "no number of devices explains which pairs this run has seen: it may have gone on with another number "
                "before, and have seen some pairs of an epoch twice and others never"
            )
        else:
            batches = batches.with_row_multiple(known)
    progress.row_multiple = batches.plan.config.row_multiple
    log = RunLog(to.directory, resumed_step=at, tracker=config.training.tracker)
    for warning in warnings:
        log.say(f"warning: {warning}")
    _say_start(log, config, batches, params, at)
    if not at:
        for note in notes:
            log.say(note)
    train_step_at = _train_steps(
        config, graphdef, vocabulary_sizes(data.vocabulary), updates, mesh, teacher, state
    )
    measure = validation.Validation(config, data, graphdef, teacher)

    def validate(params: nnx.State) -> dict[str, float]:
        return measure(step.replicated(params))

    try:
        loop.run(
            state,
            progress,
            train_step_at,
            batches,
            validate,
            config=config.training,
            mesh=mesh,
            checkpoints=checkpoints,
            log=log,
            teacher_params=None if teacher is None else teacher.model.params,
        )
    finally:
        log.close()
        checkpoints.close()


def _only_translates(to: Run, checkpoints: Checkpoints, config: ExperimentConfig) -> bool:
    """Whether the run has parameters without what training goes on from, and all its steps behind it. Raises
    ConfigError where some are left."""
    at = checkpoints.latest_step
    if at is None or not checkpoints.only_translates(at):
        return False
    progress = _progress(checkpoints.progress(at))
    checkpoints.close()
    progress.reconsider(at, config.training)
    if not progress.is_finished:
        raise ConfigError(
            f"{to.directory} was passed on without its optimizer's state, at step {at:,} of "
            f"{config.training.max_steps:,}: it translates, and its training cannot go on. Start another run from it: "
            f"--start-from {to.directory}"
        )
    _say_finished(config, progress, at)
    return True


def _say_finished(config: ExperimentConfig, progress: Progress, at: int) -> None:
    bars.say(f"{config.name} is finished: {progress.ended(at, config.training)}")


def _train_steps(
    config: ExperimentConfig,
    graphdef: nnx.GraphDef,
    sizes: VocabularySizes,
    updates: optax.GradientTransformation,
    mesh: Mesh,
    teacher: TrainedModel | None,
    state: TrainState,
) -> Callable[[int], TrainStep]:
    """The train step of every update: another where the method is in another stage, or the encoder is frozen."""
    training, shardings = config.training, step.shardings_of(mesh, state)

    @functools.cache
    def built(method: Method, freezes_encoder: bool) -> TrainStep:
        stage = graphdef
        if method != config.method:
            stage, _, _ = step.split(nnx.eval_shape(lambda: method.build(sizes, rngs=nnx.Rngs(0))))
        return step.build_train_step(
            stage,
            updates,
            mesh,
            accumulation=training.accumulation,
            average_decay=training.average_decay,
            skips_non_finite=training.skip_non_finite > 0,
            freezes_encoder=freezes_encoder,
            teacher_graphdef=None if teacher is None else teacher.model.graphdef,
            has_kernels=step.may_have_kernels(mesh),
            shardings=shardings,
        )

    return lambda number: built(
        config.method.at(number), training.optimizer.freezes_encoder(number)
    )


def _check_data(config: ExperimentConfig, data: PreparedData) -> None:
    """Raises ConfigError where the prepared data are not those that the config describes."""
    made = prepare.config_of(data)
    if config.train_on is None:
        old, new = (
            config_json.to_json(dataclasses.replace(one, directory=""))
            for one in (made, config.data)
        )
        if changed := list(config_json.differences(old, new)):
            raise ConfigError(
                f"{data.directory} was prepared with another config ({'; '.join(changed)}): name another "
                "data.directory and prepare it, or give the config that it was prepared with"
            )
        return
    own = Path(config.data.directory)
    expected = None
    if (own / arrays.MANIFEST).exists():
        expected = arrays.read_manifest(own)["vocabulary"]["hash"]
    is_other = expected not in (None, data.vocabulary.hash)
    if is_other or (expected is None and made.vocabulary != config.data.vocabulary):
        raise ConfigError(
            f"train_on {config.train_on} has another vocabulary than data.directory {own}, on which the run is "
            "validated and evaluated: name data that were distilled from it, or the data that train_on was "
            "distilled from"
        )


def _check_teacher(config: ExperimentConfig, teacher: TrainedModel | None) -> None:
    """Raises ConfigError where an autoregressive teacher is needed and another is named."""
    rescores = decodings.needs_scorer(config.method, config.method.decoding)
    if teacher is not None and (rescores or config.method.needs_teacher):
        runs.require_scorer(teacher, f"teacher {config.teacher}")


def _check_vocabularies(vocabulary: Vocabulary, teacher: TrainedModel | None) -> None:
    if teacher is not None and teacher.vocabulary.hash != vocabulary.hash:
        raise ConfigError(
            f"the teacher's vocabulary has hash {teacher.vocabulary.hash[:12]}, the data's "
            f"{vocabulary.hash[:12]}: train both on data prepared with one vocabulary"
        )


def loader_of(data: PreparedData, config: ExperimentConfig) -> Loader:
    """The training batches of an experiment, with rows of any number unless the config says a multiple."""
    split, training = data.split("train"), config.training
    plan = BatchPlan(split.length_order, training.batching, seed=training.seed)
    sampled = None
    if training.subword_regularisation is not None:
        sampled = SampledPieces(
            split,
            data.vocabulary,
            training.subword_regularisation,
            kind=prepare.config_of(data).vocabulary.kind,
            seed=training.seed,
            is_usable=functools.partial(_is_usable, config),
        )
    pairs = Pairs(split.source, split.target, split.fertilities)
    if training.word_distributions:
        if split.distributions is None:
            raise ConfigError(
                f"training.word_distributions needs the distributions of a teacher, {data.directory} has none: "
                "train_on data made by distill --word-distributions 8"
            )
        pairs = pairs._replace(
            distributions=split.distributions, distribution_share=training.word_distributions
        )
    return Loader(pairs, plan, sampled)


def _check_lost(config: ExperimentConfig, batches: Loader) -> None:
    """Raises ConfigError where more of the training pairs would be left out than the config allows."""
    source, target = batches.pairs.source, batches.pairs.target
    number, allowed = len(source), config.training.max_lost
    lost = sum(int((~_is_usable(config, *part)).sum()) for part in _parts(source, target))
    if lost > allowed * number:
        buckets = batches.plan.num_left_out
        raise ConfigError(
            f"training would leave out {lost:,} of {number:,} pairs, {lost / number:.0%}: {buckets:,} are longer than "
            f"the last bucket, the others have a target that {type(config.method).__name__} as configured cannot make "
            f"of so short a source; expected at most {allowed:.0%}: raise training.batching.buckets or the method's "
            "upsampling, or allow it by training.max_lost"
        )


def _is_usable(
    config: ExperimentConfig, source: Ragged, target: Ragged
) -> Bool[np.ndarray, "pairs"]:
    """True for the pairs that fit a bucket and that the method can learn."""
    longest = np.maximum(source.lengths, target.lengths) + 1
    is_short = longest <= config.training.batching.buckets[-1]
    return is_short & config.method.is_feasible(source.lengths, target.lengths, target.repeats)


def _resume(state: TrainState, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    if checkpoints.latest_step is None:
        return state, Progress()
    state, saved = checkpoints.restore(state)
    return state, _progress(saved)


def _progress(saved: dict[str, Any]) -> Progress:
    """As a checkpoint has it, which may know more or less than this version."""
    names = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in saved.items() if name in names})


def _say_start(
    log: RunLog, config: ExperimentConfig, batches: Loader, params: nnx.State, at: int
) -> None:
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    about = "" if batches.sampled is None else "about "
    log.say(
        f"{config.name}: {size:,} parameters, {about}{len(batches.plan):,} batches an epoch, "
        f"{config.training.max_steps:,} steps" + (f", resumed at step {at:,}" if at else "")
    )
    if batches.plan.num_left_out:
        log.say(
            f"warning: {batches.plan.num_left_out:,} training pairs are longer than the last bucket "
            f"({config.training.batching.buckets[-1]}) and are left out"
        )
    batching = config.training.batching
    larger = [
        width for width, rows, _ in batches.plan.buckets if rows * width > batching.batch_tokens
    ]
    if larger:
        log.say(
            f"warning: batches of {larger[0]} to {larger[-1]} positions are larger than training.batching.batch_tokens "
            f"({batching.batch_tokens:,}): their rows are {batches.plan.config.row_multiple}, of which devices times "
            "accumulation take equal shares"
        )
    infeasible = num_infeasible(config.method, batches.pairs.source, batches.pairs.target)
    if infeasible:
        log.say(
            f"warning: {infeasible:,} of {len(batches.pairs.source):,} training pairs have a target that "
            f"{type(config.method).__name__} as configured cannot make of so short a source; the loss "
            "leaves them out"
        )


def num_infeasible(method: Method, source: Ragged, target: Ragged) -> int:
    """Pairs whose target the method could not produce whatever it learned; see base.Method."""
    return sum(
        int((~method.is_feasible(one.lengths, other.lengths, other.repeats)).sum())
        for one, other in _parts(source, target)
    )


def _parts(source: Ragged, target: Ragged) -> Iterator[tuple[Ragged, Ragged]]:
    """All pairs, a million at a time: what is asked of them takes no more memory in a larger corpus."""
    for start in range(0, len(source), _PART):
        yield source.part(start, start + _PART), target.part(start, start + _PART)
