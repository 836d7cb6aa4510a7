"""Iterative refinement (Lee et al. 2018, arXiv:1802.06901): a one-pass translation, corrected pass by pass.

One decoder translates from copies of the source; a second one reads the whole translation and rewrites it,
any number of times. Training unrolls a few passes, each of which learns the true target; some of them read the target
with artificial errors instead of the model's own words (a denoising autoencoder).

What differs from the paper:
- the second decoder reads words only, while the authors' code adds the states of the pass before: a translation that
  repeats itself is then final, and adaptive stopping loses nothing. Stopping at a small Jaccard distance, as in the
  paper, is an option; it compares each pass with the one before it, the authors' code with several;
- the passes that read the corrupted target are drawn for each sentence, not for a whole batch; as in the paper
  the next pass reads the output of this one;
- the share of corrupted words is the same in every pass;
- the objective is the mean over passes, not their sum; the length is learned with the rest, not afterwards;
- residual connections as in every Transformer here, not the paper's highway layers;
- repeated words are removed only if the decoding says so (the paper always does)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.methods.length_prediction import LengthPredictor
from nat_ar.nn import decoder_inputs
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.decoder_inputs import Copier, Copies
from nat_ar.nn.dot_product import KeyValue
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.nn.upsampling import EvenCopy
from nat_ar.search import candidates, limits, refinement
from nat_ar.search.candidates import Candidates, Ladder
from nat_ar.search.refinement import LogitsFunction, Refine, Words
from nat_ar.special_tokens import NUM_SPECIAL, PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Internal, Loss, Mean, lengths_of, without_eos

KEEP, REPEAT, REPLACE, SWAP = range(4)


@dataclasses.dataclass(frozen=True)
class IterativeRefinement(base.Method):
    """Non-autoregressive Transformer that corrects its own translation (Lee et al. 2018)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of the encoder and of each of the two decoders"""
    copy: EvenCopy = "uniform"
    """inputs of the first pass: one source token each, or a mean of all, weighted by distance or by its square"""
    soft_copy_temperature: float = 1.0
    """width of such a mean: softmax(-distance / width), in source positions; 0.3 is usual for squares"""
    inputs: Copies = Copies()
    """what is copied, and what tells the copies apart"""
    training_iterations: int = 4
    """passes unrolled in training, the first included"""
    denoising_probability: float = 0.5
    """share of the later passes that read the corrupted target instead of the model's own words"""
    corruption_probability: float = 0.33
    """share of the corrupted target's words with an error"""
    max_length_offset: int = 64
    """target lengths from source length minus to plus this many tokens can be predicted"""
    length_prior: float = 0.0
    """start of the logit of the source's own length, beside 0 of the others (3 in Gu & Kong's code)"""
    length_loss_weight: float = 0.1
    """weight of the length loss beside the token loss"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: Refine = Refine()
    """decoding used unless the command says otherwise"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, inputs were embeddings, and all lengths began alike."""
        return {"inputs": config_json.to_json(Copies()), "length_prior": 0.0, **data}

    def __post_init__(self) -> None:
        decoder_inputs.require_fit(self.inputs, self.copy, self.soft_copy_temperature)
        if self.training_iterations < 2:
            raise ConfigError(
                "IterativeRefinement needs training_iterations of at least 2, or its second decoder "
                f"learns nothing, got {self.training_iterations}; LengthNat is the model of one pass"
            )
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        config_json.require_at_least(
            0, max_length_offset=self.max_length_offset, length_loss_weight=self.length_loss_weight
        )
        config_json.require_share("denoising_probability", self.denoising_probability)
        config_json.require_share("corruption_probability", self.corruption_probability)

    @property
    def variant(self) -> str:
        return "iterative refinement"

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "IterativeRefinementModel":
        return IterativeRefinementModel(self, sizes, rngs=rngs)


