"""A left-to-right search that knows an earlier translation of the same sentence, or how its own begins.

Both act on the logits that a step function hands to a search, so that every search over one takes them."""

import abc
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import step_function
from nat_ar.search.base import StepwiseDecoding
from nat_ar.search.step_function import Cache, StepFunction
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Hypotheses, lengths_of, pytree_dataclass

EmptyCache = Callable[[int], Cache]


class Guide(abc.ABC):
    """How a search is told of `earlier`, tokens of each row."""

    @abc.abstractmethod
    def around(
        self, step: StepFunction, empty_cache: EmptyCache, earlier: Int[Array, "batch length"]
    ) -> tuple[StepFunction, EmptyCache]:
        """The step function and the cache that the search gets in place of these."""


class Guided(StepwiseDecoding):
    """A decoding under a guide. It holds arrays: made where a program is traced, and no config."""

    def __init__(
        self, decoding: StepwiseDecoding, guide: Guide, earlier: Int[Array, "batch length"]
    ) -> None:
        self.decoding, self.guide, self.earlier = decoding, guide, earlier

    def search(
        self,
        step: StepFunction,
        empty_cache: EmptyCache,
        source: Int[Array, "batch source_length"],
        *,
        max_length: int,
    ) -> Hypotheses:
        step, empty_cache = self.guide.around(step, empty_cache, self.earlier)
        return self.decoding.search(step, empty_cache, source, max_length=max_length)


@dataclasses.dataclass(frozen=True)
class Prefix(Guide):
    """Translations begin with `earlier`, which costs no score. Its last word is whole: a word begins behind it, or the
    translation ends."""

    may_follow: bytes
    """for each id of the vocabulary 1 if a word may begin with it, else 0"""

    def around(
        self, step: StepFunction, empty_cache: EmptyCache, earlier: Int[Array, "batch length"]
    ) -> tuple[StepFunction, EmptyCache]:
        lengths = lengths_of(earlier)
        ids = np.arange(len(self.may_follow))
        may_follow = jnp.asarray((np.frombuffer(self.may_follow, np.uint8) == 1) | (ids == EOS))

        def forced(
            tokens: Int[Array, "batch beam"],
            cache: Cache,
            position: Int[Array, ""] | Int[Array, "batch"],
        ) -> tuple[Float[Array, "batch beam vocabulary"], Cache]:
            logits, cache = step(tokens, cache, position)
            at = jnp.broadcast_to(position, lengths.shape)[:, None]  # [batch, 1]
            is_next = ids == token_at(earlier, at)  # [batch, vocabulary]
            is_behind = (at == lengths[:, None]) & (at > 0)
            allowed = jnp.where(at < lengths[:, None], is_next, may_follow | ~is_behind)
            return jnp.where(allowed[:, None], logits, -jnp.inf), cache

        return forced, empty_cache


@pytree_dataclass
class FollowingCache:
    """A model's cache, and which hypotheses have said what `earlier` says so far."""

    model: Cache
    follows: Bool[Array, "batch beam"]

    def reordered(self, beams: Int[Array, "batch beam"]) -> "FollowingCache":
        return FollowingCache(
            step_function.reordered(self.model, beams),
            jnp.take_along_axis(self.follows, beams, axis=1),
        )


@dataclasses.dataclass(frozen=True)
class Bias(Guide):
    """Biased search (Arivazhagan et al. 2020, arXiv:2004.03643, section 3.3): a hypothesis that has said the words of
    `earlier` so far takes its next word from (1 - share) p + share [the next word of `earlier`]. Its end is not biased:
    the source has gone on since."""

    share: float

    def __post_init__(self) -> None:
        config_json.require_share("bias", self.share, may_be_one=False)
        if self.share == 0.0:
            raise ConfigError("bias must be above 0, got 0; Retranslate() has none")

    def around(
        self, step: StepFunction, empty_cache: EmptyCache, earlier: Int[Array, "batch length"]
    ) -> tuple[StepFunction, EmptyCache]:
        said = jnp.pad(earlier, ((0, 0), (1, 0)), constant_values=BOS)

        def biased(
            tokens: Int[Array, "batch beam"],
            cache: FollowingCache,
            position: Int[Array, ""] | Int[Array, "batch"],
        ) -> tuple[Float[Array, "batch beam vocabulary"], FollowingCache]:
            logits, model = step(tokens, cache.model, position)
            at = jnp.broadcast_to(position, earlier.shape[:1])[:, None]  # [batch, 1]
            follows = cache.follows & (tokens == token_at(said, at))
            wanted = token_at(earlier, at)
            log_p = jax.nn.log_softmax(logits) + jnp.log1p(-self.share)
            is_wanted = (jnp.arange(logits.shape[-1]) == wanted)[:, None]  # [batch, 1, vocabulary]
            mixed = jnp.where(is_wanted, jnp.logaddexp(log_p, jnp.log(self.share)), log_p)
            is_biased = (follows & (wanted != PAD))[..., None]
            return jnp.where(is_biased, mixed, logits), FollowingCache(model, follows)

        def empty(hypotheses: int) -> FollowingCache:
            follows = jnp.ones((earlier.shape[0], hypotheses), bool)
            return FollowingCache(empty_cache(hypotheses), follows)

        return biased, empty


def token_at(
    tokens: Int[Array, "batch length"], at: Int[Array, "batch 1"]
) -> Int[Array, "batch 1"]:
    """The token of each row at a position; PAD behind the last."""
    inside = jnp.clip(at, 0, tokens.shape[1] - 1)
    found = jnp.take_along_axis(tokens, inside, axis=1)
    return jnp.where(at < tokens.shape[1], found, PAD)
