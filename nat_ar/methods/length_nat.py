"""Non-autoregressive Transformer with length prediction: all words at once, and how many from a
classifier over the encoder's mean state.

The one-pass model of Lee et al. 2018 (arXiv:1802.06901, without refinement) and of GLAT's and DSLP's
baselines: the length is predicted as an offset to the source's, decoder inputs are uniform copies (Gu et
al. 2018) or soft copies (Wei et al. 2019) of the source embeddings. Decoding takes the best length, or
the best few in parallel (length beam, Ghazvininejad et al. 2019, section 3.3) and keeps the candidate
with the highest mean log p, its own or a rescorer's."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.nn import layers, upsampling
from nat_ar.nn.transformer import Decoder, TransformerConfig
from nat_ar.search import limits, rescoring
from nat_ar.special import EOS, PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Loss, Mean


@dataclasses.dataclass(frozen=True)
class LengthBeam:
    """The best `size` lengths in parallel, the best translation of them."""

    size: int = 1
    """lengths tried; 1 is the plain one-pass decoder"""
    rescore: bool = False
    """choose by the autoregressive teacher instead of by the model's own mean log p"""
    n_best: int = 1
    """translations handed back, best first; at most size"""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                f"LengthBeam needs 1 <= n_best <= size, got n_best {self.n_best} and size {self.size}"
            )


@dataclasses.dataclass(frozen=True)
class LengthNat:
    """Non-autoregressive Transformer with length prediction (Lee et al. 2018, one pass)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    copy: Literal["uniform", "soft"] = "soft"
    """decoder inputs: one source embedding each, or a distance-weighted mean of all"""
    soft_copy_temperature: float = 1.0
    """width, in source positions, of the soft copy"""
    positional_attention: bool = False
    """a further attention in each decoder block that goes by position only (Gu et al. 2018)"""
    sees_itself: bool = True
    """False hides every decoder position from itself (Gu et al. 2018)"""
    max_length_offset: int = 64
    """target lengths from source length minus to plus this many tokens can be predicted"""
    length_loss_weight: float = 0.1
    """weight of the length loss beside the token loss"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: LengthBeam = LengthBeam()
    """decoding used unless the command says otherwise"""

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "LengthNatModel":
        return LengthNatModel(self, sizes, rngs=rngs)


