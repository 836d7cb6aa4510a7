"""Non-autoregressive Transformer with length prediction: all words at once, and how many from a
classifier over the encoder's mean state.

The one-pass model of Lee et al. 2018 (arXiv:1802.06901, without refinement) and of GLAT's and DSLP's
baselines: the length is predicted as an offset to the source's, decoder inputs are uniform copies (Gu et
al. 2018) or soft copies (Wei et al. 2019) of the source embeddings. Decoding takes the best length, or
the best few in parallel (length beam, Ghazvininejad et al. 2019, section 3.3) and keeps the candidate
with the highest mean log p, its own or a rescorer's.

Options are the training methods that leave this model as it is when it translates:
- glancing (GLAT, Qian et al. 2021, arXiv:2008.07905);
- token_loss: losses.axe, which may shift words and leave places blank, or losses.oaxe, which ignores order;
- deep_supervision (DSLP, Huang et al. 2022, arXiv:2110.07515): every decoder layer predicts.

What differs from their papers: AXE and OaXE train a masked language model there, this one-pass model here,
and equal neighbours are not removed from their translations. With AXE the length predicted is one of places:
LengthBeam.length_multiplier makes room for blanks among them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import axe, cross_entropy, oaxe
from nat_ar.losses.axe import Axe
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods import base, deep_supervision, glancing, length_prediction
from nat_ar.methods.deep_supervision import DeepSupervision
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_prediction import LengthPredictor
from nat_ar.nn import upsampling
from nat_ar.nn.transformer import BetweenBlocks, Decoder, TransformerConfig
from nat_ar.search import argmax, limits
from nat_ar.search.argmax import BestTokens
from nat_ar.search.candidates import best_first
from nat_ar.special_tokens import BLANK, EOS, PAD
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
    length_multiplier: float = 1.0
    """predicted lengths are tried this many times as long, rounded: room for the blanks of losses.axe
    (the length multiplier of Ghazvininejad et al. 2020)"""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                f"LengthBeam needs 1 <= n_best <= size, got n_best {self.n_best} and size {self.size}"
            )
        if self.length_multiplier < 1.0:
            raise ConfigError(
                f"length_multiplier must be at least 1, got {self.length_multiplier}: blanks need room, "
                "and what is shorter cuts words off"
            )


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Every word at its own place."""


@dataclasses.dataclass(frozen=True)
class LengthNat(base.Method):
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
    token_loss: CrossEntropy | Axe | Oaxe = CrossEntropy()
    """what a prediction is compared with: the word at its place, the word that the best alignment or
    the best order gives it"""
    glancing: Glancing | None = None
    """training reveals some of the true words to the decoder (GLAT); None: none"""
    deep_supervision: bool = False
    """every decoder layer predicts, learns, and hands its words to the next (DSLP)"""
    decoding: LengthBeam = LengthBeam()
    """decoding used unless the command says otherwise"""

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        if self.glancing is not None and not isinstance(self.token_loss, CrossEntropy):
            raise ConfigError(
                "glancing counts and reveals the words at their own places and needs token_loss "
                f"CrossEntropy, got {type(self.token_loss).__name__}; set glancing to None or "
                "token_loss to CrossEntropy()"
            )
        if self.deep_supervision:
            deep_supervision.check(self.transformer)
        if self.transformer.implementation == "cudnn" and not self.sees_itself:
            raise ConfigError(
                "attention by 'cudnn' cannot hide a position from itself; set transformer.implementation to "
                "'xla' or sees_itself to True"
            )

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "LengthNatModel":
        return LengthNatModel(self, sizes, rngs=rngs)


