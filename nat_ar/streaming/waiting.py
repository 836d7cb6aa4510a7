"""Translating a source that goes on by wait-k: its caches stay on the device from word to word."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nat_ar.config_json import ConfigError
from nat_ar.methods.autoregressive import AutoregressiveModel
from nat_ar.runtime import cpu_kernels
from nat_ar.search import limits, wait_k
from nat_ar.search.wait_k import WaitK, Written
from nat_ar.special_tokens import PAD
from nat_ar.translation.translator import Translator
from nat_ar.types import Hypotheses, lengths_of


class WaitingTranslator(Translator):
    """A Translator of one source that goes on: each call has more of it, and writes on from where the last one ended.

    The source is encoded anew, in one pass; the states of what was there before stay as they were, since the encoder is
    causal. Where a source outgrows its bucket, the wider program writes it from its beginning, in the same words."""

    def __init__(self, translator: Translator) -> None:
        """Raises ConfigError where the decoding is not WaitK, which only Autoregressive runs with a causal encoder
        have."""
        if not isinstance(translator.decoding, WaitK):
            raise ConfigError(
                f"Wait follows the decoding WaitK(k), got {type(translator.decoding).__name__}: name it, such as "
                '--decoding "WaitK(k=3)", for a run with wait_k'
            )
        super().__init__(
            translator.model,
            translator.vocabulary,
            decoding=translator.decoding,
            weights=translator.weights,
        )
        self.is_final = True
        """whether the next source has ended"""
        self._read = np.zeros(0, np.int32)
        self._written: Written | None = None

    def decode(self, source: Int[np.ndarray, "rows bucket"]) -> Hypotheses:
        num_tokens = max(int((source != PAD).sum()) - 1, 0)  # without EOS
        goes_on = (
            len(self._read) <= num_tokens and (source[0, : len(self._read)] == self._read).all()
        )
        written = self._written
        if written is None or not goes_on or written.tokens.shape[1] != self._room(source.shape[1]):
            written = self._nothing(source.shape[1])
        before = int(written.passes[0])
        readable = max(num_tokens - self.decoding.k + 1, 0)
        most = self._room(source.shape[1]) + 1 if self.is_final else readable
        leaves, other_leaves, *_ = self.arguments(*source.shape)
        until = np.full(1, most, np.int32)
        written = self.compile(*source.shape)(leaves, other_leaves, source, written, until)
        self._written = None if self.is_final else written
        self._read = source[0, :num_tokens]
        found = written.hypotheses
        return Hypotheses(found.tokens, found.scores, found.passes - before)

    def _room(self, bucket: int) -> int:
        return limits.length_limit(bucket)

    def _nothing(self, bucket: int) -> Written:
        """The beginning of a text."""
        shapes = self.arguments(1, bucket)[3]
        cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.cache)
        return wait_k.nothing(cache, 1, self._room(bucket))

    def function(self, bucket: int) -> Callable[..., Any]:
        """(leaves, None, source, what was written, position before which may be written) -> what is written then."""
        model, k, room = self.ready_model, self.decoding.k, self._room(bucket)

        def write(
            leaves: list[jax.Array], _: None, source: Array, written: Written, until: Array
        ) -> Written:
            network: AutoregressiveModel = model.merge(leaves)
            with cpu_kernels.in_use(model.has_kernels):
                step = network.waiting_stepper(source, k, room)[0]
                return wait_k.go_on(
                    step,
                    written,
                    until=until,
                    length_limits=limits.within(room, lengths_of(source)),
                    is_sentence=lengths_of(source) > 0,
                )

        return write

    def arguments(self, rows: int, bucket: int) -> Any:
        """Those of Translator, and the shapes of what was written and of how far writing may go."""
        model, room = self.ready_model, self._room(bucket)

        def start(leaves: list[jax.Array]) -> Written:
            network: AutoregressiveModel = model.merge(leaves)
            cache = network.decoder.empty_cache(rows, 1, room + 1)
            return wait_k.nothing(cache, rows, room)

        written = jax.eval_shape(start, model.leaves)
        until = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return *super().arguments(rows, bucket), written, until