class LengthNatModel(base.Seq2Seq):
    def __init__(self, config: LengthNat, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer = config.transformer
        self.decoder = Decoder(
            transformer, has_positional_attention=config.positional_attention, rngs=rngs
        )
        num_classes = 2 * config.max_length_offset + 1
        self.length_head = layers.Linear(transformer.d_model, num_classes, rngs=rngs)
        self.config = config

    def length_logits(self, encoded: Encoded) -> Float[Array, "batch classes"]:
        """Class c stands for target length = source length + c - max_length_offset, EOS counted in
        neither."""
        is_source = jnp.arange(encoded.states.shape[1]) < encoded.lengths[:, None]
        total = jnp.where(is_source[..., None], encoded.states.astype(jnp.float32), 0.0).sum(axis=1)
        return self.length_head(total / jnp.maximum(encoded.lengths, 1)[:, None])

    def decoder_inputs(
        self,
        source: Int[Array, "batch source_length"],
        target_lengths: Int[Array, "batch"],
        width: int,
    ) -> Float[Array, "batch width d_model"]:
        embeddings, source_lengths = self.embed_source(source), base.lengths_of(source)
        if self.config.copy == "uniform":
            places = upsampling.uniform_places(source_lengths, target_lengths, width)
            return upsampling.copy(embeddings, places)
        return upsampling.soft_copy(
            embeddings,
            source_lengths,
            target_lengths,
            width,
            temperature=self.config.soft_copy_temperature,
        )

    def logits(
        self,
        inputs: Float[Array, "rows width d_model"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows width vocabulary"]:
        """All positions at once, each blind to the other words."""
        states = self.decoder(
            inputs, lengths, encoded, sees_itself=self.config.sees_itself, rngs=rngs
        )
        return self.target_embedding.attend(states)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        encoded = self.encode(batch.source, rngs=rngs)
        target = without_eos(batch.target)
        target_lengths = base.lengths_of(target)
        inputs = self.decoder_inputs(batch.source, target_lengths, target.shape[1])
        logits = self.logits(inputs, target_lengths, encoded, rngs=rngs)
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            logits, target, smoothing=self.config.label_smoothing
        )
        length = self._length_loss(encoded, target_lengths)
        objective = smoothed.value + self.config.length_loss_weight * length.value
        return Loss(objective, {"token": plain, "length": length})

    def _length_loss(self, encoded: Encoded, target_lengths: Int[Array, "batch"]) -> Mean:
        furthest = self.config.max_length_offset
        offset = target_lengths - (encoded.lengths - 1)
        classes = jnp.clip(offset, -furthest, furthest) + furthest
        logits = self.length_logits(encoded)
        return cross_entropy.class_cross_entropy(logits, classes, encoded.lengths > 0)

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LengthBeam,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        if decoding.rescore and scorer is None:
            raise ValueError("LengthBeam(rescore=True) needs a teacher to rescore with; got none")
        encoded = self.encode(source)
        furthest = self.config.max_length_offset
        longest = limits.length_limit(encoded.lengths)[:, None]
        candidates = (encoded.lengths - 1)[:, None] + jnp.arange(-furthest, furthest + 1)
        is_possible = (candidates >= 1) & (candidates <= longest)
        length_logits = jnp.where(is_possible, self.length_logits(encoded), -jnp.inf)
        _, classes = jax.lax.top_k(length_logits, decoding.size)
        lengths = jnp.take_along_axis(candidates, classes, axis=1)
        lengths = jnp.clip(lengths, 1, longest)  # where fewer than `size` are possible
        lengths = jnp.where(encoded.lengths[:, None] > 0, lengths, 0)  # [batch, size]

        def decode_at(width: int) -> Hypotheses:
            tokens, scores = self._candidates(source, lengths, width, encoded)
            steps = jnp.where(encoded.lengths > 0, 1, 0)
            if decoding.rescore and scorer is not None:
                scores, steps = scorer.score(source, tokens), 2 * steps
            return rescoring.best_first(tokens, scores, steps, n_best=decoding.n_best)

        return limits.at_width(lengths.max(), limits.width_ladder(max_length), decode_at)

    def _candidates(
        self,
        source: Int[Array, "batch source_length"],
        lengths: Int[Array, "batch size"],
        width: int,
        encoded: Encoded,
    ) -> tuple[Int[Array, "batch size width"], Float[Array, "batch size"]]:
        """A translation of each given length, and its mean log p."""
        batch, size = lengths.shape
        flat_lengths = lengths.reshape(-1)
        inputs = self.decoder_inputs(jnp.repeat(source, size, axis=0), flat_lengths, width)
        logits = self.logits(inputs, flat_lengths, encoded)
        return one_pass_tokens(logits.reshape(batch, size, width, -1), lengths)


def without_eos(target: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """The target as one-pass models see it: their length says where it ends."""
    return jnp.where(target == EOS, PAD, target)


def one_pass_tokens(
    logits: Float[Array, "*axes width vocabulary"], lengths: Int[Array, "*axes"]
) -> tuple[Int[Array, "*axes width"], Float[Array, "*axes"]]:
    """The most probable word of each place within the length, and their mean log p."""
    tokens = jnp.argmax(limits.text_logits(logits, may_end=False), axis=-1).astype(jnp.int32)
    gains = cross_entropy.token_log_probabilities(logits, tokens)
    is_place = jnp.arange(tokens.shape[-1]) < lengths[..., None]
    total = jnp.where(is_place, gains, 0.0).sum(axis=-1)
    return jnp.where(is_place, tokens, PAD), total / jnp.maximum(lengths, 1)
