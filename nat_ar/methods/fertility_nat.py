"""Non-autoregressive Transformer with fertilities (Gu et al. 2018, arXiv:1711.02281).

The encoder predicts for every source token how many target tokens it accounts for; the decoder's inputs
are the source embeddings, each copied that many times, and all words are predicted at once. Training reads the
fertilities of an external aligner; search.fertility has the decodings (section 3.3).

What differs from the paper:
- in the decoder's positional attention a position sees itself; only the self-attention hides it;
- EOS is in the encoder but has no fertility: it is neither predicted nor trained;
- the first candidate of noisy parallel decoding has the most probable fertilities, so that the result is never
  worse than Argmax under its own score, and it may choose without a teacher;
- decoder inputs can also be uniform or soft copies, or be copies of encoder states; with even copies fertilities only
  determine the target's length;
- fine-tuning minimises the whole divergence KL(student || teacher), as the text of section 4.3 describes it; its
  formula leaves out the student's entropy, without which the words' distribution is driven to a single
  peak. It is a mean over tokens, so that REINFORCE does not favour short translations."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import catalogue, cross_entropy, distillation
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.losses.ngram_matching import BagOfNgrams
from nat_ar.methods import base, curriculum, fertility_prediction, glancing
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.fertility_prediction import FineTuning
from nat_ar.methods.glancing import Glancing
from nat_ar.nn import decoder, decoder_inputs, layers, upsampling
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.decoder_inputs import Copier, Copies
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.nn.upsampling import EvenCopy
from nat_ar.search import candidates, fertility, limits, one_pass
from nat_ar.search.candidates import Candidates, Ladder
from nat_ar.search.fertility import Argmax, FertilityDecoding
from nat_ar.special_tokens import PAD
from nat_ar.types import (
    Batch,
    Encoded,
    Hypotheses,
    Internal,
    Loss,
    Mean,
    Prediction,
    append_eos,
    lengths_of,
    without_eos,
)


@dataclasses.dataclass(frozen=True)
class FertilityNat(base.Method):
    """Non-autoregressive Transformer with fertilities (Gu et al. 2018)."""

    needs_fertilities: ClassVar[bool] = True

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    copy: Literal["fertility"] | EvenCopy = "fertility"
    """decoder inputs: source tokens copied by fertility, or evenly, or a mean of all, weighted by distance or by its
    square; in every case the target is as long as the sum of the fertilities"""
    soft_copy_temperature: float = 1.0
    """width of such a mean: softmax(-distance / width), in source positions; 0.3 is usual for squares"""
    inputs: Copies = Copies()
    """what is copied, and what tells the copies apart"""
    max_fertility: int = 50
    """classes of the fertility predictor: fertilities 0 to max_fertility - 1"""
    fertility_loss_weight: float = 1.0
    """weight of the fertility loss beside the token loss"""
    positional_attention: bool = True
    """a further attention in each decoder block that goes by position only"""
    sees_itself: bool = False
    """False hides every decoder position from itself in self-attention"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    token_loss: CrossEntropy | BagOfNgrams = CrossEntropy()
    """what a prediction is compared with: the word at its position, or the n-grams of the target wherever"""
    glancing: Glancing | None = None
    """training reveals some of the true words to the decoder, as in GLAT; None: none"""
    curriculum: Curriculum | None = None
    """training begins as the autoregressive teacher's, as of LengthNat; None: it does not"""
    fine_tuning: FineTuning | None = None
    """train a finished model on against its autoregressive teacher; None: distillation loss only"""
    decoding: FertilityDecoding = Argmax()
    """decoding used unless the command says otherwise"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, inputs were embeddings, nothing was glanced at, training had no curriculum, and every word was learned
        at its own position."""
        return {
            "inputs": config_json.to_json(Copies()),
            "token_loss": config_json.to_json(CrossEntropy()),
            "glancing": None,
            "curriculum": None,
            **data,
        }

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        config_json.require_at_least(0, fertility_loss_weight=self.fertility_loss_weight)
        decoder_inputs.require_fit(self.inputs, self.copy, self.soft_copy_temperature)
        if self.max_fertility < 2:
            raise ConfigError(
                f"max_fertility counts classes, 0 among them, and must be at least 2, "
                f"got {self.max_fertility}"
            )
        curriculum.check(self.curriculum, self.transformer, token_loss=self.token_loss)
        glancing.check(self.glancing, self.token_loss)
        for name in ("glancing", "curriculum"):
            if getattr(self, name) is not None and self.fine_tuning is not None:
                raise ConfigError(
                    "fine_tuning compares the words of an undisturbed pass with the teacher's, got "
                    f"{name} as well; set {name} to None"
                )
        decoder.require_fit(self.transformer, sees_itself=self.sees_itself)

    @property
    def variant(self) -> str:
        options = {
            "GLAT": self.glancing,
            self.token_loss.name: None if self.token_loss.is_in_place else self.token_loss,
            "FT": self.fine_tuning,
        }
        return " + ".join(
            ["fertility NAT", *(name for name, value in options.items() if value is not None)]
        )

    @property
    def needs_teacher(self) -> bool:
        return self.fine_tuning is not None

    @property
    def learns_distributions(self) -> bool:
        return self.token_loss.is_in_place

    def at(self, step: int) -> "FertilityNat":
        is_over = self.curriculum is not None and self.curriculum.is_over(step)
        return dataclasses.replace(self, curriculum=None) if is_over else self

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "FertilityNatModel":
        return FertilityNatModel(self, sizes, rngs=rngs)


