"""The one train step that every method runs through: a pure function, jitted and donated.

The devices of all processes form a mesh of two axes. A batch is sharded over both. The state is whole on every device
along `data`; along `fsdp`, which has length 1 unless asked otherwise, each device keeps a part of every large array:
of parameters, moments and averages (as ZeRO does, Rajbhandari et al. 2020, arXiv:1910.02054, and FSDP, Zhao et al.
2023, arXiv:2304.11277). A step gathers the parameters once, for all its parts, and updates where the moments are; the
compiler inserts what devices exchange."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.runtime import devices, distributed, training_kernels
from nat_ar.special_tokens import PAD
from nat_ar.training import trees
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


T = TypeVar("T")
TrainStep = Callable[..., tuple[TrainState, dict[str, Mean]]]
"""(state, batch, teacher_params, stop_wishes) -> (state, terms); see `build_train_step`"""
STOP_WISHES = "stop_wishes"
"""the term that says on how many devices a stop was asked for"""


GENERATOR = "rbg"
"""of what dropout draws: threefry costs more than a sublayer on a CPU"""
DATA, FSDP = "data", "fsdp"
"""the axes of a mesh"""
LARGE = 2**16
"""values that an array has at least to be sharded over `fsdp`: a smaller one is sooner kept than sent"""


def data_mesh(num_devices: int | None = None, fsdp: int = 1) -> Mesh:
    """The devices of all processes, `fsdp` neighbours a row; of a process that is alone, the first few where a number
    is given. Neighbours are devices of one process as far as it has so many: what they exchange does not leave it."""
    found = devices.all_processes()
    least = 1 if distributed.count() == 1 else len(found)  # each must have its share of the work
    if num_devices is not None and not least <= num_devices <= len(found):
        raise ConfigError(
            f"N times M of --mesh data=N,fsdp=M, or training.num_devices, must be {least} to {len(found)}, the devices "
            f"of {'this machine' if least == 1 else 'all processes'}, or left out for all; got {num_devices}"
        )
    return Mesh(np.array(found[:num_devices]).reshape(-1, fsdp), (DATA, FSDP))


def mesh_of(text: str) -> Mesh:
    """The mesh that is written "data=8,fsdp=4". -1, and data where it is left out, is for what is left of the devices;
    fsdp is 1 where it is left out. Raises ConfigError."""
    there = len(devices.all_processes())
    sizes = sizes_of(text, there)
    return data_mesh(math.prod(sizes), sizes[1])


def sizes_of(text: str, there: int) -> tuple[int, int]:
    """(data, fsdp) of a mesh as it is written, of devices of which so many are there."""
    parts = [word.partition("=") for word in text.split(",")]
    sizes = {DATA: "-1", FSDP: "1", **{axis: size for axis, _, size in parts}}
    sound = all(size == "-1" or (size.isdecimal() and int(size)) for size in sizes.values())
    given = [axis for axis, _, _ in parts]
    if not sound or len(sizes) > 2 or len(given) > len(set(given)):
        raise ConfigError(
            "--mesh is data=N,fsdp=M, where N times M devices share each batch and M of them one copy of the state; "
            f"either may be left out, and one may be -1, for all that are left; got {text!r}"
        )
    data, fsdp = (int(sizes[axis]) for axis in (DATA, FSDP))
    if -1 not in (data, fsdp):
        return data, fsdp
    known = max(data, fsdp)
    if known == -1 or there % known:
        raise ConfigError(
            f"--mesh {text}: -1 is for what is left of {there} devices, which the other of data and fsdp must divide"
        )
    left = there // known
    return (left, known) if data == -1 else (known, left)


def sharding_of(mesh: Mesh | AbstractMesh, array: Any) -> NamedSharding:
    """Where an array of the state, or one of its shape, belongs: the longest of its axes that the length of `fsdp`
    divides, the first of equals, is sharded over it; an array without such an axis, or with fewer than LARGE values, is
    whole on every device."""
    parts = mesh.shape[FSDP]
    fitting = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
    if parts == 1 or not fitting or math.prod(array.shape) < LARGE:
        return NamedSharding(mesh, PartitionSpec())
    axis = max(fitting, key=lambda axis: array.shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP))


def shardings_of(mesh: Mesh, state: T) -> T:
    """The same tree, with the sharding of each array instead of it."""
    return jax.tree.map(functools.partial(sharding_of, mesh), state)


def may_have_kernels(mesh: Mesh) -> bool:
    """Whether networks may call runtime.training_kernels there: on a CPU that is one device."""
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return is_cpu and mesh.size == 1 and training_kernels.are_available()


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
    """Step 0."""
    carried = nnx.State({}) if carried is None else carried
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key(seed, impl=GENERATOR),
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
    has_kernels: bool = False,
    shardings: TrainState | None = None,
) -> TrainStep:
    """(state, batch, teacher_params, stop_wishes) -> (state, terms).

    `accumulation` splits the rows of a batch into that many parts run one after the other; parts weigh
    by their target tokens, so that a token loss equals that of the whole batch. A part starts from what the one
    before it carried on. Terms hold the method's own, the `objective`, and three Euclidean norms: `gradient_norm`
    before clipping, `update_norm`, and `parameter_norm` after the update. With
    `skips_non_finite`, a batch of which any term is not finite changes nothing but the number of the step. With
    `freezes_encoder` the gradients of embeddings and encoder are 0 and cost no backward pass. `stop_wishes`, with 1 on
    each device whose process was asked to stop, come back as their sum: all processes learn of it after the same
    step. `has_kernels`: the step calls the kernels of this machine's CPU (runtime.training_kernels).
    `shardings` are those of the state, `shardings_of`, and needed where its arrays are sharded."""
    replicated = NamedSharding(mesh, PartitionSpec())
    is_sharded = mesh.shape[FSDP] > 1

    def whole(tree: T) -> T:
        """On every device."""
        return jax.lax.with_sharding_constraint(tree, replicated) if is_sharded else tree

    def in_parts(tree: T) -> T:
        """Each device its own part, as of the state."""
        if not is_sharded:
            return tree
        return jax.lax.with_sharding_constraint(tree, shardings_of(mesh, tree))

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
        with training_kernels.in_use(has_kernels):
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
            return in_parts(grads), terms, carried
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
            grads = in_parts(jax.tree.map(lambda gradient: gradient * weight, grads))
            return (jax.tree.map(jnp.add, total, (grads, terms)), carried), None

        def first(part: Batch) -> tuple[nnx.State, dict[str, Mean]]:
            (_, (terms, _)), grads = gradient_of(
                state.params, state.carried, part, state, jnp.int32(0), teacher_params
            )
            return grads, terms

        shapes = jax.eval_shape(first, jax.tree.map(lambda x: x[0], parts))
        no_grads, no_terms = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        zeros = in_parts(no_grads), no_terms
        start, items = (zeros, state.carried), (parts, weights, jnp.arange(accumulation))
        ((grads, terms), carried), _ = jax.lax.scan(add, start, items)
        return grads, terms, carried

    def train_step(
        state: TrainState,
        batch: Batch,
        teacher_params: Any = None,
        stop_wishes: Int[Array, "devices"] | None = None,
    ) -> tuple[TrainState, dict[str, Mean]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for losses.blocks
            gathered = dataclasses.replace(
                state, params=whole(state.params), carried=whole(state.carried)
            )
            grads, terms, carried = gradients(gathered, batch, whole(teacher_params))
        with training_kernels.in_use(has_kernels):
            terms["gradient_norm"] = Mean(trees.norm(grads), jnp.float32(1))
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = trees.added(state.params, updates)
            terms["update_norm"] = Mean(trees.norm(updates), jnp.float32(1))
            terms["parameter_norm"] = Mean(trees.norm(params), jnp.float32(1))
        if stop_wishes is not None:
            terms[STOP_WISHES] = Mean(stop_wishes.sum().astype(jnp.float32), jnp.float32(1))
        average = state.average
        if average_decay is not None:
            # A short run must not average over its random start: the decay grows with the step.
            warm = (1.0 + state.step) / (10.0 + state.step)
            decay = jnp.minimum(average_decay, warm)
            now = _averaged(params, carried)
            with training_kernels.in_use(has_kernels):
                average = trees.towards(average, now, 1.0 - decay)
        after = TrainState(state.step + 1, params, opt_state, state.key, average, carried)
        if skips_non_finite:
            numbers = jnp.stack(jax.tree.leaves(terms))
            before = dataclasses.replace(state, step=after.step)
            after = jax.tree.map(
                functools.partial(jnp.where, jnp.isfinite(numbers).all()), after, before
            )
        return after, terms

    placed = replicated if shardings is None else shardings
    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, replicated))


def _without_gradient_of_encoder(path: tuple[Any, ...], leaf: Array) -> Array:
    return jax.lax.stop_gradient(leaf) if base.is_encoder(path) else leaf


def _by_row(mesh: Mesh) -> NamedSharding:
    """Where the rows of a batch belong."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def own_rows(mesh: Mesh, number: int) -> slice:
    """Of a batch with so many rows, those that devices of this process hold: neighbours, as the devices are."""
    indices = _by_row(mesh).addressable_devices_indices_map((number,)).values()
    held = [index[0].indices(number) for index in indices if index is not None]
    return slice(min(start for start, _, _ in held), max(stop for _, stop, _ in held))


