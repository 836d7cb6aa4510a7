"""Non-autoregressive Transformer with fertilities (Gu et al. 2018, arXiv:1711.02281).

The encoder predicts for every source token how many target tokens it accounts for; the decoder's inputs
are the source embeddings, each copied that many times, and all words are predicted at once. Training
sees the fertilities of an external aligner; decoding takes the most probable ones, their rounded means,
or several samples in parallel of which a score keeps the best (noisy parallel decoding, section 3.3).

What differs from the paper:
- the decoder's positional attention lets a place see itself, only the self-attention does not;
- EOS is in the encoder but has no fertility: it is neither predicted nor trained;
- noisy parallel decoding has the most probable fertilities as its first candidate, so that it can never
  fall behind Argmax under its own score, and may choose without a teacher;
- decoder inputs can also be uniform or soft copies; fertilities then only say how long the target is;
- fine-tuning minimises the whole divergence KL(student || teacher), as section 4.3 says in words; its
  formula leaves out the student's entropy, without which the words' distribution is driven to a single
  peak. It is a mean over tokens, so that REINFORCE sees no profit in short translations."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import autoregressive, base, length_nat
from nat_ar.nn import layers, upsampling
from nat_ar.nn.transformer import Decoder, TransformerConfig
from nat_ar.search import limits, sampling
from nat_ar.search.candidates import best_first
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Loss, Mean


@dataclasses.dataclass(frozen=True)
class Argmax:
    """The most probable fertility of every source token (section 3.3, argmax decoding)."""


@dataclasses.dataclass(frozen=True)
class Average:
    """The mean fertility of every source token, rounded (section 3.3, average decoding)."""


@dataclasses.dataclass(frozen=True)
class NoisyParallel:
    """Several samples of the fertilities in parallel, the best translation of them (section 3.3).

    The samples of a sentence depend on the sentence and the seed only, never on its batch. Different
    fertilities may lead to the same translation, so the n_best can hold one more than once."""

    samples: int = 10
    """candidates, the one of the most probable fertilities among them"""
    rescore: bool = True
    """choose by the autoregressive teacher instead of by the model's own log p of words and
    fertilities, divided by the number of words"""
    temperature: float = 1.0
    """divides the fertility logits before sampling: above 1 more variety, below 1 less"""
    seed: int = 0
    """another seed draws other samples"""
    n_best: int = 1
    """translations handed back, best first; at most samples"""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.samples:
            raise ConfigError(
                "NoisyParallel needs 1 <= n_best <= samples, got "
                f"n_best {self.n_best} and samples {self.samples}"
            )
        if self.temperature <= 0.0:
            raise ConfigError(
                f"NoisyParallel needs a temperature above 0, got {self.temperature}; "
                "Argmax() is what it tends to towards 0"
            )


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """The stage after distillation, against the teacher itself (section 4.3)."""

    weight: float = 0.25
    """lambda: share of the two fine-tuning terms; the distillation loss has the rest"""
    reinforce_weight: float = 0.1
    """weight of the REINFORCE term on the fertilities beside the back-propagated term"""
    extra_length: int = 10
    """sampled translations may be this much longer than the longest target of the batch can be; the
    share of sentences that would be longer still and lose their end is the term `trimmed_samples`"""

    def __post_init__(self) -> None:
        config_json.require_share("fine_tuning.weight", self.weight)
        if self.reinforce_weight < 0.0 or self.extra_length < 0:
            raise ConfigError(
                "fine_tuning.reinforce_weight and fine_tuning.extra_length must not be below 0, got "
                f"{self.reinforce_weight} and {self.extra_length}"
            )


@dataclasses.dataclass(frozen=True)
class FertilityNat(base.Method):
    """Non-autoregressive Transformer with fertilities (Gu et al. 2018)."""

    needs_fertilities: ClassVar[bool] = True

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder"""
    copy: Literal["fertility", "uniform", "soft"] = "fertility"
    """decoder inputs: source embeddings copied by fertility, or evenly, or a distance-weighted mean of
    all; in every case the target is as long as the sum of the fertilities"""
    soft_copy_temperature: float = 1.0
    """width, in source positions, of the soft copy"""
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
    fine_tuning: FineTuning | None = None
    """train a finished model on against its autoregressive teacher; None: distillation loss only"""
    decoding: Argmax | Average | NoisyParallel = Argmax()
    """decoding used unless the command says otherwise"""

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        if self.max_fertility < 2:
            raise ConfigError(
                f"max_fertility counts classes, 0 among them, and must be at least 2, "
                f"got {self.max_fertility}"
            )
        if self.transformer.implementation == "cudnn" and not self.sees_itself:
            raise ConfigError(
                "attention by 'cudnn' cannot hide a position from itself; set transformer.implementation to "
                "'xla' or sees_itself to True"
            )

    @property
    def needs_teacher(self) -> bool:
        return self.fine_tuning is not None

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
        self.config = config

    def fertility_logits(self, encoded: Encoded) -> Float[Array, "batch source_length classes"]:
        """Class c of a source token stands for c target tokens."""
        return self.fertility_head(encoded.states)

    def decoder_inputs(
        self,
        source: Int[Array, "rows source_length"],
        fertilities: Int[Array, "rows source_length"],
        width: int,
    ) -> Float[Array, "rows width d_model"]:
        embeddings = self.embed_source(source)
        if self.config.copy == "fertility":
            return upsampling.copy(embeddings, upsampling.fertility_places(fertilities, width))
        return upsampling.even_copies(
            embeddings,
            base.lengths_of(source),
            fertilities.sum(axis=1),
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
        """Token and fertility loss under the aligner's fertilities; with fine_tuning set,
        lambda (REINFORCE + reverse KL) + (1 - lambda) of it (section 4.3). Without rngs nothing is
        sampled and the REINFORCE term is absent."""
        if batch.fertilities is None:
            raise ValueError(
                "FertilityNat needs Batch.fertilities, got None; prepare the data with an aligner"
            )
        encoded = self.encode(batch.source, rngs=rngs)
        target = base.without_eos(batch.target)
        target_lengths, width = base.lengths_of(target), target.shape[1]
        inputs = self.decoder_inputs(batch.source, batch.fertilities, width)
        logits = self.logits(inputs, target_lengths, encoded, rngs=rngs)
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            logits, target, smoothing=self.config.label_smoothing
        )
        fertility, clipped = self._fertility_loss(encoded, batch.source, batch.fertilities)
        terms = {"token": plain, "fertility": fertility, "clipped_fertilities": clipped}
        distilled = smoothed.value + self.config.fertility_loss_weight * fertility.value
        fine_tuning = self.config.fine_tuning
        if fine_tuning is None:
            return Loss(distilled, terms)
        if teacher is None:
            raise ValueError(
                "fine_tuning needs an autoregressive teacher, got none; name its run in the "
                "experiment or set fine_tuning to None"
            )
        divergence = reverse_kl(logits, target_lengths, batch.source, teacher)
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

    def _fertility_loss(
        self,
        encoded: Encoded,
        source: Int[Array, "batch source_length"],
        fertilities: Int[Array, "batch source_length"],
    ) -> tuple[Mean, Mean]:
        """Cross entropy over source text, and the share of it whose true fertility has no class of its
        own and counts as the largest (in this loss only: the copies stay true)."""
        is_text, largest = is_source_text(source), self.config.max_fertility - 1
        classes = jnp.clip(fertilities, 0, largest)
        loss = cross_entropy.class_cross_entropy(self.fertility_logits(encoded), classes, is_text)
        is_clipped = (fertilities > largest).astype(jnp.float32)
        return loss, cross_entropy.masked_mean(is_clipped, is_text)

    def reinforce(
        self,
        encoded: Encoded,
        source: Int[Array, "batch source_length"],
        sampled: Int[Array, "batch source_length"],
        teacher: base.Teacher,
        *,
        width: int,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """A number whose gradient estimates that of the expected cost over the model's fertilities:

            grad E[cost(f)] = E[(cost(f) - cost(mean f)) grad log p(f)]

        (Williams 1992; section 4.3), where cost is a sentence's mean KL(student || teacher) a token.
        `sampled` is one draw of f. Only the fertility predictor and what feeds it get a gradient; costs
        are measured without dropout in the decoder."""
        logits = self.fertility_logits(encoded)
        is_text, is_sentence = is_source_text(source), encoded.lengths > 0
        row_limits = limits.within(width, encoded.lengths)

        def cost(wanted: Int[Array, "batch source_length"]) -> Float[Array, "batch"]:
            fertilities = within_limits(wanted[:, None], logits, source, row_limits)[:, 0]
            lengths = fertilities.sum(axis=1)
            inputs = self.decoder_inputs(source, fertilities, width)
            student = self.logits(inputs, lengths, encoded)
            divergence = reverse_kl(student, lengths, source, teacher)
            return divergence.sum(axis=1) / jnp.maximum(lengths, 1)

        advantage = jax.lax.stop_gradient(cost(sampled) - cost(mean_fertilities(logits)))
        log_p = jnp.where(is_text, cross_entropy.token_log_probabilities(logits, sampled), 0.0)
        surrogate = cross_entropy.masked_mean(advantage * log_p.sum(axis=1), is_sentence)
        length = jnp.where(is_text, sampled, 0).sum(axis=1)
        is_trimmed = (length > row_limits).astype(jnp.float32)
        return surrogate.value, {
            "sample_excess_kl": cross_entropy.masked_mean(advantage, is_sentence),
            "trimmed_samples": cross_entropy.masked_mean(is_trimmed, is_sentence),
        }

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: Argmax | Average | NoisyParallel,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        """Scores: the scorer's where the decoding rescores; else log p of the words and of their
        fertilities, divided by the number of words."""
        is_rescored = isinstance(decoding, NoisyParallel) and decoding.rescore
        if is_rescored and scorer is None:
            raise ValueError(
                "NoisyParallel(rescore=True) needs a teacher to rescore with; got none"
            )
        encoded = self.encode(source)
        logits = self.fertility_logits(encoded)
        wanted = candidate_fertilities(logits, source, decoding)
        row_limits = limits.within(max_length, encoded.lengths)
        fertilities = within_limits(wanted, logits, source, row_limits)
        n_best = decoding.n_best if isinstance(decoding, NoisyParallel) else 1

        def decode_at(width: int) -> Hypotheses:
            tokens, scores = self._candidates(source, fertilities, logits, width, encoded)
            steps = jnp.where(encoded.lengths > 0, 1, 0)
            if is_rescored and scorer is not None:
                scores, steps = scorer.score(source, tokens), 2 * steps
            return best_first(tokens, scores, steps, n_best=n_best)

        longest = fertilities.sum(axis=-1).max()
        return limits.at_width(longest, limits.width_ladder(max_length), decode_at)

    def _candidates(
        self,
        source: Int[Array, "batch source_length"],
        fertilities: Int[Array, "batch candidates source_length"],
        fertility_logits: Float[Array, "batch source_length classes"],
        width: int,
        encoded: Encoded,
    ) -> tuple[Int[Array, "batch candidates width"], Float[Array, "batch candidates"]]:
        """A translation by each of the given fertilities, and its score by the model itself."""
        batch, candidates, source_length = fertilities.shape
        flat = fertilities.reshape(-1, source_length)
        inputs = self.decoder_inputs(jnp.repeat(source, candidates, axis=0), flat, width)
        logits = self.logits(inputs, flat.sum(axis=1), encoded)
        lengths = fertilities.sum(axis=-1)
        tokens, mean_log_p = length_nat.one_pass_tokens(
            logits.reshape(batch, candidates, width, -1), lengths
        )
        log_p = jax.nn.log_softmax(fertility_logits)[:, None]
        chosen = jnp.take_along_axis(log_p, fertilities[..., None], axis=-1)[..., 0]
        prior = jnp.where(is_source_text(source)[:, None], chosen, 0.0).sum(axis=-1)
        return tokens, mean_log_p + prior / jnp.maximum(lengths, 1)


def is_source_text(source: Int[Array, "*axes"]) -> Bool[Array, "*axes"]:
    """True where a source token can have a fertility: not on EOS and padding."""
    return (source != PAD) & (source != EOS)


def mean_fertilities(
    logits: Float[Array, "batch source_length classes"],
) -> Int[Array, "batch source_length"]:
    """The expected fertility of every source token, rounded, halves to even."""
    expected = (jax.nn.softmax(logits) * jnp.arange(logits.shape[-1])).sum(axis=-1)
    return jnp.round(expected).astype(jnp.int32)


def candidate_fertilities(
    logits: Float[Array, "batch source_length classes"],
    source: Int[Array, "batch source_length"],
    decoding: Argmax | Average | NoisyParallel,
) -> Int[Array, "batch candidates source_length"]:
    """The fertilities that a decoding tries, not yet within any limit."""
    if isinstance(decoding, Average):
        return mean_fertilities(logits)[:, None]
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)[:, None]
    if isinstance(decoding, Argmax) or decoding.samples == 1:
        return best
    keys = place_keys(source, seed=decoding.seed)
    sampled = sample_fertilities(
        logits / decoding.temperature, keys, num_samples=decoding.samples - 1
    )
    return jnp.concatenate([best, sampled], axis=1)


