"""The one train step that every method runs through: a pure function, jitted and donated.

Batches are sharded over the `data` axis of a mesh of local devices and the state is replicated; the
compiler inserts the sums over devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.runtime import devices
from nat_ar.special_tokens import PAD
from nat_ar.types import Averaged, Batch, Carried, Mean, pytree_dataclass


@pytree_dataclass
class TrainState:
    """All that an update reads and writes."""

    step: Int[Array, ""]
    params: nnx.State
    opt_state: Any
    key: PRNGKeyArray
    average: nnx.State | None = None
    """Exponential moving average of the parameters and of Averaged arrays, where the config asks for one."""
    carried: nnx.State = dataclasses.field(default_factory=lambda: nnx.State({}))
    """The model's Carried arrays."""

    @property
    def translating(self) -> nnx.State:
        """What translating needs: averages where there are some, otherwise parameters, and what is carried."""
        return nnx.merge_state(self.carried, self.params if self.average is None else self.average)


TrainStep = Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, Mean]]]


def data_mesh(num_devices: int | None = None) -> Mesh:
    """All local devices (or the first few) in one row."""
    found = devices.local()
    if num_devices is not None and not 1 <= num_devices <= len(found):
        raise ConfigError(
            f"training.num_devices must be 1 to {len(found)}, the devices of this machine, or None "
            f"for all; got {num_devices}"
        )
    return Mesh(found[:num_devices], ("data",))


def split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A model as its structure, its parameters and its Carried arrays."""
    graphdef, *states = nnx.split(model, nnx.Param, Carried)
    params, carried = states
    return graphdef, params, carried


def initial_state(
    params: nnx.State,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    has_average: bool,
    carried: nnx.State | None = None,
) -> TrainState:
    """Step 0. Dropout draws from the `rbg` generator: threefry costs more than a sublayer on a CPU."""
    carried = nnx.State({}) if carried is None else carried
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key(seed, impl="rbg"),
        average=jax.tree.map(jnp.copy, _averaged(params, carried)) if has_average else None,
        carried=carried,
    )


def _averaged(params: nnx.State, carried: nnx.State) -> nnx.State:
    """What a moving average is taken of."""
    return nnx.merge_state(params, nnx.filter_state(carried, Averaged))


def build_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulation: int = 1,
    average_decay: float | None = None,
    skips_non_finite: bool = False,
    freezes_encoder: bool = False,
    teacher_graphdef: nnx.GraphDef | None = None,
) -> TrainStep:
    """(state, batch, teacher_params) -> (state, terms).

    `accumulation` splits the rows of a batch into that many parts run one after the other; parts weigh
    by their target tokens, so that a token loss equals that of the whole batch. A part starts from what the one
    before it carried on. Terms hold the method's own, the `objective`, and three Euclidean norms: `gradient_norm`
    before clipping, `update_norm`, and `parameter_norm` after the update. With
    `skips_non_finite`, a batch of which any term is not finite changes nothing but the number of the step. With
    `freezes_encoder` the gradients of embeddings and encoder are 0 and cost no backward pass."""

    def objective(
        params: nnx.State,
        carried: nnx.State,
        batch: Batch,
        state: TrainState,
        part: Array,
        teacher_params: Any,
    ) -> tuple[Float[Array, ""], tuple[dict[str, Mean], nnx.State]]:
        own = jax.tree.map(
            lambda x: x, carried
        )  # variables of this trace: the loss may assign them
        if freezes_encoder:
            params = jax.tree_util.tree_map_with_path(_without_gradient_of_encoder, params)
        model = nnx.merge(graphdef, params, own)
        teacher = None if teacher_graphdef is None else nnx.merge(teacher_graphdef, teacher_params)
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), part)
        loss = model.loss(batch, step=state.step, rngs=nnx.Rngs(dropout=key), teacher=teacher)
        terms = {**loss.terms, "objective": Mean(loss.objective, jnp.float32(1))}
        return loss.objective, (terms, carried if loss.carried is None else loss.carried)

    gradient_of = jax.value_and_grad(objective, has_aux=True)

    def gradients(
        state: TrainState, batch: Batch, teacher_params: Any
    ) -> tuple[nnx.State, dict[str, Mean], nnx.State]:
        if accumulation == 1:
            (_, (terms, carried)), grads = gradient_of(
                state.params, state.carried, batch, state, jnp.int32(0), teacher_params
            )
            return grads, terms, carried
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )
        weights = (parts.target != PAD).sum(axis=(1, 2)).astype(jnp.float32)
        weights = weights / jnp.maximum(weights.sum(), 1.0)

        def add(
            so_far: tuple[tuple[nnx.State, dict[str, Mean]], nnx.State],
            item: tuple[Batch, Array, Array],
        ) -> tuple[tuple[tuple[nnx.State, dict[str, Mean]], nnx.State], None]:
            (total, carried), (part, weight, index) = so_far, item
            (_, (terms, carried)), grads = gradient_of(
                state.params, carried, part, state, index, teacher_params
            )
            terms["objective"] = Mean(terms["objective"].total * weight, weight)
            grads = jax.tree.map(lambda gradient: gradient * weight, grads)
            return (jax.tree.map(jnp.add, total, (grads, terms)), carried), None

        def first(part: Batch) -> tuple[nnx.State, dict[str, Mean]]:
            (_, (terms, _)), grads = gradient_of(
                state.params, state.carried, part, state, jnp.int32(0), teacher_params
            )
            return grads, terms

        shapes = jax.eval_shape(first, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        start, items = (zeros, state.carried), (parts, weights, jnp.arange(accumulation))
        ((grads, terms), carried), _ = jax.lax.scan(add, start, items)
        return grads, terms, carried

    def train_step(
        state: TrainState, batch: Batch, teacher_params: Any = None
    ) -> tuple[TrainState, dict[str, Mean]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for losses.blocks
            grads, terms, carried = gradients(state, batch, teacher_params)
        terms["gradient_norm"] = Mean(optax.tree.norm(grads), jnp.float32(1))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        terms["update_norm"] = Mean(optax.tree.norm(updates), jnp.float32(1))
        terms["parameter_norm"] = Mean(optax.tree.norm(params), jnp.float32(1))
        average = state.average
        if average_decay is not None:
            # A short run must not average over its random start: the decay grows with the step.
            warm = (1.0 + state.step) / (10.0 + state.step)
            decay = jnp.minimum(average_decay, warm)
            now = _averaged(params, carried)
            average = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, now)
        after = TrainState(state.step + 1, params, opt_state, state.key, average, carried)
        if skips_non_finite:
            numbers = jnp.stack(jax.tree.leaves(terms))
            before = dataclasses.replace(state, step=after.step)
            after = jax.tree.map(
                functools.partial(jnp.where, jnp.isfinite(numbers).all()), after, before
            )
        return after, terms

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated)


def _without_gradient_of_encoder(path: tuple[Any, ...], leaf: Array) -> Array:
    return jax.lax.stop_gradient(leaf) if base.is_encoder(path) else leaf


def place(mesh: Mesh, tree: Any, *, is_batch: bool) -> Any:
    """Puts a batch (sharded over its rows) or a state (replicated) on the devices."""
    spec = PartitionSpec("data") if is_batch else PartitionSpec()
    return jax.device_put(tree, NamedSharding(mesh, spec))
