"""The arrays that the layers hand to each other, as frozen dataclasses that JAX can trace, and what every layer
asks of rows of tokens."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from nat_ar.runtime import training_kernels
from nat_ar.special_tokens import EOS, PAD

T = TypeVar("T")


@dataclass_transform(
    frozen_default=True, kw_only_default=False, field_specifiers=(dataclasses.field,)
)
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
class SoftTargets:
    """At each position several words that are right to some degree: weights add up to 1, and are 0 on PAD."""

    tokens: Int[Array, "batch target_length choices"]
    weights: Float[Array, "batch target_length choices"]


@pytree_dataclass
class Batch:
    """Padded sentence pairs. Source and target both end with EOS; a row of PAD only is no sentence."""

    source: Int[Array, "batch source_length"]
    target: Int[Array, "batch target_length"]
    fertilities: Int[Array, "batch source_length"] | None = None
    """How many target tokens (EOS not counted) each source token accounts for; sums to the target's
    length without EOS. Present where the prepared data have it."""
    soft: SoftTargets | None = None
    """What a teacher thought of each target position, and the target's own word. Present where training asks for it."""


@pytree_dataclass
class Encoded:
    """What an encoder hands to every decoder."""

    states: Float[Array, "batch source_length d_model"]
    lengths: Int[Array, "batch"]
    """Source tokens of each row, EOS included."""


@pytree_dataclass
class Prediction:
    """What a model predicts at each position, not multiplied out: logits are the inner products of a position's state
    with the vector of every token."""

    states: Float[Array, "*axes d_model"]
    table: Float[Array, "vocabulary d_model"]

    def logits(self) -> Float[Array, "*axes vocabulary"]:
        """In float32; the products are of the type of the states."""
        flat = self.states.reshape(-1, self.states.shape[-1])
        if training_kernels.multiply(flat.dtype):
            logits = training_kernels.inner(flat, self.table)
        else:
            logits = jax.lax.dot_general(
                flat,
                self.table.astype(flat.dtype),
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
        return logits.reshape(*self.states.shape[:-1], logits.shape[-1])


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
        return self.total / jnp.maximum(self.count, 1.0)


@pytree_dataclass
class Loss:
    """What a method minimises, and the parts that a log shows."""

    objective: Float[Array, ""]
    terms: dict[str, Mean]
    carried: nnx.State | None = None
    """The next values of the model's Carried variables: nnx.state(model, Carried) after the loss has assigned them.
    None: they stay."""


@pytree_dataclass
class Verification:
    """How a model verified the drafts of its translations (search/verification.py)."""

    passes: Int[Array, "batch"]
    """Passes of the model that verifies, which Hypotheses.passes counts too."""
    near_ties: Int[Array, "batch"] | None
    """Words, EOS included, whose choice another order of adding might have turned. None: the passes have the bits of
    single steps, and there can be none."""


@pytree_dataclass
class Hypotheses:
    """Translations of a batch, best first, without BOS and EOS, padded on the right with PAD."""

    tokens: Int[Array, "batch n_best length"]
    scores: Float[Array, "batch n_best"]
    """The number that ordered them, in nats; higher is better. Methods say what it is."""
    passes: Int[Array, "batch"]
    """Sequential decoder passes, a rescorer's or drafter's included."""
    verification: Verification | None = None
    """Of decodings that verify drafts."""


@pytree_dataclass
class Internal:
    """One quantity that a method computes on its way to a translation, such as its fertilities."""

    values: Shaped[Array, "batch *axes"]
    lengths: dict[int, Int[Array, "batch"]]
    """axis of `values` -> how many of its entries are real in each row, where the axis is padded"""


class Carried(nnx.Variable):
    """An array of a module that is no parameter and that training carries on, such as a pruning mask or a count: no
    gradient changes it, a loss may give its next value (Loss.carried). It is saved with the parameters."""


class Averaged(Carried):
    """A carried array, such as a centroid, of which translating uses the moving average where the parameters have
    one."""


def lengths_of(token_ids: Int[Array, "*axes length"]) -> Int[Array, "*axes"]:
    """Tokens of each right-padded row."""
    return (token_ids != PAD).sum(axis=-1).astype(jnp.int32)


def without_eos(target: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """The target as one-pass models see it: it ends where its length says."""
    return jnp.where(target == EOS, PAD, target)


def append_eos(tokens: Int[Array, "rows length"]) -> Int[Array, "rows length_plus_one"]:
    """EOS after the last token of every right-padded row."""
    wider = jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=PAD)
    ends = lengths_of(tokens)[:, None]
    return jnp.where(jnp.arange(wider.shape[1]) == ends, EOS, wider)