class FertilityNatModel(base.Seq2Seq):
    def __init__(
        self, config: FertilityNat, sizes: base.VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer = config.transformer
        self.decoder = Decoder(
            transformer, has_positional_attention=config.positional_attention, rngs=rngs
        )
        self.fertility_head = layers.Linear(transformer.d_model, config.max_fertility, rngs=rngs)
        self.copier = Copier(
            config.inputs,
            transformer,
            kind="uniform" if config.copy == "fertility" else config.copy,
            temperature=config.soft_copy_temperature,
            rngs=rngs,
        )
        self.config = config

    def fertility_logits(self, encoded: Encoded) -> Float[Array, "batch source_length classes"]:
        """Class c of a source token is c target tokens."""
        return self.fertility_head(encoded.states)

    def decoder_inputs(
        self,
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        fertilities: Int[Array, "rows source_length"],
        width: int,
        shown: Int[Array, "rows width"] | None = None,
    ) -> Float[Array, "rows width d_model"]:
        """Copies of the source; `shown` is the word of each position that glancing reveals, PAD elsewhere."""
        embeddings = self.embed_source(source)
        if self.config.copy == "fertility":
            inputs = self.copier.by_fertility(embeddings, encoded, fertilities, width)
        else:
            inputs = self.copier.evenly(embeddings, encoded, fertilities.sum(axis=1), width)
        return inputs.read(shown, self.target_embedding)

    def states(
        self,
        inputs: Float[Array, "rows width d_model"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
        *,
        is_causal: bool | Bool[Array, ""] = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows width d_model"]:
        """All positions at once: none sees the other words."""
        sees_itself = self.config.sees_itself
        return self.decoder(
            inputs, lengths, encoded, is_causal=is_causal, sees_itself=sees_itself, rngs=rngs
        )

    def logits(
        self,
        inputs: Float[Array, "rows width d_model"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
    ) -> Float[Array, "rows width vocabulary"]:
        """Those of the words at all positions."""
        return self.target_embedding.attend(self.states(inputs, lengths, encoded))

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Token and fertility loss under the aligner's fertilities; with fine_tuning set,
        lambda (REINFORCE + reverse KL) + (1 - lambda) of it (section 4.3). With glancing, `token` is of the
        first pass, in which nothing is revealed, and `glanced` of the second, over the words that stay hidden.
        Without rngs nothing is sampled or revealed, and the REINFORCE term is absent."""
        if batch.fertilities is None:
            raise ValueError(
                "FertilityNat needs Batch.fertilities, got None; prepare the data with an aligner"
            )
        encoded = self.encode(batch.source, rngs=rngs)
        target, fertilities = without_eos(batch.target), batch.fertilities
        target_lengths, width = lengths_of(target), target.shape[1]
        lesson = curriculum.lesson(self.config.curriculum, target, step=step, rngs=rngs)

        def predict(
            shown: Int[Array, "batch width"] | None, rngs: nnx.Rngs | None
        ) -> list[Prediction]:
            inputs = self.decoder_inputs(batch.source, encoded, fertilities, width, shown)
            inputs = lesson.read(inputs, shown, self.target_embedding)
            is_causal = lesson.is_causal
            states = self.states(inputs, target_lengths, encoded, is_causal=is_causal, rngs=rngs)
            return [self.target_embedding.predict(states)]

        seen = glancing.passes(self.config.glancing, predict, target, step=step, rngs=rngs)
        (prediction,) = seen.layers
        objective, of_words = catalogue.compared(
            self.config.token_loss,
            prediction,
            seen.hidden,
            step=step,
            smoothing=self.config.label_smoothing,
            soft=batch.soft,
        )
        of_fertility, clipped = fertility_prediction.fertility_loss(
            self.fertility_logits(encoded), batch.source, fertilities
        )
        terms = {
            **seen.terms(of_words),
            **lesson.terms,
            "fertility": of_fertility,
            "clipped_fertilities": clipped,
        }
        distilled = objective + self.config.fertility_loss_weight * of_fertility.value
        fine_tuning = self.config.fine_tuning
        if fine_tuning is None:
            return Loss(distilled, terms)
        if teacher is None:
            raise ValueError(
                "fine_tuning needs an autoregressive teacher, got none; name its run in the "
                "experiment or set fine_tuning to None"
            )
        divergence = self._divergence(prediction.logits(), target_lengths, batch.source, teacher)
        terms["reverse_kl"] = cross_entropy.masked_mean(divergence, target != PAD)
        tuned = terms["reverse_kl"].value
        if rngs is not None:
            sampled = jax.random.categorical(rngs.dropout(), self.fertility_logits(encoded))
            reinforce, more_terms = self.reinforce(
                encoded,
                batch.source,
                sampled.astype(jnp.int32),
                teacher,
                width=width + fine_tuning.extra_length,
            )
            tuned = tuned + fine_tuning.reinforce_weight * reinforce
            terms = {**terms, **more_terms}
        return Loss(fine_tuning.weight * tuned + (1.0 - fine_tuning.weight) * distilled, terms)

    def reinforce(
        self,
        encoded: Encoded,
        source: Int[Array, "batch source_length"],
        sampled: Int[Array, "batch source_length"],
        teacher: base.Teacher,
        *,
        width: int,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """fertility_prediction.reinforce of one draw of the fertilities; its cost is a sentence's mean
        KL(student || teacher) a token. Only the fertility predictor and the encoder get a gradient; costs are
        measured without dropout in the decoder."""
        logits = self.fertility_logits(encoded)
        row_limits = limits.within(width, encoded.lengths)

        def cost(wanted: Int[Array, "batch source_length"]) -> Float[Array, "batch"]:
            fertilities = fertility.within_limits(wanted[:, None], logits, source, row_limits)[:, 0]
            lengths = fertilities.sum(axis=1)
            inputs = self.decoder_inputs(source, encoded, fertilities, width)
            student = self.logits(inputs, lengths, encoded)
            divergence = self._divergence(student, lengths, source, teacher)
            return divergence.sum(axis=1) / jnp.maximum(lengths, 1)

        return fertility_prediction.reinforce(logits, source, sampled, cost, row_limits)

    def _divergence(
        self,
        logits: Float[Array, "rows width vocabulary"],
        lengths: Int[Array, "rows"],
        source: Int[Array, "rows source_length"],
        teacher: base.Teacher,
    ) -> Float[Array, "rows width"]:
        """KL(student || teacher) at each position, the teacher conditioned on the student's most probable words
        (section 4.3). Its prediction of EOS is left out: the student ends where its fertilities say."""
        tokens, _ = one_pass.one_pass_tokens(logits, lengths)
        expected = teacher.logits(source, append_eos(tokens))[:, :-1]
        return distillation.reverse_kl(logits, expected, lengths)

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: FertilityDecoding,
        max_length: int,
        scorer: base.Scorer | None = None,
        widths: Ladder = limits.width_ladder,
    ) -> Hypotheses:
        """Scores: the scorer's if the decoding rescores; else log p of the words and of their fertilities, divided
        by the number of words; they are those before repeats are removed."""
        score = candidates.rescorer(decoding, source, scorer)
        encoded = self.encode(source)
        logits = self.fertility_logits(encoded)
        fertilities = self.fertilities(
            logits, source, encoded, decoding=decoding, max_length=max_length
        )

        def decode_at(width: int) -> Candidates:
            tokens, scores = self._candidates(source, fertilities, logits, width, encoded)
            if decoding.remove_repeats:
                tokens = one_pass.remove_repeats(tokens)
            return Candidates(tokens, scores, jnp.where(encoded.lengths > 0, 1, 0))

        return candidates.best_candidates(
            decode_at,
            fertilities.sum(axis=-1),
            max_length=max_length,
            n_best=decoding.n_best,
            score=score,
            widths=widths,
        )

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: FertilityDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """`fertility_probabilities` of each source token; of the best translation by the model's own score
        `fertilities`, their sum `length`, the `tokens`, none removed, and `fertile_positions`, the source position that
        accounts for each of them (with copy="fertility" the decoder's input there)."""
        encoded = self.encode(source)
        logits = self.fertility_logits(encoded)
        fertilities = self.fertilities(
            logits, source, encoded, decoding=decoding, max_length=max_length
        )
        tokens, scores = self._candidates(source, fertilities, logits, max_length, encoded)
        best = candidates.best_index(scores)
        chosen = candidates.chosen(fertilities, best)
        length = chosen.sum(axis=1)
        return {
            "fertility_probabilities": Internal(jax.nn.softmax(logits), {1: encoded.lengths}),
            "fertilities": Internal(chosen, {1: encoded.lengths}),
            "length": Internal(length, {}),
            "tokens": Internal(candidates.chosen(tokens, best), {1: length}),
            "fertile_positions": Internal(
                upsampling.fertility_sources(chosen, max_length), {1: length}
            ),
        }

    def fertilities(
        self,
        logits: Float[Array, "batch source_length classes"],
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        *,
        decoding: FertilityDecoding,
        max_length: int,
    ) -> Int[Array, "batch candidates source_length"]:
        """Those that a decoding tries, within the length limits."""
        row_limits = limits.within(max_length, encoded.lengths)
        return fertility.within_limits(decoding.search(logits, source), logits, source, row_limits)

    def _candidates(
        self,
        source: Int[Array, "batch source_length"],
        fertilities: Int[Array, "batch candidates source_length"],
        fertility_logits: Float[Array, "batch source_length classes"],
        width: int,
        encoded: Encoded,
    ) -> tuple[Int[Array, "batch candidates width"], Float[Array, "batch candidates"]]:
        """A translation by each of the given fertilities, and its score by the model itself."""
        batch, num_candidates, source_length = fertilities.shape
        flat = fertilities.reshape(-1, source_length)  # [batch * candidates, source_length]
        inputs = self.decoder_inputs(source, encoded, flat, width)
        logits = self.logits(inputs, flat.sum(axis=1), encoded)
        lengths = fertilities.sum(axis=-1)
        tokens, mean_log_p = one_pass.one_pass_tokens(
            logits.reshape(batch, num_candidates, width, -1), lengths
        )
        log_p = jax.nn.log_softmax(fertility_logits)[:, None]
        chosen = jnp.take_along_axis(log_p, fertilities[..., None], axis=-1)[..., 0]
        prior = jnp.where(fertility.is_source_text(source)[:, None], chosen, 0.0).sum(axis=-1)
        return tokens, mean_log_p + prior / jnp.maximum(lengths, 1)
