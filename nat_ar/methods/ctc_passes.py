"""What CTC's decoder passes are compared with in training, the first for losses.chosen_words and the last for
losses.blocks: numbers in, numbers out, no model. methods/ctc.py says what for."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.losses import chosen_words
from nat_ar.losses import ctc as ctc_losses
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.expected_lag import ExpectedLag, expected_lag, expected_words
from nat_ar.losses.ngram_matching import matching
from nat_ar.special_tokens import PAD
from nat_ar.types import lengths_of


def first_pass(
    found: ChosenWords,
    sentences: tuple[Int[Array, "batch"], Int[Array, "batch target_length"]],
) -> tuple[
    Float[Array, ""],
    tuple[Float[Array, "batch"], Int[Array, "batch frames"], Bool[Array, "batch frames"]],
]:
    """Nothing to minimise; the nats of each target, its best alignment (PAD for a row without one), and True at its
    frames with another most probable label."""
    nats = ctc_losses.ctc_loss(found, *sentences)
    path, logits = ctc_losses.best_alignment(found, *sentences)
    is_wrong = (logits < found.likeliest) & (path != PAD)
    return jnp.float32(0.0), (nats, path, is_wrong)


Sentences = tuple[
    Int[Array, "batch"],
    Int[Array, "batch target_length"],
    Float[Array, "batch counts=3"],
]
"""Numbers of frames, targets, and by how many words, frames and sentences of a batch its losses are divided."""


def last_pass(
    logits: Float[Array, "batch frames vocabulary"],
    rows: tuple[Sentences, Int[Array, "batch frames"]],
    *,
    smoothing: float,
    price: ExpectedLag,
) -> tuple[Float[Array, ""], tuple[Float[Array, "batch"], Float[Array, "batch"]]]:
    """For losses.blocks: as unpriced_pass, and the price of lags by all sentences; the lag of each target as well."""
    sentences, read = rows
    frame_lengths, target, counts = sentences
    found = chosen_words.of_logits(logits, ctc_losses.asked(target))
    objective, nats = unpriced_pass(found, sentences, smoothing=smoothing)
    words = expected_words(logits, frame_lengths)
    source_lengths = read.max(axis=1)  # all has been read at the last frame
    lags = expected_lag(words, read, source_lengths, lengths_of(target))
    return objective + (_shares(counts)[:, 2] * price.of(lags)).sum(), (nats, lags)


def unpriced_pass(
    found: ChosenWords, sentences: Sentences, *, smoothing: float
) -> tuple[Float[Array, ""], Float[Array, "batch"]]:
    """The nats of the targets by the words of all sentences and, with smoothing, those of the
    uniform distribution by all frames; the nats of each target. Rows that fill a block have counts of 0."""
    frame_lengths, target, counts = sentences
    shares = _shares(counts)
    nats = ctc_losses.ctc_loss(found, frame_lengths, target)
    objective = (shares[:, 0] * nats).sum()
    if smoothing > 0.0:
        is_frame = jnp.arange(found.mean.shape[1]) < frame_lengths[:, None]
        even = jnp.where(is_frame, found.normaliser - found.mean, 0.0).sum(axis=1)
        objective = (1.0 - smoothing) * objective + smoothing * (shares[:, 1] * even).sum()
    return objective, nats


def matching_pass(
    found: ChosenWords, sentences: Sentences, *, ngram: int
) -> tuple[Float[Array, ""], tuple[Float[Array, "batch"], Float[Array, "batch"]]]:
    """Minus the score of the n-grams that are expected, by all sentences; the nats of each target, which have no
    gradient, and its score."""
    frame_lengths, target, counts = sentences
    scores = matching(found, frame_lengths, target, ngram=ngram, merges=True)
    nats = jax.lax.stop_gradient(ctc_losses.ctc_loss(found, frame_lengths, target))
    return -(_shares(counts)[:, 2] * scores).sum(), (nats, scores)


def _shares(counts: Float[Array, "batch counts=3"]) -> Float[Array, "batch counts=3"]:
    return jnp.where(counts > 0.0, 1.0 / jnp.maximum(counts, 1.0), 0.0)
