"""Translating a sentence again, with tokens of what was said of it before."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import limits
from nat_ar.search.base import StepwiseDecoding
from nat_ar.search.greedy import Greedy
from nat_ar.search.guided import Guide, Guided
from nat_ar.search.sampling import Sampling
from nat_ar.search.speculative import Speculative
from nat_ar.special_tokens import PAD
from nat_ar.translation.model import Model
from nat_ar.translation.translator import Translator
from nat_ar.types import Hypotheses

Decode = Callable[[Model, list[jax.Array], Array, Array, int], Hypotheses]
"""(model, leaves, source, earlier tokens, max_length) -> translations; traced."""


class Retranslator(Translator):
    """A Translator of one sentence at a time, whose programs read a row of tokens beside the source: `earlier`."""

    def __init__(self, translator: Translator, decode: Decode) -> None:
        super().__init__(
            translator.model,
            translator.vocabulary,
            decoding=translator.decoding,
            weights=translator.weights,
        )
        self._decode = decode
        self.earlier: Sequence[int] = ()
        """what the next translation takes into account; as much of it as a translation may be long"""

    def decode(self, source: Int[np.ndarray, "rows bucket"]) -> Hypotheses:
        leaves, other_leaves, _, shape = self.arguments(*source.shape)
        earlier = np.full(shape.shape, PAD, np.int32)
        words = list(self.earlier)[: earlier.shape[1]]
        earlier[:, : len(words)] = words
        return self.compile(*source.shape)(leaves, other_leaves, source, earlier)

    def function(self, bucket: int) -> Callable[..., Hypotheses]:
        model, max_length = self.ready_model, limits.length_limit(bucket)

        def decode(
            leaves: list[jax.Array], _: None, source: jax.Array, earlier: jax.Array
        ) -> Hypotheses:
            return self._decode(model, leaves, source, earlier, max_length)

        return decode

    def arguments(self, rows: int, bucket: int) -> Any:
        """Those of Translator, and the shape of the earlier tokens."""
        earlier = jax.ShapeDtypeStruct((rows, limits.length_limit(bucket)), jnp.int32)
        return *super().arguments(rows, bucket), earlier


def guided(decoding: Any, guide: Guide) -> Decode:
    """The decoding under a guide. Raises ConfigError where the model does not go from left to right."""
    if not isinstance(decoding, StepwiseDecoding):
        raise ConfigError(
            f"{type(guide).__name__} guides a search from left to right (Greedy, Beam, Sampling), got "
            f"{type(decoding).__name__}: choose another decoding, or the policy Retranslate()"
        )

    def decode(
        model: Model, leaves: list[jax.Array], source: Array, earlier: Array, max_length: int
    ) -> Hypotheses:
        return model.decode(
            leaves, source, decoding=Guided(decoding, guide, earlier), max_length=max_length
        )

    return decode


def drafted(decoding: Any, block: int) -> Decode:
    """The words of Greedy or Sampling, of which the earlier tokens are the draft (search/verification.py): passes are
    few where little has changed. Raises ConfigError for other decodings."""
    if isinstance(decoding, Greedy):
        verifying = Speculative(block=block)
    elif isinstance(decoding, Sampling):
        verifying = Speculative(block, decoding.temperature, decoding.top_k, decoding.seed)
    else:
        raise ConfigError(
            "Redraft says the words of Greedy() or Sampling(), got "
            f"{type(decoding).__name__}: choose one of them, or the policy Retranslate()"
        )

    def decode(
        model: Model, leaves: list[jax.Array], source: Array, earlier: Array, max_length: int
    ) -> Hypotheses:
        rows = source.shape[0]
        draft = Hypotheses(earlier[:, None], jnp.zeros((rows, 1)), jnp.zeros(rows, jnp.int32))
        return model.decode(
            leaves, source, decoding=verifying, max_length=max_length, draft=lambda _: draft
        )

    return decode
