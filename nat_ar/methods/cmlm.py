"""Conditional masked language model with mask-predict decoding (Ghazvininejad et al. 2019,
arXiv:1904.09324).

The decoder sees the target with some words replaced by MASK and predicts those, from the source and the words on both
sides. Training hides a uniformly drawn number of words, so that decoding can start from masks alone and finish a
translation in any number of passes with one set of parameters.

What differs from the paper:
- the length is predicted from the encoder's mean state, as an offset to the source's, not from a special token in the
  encoder;
- a sentence of fewer words than iterations needs fewer passes (those that would hide no word are not run), for the
  same translation;
- without rngs the loss hides every word: it is the loss of the first pass, comparable with one-pass models."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nat_ar import config_json
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.methods.length_prediction import LengthPredictor
from nat_ar.nn import decoder_inputs
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.decoder_inputs import Copier, Copies, Inputs
from nat_ar.nn.dot_product import KeyValue
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.nn.upsampling import EvenCopy
from nat_ar.search import candidates, limits, refinement
from nat_ar.search.candidates import Candidates, Ladder
from nat_ar.search.refinement import LogitsFunction, MaskPredict
from nat_ar.special_tokens import MASK, PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Internal, Loss, lengths_of, without_eos


@dataclasses.dataclass(frozen=True)
class Cmlm(base.Method):
    """Conditional masked language model (Ghazvininejad et al. 2019)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    copy: Literal["none"] | EvenCopy = "none"
    """what a hidden word's position reads beside MASK: nothing, one source token each, or a mean of all, weighted by
    distance or by its square"""
    soft_copy_temperature: float = 1.0
    """width of such a mean: softmax(-distance / width), in source positions; 0.3 is usual for squares"""
    inputs: Copies = Copies()
    """what is copied, if anything, and what tells the copies apart"""
    max_length_offset: int = 64
    """target lengths from source length minus to plus this many tokens can be predicted"""
    length_prior: float = 0.0
    """start of the logit of the source's own length, beside 0 of the others (3 in Gu & Kong's code)"""
    length_loss_weight: float = 0.1
    """weight of the length loss beside the token loss"""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: MaskPredict = MaskPredict()
    """decoding used unless the command says otherwise"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, hidden words were all alike, and all lengths began so."""
        return {
            "copy": "none",
            "soft_copy_temperature": 1.0,
            "inputs": config_json.to_json(Copies()),
            "length_prior": 0.0,
            **data,
        }

    def __post_init__(self) -> None:
        decoder_inputs.require_fit(self.inputs, self.copy, self.soft_copy_temperature)
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        config_json.require_at_least(
            0, max_length_offset=self.max_length_offset, length_loss_weight=self.length_loss_weight
        )

    @property
    def learns_distributions(self) -> bool:
        return True

    @property
    def variant(self) -> str:
        return "CMLM"

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "CmlmModel":
        return CmlmModel(self, sizes, rngs=rngs)


