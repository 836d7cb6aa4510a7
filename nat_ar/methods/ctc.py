"""Non-autoregressive Transformer with connectionist temporal classification: several frames for every
source token, each a word or BLANK, and no length to predict.

Libovicky & Helcl 2018 (arXiv:1811.04719) split every encoder state into frames and train with CTC, which
sums over all alignments of the target's words with the frames. Gu & Kong 2020 (arXiv:2012.15833, "Fully
non-autoregressive neural machine translation: tricks of the trade") spread the source evenly over the frames, in their
code the encoder's states, and add glancing (Qian et al. 2021) or a latent variable (as Shu et al. 2020,
arXiv:1908.07181). One config has all of it: their CTC + GLAT is Ctc(upsampling="states", glancing=Glancing(...)),
their CTC + VAE is Ctc(upsampling="states", latent=Latent()), both on distilled data.

Glancing follows the best alignment: the first pass determines the most probable labelling of the frames that
collapses to the target (Viterbi); a frame whose best label differs is an error; the input of a revealed frame is the
embedding of its label, BLANK included; the second pass has the whole CTC loss.

What differs from the papers:
- the CTC loss is a mean over target words, and label smoothing a mean over frames;
- with "states" a learned vector for the first, second, ... frame of a token tells its frames apart, which are otherwise
  the same but for sinusoids of neighbouring positions; a revealed frame keeps it. Their frames are means of
  neighbouring states instead;
- the number of revealed frames is that of methods.glancing, chosen uniformly, not by a Poisson mask;
- all decoder blocks attend to the source (Libovicky & Helcl's third variant, with positions).

The latent variable is that of methods/latent.py.

With `wait_k` it learns to translate a source that is still coming, in the manner of NAST (Ma et al. 2023,
arXiv:2310.14883): the encoder is causal, the frames of source token i (from 0) see the first k + i tokens and the
frames of tokens up to i, so that their labels stay when the source goes on (nn/waiting.py). `expected_lag` is a price
on words that come late. What differs from NAST: several k may train one model, and the lag is LAAL
(losses/expected_lag.py).

`ngram_matching` is the second stage of NMLA (Shao & Feng 2022, arXiv:2210.03953) and of NAST: instead of the
likelihood, which asks for the target's words in its order, the n-grams that are expected of the frames
(losses/ngram_matching.py)."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import blocks, chosen_words, cross_entropy
from nat_ar.losses import ctc as ctc_losses
from nat_ar.losses.expected_lag import ExpectedLag
from nat_ar.losses.ngram_matching import NgramMatching
from nat_ar.methods import base, ctc_passes
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.latent import Latent, LatentNetworks, divergence
from nat_ar.nn import layers, upsampling, waiting
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import ctc as ctc_search
from nat_ar.search import limits
from nat_ar.search.ctc import BestPath, ChunkWaitK, FrameDecoding
from nat_ar.special_tokens import PAD
from nat_ar.types import (
    Batch,
    Encoded,
    Hypotheses,
    Internal,
    Loss,
    Mean,
    lengths_of,
    without_eos,
)


@dataclasses.dataclass(frozen=True)
class Ctc(base.Method):
    """Non-autoregressive Transformer with CTC (Libovicky & Helcl 2018; Gu & Kong 2020)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder; max_length counts tokens, not frames"""
    upsample_factor: int = 3
    """frames for each source token, EOS counted"""
    upsampling: Literal["split", "states", "copy"] = "split"
    """decoder inputs: encoder states, each projected to several frames, copies of encoder states with a learned vector
    for each frame of a token, or copies of source embeddings"""
    label_smoothing: float = 0.0
    """weight of the cross entropy of every frame against the uniform distribution"""
    glancing: Glancing | None = None
    """reveal some labels of the best alignment in training (CTC + GLAT); None: no first pass"""
    latent: Latent | None = None
    """a latent variable for each source token (CTC + VAE); None: none"""
    ngram_matching: NgramMatching | None = None
    """the objective is the n-grams that are expected instead of the likelihood of the target (NMLA): to go on from a
    model that the likelihood has trained; None: it is the likelihood"""
    decoding: FrameDecoding = BestPath()
    """decoding used unless the command says otherwise"""
    wait_k: tuple[int, ...] = ()
    """tokens of the source that the frames of its first token see in training: each batch draws one of these; (): all
    frames see all tokens and each other. Needs transformer.encoder_attention "causal"; translate with ChunkWaitK(k)"""
    expected_lag: ExpectedLag | None = None
    """a price on words that come late, for models with wait_k; None: none"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, every frame saw the whole source, and the likelihood was the only objective."""
        return {"wait_k": [], "expected_lag": None, "ngram_matching": None, **data}

    def __post_init__(self) -> None:
        if self.upsample_factor < 1:
            raise ConfigError(f"upsample_factor must be at least 1, got {self.upsample_factor}")
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        for k in self.wait_k:
            config_json.require_at_least(1, wait_k=k)
        if self.wait_k:
            waiting.require_causal_encoder(self.transformer)
        elif self.expected_lag is not None:
            raise ConfigError(
                "expected_lag needs frames that wait: set wait_k, such as (3,), got ()"
            )
        require_waiting(self, self.decoding)
        if self.ngram_matching is not None and (
            self.label_smoothing or self.glancing or self.expected_lag
        ):
            raise ConfigError(
                "ngram_matching takes the place of the likelihood, which label_smoothing, glancing and expected_lag "
                f"change: set them to 0, None and None, got {self.label_smoothing}, {self.glancing} and "
                f"{self.expected_lag}"
            )

    @property
    def variant(self) -> str:
        options = {
            "wait-k": self.wait_k or None,
            "GLAT": self.glancing,
            "VAE": self.latent,
            "NMLA": self.ngram_matching,
        }
        return " + ".join(["CTC", *(name for name, value in options.items() if value is not None)])

    def is_feasible(
        self,
        source_lengths: Int[np.ndarray, "pairs"],
        target_lengths: Int[np.ndarray, "pairs"],
        target_repeats: Int[np.ndarray, "pairs"],
    ) -> Bool[np.ndarray, "pairs"]:
        """True for pairs with a frame for every word, and for a BLANK between equal neighbours."""
        frames = self.upsample_factor * (source_lengths + 1)
        return frames >= target_lengths + target_repeats

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "CtcModel":
        return CtcModel(self, sizes, rngs=rngs)


