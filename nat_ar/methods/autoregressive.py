"""Autoregressive Transformer (Vaswani et al. 2017, arXiv:1706.03762).

Loss, search and score are those of methods/left_to_right.py, over key/value caches. Differences: pre-norm by default,
and embeddings tied to the output projection; with a joint vocabulary the source embedding is the same table.
`num_encoder_layers=12, num_decoder_layers=1` is the fair baseline of Kasai et al. 2020 (arXiv:2006.10369).

With `wait_k` it learns to translate a source that is still coming (prefix-to-prefix, Ma et al. 2019, arXiv:1810.08398):
token t of the target, from 0, sees k + t tokens of the source, through a causal encoder and a mask in cross attention.
Several k train one model for all of them (multi-path, Elbayad et al. 2020, arXiv:2005.08595). Tokens are subwords.

With `lookahead_words` it has heads for words further on, for blockwise parallel decoding (Stern et al. 2018,
arXiv:1811.03115; search/blockwise.py)."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.methods.left_to_right import (
    FromStates,
    of_tokens,
    shift_right,
    translation_of,
    without_drafts,
)
from nat_ar.nn import attention, layers, waiting
from nat_ar.nn.cache import Cache, Position
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.lookahead import Lookahead
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import argmax, limits
from nat_ar.search.base import StepwiseDecoding, require_length_penalty
from nat_ar.search.beam import Beam
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.step_function import Blocks, StepFunction
from nat_ar.special_tokens import PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Internal, Loss


@dataclasses.dataclass(frozen=True)
class Autoregressive(base.Method):
    """Autoregressive Transformer (Vaswani et al. 2017)."""

    family: ClassVar[base.Family] = "AR"

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: LeftToRightDecoding = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""
    wait_k: tuple[int, ...] = ()
    """tokens of the source that the first target token sees in training: each batch draws one of these; (): all of
    them. Needs transformer.encoder_attention "causal"; translate with WaitK(k)"""
    lookahead_words: int = 0
    """heads for so many words after the next one, which draft for the decoding Blockwise (Stern et al. 2018)"""
    only_heads_learn: bool = False
    """nothing but these heads learns: with encoder_from_teacher and decoder_from_teacher, and no weight decay, the
    words stay the teacher's"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, every token saw the whole source, and there were no heads."""
        return {"wait_k": [], "lookahead_words": 0, "only_heads_learn": False, **data}

    def __post_init__(self) -> None:
        config_json.require_at_least(0, lookahead_words=self.lookahead_words)
        if self.only_heads_learn and not self.lookahead_words:
            raise ConfigError(
                "only_heads_learn: expected lookahead_words, such as 5, got 0: nothing would learn"
            )
        attention.require_steps(self.transformer.attention)
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        require_length_penalty(self.rescoring_length_penalty, name="rescoring_length_penalty")
        for k in self.wait_k:
            config_json.require_at_least(1, wait_k=k)
        if self.wait_k or self.decoding.wait_k is not None:
            waiting.require_causal_encoder(self.transformer)

    @property
    def learns_distributions(self) -> bool:
        return not self.only_heads_learn

    @property
    def proposes(self) -> bool:
        return self.lookahead_words > 0

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "AutoregressiveModel":
        return AutoregressiveModel(self, sizes, rngs=rngs)