class LengthNatModel(base.Seq2Seq):
    def __init__(self, config: LengthNat, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer = config.transformer
        self.decoder = Decoder(
            transformer, has_positional_attention=config.positional_attention, rngs=rngs
        )
        self.length_predictor = LengthPredictor(
            transformer.d_model, config.max_length_offset, rngs=rngs
        )
        self.deep_supervision = (
            DeepSupervision(transformer, rngs=rngs) if config.deep_supervision else None
        )
        self.config = config

    def decoder_inputs(
        self,
        source: Int[Array, "batch source_length"],
        target_lengths: Int[Array, "batch"],
        width: int,
    ) -> Float[Array, "batch width d_model"]:
        return upsampling.even_copies(
            self.embed_source(source),
            base.lengths_of(source),
            target_lengths,
            width,
            kind=self.config.copy,
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
        return self.layer_logits(inputs, lengths, encoded, rngs=rngs)[-1]

    def layer_logits(
        self,
        inputs: Float[Array, "rows width d_model"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> list[Float[Array, "rows width vocabulary"]]:
        """The logits of every layer that is supervised; the last ones are the model's."""

        def run_decoder(
            between_blocks: BetweenBlocks | None = None,
        ) -> Float[Array, "rows width d_model"]:
            return self.decoder(
                inputs,
                lengths,
                encoded,
                sees_itself=self.config.sees_itself,
                between_blocks=between_blocks,
                rngs=rngs,
            )

        if self.deep_supervision is None:
            return [self.target_embedding.attend(run_decoder())]

        def words(logits: Float[Array, "rows length vocabulary"]) -> Int[Array, "rows length"]:
            return best_words(logits, may_be_blank=self.may_be_blank).tokens

        return self.deep_supervision.layer_logits(run_decoder, self.target_embedding, words)

    @property
    def may_be_blank(self) -> bool:
        """Whether a place may stand for no word."""
        return isinstance(self.config.token_loss, Axe)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Token loss, the mean of all supervised layers, plus weighted length loss. Terms are the last
        layer's. With glancing, `token` is the first pass's, to which nothing is revealed, and `glanced` the
        second's, over the words that stay hidden. Without rngs nothing is revealed."""
        return self.loss_of(self.encode(batch.source, rngs=rngs), batch, step=step, rngs=rngs)

    def loss_of(
        self, encoded: Encoded, batch: Batch, *, step: Int[Array, ""], rngs: nnx.Rngs | None
    ) -> Loss:
        """The loss, given the encoded source of the batch."""
        target = base.without_eos(batch.target)
        lengths = base.lengths_of(target)
        inputs = self.decoder_inputs(batch.source, lengths, target.shape[1])
        length = self.length_predictor.loss(encoded, lengths)
        weighted_length = self.config.length_loss_weight * length.value
        if self.config.glancing is None or rngs is None:
            layers = self.layer_logits(inputs, lengths, encoded, rngs=rngs)
            objective, terms = self.token_loss(layers, target, step)
            return Loss(objective + weighted_length, {**terms, "length": length})

        key = rngs.dropout()  # one key, the same dropout in both passes
        first = self.logits(inputs, lengths, encoded, rngs=nnx.Rngs(dropout=key))
        first = jax.lax.stop_gradient(first)
        is_word = target != PAD
        is_wrong = best_words(first).tokens != target
        ratio = self.config.glancing.ratio(step)
        is_revealed = glancing.revealed(is_wrong, is_word, ratio, rngs.dropout())
        inputs = jnp.where(is_revealed[..., None], self.target_embedding(target), inputs)
        layers = self.layer_logits(inputs, lengths, encoded, rngs=nnx.Rngs(dropout=key))
        objective, glanced = self.token_loss(layers, jnp.where(is_revealed, PAD, target), step)
        _, plain = cross_entropy.smoothed_cross_entropy(first, target, smoothing=0.0)
        terms = {
            "token": plain,
            "glanced": glanced["token"],
            "wrong": cross_entropy.masked_mean(is_wrong.astype(jnp.float32), is_word),
            "revealed": cross_entropy.masked_mean(is_revealed.astype(jnp.float32), is_word),
            "length": length,
        }
        return Loss(objective + weighted_length, terms)

    def token_loss(
        self,
        layers: list[Float[Array, "batch width vocabulary"]],
        target: Int[Array, "batch width"],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The mean over layers of what is minimised, in nats per word, and terms of the last layer."""
        kind, smoothing = self.config.token_loss, self.config.label_smoothing
        objectives = []
        terms: dict[str, Mean] = {}
        for logits in layers:
            if isinstance(kind, Axe):
                objective, terms = axe_loss(logits, target, kind, smoothing=smoothing)
            elif isinstance(kind, Oaxe):
                objective, terms = oaxe_loss(logits, target, kind, step, smoothing=smoothing)
            else:
                smoothed, plain = cross_entropy.smoothed_cross_entropy(
                    logits, target, smoothing=smoothing
                )
                objective, terms = smoothed.value, {"token": plain}
            objectives.append(objective)
        return jnp.stack(objectives).mean(), terms

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
        score = functools.partial(scorer.score, source) if decoding.rescore and scorer else None
        return self.best_of_lengths(
            self.encode(source), source, decoding, max_length=max_length, score=score
        )

    def best_of_lengths(
        self,
        encoded: Encoded,
        source: Int[Array, "batch source_length"],
        decoding: LengthBeam,
        *,
        max_length: int,
        score: Callable[[Int[Array, "batch size width"]], Float[Array, "batch size"]] | None,
    ) -> Hypotheses:
        """Translations of an encoded source; `score` None: ordered by their own mean log p."""
        lengths = self.length_predictor.best(encoded, decoding.size, max_length=max_length)
        lengths = length_prediction.stretch(
            lengths,
            encoded.lengths,
            multiplier=decoding.length_multiplier,
            max_length=max_length,
        )

        def decode_at(width: int) -> Hypotheses:
            tokens, scores = self._candidates(source, lengths, width, encoded)
            steps = jnp.where(encoded.lengths > 0, 1, 0)
            if score is not None:
                scores, steps = score(tokens), 2 * steps
            return best_first(tokens, scores, steps, n_best=decoding.n_best)

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
        logits = logits.reshape(batch, size, width, -1)
        return one_pass_tokens(logits, lengths, may_be_blank=self.may_be_blank)


def axe_loss(
    logits: Float[Array, "batch width vocabulary"],
    target: Int[Array, "batch width"],
    config: Axe,
    *,
    smoothing: float,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Aligned cross entropy in nats per word, as many places as words. Every place predicts one word or
    BLANK, whose smoothing is spread over the vocabulary."""
    is_place = target != PAD
    lengths = base.lengths_of(target)
    nats = axe.aligned_cross_entropy(
        logits, lengths, target, skip_target_penalty=config.skip_target_penalty
    )
    token = Mean(nats.sum(), lengths.sum().astype(jnp.float32))
    is_blank = (best_words(logits, may_be_blank=True).tokens == BLANK).astype(jnp.float32)
    terms = {"token": token, "blank": cross_entropy.masked_mean(is_blank, is_place)}
    if smoothing == 0.0:
        return token.value, terms
    uniform = cross_entropy.uniform_cross_entropy(logits, is_place)
    return (1.0 - smoothing) * token.value + smoothing * uniform.value, terms


def oaxe_loss(
    logits: Float[Array, "batch width vocabulary"],
    target: Int[Array, "batch width"],
    config: Oaxe,
    step: Int[Array, ""],
    *,
    smoothing: float,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Cross entropy of the target as it stands and in its best order, in nats per word, weighted by step.
    `token` is of the best order, with no word left out; `in_place` of the target as it stands."""
    weight = config.plain_weight(step)
    ordered = jax.lax.cond(
        weight < 1.0, oaxe.best_order, lambda logits, target: target, logits, target
    )
    in_place, plain_in_place = cross_entropy.smoothed_cross_entropy(
        logits, target, smoothing=smoothing
    )
    log_p = cross_entropy.token_log_probabilities(jax.lax.stop_gradient(logits), ordered)
    is_left_out = jnp.exp(log_p) < config.truncation_margin
    kept = jnp.where(is_left_out, PAD, ordered)
    in_order, _ = cross_entropy.smoothed_cross_entropy(logits, kept, smoothing=smoothing)
    in_order = Mean(in_order.total, in_place.count)  # per word, those left out among them
    is_word = ordered != PAD
    terms = {
        "token": cross_entropy.masked_mean(-log_p, is_word),
        "in_place": plain_in_place,
        "left_out": cross_entropy.masked_mean(is_left_out.astype(jnp.float32), is_word),
    }
    return weight * in_place.value + (1.0 - weight) * in_order.value, terms


def best_words(
    logits: Float[Array, "*axes vocabulary"], *, may_be_blank: bool = False
) -> BestTokens:
    """The most probable word of each place, or BLANK where that may be."""
    never = {*limits.NEVER_TEXT, EOS} - ({BLANK} if may_be_blank else set())
    return argmax.argmax(logits, never)


def one_pass_tokens(
    logits: Float[Array, "*axes width vocabulary"],
    lengths: Int[Array, "*axes"],
    *,
    may_be_blank: bool = False,
) -> tuple[Int[Array, "*axes width"], Float[Array, "*axes"]]:
    """The most probable word of each place within the length, and their mean log p. Blanks, where they
    may be, are dropped from the words but not from the mean."""
    best = best_words(logits, may_be_blank=may_be_blank)
    is_place = jnp.arange(logits.shape[-2]) < lengths[..., None]
    total = jnp.where(is_place, best.log_probabilities, 0.0).sum(axis=-1)
    tokens = jnp.where(is_place, best.tokens, PAD)
    if may_be_blank:
        tokens = without_blanks(tokens)
    return tokens, total / jnp.maximum(lengths, 1)


def without_blanks(tokens: Int[Array, "*axes width"]) -> Int[Array, "*axes width"]:
    """The words in their order, packed to the left. Equal neighbours stay: blanks separate nothing."""
    tokens = jnp.where(tokens == BLANK, PAD, tokens)
    words_first = jnp.argsort(tokens == PAD, axis=-1, stable=True)
    return jnp.take_along_axis(tokens, words_first, axis=-1)
