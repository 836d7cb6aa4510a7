"""Non-autoregressive Transformer with length prediction: all words at once, and how many from a
classifier over the encoder's mean state.

The one-pass model of Lee et al. 2018 (arXiv:1802.06901, without refinement) and of GLAT's and DSLP's
baselines: the length is predicted as an offset to the source's, decoder inputs are uniform copies (Gu et
al. 2018) or soft copies (Wei et al. 2019) of the source embeddings, or of the encoder's states. Decoding takes the
best length, or the best few in parallel (length beam, Ghazvininejad et al. 2019, section 3.3) and keeps the candidate
with the highest mean log p, its own or a rescorer's.

Options are training methods that do not change how this model translates:
- glancing (GLAT, Qian et al. 2021, arXiv:2008.07905);
- token_loss: losses.axe, which may shift words and leave positions blank, or losses.oaxe, which ignores order;
- deep_supervision (DSLP, Huang et al. 2022, arXiv:2110.07515): every decoder layer predicts;
- curriculum (FCL-NAT, Guo et al. 2020, arXiv:1911.08717): from the teacher's training to this one.

What differs from their papers: AXE and OaXE train a masked language model there, this one-pass model here,
and equal neighbours are removed from translations only if the decoding says so. With AXE the predicted length counts
positions, blank ones included: LengthBeam.length_multiplier makes room for blanks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.losses import catalogue
from nat_ar.losses.catalogue import AnyTokenLoss
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.methods import base, curriculum, deep_supervision, glancing, length_prediction
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.deep_supervision import DeepSupervision, Reads
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_prediction import LengthPredictor
from nat_ar.nn import decoder, decoder_inputs
from nat_ar.nn.decoder import BetweenBlocks, Decoder
from nat_ar.nn.decoder_inputs import Copier, Copies
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.nn.upsampling import EvenCopy
from nat_ar.search import candidates, limits, one_pass
from nat_ar.search.candidates import Candidates, Ladder, Score
from nat_ar.search.one_pass import LengthBeam
from nat_ar.types import (
    Batch,
    Encoded,
    Hypotheses,
    Internal,
    Loss,
    Mean,
    Prediction,
    SoftTargets,
    lengths_of,
    without_eos,
)


@dataclasses.dataclass(frozen=True)
class LengthNat(base.Method):
    """Non-autoregressive Transformer with length prediction (Lee et al. 2018, one pass)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    copy: EvenCopy = "soft"
    """decoder inputs: one source token each, or a mean of all, weighted by distance or by its square"""
    soft_copy_temperature: float = 1.0
    """width of such a mean: softmax(-distance / width), in source positions; 0.3 is usual for squares"""
    inputs: Copies = Copies()
    """what is copied, and what tells the copies apart"""
    positional_attention: bool = False
    """a further attention in each decoder block that goes by position only (Gu et al. 2018)"""
    sees_itself: bool = True
    """False hides every decoder position from itself (Gu et al. 2018)"""
    max_length_offset: int = 64
    """target lengths from source length minus to plus this many tokens can be predicted"""
    length_prior: float = 0.0
    """start of the logit of the source's own length, beside 0 of the others (3 in Gu & Kong's code)"""
    length_loss_weight: float = 0.1
    """weight of the length loss beside the token loss"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    token_loss: AnyTokenLoss = CrossEntropy()
    """what a prediction is compared with: the word at its position, or its word in the best alignment or the best
    order"""
    glancing: Glancing | None = None
    """training reveals some of the true words to the decoder (GLAT); None: none"""
    curriculum: Curriculum | None = None
    """training begins as the autoregressive teacher's (FCL-NAT); None: it does not"""
    deep_supervision: bool = False
    """every decoder layer predicts, learns, and hands its words to the next (DSLP)"""
    deep_supervision_reads: Reads = "states"
    """what the next layer reads beside the words: the states as they are, or, under pre-norm, normalised ones"""
    decoding: LengthBeam = LengthBeam()
    """decoding used unless the command says otherwise"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, deep supervision handed on normalised states, inputs were embeddings, all lengths began alike, and
        training had no curriculum."""
        was_deep = data.get("deep_supervision", False)
        return {
            "deep_supervision_reads": "normalised" if was_deep else "states",
            "inputs": config_json.to_json(Copies()),
            "length_prior": 0.0,
            "curriculum": None,
            **data,
        }

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        config_json.require_at_least(
            0, max_length_offset=self.max_length_offset, length_loss_weight=self.length_loss_weight
        )
        decoder_inputs.require_fit(self.inputs, self.copy, self.soft_copy_temperature)
        glancing.check(self.glancing, self.token_loss)
        curriculum.check(self.curriculum, self.transformer, token_loss=self.token_loss)
        if self.deep_supervision:
            deep_supervision.check(self.transformer)
        decoder.require_fit(self.transformer, sees_itself=self.sees_itself)

    @property
    def variant(self) -> str:
        name = "GLAT" if self.glancing is not None else "vanilla NAT"
        if not isinstance(self.token_loss, CrossEntropy):
            name = self.token_loss.name  # and glancing is None
        return f"{name} + DSLP" if self.deep_supervision else name

    @property
    def learns_distributions(self) -> bool:
        return isinstance(self.token_loss, CrossEntropy)

    def at(self, step: int) -> "LengthNat":
        is_over = self.curriculum is not None and self.curriculum.is_over(step)
        return dataclasses.replace(self, curriculum=None) if is_over else self

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
            transformer.d_model,
            config.max_length_offset,
            prior=config.length_prior,
            rngs=rngs,
        )
        self.deep_supervision = (
            DeepSupervision(transformer, reads=config.deep_supervision_reads, rngs=rngs)
            if config.deep_supervision
            else None
        )
        self.copier = Copier(
            config.inputs,
            transformer,
            kind=config.copy,
            temperature=config.soft_copy_temperature,
            rngs=rngs,
        )
        self.config = config

    def decoder_inputs(
        self,
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        target_lengths: Int[Array, "rows"],
        width: int,
        shown: Int[Array, "rows width"] | None = None,
    ) -> Float[Array, "rows width d_model"]:
        """Copies of the source; `shown` is the word of each position that glancing reveals, PAD elsewhere."""
        inputs = self.copier.evenly(self.embed_source(source), encoded, target_lengths, width)
        return inputs.read(shown, self.target_embedding)

    def logits(
        self,
        inputs: Float[Array, "rows width d_model"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
    ) -> Float[Array, "rows width vocabulary"]:
        """All positions at once: none sees the other words."""
        return self.target_embedding.attend(self.layer_states(inputs, lengths, encoded)[-1])

    def layer_states(
        self,
        inputs: Float[Array, "rows width d_model"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
        *,
        is_causal: bool | Bool[Array, ""] = False,
        rngs: nnx.Rngs | None = None,
    ) -> list[Float[Array, "rows width d_model"]]:
        """What every supervised layer predicts the words from; the last ones are the model's."""

        def run_decoder(
            between_blocks: BetweenBlocks | None = None,
        ) -> Float[Array, "rows width d_model"]:
            return self.decoder(
                inputs,
                lengths,
                encoded,
                is_causal=is_causal,
                sees_itself=self.config.sees_itself,
                between_blocks=between_blocks,
                rngs=rngs,
            )

        if self.deep_supervision is None:
            return [run_decoder()]

        def words(logits: Float[Array, "rows length vocabulary"]) -> Int[Array, "rows length"]:
            may_be_blank = self.config.token_loss.may_be_blank
            return one_pass.best_words(logits, may_be_blank=may_be_blank).tokens

        return self.deep_supervision.layer_states(run_decoder, self.target_embedding, words)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Token loss, the mean of all supervised layers, plus weighted length loss. Terms are the last
        layer's. With glancing, `token` is of the first pass, in which nothing is revealed, and `glanced` of the
        second, over the words that stay hidden. Without rngs nothing is revealed."""
        return self.loss_of(self.encode(batch.source, rngs=rngs), batch, step=step, rngs=rngs)

    def loss_of(
        self, encoded: Encoded, batch: Batch, *, step: Int[Array, ""], rngs: nnx.Rngs | None
    ) -> Loss:
        """The loss, given the encoded source of the batch."""
        target = without_eos(batch.target)
        lengths = lengths_of(target)
        length = self.length_predictor.loss(encoded, lengths)
        lesson = curriculum.lesson(self.config.curriculum, target, step=step, rngs=rngs)

        def predict(
            shown: Int[Array, "batch width"] | None, rngs: nnx.Rngs | None
        ) -> list[Prediction]:
            inputs = self.decoder_inputs(batch.source, encoded, lengths, target.shape[1], shown)
            inputs = lesson.read(inputs, shown, self.target_embedding)
            layers = self.layer_states(
                inputs, lengths, encoded, is_causal=lesson.is_causal, rngs=rngs
            )
            return [self.target_embedding.predict(states) for states in layers]

        seen = glancing.passes(self.config.glancing, predict, target, step=step, rngs=rngs)
        objective, terms = self.token_loss(seen.layers, seen.hidden, batch.soft, step)
        weighted_length = self.config.length_loss_weight * length.value
        terms = {**seen.terms(terms), **lesson.terms, "length": length}
        return Loss(objective + weighted_length, terms)

    def token_loss(
        self,
        layers: list[Prediction],
        target: Int[Array, "batch width"],
        soft: SoftTargets | None,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The mean of the layers' objectives, in nats per word, and the terms of the last layer."""
        objectives = []
        terms: dict[str, Mean] = {}
        loss, smoothing = self.config.token_loss, self.config.label_smoothing
        for prediction in layers:
            objective, terms = catalogue.compared(
                loss, prediction, target, step=step, smoothing=smoothing, soft=soft
            )
            objectives.append(objective)
        return jnp.stack(objectives).mean(), terms

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LengthBeam,
        max_length: int,
        scorer: base.Scorer | None = None,
        widths: Ladder = limits.width_ladder,
    ) -> Hypotheses:
        score = candidates.rescorer(decoding, source, scorer)
        return self.best_of_lengths(
            self.encode(source), source, decoding, max_length=max_length, score=score, widths=widths
        )

    def best_of_lengths(
        self,
        encoded: Encoded,
        source: Int[Array, "batch source_length"],
        decoding: LengthBeam,
        *,
        max_length: int,
        score: Score | None,
        widths: Ladder = limits.width_ladder,
    ) -> Hypotheses:
        """Translations of an encoded source; `score` None: ordered by their own mean log p."""
        lengths = self.lengths(encoded, decoding, max_length=max_length)

        def decode_at(width: int) -> Candidates:
            logits = self.logits_at(source, lengths, width, encoded)
            may_be_blank = self.config.token_loss.may_be_blank
            tokens, scores = decoding.search(logits, lengths, may_be_blank=may_be_blank)
            return Candidates(tokens, scores, jnp.where(encoded.lengths > 0, 1, 0))

        return candidates.best_candidates(
            decode_at,
            lengths,
            max_length=max_length,
            n_best=decoding.n_best,
            score=score,
            widths=widths,
        )

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LengthBeam,
        max_length: int,
    ) -> dict[str, Internal]:
        """`length_probabilities` of the classes of the length predictor and `class_lengths`, the target length of each;
        `lengths`, those that the decoding tries; of the best translation `length`, its positions, and their
        `labels` (words, or BLANK if that may be) with their `log_probabilities`."""
        return self.internals_of(
            self.encode(source), source, decoding, max_length=max_length, score=None
        )

    def internals_of(
        self,
        encoded: Encoded,
        source: Int[Array, "batch source_length"],
        decoding: LengthBeam,
        *,
        max_length: int,
        score: Score | None,
    ) -> dict[str, Internal]:
        """The internals of an encoded source; `score` as in best_of_lengths."""
        lengths = self.lengths(encoded, decoding, max_length=max_length)
        logits = self.logits_at(source, lengths, max_length, encoded)
        may_be_blank = self.config.token_loss.may_be_blank
        tokens, scores = decoding.search(logits, lengths, may_be_blank=may_be_blank)
        best = candidates.best_index(scores if score is None else score(tokens))
        labels = one_pass.best_words(logits, may_be_blank=may_be_blank)
        length = candidates.chosen(lengths, best)
        classes = jnp.arange(2 * self.length_predictor.max_offset + 1)
        offsets = classes - self.length_predictor.max_offset
        return {
            "length_probabilities": Internal(
                jax.nn.softmax(self.length_predictor.logits(encoded)), {}
            ),
            "class_lengths": Internal((encoded.lengths - 1)[:, None] + offsets, {}),
            "lengths": Internal(lengths, {}),
            "length": Internal(length, {}),
            "labels": Internal(candidates.chosen(labels.tokens, best), {1: length}),
            "log_probabilities": Internal(
                candidates.chosen(labels.log_probabilities, best), {1: length}
            ),
        }

    def lengths(
        self, encoded: Encoded, decoding: LengthBeam, *, max_length: int
    ) -> Int[Array, "batch size"]:
        """The lengths that a decoding tries, the most probable first."""
        return length_prediction.stretch(
            self.length_predictor.best(encoded, decoding.size, max_length=max_length),
            encoded.lengths,
            multiplier=decoding.length_multiplier,
            max_length=max_length,
        )

    def logits_at(
        self,
        source: Int[Array, "batch source_length"],
        lengths: Int[Array, "batch size"],
        width: int,
        encoded: Encoded,
    ) -> Float[Array, "batch size width vocabulary"]:
        """The logits of a translation of each given length."""
        batch, size = lengths.shape
        flat_lengths = lengths.reshape(
            -1
        )  # [batch * size]: the lengths of one source are neighbours
        inputs = self.decoder_inputs(source, encoded, flat_lengths, width)
        logits = self.logits(inputs, flat_lengths, encoded)
        return logits.reshape(batch, size, width, -1)