class AutoregressiveModel(base.Seq2Seq, FromStates):
    config: Autoregressive

    def __init__(
        self, config: Autoregressive, sizes: base.VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        self.decoder = Decoder(config.transformer, rngs=rngs)
        number, transformer = config.lookahead_words, config.transformer
        self.lookahead = (
            Lookahead(number, transformer.d_model, dtype=transformer.dtype, rngs=rngs)
            if number
            else None
        )
        self.config = config

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Cross entropy of the target's tokens, EOS included. With heads it is the mean over them and the next word;
        they take turns, one a step. `lookahead` is that of the step's head, without smoothing."""
        if self.lookahead is None:
            return super().loss(batch, step=step, rngs=rngs, teacher=teacher)
        encoded = self.encode(batch.source, rngs=rngs)
        states = self._states(encoded, batch.target, rngs=rngs)
        smoothing, number = self.config.label_smoothing, self.config.lookahead_words
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            self.target_embedding.predict(states),
            batch.target,
            smoothing=smoothing,
            soft=batch.soft,
        )
        embedding = self.target_embedding
        if self.config.only_heads_learn:
            states = jax.lax.stop_gradient(states)
            graph, table = nnx.split(embedding)
            embedding = nnx.merge(graph, jax.tree.map(jax.lax.stop_gradient, table))
        head = step % number
        further = jnp.pad(batch.target, ((0, 0), (0, number + 1)), constant_values=PAD)
        further = jax.lax.dynamic_slice_in_dim(further, head + 1, batch.target.shape[1], axis=1)
        ahead, plain_ahead = cross_entropy.smoothed_cross_entropy(
            embedding.predict(self.lookahead(states)[head]), further, smoothing=smoothing
        )
        objective = (smoothed.value + number * ahead.value) / (1 + number)
        if self.config.only_heads_learn:
            objective = ahead.value
        return Loss(objective, {"token": plain, "lookahead": plain_ahead})

    def _states(
        self,
        encoded: Encoded,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length d_model"]:
        """Under one of wait_k, see nn.waiting.drawn."""
        wait_k = waiting.drawn(self.config.wait_k, rngs)
        return causal_states(
            self.target_embedding, self.decoder, encoded, target, wait_k=wait_k, rngs=rngs
        )

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LeftToRightDecoding,
        max_length: int,
        scorer: base.Scorer | None = None,
        draft: Hypotheses | Blocks | None = None,
    ) -> Hypotheses:
        if not isinstance(decoding, StepwiseDecoding) or decoding.wait_k is None:
            return super().decode(
                source, decoding=decoding, max_length=max_length, scorer=scorer, draft=draft
            )
        step, empty_cache = self.waiting_stepper(source, decoding.wait_k, max_length)
        return decoding.search(step, empty_cache, source, max_length=max_length)

    def waiting_stepper(
        self, source: Int[Array, "batch source_length"], k: int, max_length: int
    ) -> tuple[StepFunction, Callable[[int], Cache]]:
        """The step function that sees k tokens of the source at position 0, and one more at each further one. What it
        says does not depend on the tokens behind these."""
        waiting.require_causal_encoder(self.config.transformer)
        encoded = self.encode(source)
        return causal_stepper(self.target_embedding, self.decoder, encoded, max_length, wait_k=k)

    def _stepper(
        self, encoded: Encoded, max_length: int
    ) -> tuple[StepFunction, Callable[[int], Cache]]:
        return causal_stepper(self.target_embedding, self.decoder, encoded, max_length)

    def _blocks(self, encoded: Encoded, max_length: int, block: int) -> Blocks:
        blocks = causal_blocks(self.target_embedding, self.decoder, encoded, max_length)
        if self.lookahead is None:
            return blocks
        return self._with_heads(self.lookahead, encoded, blocks, min(block, max_length + 1))

    def _with_heads(
        self, lookahead: Lookahead, encoded: Encoded, blocks: Blocks, block: int
    ) -> Blocks:
        """The block function with a cache that also has the states of the last block, from which heads propose."""
        memory = self.decoder.memory(encoded)

        def extend(
            tokens: Int[Array, "batch block"], past: Any, position: Int[Array, "batch"]
        ) -> tuple[Float[Array, "batch block vocabulary"], Any]:
            inputs = self.target_embedding(tokens)
            states, cache = self.decoder.extend(inputs, past[0], position, memory, encoded.lengths)
            return self.target_embedding.attend(states), (cache, states)

        def propose(past: Any, index: Int[Array, "batch"]) -> Int[Array, "batch words"]:
            state = past[1][jnp.arange(index.shape[0]), index]
            ahead = jnp.swapaxes(lookahead(state), 0, 1)  # [batch, heads, d_model]
            return argmax.argmax(self.target_embedding.attend(ahead), limits.NEVER_TEXT).tokens

        shape = (encoded.lengths.shape[0], block, self.config.transformer.d_model)
        start = (blocks.cache, jnp.zeros(shape, encoded.states.dtype))
        return Blocks(extend, start, blocks.is_exact, propose)

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LeftToRightDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """Of the best translation: `tokens`, EOS included, `log_probabilities`, of each given those before, and
        `cross_attention`, [layers, heads, target, source], over the source for each token."""
        found = self.decode(source, decoding=without_drafts(decoding), max_length=max_length)
        encoded = self.encode(source)
        return causal_internals(
            self.target_embedding, self.decoder, encoded, found, source, wait_k=decoding.wait_k
        )


