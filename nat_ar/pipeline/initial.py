"""What a training starts from: parameters, random or taken from other runs, and the state of step 0 on its devices."""

from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from nat_ar.config_json import ConfigError
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import TrainedModel
from nat_ar.methods import base
from nat_ar.runtime import distributed
from nat_ar.training import step
from nat_ar.training.step import TrainState
from nat_ar.translation.model import vocabulary_sizes


def model(
    config: ExperimentConfig,
    vocabulary: Vocabulary,
    teacher: TrainedModel | None,
    before: TrainedModel | None,
    is_sharded: bool,
) -> tuple[nnx.Module, list[str]]:
    """Random parameters, except those that the config takes from the teacher or another run; and what the log should
    say of that. Where the state is sharded and all of it is random: shapes, from which `state` makes it."""
    notes: list[str] = []
    takes_encoder_or_decoder = config.encoder_from_teacher or config.decoder_from_teacher
    if is_sharded and before is None and not takes_encoder_or_decoder:
        return nnx.eval_shape(lambda: _random_model(config, vocabulary)), notes
    made = _random_model(config, vocabulary)
    if teacher is not None and takes_encoder_or_decoder:
        taught = nnx.merge(teacher.model.graphdef, teacher.model.params)
        if config.encoder_from_teacher:
            base.start_encoder(made, taught)
        if config.decoder_from_teacher:
            anew = base.start_decoder(made, taught)
            notes.append(
                f"decoder from the teacher; at random: {', '.join(anew) or 'nothing of it'}"
            )
    if before is not None:
        old, new = before.model.params, nnx.state(made)
        if jax.tree.map(lambda x: x.shape, old) != jax.tree.map(lambda x: x.shape, new):
            raise ConfigError(
                f"start_from {config.start_from} has parameters of other shapes: give both runs the "
                "same method and transformer"
            )
        nnx.update(made, old)
    return made, notes


def _random_model(config: ExperimentConfig, vocabulary: Vocabulary) -> Any:
    sizes = vocabulary_sizes(vocabulary)
    return config.method.build(sizes, rngs=nnx.Rngs(config.training.seed))


def state(
    config: ExperimentConfig,
    vocabulary: Vocabulary,
    params: nnx.State,
    carried: nnx.State,
    updates: optax.GradientTransformation,
    mesh: Mesh,
    is_new: bool,
) -> TrainState:
    """Step 0 of a model's parameters, or of their shapes, on the devices of a mesh."""

    def state_of(params: nnx.State, carried: nnx.State) -> TrainState:
        return step.initial_state(
            params,
            updates,
            seed=config.training.seed,
            has_average=config.training.average_decay is not None,
            carried=carried,
        )

    if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
        return step.make(mesh, lambda: state_of(*step.split(_random_model(config, vocabulary))[1:]))
    if is_new:
        params, carried = distributed.broadcast((params, carried))
    if mesh.shape[step.FSDP] == 1:
        return step.place(mesh, state_of(params, carried), is_batch=False)
    return step.make(mesh, state_of, *step.place(mesh, (params, carried), is_batch=False))
