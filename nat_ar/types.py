"""The arrays that the layers hand to each other, as frozen dataclasses that JAX can trace."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=False)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are pytree children, in order.

    Unflattening does not call `__init__`: JAX rebuilds trees around placeholders (in `eval_shape`,
    in `tree.map` to non-arrays) that no annotation would accept."""
    cls = dataclasses.dataclass(frozen=True)(cls)  # type: ignore[assignment]
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    def flatten_with_keys(value: T) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(value, name)) for name in names], None

    def flatten(value: T) -> tuple[list[Any], None]:
        return [getattr(value, name) for name in names], None

    def unflatten(_: None, children: Any) -> T:
        value = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@pytree_dataclass
class Batch:
    """Padded sentence pairs. Source and target both end with EOS; a row of PAD only is no sentence."""

    source: Int[Array, "batch source_length"]
    target: Int[Array, "batch target_length"]
    fertilities: Int[Array, "batch source_length"] | None = None
    """How many target tokens (EOS not counted) each source token accounts for; sums to the target's
    length without EOS. Present where the prepared data have it."""


@pytree_dataclass
class Encoded:
    """What an encoder hands to every decoder."""

    states: Float[Array, "batch source_length d_model"]
    lengths: Int[Array, "batch"]
    """Source tokens of each row, EOS included."""


@pytree_dataclass
class Mean:
    """A mean that is still a sum and a count: adds up over batches and devices, divides once."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> Float[Array, ""]:
        """total / count; 0 where nothing was counted."""
        return self.total / jax.numpy.maximum(self.count, 1.0)


@pytree_dataclass
class Loss:
    """What a method minimises, and the parts that a log shows."""

    objective: Float[Array, ""]
    terms: dict[str, Mean]


@pytree_dataclass
class Hypotheses:
    """Translations of a batch, best first, without BOS and EOS, padded on the right with PAD."""

    tokens: Int[Array, "batch n_best length"]
    scores: Float[Array, "batch n_best"]
    """The number that ordered them, in nats; higher is better. Methods say what it is."""
    steps: Int[Array, "batch"]
    """Sequential decoder passes used, scoring passes of a rescorer included."""


@pytree_dataclass
class Internal:
    """One quantity that a method computes on its way to a translation, such as its fertilities."""

    values: Shaped[Array, "batch *axes"]
    lengths: dict[int, Int[Array, "batch"]]
    """axis of `values` -> how many of its entries are real in each row, where the axis is padded"""


@pytree_dataclass
class TrainState:
    step: Int[Array, ""]
    params: nnx.State
    opt_state: Any
    key: PRNGKeyArray
    average: nnx.State | None = None
    """Exponential moving average of the parameters, where the config asks for one."""


Cache = Any
StepFunction = Callable[
    [Int[Array, "batch beam"], Cache, Int[Array, ""] | Int[Array, "batch"]],
    tuple[Float[Array, "batch beam vocabulary"], Cache],
]
"""All that a search knows of a model: tokens at `position` (one for all rows, or one for each) and a cache in,
logits and a cache out.
The cache is Reorderable, or every leaf of it has leading axes [batch, beam]."""


@runtime_checkable
class Reorderable(Protocol):
    """A cache that knows itself what it means that hypotheses go on from others."""

    def reordered(self, beams: Int[Array, "batch beam"]) -> Any:
        """The cache in which hypothesis n goes on from hypothesis beams[n]."""
        ...