def causal_internals(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    hypotheses: Hypotheses,
    source: Int[Array, "batch source_length"],
    *,
    wait_k: int | None = None,
) -> dict[str, Internal]:
    """See AutoregressiveModel.internals."""
    target, lengths = translation_of(hypotheses, source)
    mask = None
    if wait_k is not None:
        batch, target_length = target.shape
        mask = waiting.source_mask(wait_k, batch, target_length, source.shape[1])
    weights = decoder.cross_attention_weights(
        embedding(shift_right(target)), None, encoded, memory_mask=mask, is_causal=True
    )
    states = causal_states(embedding, decoder, encoded, target, wait_k=wait_k)
    return {
        **of_tokens(embedding.attend(states), target, lengths),
        # [batch, layers, heads, target, source]
        "cross_attention": Internal(jnp.stack(weights, axis=1), {3: lengths, 4: encoded.lengths}),
    }


def causal_states(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    target: Int[Array, "rows target_length"],
    *,
    wait_k: int | Int[Array, ""] | None = None,
    rngs: nnx.Rngs | None = None,
) -> Float[Array, "rows target_length d_model"]:
    """Teacher-forced states of a causal decoder, rows = batch * hypotheses of each source. wait_k: see
    nn.waiting; None: all see the whole source."""
    inputs, mask = embedding(shift_right(target)), None
    if wait_k is not None:
        batch, source_length = encoded.states.shape[:2]
        mask = waiting.source_mask(wait_k, batch, target.shape[1], source_length)
    return decoder(inputs, None, encoded, memory_mask=mask, is_causal=True, rngs=rngs)


def causal_stepper(
    embedding: layers.Embedding,
    decoder: Decoder,
    encoded: Encoded,
    max_length: int,
    *,
    wait_k: int | None = None,
) -> tuple[StepFunction, Callable[[int], Cache]]:
    """A causal decoder's step function and the empty cache for n hypotheses a row. wait_k: source tokens that are seen
    at position 0, and one more at each further one; None: all."""
    memory = decoder.memory(encoded)

    def step(
        token_ids: Int[Array, "batch beam"], cache: Cache, position: Position
    ) -> tuple[Float[Array, "batch beam vocabulary"], Cache]:
        inputs = embedding(token_ids)
        lengths = encoded.lengths
        if wait_k is not None:
            lengths = jnp.minimum(lengths, wait_k + position)
        states, cache = decoder.step(inputs, cache, position, memory, lengths)
        return embedding.attend(states), cache

    def empty_cache(hypotheses: int) -> Cache:
        return decoder.empty_cache(encoded.lengths.shape[0], hypotheses, max_length + 1)

    return step, empty_cache


def causal_blocks(
    embedding: layers.Embedding, decoder: Decoder, encoded: Encoded, max_length: int
) -> Blocks:
    """A causal decoder's block function."""
    memory = decoder.memory(encoded)

    def extend(
        tokens: Int[Array, "batch block"], cache: Cache, position: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch block vocabulary"], Cache]:
        inputs = embedding(tokens)
        states, cache = decoder.extend(inputs, cache, position, memory, encoded.lengths)
        return embedding.attend(states), cache

    cache = decoder.empty_cache(encoded.lengths.shape[0], 1, max_length + 1)
    return Blocks(extend, cache, is_exact=decoder.extends_exactly)