class CmlmModel(base.Seq2Seq):
    def __init__(self, config: Cmlm, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer = config.transformer
        self.decoder = Decoder(transformer, rngs=rngs)
        self.length_predictor = LengthPredictor(
            transformer.d_model,
            config.max_length_offset,
            prior=config.length_prior,
            rngs=rngs,
        )
        self.copier = (
            None
            if config.copy == "none"
            else Copier(
                config.inputs,
                transformer,
                kind=config.copy,
                temperature=config.soft_copy_temperature,
                rngs=rngs,
            )
        )
        self.config = config

    def decoder_inputs(
        self,
        tokens: Int[Array, "rows width"],
        lengths: Int[Array, "rows"],
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
    ) -> Float[Array, "rows width d_model"]:
        """The words, and at hidden ones what MASK and the copy add up to."""
        words = self.target_embedding(tokens)
        if self.copier is None:
            return words
        width = tokens.shape[1]
        copies = self.copier.evenly(self.embed_source(source), encoded, lengths, width)
        is_hidden = (tokens == MASK)[..., None]
        return Inputs(jnp.where(is_hidden, words + copies.copied, words), copies.marks).read()

    def states(
        self,
        tokens: Int[Array, "rows width"],
        lengths: Int[Array, "rows"],
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        *,
        memory: list[KeyValue] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows width d_model"]:
        """What every position predicts its word from, given a target with MASK for hidden words."""
        inputs = self.decoder_inputs(tokens, lengths, source, encoded)
        return self.decoder(inputs, lengths, encoded, memory=memory, rngs=rngs)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Cross entropy of the hidden words, and of the length. The term `masked` is the share of words
        that were hidden."""
        encoded = self.encode(batch.source, rngs=rngs)
        target = without_eos(batch.target)
        target_lengths, is_word = lengths_of(target), target != PAD
        is_hidden = is_word
        if rngs is not None:
            is_hidden = random_masks(target_lengths, target.shape[1], rngs.dropout())
        seen = jnp.where(is_hidden, MASK, target)
        states = self.states(seen, target_lengths, batch.source, encoded, rngs=rngs)
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            self.target_embedding.predict(states),
            jnp.where(is_hidden, target, PAD),
            smoothing=self.config.label_smoothing,
            soft=batch.soft,
        )
        length = self.length_predictor.loss(encoded, target_lengths)
        masked = cross_entropy.masked_mean(is_hidden.astype(jnp.float32), is_word)
        objective = smoothed.value + self.config.length_loss_weight * length.value
        return Loss(objective, {"token": plain, "length": length, "masked": masked})

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: MaskPredict,
        max_length: int,
        scorer: base.Scorer | None = None,
        widths: Ladder = limits.width_ladder,
    ) -> Hypotheses:
        """Scores: mean log p of the words, each from the pass that chose it, or the scorer's. Passes: those of the
        row's longest candidate, and one for the scorer."""
        score = candidates.rescorer(decoding, source, scorer)
        encoded = self.encode(source)
        lengths = self.length_predictor.best(encoded, decoding.length_beam, max_length=max_length)
        logits_of = self.logits_function(source, encoded, lengths)

        def decode_at(width: int) -> Candidates:
            refined = decoding.search(logits_of, lengths, width)
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
        decoding: MaskPredict,
        max_length: int,
    ) -> dict[str, Internal]:
        """Of the best translation by the model's own score: `length`, and after each iteration its `tokens` and
        their `log_probabilities`, each from the pass that chose the token, [iterations, length]."""
        encoded = self.encode(source)
        lengths = self.length_predictor.best(encoded, decoding.length_beam, max_length=max_length)
        trace = refinement.mask_predict_trace(
            self.logits_function(source, encoded, lengths),
            lengths,
            max_length,
            iterations=decoding.iterations,
        )
        return refinement.internals(trace, lengths)

    def logits_function(
        self,
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        lengths: Int[Array, "batch size"],
    ) -> LogitsFunction:
        """The model as search.refinement sees it: several translations of each source, of given lengths."""
        memory = self.decoder.memory(encoded)

        def logits_of(
            tokens: Int[Array, "batch size width"],
        ) -> Float[Array, "batch size width vocabulary"]:
            flat = tokens.reshape(-1, tokens.shape[-1])  # [batch * size, width]
            states = self.states(flat, lengths.reshape(-1), source, encoded, memory=memory)
            return self.target_embedding.attend(states).reshape(*tokens.shape, -1)

        return logits_of


def random_masks(
    lengths: Int[Array, "batch"], width: int, key: PRNGKeyArray
) -> Bool[Array, "batch width"]:
    """True at the words to hide: of a sentence of N words 1 to N, with equal probability, at uniformly drawn
    positions (section 2.2)."""
    number_key, position_key = jax.random.split(key)
    numbers = 1 + jnp.floor(jax.random.uniform(number_key, lengths.shape) * lengths)
    numbers = jnp.minimum(numbers.astype(jnp.int32), lengths)  # 0 of 0 words
    heights = jax.random.uniform(position_key, (*lengths.shape, width))
    is_inside = refinement.is_position(lengths, width)
    return refinement.lowest(jnp.where(is_inside, heights, jnp.inf), numbers)