class IterativeRefinementModel(base.Seq2Seq):
    def __init__(
        self, config: IterativeRefinement, sizes: base.VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer = config.transformer
        self.decoder = Decoder(transformer, rngs=rngs)
        self.refiner = Decoder(transformer, rngs=rngs)
        self.length_predictor = LengthPredictor(
            transformer.d_model,
            config.max_length_offset,
            prior=config.length_prior,
            rngs=rngs,
        )
        self.copier = Copier(
            config.inputs,
            transformer,
            kind=config.copy,
            temperature=config.soft_copy_temperature,
            rngs=rngs,
        )
        self.config = config

    def first_logits(
        self,
        source: Int[Array, "batch source_length"],
        lengths: Int[Array, "rows"],
        width: int,
        encoded: Encoded,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows width vocabulary"]:
        """The first pass: from the source alone."""
        inputs = self.copier.evenly(self.embed_source(source), encoded, lengths, width).read()
        return self.target_embedding.attend(self.decoder(inputs, lengths, encoded, rngs=rngs))

    def refined_logits(
        self,
        tokens: Int[Array, "rows width"],
        lengths: Int[Array, "rows"],
        encoded: Encoded,
        *,
        memory: list[KeyValue] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows width vocabulary"]:
        """Every later pass: from the source and a translation."""
        inputs = self.target_embedding(tokens)
        states = self.refiner(inputs, lengths, encoded, memory=memory, rngs=rngs)
        return self.target_embedding.attend(states)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Mean cross entropy of all passes, and of the length. Terms: `token` over all passes,
        `first_pass` and `last_pass` alone. Without rngs every pass reads the one before it."""
        encoded = self.encode(batch.source, rngs=rngs)
        memory = self.refiner.memory(encoded)
        target = without_eos(batch.target)
        lengths, width = lengths_of(target), target.shape[1]

        def losses_of(logits: Float[Array, "batch width vocabulary"]) -> tuple[Mean, Mean]:
            smoothing = self.config.label_smoothing
            return cross_entropy.smoothed_cross_entropy(logits, target, smoothing=smoothing)

        def another_pass(
            tokens: Int[Array, "batch width"], key: PRNGKeyArray | None
        ) -> tuple[Int[Array, "batch width"], tuple[Mean, Mean]]:
            pass_rngs = None
            if key is not None:
                noise_key, dropout_key = jax.random.split(key)
                tokens = self._with_denoising(tokens, target, noise_key)
                pass_rngs = nnx.Rngs(dropout=dropout_key)
            logits = self.refined_logits(tokens, lengths, encoded, memory=memory, rngs=pass_rngs)
            return refinement.most_probable(logits, lengths).tokens, losses_of(logits)

        logits = self.first_logits(batch.source, lengths, width, encoded, rngs=rngs)
        first = losses_of(logits)
        num_later = self.config.training_iterations - 1
        _, later = jax.lax.scan(
            another_pass,
            refinement.most_probable(logits, lengths).tokens,
            None if rngs is None else jax.random.split(rngs.dropout(), num_later),
            length=num_later,
        )
        smoothed, plain = jax.tree.map(lambda one, more: one + more.sum(), first, later)
        length = self.length_predictor.loss(encoded, lengths)
        return Loss(
            smoothed.value + self.config.length_loss_weight * length.value,
            {
                "token": plain,
                "first_pass": first[1],
                "last_pass": jax.tree.map(lambda more: more[-1], later[1]),
                "length": length,
            },
        )

    def _with_denoising(
        self,
        tokens: Int[Array, "batch width"],
        target: Int[Array, "batch width"],
        key: PRNGKeyArray,
    ) -> Int[Array, "batch width"]:
        """Some sentences' own words replaced by their corrupted target."""
        choice_key, noise_key = jax.random.split(key)
        probability, batch = self.config.denoising_probability, len(tokens)
        is_denoised = jax.random.bernoulli(choice_key, probability, (batch, 1))
        vocabulary_size = self.target_embedding.table.shape[0]
        operations, replacements = random_errors(
            target.shape, self.config.corruption_probability, vocabulary_size, noise_key
        )
        return jnp.where(is_denoised, corrupt(target, operations, replacements), tokens)

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: Refine,
        max_length: int,
        scorer: base.Scorer | None = None,
        widths: Ladder = limits.width_ladder,
    ) -> Hypotheses:
        """Scores: mean log p of the words in the last pass, or the scorer's. Passes: those of the row's candidate
        that took most, and one for the scorer."""
        score = candidates.rescorer(decoding, source, scorer)
        encoded = self.encode(source)
        lengths = self.length_predictor.best(encoded, decoding.length_beam, max_length=max_length)
        logits_of = self.logits_function(encoded, lengths)

        def decode_at(width: int) -> Candidates:
            first = self.first_words(source, lengths, width, encoded)
            refined = decoding.search(logits_of, first, lengths)
            return Candidates(refined.tokens, refined.scores, refined.passes.max(axis=1))

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
        decoding: Refine,
        max_length: int,
    ) -> dict[str, Internal]:
        """Of the best translation by the model's own score: `length`, and after each iteration its `tokens`,
        repeats not yet removed, and their `log_probabilities`, [iterations, length]."""
        encoded = self.encode(source)
        lengths = self.length_predictor.best(encoded, decoding.length_beam, max_length=max_length)
        trace = refinement.refinement_trace(
            self.logits_function(encoded, lengths),
            self.first_words(source, lengths, max_length, encoded),
            lengths,
            iterations=decoding.iterations,
            is_adaptive=decoding.adaptive,
            stop_distance=decoding.stop_distance,
        )
        return refinement.internals(trace, lengths)

    def first_words(
        self,
        source: Int[Array, "batch source_length"],
        lengths: Int[Array, "batch size"],
        width: int,
        encoded: Encoded,
    ) -> Words:
        """The first pass for several lengths of each source."""
        logits = self.first_logits(source, lengths.reshape(-1), width, encoded)
        return refinement.most_probable(logits.reshape(*lengths.shape, width, -1), lengths)

    def logits_function(
        self, encoded: Encoded, lengths: Int[Array, "batch size"]
    ) -> LogitsFunction:
        """Every later pass as search.refinement sees it."""
        memory = self.refiner.memory(encoded)

        def logits_of(
            tokens: Int[Array, "batch size width"],
        ) -> Float[Array, "batch size width vocabulary"]:
            flat = tokens.reshape(-1, tokens.shape[-1])  # [batch * size, width]
            logits = self.refined_logits(flat, lengths.reshape(-1), encoded, memory=memory)
            return logits.reshape(*tokens.shape, -1)

        return logits_of


def random_errors(
    shape: tuple[int, ...], probability: float, vocabulary_size: int, key: PRNGKeyArray
) -> tuple[Int[Array, "batch width"], Int[Array, "batch width"]]:
    """Operations for `corrupt`, each kind of error equally likely, and the words that REPLACE writes."""
    position_key, kind_key, word_key = jax.random.split(key, 3)
    is_error = jax.random.bernoulli(position_key, probability, shape)
    kinds = jax.random.randint(kind_key, shape, REPEAT, SWAP + 1)
    replacements = jax.random.randint(word_key, shape, NUM_SPECIAL, vocabulary_size)
    return jnp.where(is_error, kinds, KEEP), replacements


def corrupt(
    target: Int[Array, "batch width"],
    operations: Int[Array, "batch width"],
    replacements: Int[Array, "batch width"],
) -> Int[Array, "batch width"]:
    """The target with errors that keep its length, made from left to right (section 3, the corruption process): a
    word also overwrites the next (REPEAT), becomes another one (REPLACE), or is swapped with the next (SWAP), and the
    next error may move it further. REPEAT and SWAP do nothing at the last word."""
    following = jnp.pad(target[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
    is_possible = (target != PAD) & ((following != PAD) | (operations == REPLACE))
    operations = jnp.where(is_possible, operations, KEEP)

    def write(
        current: Int[Array, "batch"], column: tuple[Array, Array, Array]
    ) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
        """`current` is the word at this position after the errors on its left."""
        operation, following, replacement = column
        written = jnp.where(operation == SWAP, following, current)
        written = jnp.where(operation == REPLACE, replacement, written)
        is_carried = (operation == REPEAT) | (operation == SWAP)
        return jnp.where(is_carried, current, following), written

    columns = (operations.T, following.T, replacements.T)
    _, written = jax.lax.scan(write, target[:, 0], columns)
    return written.T
