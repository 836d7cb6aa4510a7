"""Translating a source that goes on by wait-k, so that what was written stays: token by token, with caches that stay on
the device from word to word, or by frames, in one pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nat_ar.config_json import ConfigError
from nat_ar.methods.autoregressive import AutoregressiveModel
from nat_ar.methods.ctc import CtcModel
from nat_ar.runtime import cpu_kernels
from nat_ar.search import limits, wait_k
from nat_ar.search.ctc import ChunkWaitK
from nat_ar.search.wait_k import WaitK, Written
from nat_ar.special_tokens import PAD
from nat_ar.translation.translator import Translator
from nat_ar.types import Hypotheses, lengths_of


class Waiting(Translator):
    """A Translator of one source that goes on: each call has more of it.

    The source is encoded anew, in one pass; the states of what was there before stay as they were, since the encoder is
    causal."""

    def __init__(self, translator: Translator) -> None:
        super().__init__(
            translator.model,
            translator.vocabulary,
            decoding=translator.decoding,
            weights=translator.weights,
        )
        self.is_final = True
        """whether the next source has ended"""

    def _room(self, bucket: int) -> int:
        return limits.length_limit(bucket)


class WaitingTokens(Waiting):
    """By an Autoregressive run and WaitK: writes on from where the last call ended. Where a source outgrows its bucket,
    the wider program writes it from its beginning, in the same words."""

    def __init__(self, translator: Translator) -> None:
        super().__init__(translator)
        self._read = np.zeros(0, np.int32)
        self._written: Written | None = None
        self._empty: dict[int, Written] = {}

    def decode(self, source: Int[np.ndarray, "rows bucket"]) -> Hypotheses:
        num_tokens = tokens_of(source)
        goes_on = (
            len(self._read) <= num_tokens and (source[0, : len(self._read)] == self._read).all()
        )
        written = self._written
        if written is None or not goes_on or written.tokens.shape[1] != self._room(source.shape[1]):
            written = self._nothing(source.shape[1])
        before = int(written.passes[0])
        readable = max(num_tokens - self.decoding.k + 1, 0)
        most = self._room(source.shape[1]) + 1 if self.is_final else readable
        leaves, other_leaves, *_ = super().arguments(*source.shape)  # the rest is a trace's work
        until = np.full(1, most, np.int32)
        written = self.compile(*source.shape)(leaves, other_leaves, source, written, until)
        self._written = None if self.is_final else written
        self._read = source[0, :num_tokens]
        found = written.hypotheses
        return Hypotheses(found.tokens, found.scores, found.passes - before)

    def _nothing(self, bucket: int) -> Written:
        """The beginning of a text."""
        if bucket not in self._empty:
            shapes = self.arguments(1, bucket)[3]
            cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.cache)
            self._empty[bucket] = wait_k.nothing(cache, 1, self._room(bucket))
        return self._empty[bucket]

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


class WaitingFrames(Waiting):
    """By a Ctc run and ChunkWaitK: what the frames say that have read all that they ever will, in one pass over the
    source; nothing, in no pass, where there is no such frame."""

    def decode(self, source: Int[np.ndarray, "rows bucket"]) -> Hypotheses:
        settled = source.shape[1] if self.is_final else tokens_of(source) - self.decoding.k + 1
        if settled < 1:
            nothing = np.full((1, 1, self._room(source.shape[1])), PAD, np.int32)
            scores, passes = np.zeros((1, 1), np.float32), np.zeros(1, np.int32)
            # jnp.zeros would compile something in the first update.
            return Hypotheses(*jax.device_put((nothing, scores, passes)))
        leaves, other_leaves, *_ = self.arguments(*source.shape)
        tokens = np.full(1, settled, np.int32)
        return self.compile(*source.shape)(leaves, other_leaves, source, tokens)

    def function(self, bucket: int) -> Callable[..., Hypotheses]:
        """(leaves, None, source, tokens whose frames are settled) -> what these say."""
        model, decoding, room = self.ready_model, self.decoding, self._room(bucket)

        def say(leaves: list[jax.Array], _: None, source: Array, settled: Array) -> Hypotheses:
            network: CtcModel = model.merge(leaves)
            with cpu_kernels.in_use(model.has_kernels):
                return network.decode_beginning(source, settled, decoding=decoding, max_length=room)

        return say

    def arguments(self, rows: int, bucket: int) -> Any:
        """Those of Translator, and the shape of the number of settled tokens."""
        return *super().arguments(rows, bucket), jax.ShapeDtypeStruct((rows,), jnp.int32)


def tokens_of(source: Int[np.ndarray, "rows bucket"]) -> int:
    """Those of the only row, without EOS."""
    return max(int((source != PAD).sum()) - 1, 0)


def waiting(translator: Translator) -> Waiting:
    """The translator of a source that goes on, by the decoding of this one. Raises ConfigError where that does not
    wait."""
    if isinstance(translator.decoding, WaitK):
        return WaitingTokens(translator)
    if isinstance(translator.decoding, ChunkWaitK):
        return WaitingFrames(translator)
    raise ConfigError(
        f"Wait follows the decodings WaitK(k) and ChunkWaitK(k), got {type(translator.decoding).__name__}: for a run "
        'with wait_k name one, such as --decoding "WaitK(k=3)" (Autoregressive) or "ChunkWaitK(k=3)" (Ctc)'
    )
