"""Models that predict each token from the source and the tokens before it: loss, search and score.

Training sees all positions in parallel under a causal mask; translating goes token by token over a cache. A method
adds its encoder and two hooks, one for each of these ways."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.search import drafting
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.step_function import Blocks, Cache, StepFunction
from nat_ar.search.verification import DraftedDecoding
from nat_ar.special_tokens import BOS, PAD
from nat_ar.types import (
    Batch,
    Hypotheses,
    Internal,
    Loss,
    Prediction,
    append_eos,
    lengths_of,
)


class LeftToRightConfig(Protocol):
    @property
    def label_smoothing(self) -> float: ...

    @property
    def rescoring_length_penalty(self) -> float: ...


class LeftToRight(base.TokenEmbeddings, abc.ABC):
    """What every autoregressive model shares. `_logits` and `_stepper` are two views of the same distribution."""

    config: LeftToRightConfig

    @abc.abstractmethod
    def encode(
        self, source: Int[Array, "batch source_length"], *, rngs: nnx.Rngs | None = None
    ) -> Any:
        """The source, as the hooks read it."""

    @abc.abstractmethod
    def _logits(
        self,
        encoded: Any,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length vocabulary"]:
        """Teacher-forced logits of targets that end with EOS; rows = batch * hypotheses of each source."""

    def _predicted(
        self,
        encoded: Any,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length vocabulary"] | Prediction:
        """What `loss` compares with the target: the logits, or a Prediction of them."""
        return self._logits(encoded, target, rngs=rngs)

    @abc.abstractmethod
    def _stepper(
        self, encoded: Any, max_length: int
    ) -> tuple[StepFunction, Callable[[int], Cache]]:
        """The step function over an encoded source, and the empty cache for n hypotheses a row, with max_length
        positions and one for EOS."""

    def _blocks(self, encoded: Any, max_length: int, block: int) -> Blocks:
        """The block function for blocks of up to `block` words. A model that can look at several words at once
        overrides this one, which takes its steps one after the other."""
        return blocks_of_steps(*self._stepper(encoded, max_length), block)

    def logits(
        self,
        source: Int[Array, "batch source_length"],
        target: Int[Array, "batch target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch target_length vocabulary"]:
        """Teacher-forced: position t sees the source and target[:t]. The target ends with EOS."""
        return self._logits(self.encode(source, rngs=rngs), target, rngs=rngs)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Cross entropy of the target's tokens, EOS included."""
        encoded = self.encode(batch.source, rngs=rngs)
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            self._predicted(encoded, batch.target, rngs=rngs),
            batch.target,
            smoothing=self.config.label_smoothing,
            soft=batch.soft,
        )
        return Loss(smoothed.value, {"token": plain})

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LeftToRightDecoding,
        max_length: int,
        scorer: base.Scorer | None = None,
        draft: Hypotheses | Blocks | None = None,
    ) -> Hypotheses:
        """`draft` has the translations of a drafter, which a DraftedDecoding may ask for, or is the `drafting` of a
        left-to-right one."""
        require_whole_source(decoding)
        encoded = self.encode(source)
        if isinstance(decoding, DraftedDecoding):
            blocks = self._blocks(encoded, max_length, decoding.block)
            return verify(decoding, blocks, source, draft, max_length=max_length)
        step, empty_cache = self._stepper(encoded, max_length)
        return decoding.search(step, empty_cache, source, max_length=max_length)

    def drafting(self, source: Int[Array, "batch source_length"], *, max_length: int) -> Blocks:
        """What `decode` of another model takes as `draft`: this model, which goes on from the words said so far."""
        return self._blocks(self.encode(source), max_length, drafting.READ)

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LeftToRightDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """Of the best translation: `tokens`, EOS included, and `log_probabilities`, of each given those before."""
        found = self.decode(source, decoding=without_drafts(decoding), max_length=max_length)
        target, lengths = translation_of(found, source)
        logits = self._logits(self.encode(source), target)
        return of_tokens(logits, target, lengths)

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
        *,
        length_penalty: float | None = None,
    ) -> Float[Array, "batch n_best"]:
        """log p of each hypothesis and its EOS in nats, divided by length ** length_penalty (None:
        rescoring_length_penalty): all positions of all hypotheses in one pass over one encoding."""
        if length_penalty is None:
            length_penalty = self.config.rescoring_length_penalty
        target = flat_targets(hypotheses)
        logits = self._logits(self.encode(source), target)
        scores = normalised_log_p(logits, target, length_penalty)
        return scores.reshape(hypotheses.shape[:2])