def place_keys(
    source: Int[Array, "batch source_length"], *, seed: int
) -> Key[Array, "batch source_length"]:
    """A key for every place of every sentence, whatever its batch and padding."""
    keys, positions = sampling.row_keys(source, seed=seed), jnp.arange(source.shape[1])
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, positions)


def sample_fertilities(
    logits: Float[Array, "batch source_length classes"],
    keys: Key[Array, "batch source_length"],
    *,
    num_samples: int,
) -> Int[Array, "batch num_samples source_length"]:
    """Independent draws with one key a source token, by inverting the cumulative distribution: one
    random number a draw, where Gumbel noise would take one a class."""

    def draw(key: Key[Array, ""]) -> Float[Array, "num_samples"]:
        return jax.random.uniform(key, (num_samples,))

    heights = jax.vmap(jax.vmap(draw))(keys)  # [batch, source_length, num_samples]
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    classes = (cumulative[:, :, None] <= heights[..., None]).sum(axis=-1)
    classes = jnp.minimum(classes, logits.shape[-1] - 1)  # the last sum may round to below 1
    return classes.swapaxes(1, 2).astype(jnp.int32)


def within_limits(
    fertilities: Int[Array, "batch candidates source_length"],
    logits: Float[Array, "batch source_length classes"],
    source: Int[Array, "batch source_length"],
    row_limits: Int[Array, "batch"],
) -> Int[Array, "batch candidates source_length"]:
    """Fertilities that a decoder can use: none on EOS and padding, a sum of at most the limit (the last
    source tokens lose theirs first) and of at least 1: where all are 0, the token that the model
    expects least to have none gets 1."""
    is_text = is_source_text(source)
    trimmed = upsampling.trim(jnp.where(is_text[:, None], fertilities, 0), row_limits[:, None])
    absence = jnp.where(is_text, jax.nn.log_softmax(logits)[..., 0], jnp.inf)
    likeliest = jax.nn.one_hot(jnp.argmin(absence, axis=1), source.shape[1], dtype=jnp.int32)
    is_empty = trimmed.sum(axis=-1, keepdims=True) == 0
    is_sentence = (source != PAD).any(axis=1)[:, None, None]
    return jnp.where(is_empty & is_sentence, likeliest[:, None], trimmed)


def reverse_kl(
    logits: Float[Array, "rows width vocabulary"],
    lengths: Int[Array, "rows"],
    source: Int[Array, "rows source_length"],
    teacher: base.Teacher,
) -> Float[Array, "rows width"]:
    """KL(student || teacher) in nats at each place within the length, 0 past it; the teacher is
    conditioned on the student's most probable words (section 4.3) and gets no gradient. Its answer to
    where the sentence ends is left out: the student's length says that."""
    tokens, _ = length_nat.one_pass_tokens(logits, lengths)
    expected = teacher.logits(source, autoregressive.append_eos(tokens))[:, :-1]
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(expected))
    log_p = jax.nn.log_softmax(logits)
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return jnp.where(jnp.arange(logits.shape[1]) < lengths[:, None], divergence, 0.0)