class CtcModel(base.Seq2Seq):
    def __init__(self, config: Ctc, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer, factor = config.transformer, config.upsample_factor
        d_model, dtype = transformer.d_model, transformer.dtype
        frames = factor * transformer.max_length
        self.decoder = Decoder(dataclasses.replace(transformer, max_length=frames), rngs=rngs)
        self.splitter = (
            layers.Linear(d_model, d_model, parts=factor, dtype=dtype, rngs=rngs)
            if config.upsampling == "split"
            else None
        )
        self.frame_embedding = (
            layers.Embedding(factor, d_model, dtype=dtype, rngs=rngs)
            if config.upsampling == "states"
            else None
        )
        self.latent = (
            None
            if config.latent is None
            else LatentNetworks(transformer, factor, config.latent, rngs=rngs)
        )
        self.config = config

    def frame_lengths(self, encoded: Encoded) -> Int[Array, "batch"]:
        return self.config.upsample_factor * encoded.lengths

    def decoder_inputs(
        self, source: Int[Array, "batch source_length"], encoded: Encoded
    ) -> Float[Array, "batch frames d_model"]:
        """An input for each frame, without the latent variable's part and the frame's own vector."""
        factor = self.config.upsample_factor
        if self.splitter is not None:
            return upsampling.split(self.splitter(encoded.states), factor)
        is_of_states = self.config.upsampling == "states"
        return upsampling.repeat(
            encoded.states if is_of_states else self.embed_source(source), factor
        )

    def states(
        self,
        inputs: Float[Array, "batch frames d_model"],
        encoded: Encoded,
        *,
        wait_k: int | Int[Array, ""] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch frames d_model"]:
        """All frames at once: none sees the labels of the others. wait_k: see nn.waiting; None: all frames see the
        whole source."""
        factor, (batch, source_length, _) = self.config.upsample_factor, encoded.states.shape
        if self.frame_embedding is not None:
            inputs = inputs + self.frame_embedding(jnp.arange(inputs.shape[1]) % factor)
        memory_mask = self_mask = None
        if wait_k is not None:
            memory_mask = waiting.source_mask_of_frames(wait_k, batch, source_length, factor)
        if self.config.wait_k:
            self_mask = waiting.mask_among_frames(source_length, factor)
        return self.decoder(
            inputs,
            self.frame_lengths(encoded),
            encoded,
            memory_mask=memory_mask,
            self_mask=self_mask,
            rngs=rngs,
        )

    def logits(
        self,
        inputs: Float[Array, "batch frames d_model"],
        encoded: Encoded,
        *,
        wait_k: int | None = None,
    ) -> Float[Array, "batch frames vocabulary"]:
        """Those of the labels of all frames."""
        return self.target_embedding.attend(self.states(inputs, encoded, wait_k=wait_k))

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Nats per target word, without the sentences that have too few frames. With glancing, `token` is of the
        first pass, in which nothing is revealed, and `glanced` of the second. With n-gram matching the objective is
        minus `match`, the mean score of sentences. Without rngs the latent variable is the
        posterior's mean, and nothing is revealed. `lag` is in tokens of the source."""
        encoded = self.encode(batch.source, rngs=rngs)
        frame_lengths, target = self.frame_lengths(encoded), without_eos(batch.target)
        target_lengths = lengths_of(target)
        is_learned = ctc_losses.is_feasible(frame_lengths, target)
        num_words = jnp.where(is_learned, target_lengths, 0).sum().astype(jnp.float32)
        is_infeasible = (~is_learned).astype(jnp.float32)
        terms = {"infeasible": cross_entropy.masked_mean(is_infeasible, encoded.lengths > 0)}

        inputs = self.decoder_inputs(batch.source, encoded)
        is_frame = jnp.arange(inputs.shape[1]) < frame_lengths[:, None]
        is_frame &= is_learned[:, None]
        paid = jnp.float32(0.0)
        if self.latent is not None and self.config.latent is not None:
            embeddings = self.target_embedding(target)
            posterior = self.latent.posterior(encoded, embeddings, target_lengths, rngs=rngs)
            latent = posterior.mean if rngs is None else posterior.sample(rngs.dropout())
            inputs = inputs + self.latent.frames(latent)
            nats = divergence(posterior, self.latent.prior(encoded.states))
            is_token = (batch.source != PAD) & is_learned[:, None]
            terms["kl"] = Mean(jnp.where(is_token, nats, 0.0).sum(), num_words)
            beyond_free = jnp.maximum(nats, self.config.latent.free(step))
            paid = Mean(jnp.where(is_token, beyond_free, 0.0).sum(), num_words).value

        wait_k = waiting.drawn(self.config.wait_k, rngs)
        decode = functools.partial(self.states, encoded=encoded, wait_k=wait_k)
        predict, sentences = self.target_embedding.predict, (frame_lengths, target)
        settings, name = self.config.glancing, "token"
        if rngs is None or settings is None:
            states = decode(inputs, rngs=rngs)
        else:
            key, name = rngs.dropout(), "glanced"  # one key: the same dropout in both passes
            first = predict(decode(inputs, rngs=nnx.Rngs(dropout=key)))
            first = jax.lax.stop_gradient(first)
            _, (nats, path, is_wrong) = chosen_words.total(
                ctc_passes.first_pass,
                first,
                ctc_losses.asked(target),
                sentences,
                is_frame,
                never=ctc_search.NEVER_LABELS,
            )
            is_revealed = settings.revealed(is_wrong, is_frame, step, rngs.dropout())
            inputs = jnp.where(is_revealed[..., None], self.target_embedding(path), inputs)
            states = decode(inputs, rngs=nnx.Rngs(dropout=key))
            terms["token"] = Mean(nats.sum(), num_words)
            terms["wrong"] = cross_entropy.masked_mean(is_wrong.astype(jnp.float32), is_frame)
            terms["revealed"] = cross_entropy.masked_mean(is_revealed.astype(jnp.float32), is_frame)
        is_sentence = is_learned & (frame_lengths > 0)
        counts = jnp.stack([num_words, is_frame.sum(), is_sentence.sum()])
        counts = jnp.broadcast_to(jnp.maximum(counts, 1.0), (len(target), 3))
        price, read = self.config.expected_lag, None
        if price is not None and wait_k is not None:
            size = batch.source.shape[1], self.config.upsample_factor
            read = waiting.read_at_frames(wait_k, encoded.lengths, *size)
        smoothing, rows = self.config.label_smoothing, (*sentences, counts)
        if price is not None and read is not None:
            last = functools.partial(ctc_passes.last_pass, smoothing=smoothing, price=price)
            objective, (nats, lags) = blocks.total(last, predict(states), (rows, read), is_learned)
            terms["lag"] = cross_entropy.masked_mean(lags, is_sentence)
        else:
            matching = self.config.ngram_matching
            compare: chosen_words.Compare = (
                functools.partial(ctc_passes.unpriced_pass, smoothing=smoothing)
                if matching is None
                else functools.partial(ctc_passes.matching_pass, ngram=matching.ngram)
            )
            words = ctc_losses.asked(target)
            objective, nats = chosen_words.total(compare, predict(states), words, rows, is_frame)
            if matching is not None:
                nats, scores = nats
                terms["match"] = cross_entropy.masked_mean(scores, is_sentence)
        terms[name] = Mean(nats.sum(), num_words)
        return Loss(objective + paid, terms)

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: FrameDecoding,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        """Scores: with BestPath and ChunkWaitK log p of the path divided by the number of words, with PrefixBeam log p
        of the translation, divided as its length penalty says."""
        encoded = self.encode(source)
        return self._search(source, encoded, decoding, self.frame_lengths(encoded), max_length)

    def decode_beginning(
        self,
        source: Int[Array, "batch source_length"],
        settled: Int[Array, "batch"],
        *,
        decoding: ChunkWaitK,
        max_length: int,
    ) -> Hypotheses:
        """What the frames of the first `settled` tokens say of a source that may go on: with it `decode` of the whole
        begins, if decoding.k - 1 tokens after them have been read."""
        encoded = self.encode(source)
        lengths = self.config.upsample_factor * jnp.minimum(settled, encoded.lengths)
        return self._search(source, encoded, decoding, lengths, max_length)

    def _search(
        self,
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        decoding: FrameDecoding,
        frame_lengths: Int[Array, "batch"],
        max_length: int,
    ) -> Hypotheses:
        return decoding.search(
            self.frame_logits(source, encoded, decoding),
            frame_lengths,
            length_limits=limits.within(max_length, encoded.lengths),
            max_length=max_length,
        )

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: FrameDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """`labels`, the most probable word or BLANK of every frame, and its `log_probabilities`; frame f is of
        source token f // upsample_factor. The same for every decoding that does not wait: a prefix beam may collapse
        other labels."""
        encoded = self.encode(source)
        lengths = self.frame_lengths(encoded)
        labels, log_p = ctc_search.best_path(self.frame_logits(source, encoded, decoding), lengths)
        return {
            "labels": Internal(labels, {1: lengths}),
            "log_probabilities": Internal(log_p, {1: lengths}),
        }

    def frame_logits(
        self, source: Int[Array, "batch source_length"], encoded: Encoded, decoding: FrameDecoding
    ) -> Float[Array, "batch frames vocabulary"]:
        """The logits that decoding searches: the latent variable is the mean of its prior. Raises ConfigError where the
        decoding waits, and the model cannot."""
        require_waiting(self.config, decoding)
        inputs = self.decoder_inputs(source, encoded)
        if self.latent is not None:
            inputs = inputs + self.latent.frames(self.latent.prior(encoded.states).mean)
        return self.logits(inputs, encoded, wait_k=decoding.wait_k)


def require_waiting(config: Ctc, decoding: FrameDecoding) -> None:
    """Raises ConfigError for a decoding that begins before a source is read, of frames that see all of it."""
    if decoding.wait_k is not None and not config.wait_k:
        raise ConfigError(
            f"{type(decoding).__name__} writes before the source has ended: expected a Ctc run with wait_k, got one "
            "whose frames see the whole source; choose BestPath(), or train with wait_k"
        )