def place(mesh: Mesh, tree: Any, *, is_batch: bool) -> Any:
    """Puts a batch (sharded over its rows) or a state (`sharding_of`) on the devices. Every process has all of it, or
    of a batch its `own_rows`, and puts what its own devices hold."""
    by_row = _by_row(mesh)
    shardings = jax.tree.map(lambda _: by_row, tree) if is_batch else shardings_of(mesh, tree)
    if by_row.is_fully_addressable:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_placed, shardings, tree)


def _placed(sharding: NamedSharding, leaf: Any) -> Array:
    """One array, of which the devices of this process get their parts."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _placed(sharding, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def make(mesh: Mesh, function: Callable[..., T], *arguments: Any) -> T:
    """function(*arguments), a state, of which every device makes its own part: it is never whole anywhere."""
    shardings = shardings_of(mesh, jax.eval_shape(function, *arguments))
    return jax.jit(function, out_shardings=shardings)(*arguments)


def compile_everywhere(train_step: Any, *arguments: Any) -> None:
    """Compiles a jitted step for these arguments, and waits for the processes that still do: the devices of the fastest
    would wait for the others in the step itself, and give up, those of CPUs after half a minute. Its call finds the
    program."""
    if distributed.count() > 1:
        train_step.lower(*arguments).compile()
        distributed.barrier("compiled")


def stop_wishes(mesh: Mesh, is_asked: bool) -> Int[Array, "devices"]:
    """For the devices of this process, whether it was asked to stop."""
    return place(mesh, np.full(mesh.size, is_asked, np.int32), is_batch=True)


def replicated(params: nnx.State) -> nnx.State:
    """Arrays of a state, whole on every device. Where they are sharded, all processes must ask."""
    if all(array.is_fully_replicated for array in jax.tree.leaves(params)):
        return params
    return _gather(jax.tree.leaves(params)[0].sharding.mesh)(params)


@functools.cache
def _gather(mesh: Mesh) -> Callable[[nnx.State], nnx.State]:
    return jax.jit(lambda params: params, out_shardings=NamedSharding(mesh, PartitionSpec()))


def on_each_device(params: nnx.State) -> dict[jax.Device, nnx.State]:
    """Replicated arrays as they are on every device of this process that has them."""
    shards = jax.tree.leaves(params)[0].addressable_shards
    return {
        shard.device: jax.tree.map(lambda array, at=at: array.addressable_shards[at].data, params)
        for at, shard in enumerate(shards)
    }
