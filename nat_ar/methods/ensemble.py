"""Ensembles: several trained autoregressive models that translate together (Sutskever et al. 2014, arXiv:1409.3215,
section 3.6).

The probability of the next token is the mean of the members' probabilities, as in fairseq and Marian, not that of
their logits. Each member encodes the source for itself and keeps its own cache, so that members may be of any
architecture; they share the vocabulary. nat_ar/pipeline/ensemble.py makes a run of trained ones."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.left_to_right import LeftToRight
from nat_ar.search import step_function
from nat_ar.search.base import require_length_penalty
from nat_ar.search.beam import Beam
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.step_function import Blocks, Cache, StepFunction
from nat_ar.types import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Ensemble(base.Method):
    """Several autoregressive models, by the mean of their probabilities."""

    family: ClassVar[base.Family] = "AR"
    has_own_encoder: ClassVar[bool] = True
    label_smoothing: ClassVar[float] = 0.0

    members: tuple[base.Method, ...]
    """two or more, of family AR"""
    decoding: LeftToRightDecoding = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ConfigError(f"an ensemble needs two members or more, got {len(self.members)}")
        require_length_penalty(self.rescoring_length_penalty, name="rescoring_length_penalty")
        for member in self.members:
            if member.family != "AR":
                raise ConfigError(
                    f"an ensemble predicts token by token: expected members of family AR, got {type(member).__name__} "
                    f"of family {member.family}"
                )
        dtypes = {member.network.dtype for member in self.members}
        if len(dtypes) > 1:
            raise ConfigError(
                f"members of an ensemble compute in one dtype, got {' and '.join(sorted(dtypes))}"
            )

    @property
    def network(self) -> base.NetworkConfig:
        """That of the member that knows the fewest positions."""
        networks = [member.network for member in self.members]
        return min(networks, key=lambda one: math.inf if one.max_length is None else one.max_length)

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "EnsembleModel":
        return EnsembleModel(self, sizes, rngs=rngs)


@pytree_dataclass
class Caches:
    """The caches of the members, each in its own layout."""

    members: tuple[Cache, ...]

    def reordered(self, beams: Int[Array, "batch beam"]) -> "Caches":
        return Caches(tuple(step_function.reordered(cache, beams) for cache in self.members))


class EnsembleModel(LeftToRight):
    """Has no embeddings of its own: its members have."""

    config: Ensemble

    def __init__(self, config: Ensemble, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        members = [member.build(sizes, rngs=rngs) for member in config.members]
        for member in members:
            if not isinstance(member, LeftToRight):
                raise ConfigError(
                    f"members of an ensemble have a step function: expected models that derive from LeftToRight, got "
                    f"{type(member).__name__}"
                )
        self.members: Any = nnx.List(members)
        self.config = config

    def encode(
        self, source: Int[Array, "batch source_length"], *, rngs: nnx.Rngs | None = None
    ) -> tuple[Any, ...]:
        """The source, as each member reads it."""
        return tuple(member.encode(source, rngs=rngs) for member in self.members)

    def _logits(
        self,
        encoded: tuple[Any, ...],
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length vocabulary"]:
        pairs = zip(self.members, encoded, strict=True)
        return log_mean([member._logits(one, target, rngs=rngs) for member, one in pairs])

    def _stepper(
        self, encoded: tuple[Any, ...], max_length: int
    ) -> tuple[StepFunction, Callable[[int], Caches]]:
        pairs = zip(self.members, encoded, strict=True)
        steppers = [member._stepper(one, max_length) for member, one in pairs]

        def step(
            token_ids: Int[Array, "batch beam"],
            caches: Caches,
            position: Int[Array, ""] | Int[Array, "batch"],
        ) -> tuple[Float[Array, "batch beam vocabulary"], Caches]:
            stepped = [
                of_member(token_ids, cache, position)
                for (of_member, _), cache in zip(steppers, caches.members, strict=True)
            ]
            return log_mean([logits for logits, _ in stepped]), Caches(
                tuple(cache for _, cache in stepped)
            )

        def empty_caches(hypotheses: int) -> Caches:
            return Caches(tuple(empty_cache(hypotheses) for _, empty_cache in steppers))

        return step, empty_caches

    def _blocks(self, encoded: tuple[Any, ...], max_length: int, block: int) -> Blocks:
        pairs = zip(self.members, encoded, strict=True)
        blocks = [member._blocks(one, max_length, block) for member, one in pairs]

        def extend(
            tokens: Int[Array, "batch block"], caches: Caches, position: Int[Array, "batch"]
        ) -> tuple[Float[Array, "batch block vocabulary"], Caches]:
            extended = [
                of_member.extend(tokens, cache, position)
                for of_member, cache in zip(blocks, caches.members, strict=True)
            ]
            return log_mean([logits for logits, _ in extended]), Caches(
                tuple(cache for _, cache in extended)
            )

        # The normalisers of whole blocks and of single steps may be summed in another order.
        return Blocks(extend, Caches(tuple(one.cache for one in blocks)), is_exact=False)


def log_mean(
    logits: Sequence[Float[Array, "*batch vocabulary"]],
) -> Float[Array, "*batch vocabulary"]:
    """log of the mean of the members' probabilities, in float32; logits of that distribution too."""
    log_p = jnp.stack([jax.nn.log_softmax(one.astype(jnp.float32)) for one in logits])
    return jax.nn.logsumexp(log_p, axis=0) - math.log(len(logits))