def require_whole_source(decoding: Any) -> None:
    """Raises ConfigError for a decoding that begins before a source is read, which only a causal encoder allows."""
    if decoding.wait_k is not None:
        raise ConfigError(
            f"{type(decoding).__name__} writes before the source has ended: expected an Autoregressive run whose "
            "transformer has encoder_attention 'causal'; choose Greedy() for others"
        )


def without_drafts(decoding: Any) -> Any:
    """The decoding that makes the same translations with no drafter at hand."""
    return decoding.plain if isinstance(decoding, DraftedDecoding) else decoding


def verify(
    decoding: DraftedDecoding,
    blocks: Blocks,
    source: Int[Array, "batch source_length"],
    draft: Hypotheses | Blocks | None,
    *,
    max_length: int,
) -> Hypotheses:
    """The translations by a decoding that verifies drafts; `passes` has those of the drafter too."""
    if isinstance(draft, Blocks):
        found = decoding.search(blocks, source, max_length=max_length, draft=draft)
        number = min(decoding.block, max_length + 1) - 1  # of words in a draft: a pass each
        return dataclasses.replace(found, passes=found.passes * (1 + number))
    words = None if draft is None else draft.tokens[:, 0, :max_length]
    found = decoding.search(blocks, source, max_length=max_length, draft=words)
    if draft is None:
        return found
    return dataclasses.replace(found, passes=found.passes + draft.passes)


def blocks_of_steps(step: StepFunction, empty_cache: Callable[[int], Cache], block: int) -> Blocks:
    """A block function that takes a step for each token. Its cache has that of the steps before the block of each row
    and after each of its tokens, and the position of the first."""

    def extend(
        tokens: Int[Array, "batch block"], past: Cache, position: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch block vocabulary"], Cache]:
        caches, first = past
        rows = jnp.arange(tokens.shape[0])
        cache = jax.tree.map(lambda leaf: leaf[position - first, rows], caches)
        logits, all_caches = [], [cache]
        for i in range(tokens.shape[1]):
            one, cache = step(tokens[:, i, None], cache, position + i)
            logits.append(one)
            all_caches.append(cache)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_caches)
        return jnp.concatenate(logits, axis=1), (stacked, position)

    start = empty_cache(1)
    caches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (block + 1, *leaf.shape)), start)
    batch = jax.tree.leaves(start)[0].shape[0]
    return Blocks(extend, (caches, jnp.zeros(batch, jnp.int32)), is_exact=False)


class FromStates(LeftToRight):
    """A model whose logits are the products of states with the target's embedding: its loss never has all of them."""

    @abc.abstractmethod
    def _states(
        self,
        encoded: Any,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length d_model"]:
        """What `_logits` multiplies out."""

    def _logits(
        self,
        encoded: Any,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length vocabulary"]:
        return self.target_embedding.attend(self._states(encoded, target, rngs=rngs))

    def _predicted(
        self,
        encoded: Any,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Prediction:
        return self.target_embedding.predict(self._states(encoded, target, rngs=rngs))


def translation_of(
    hypotheses: Hypotheses, source: Int[Array, "batch source_length"]
) -> tuple[Int[Array, "batch length"], Int[Array, "batch"]]:
    """The best translation of each row with its EOS, and how many tokens that is; 0 without a sentence."""
    target = append_eos(hypotheses.tokens[:, 0])
    return target, jnp.where(lengths_of(source) > 0, lengths_of(target), 0)


def of_tokens(
    logits: Float[Array, "batch length vocabulary"],
    target: Int[Array, "batch length"],
    lengths: Int[Array, "batch"],
) -> dict[str, Internal]:
    """The tokens of a translation, and log p of each."""
    log_p = cross_entropy.token_log_probabilities(logits, target)
    return {
        "tokens": Internal(target, {1: lengths}),
        "log_probabilities": Internal(log_p, {1: lengths}),
    }


def flat_targets(
    hypotheses: Int[Array, "batch n_best length"],
) -> Int[Array, "rows length_plus_one"]:
    """A row for each hypothesis, with its EOS; the rows of one source are neighbours."""
    return append_eos(hypotheses.reshape(-1, hypotheses.shape[-1]))


def normalised_log_p(
    logits: Float[Array, "rows length vocabulary"],
    target: Int[Array, "rows length"],
    length_penalty: float,
) -> Float[Array, "rows"]:
    """log p of each target, its EOS included, divided by length ** length_penalty."""
    log_probabilities = cross_entropy.token_log_probabilities(logits, target)
    total = jnp.where(target != PAD, log_probabilities, 0.0).sum(axis=-1)
    return total / lengths_of(target).astype(jnp.float32) ** length_penalty


def shift_right(target: Int[Array, "rows length"]) -> Int[Array, "rows length"]:
    """Decoder inputs: BOS and the target without its last position."""
    return jnp.pad(target, ((0, 0), (1, 0)), constant_values=BOS)[:, :-1]
