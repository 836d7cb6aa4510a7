"""N-grams that a decoder of independent labels shares with the target, wherever they stand.

Shao et al. 2020 (arXiv:1911.09320, "Minimizing the bag-of-ngrams difference") for positions that are a word each, and
Shao & Feng 2022 (arXiv:2210.03953, "Non-monotonic latent alignments", section 3.2) for the frames of CTC. With E_g the
expected number of times that a translation drawn from the labels holds the n-gram g, and C_g the number of times that
the target does,

    score = 2 * sum over the target's n-grams g of min(E_g, C_g) / (all expected n-grams + all n-grams of the target)

Labels are drawn for themselves, so that E_g is exact: the last frame of one word, frames of BLANK, the first frame of
the next, and frames on which a word stays in between. BOS before the first frame and EOS after the last are tokens of
both sides, as in losses.fuzzy_alignment. It teaches a model that a likelihood has trained (in the papers for a few
thousand steps): whole pieces that come out right are rewarded, mixtures are not, and no order of the words is asked
for that the n-grams do not have.

Expected n-grams are counted by the expected number of words. Two neighbouring frames with one word are one word; of
words that the target lacks they are counted as two."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words, cross_entropy, ctc, ngrams
from nat_ar.losses.chosen_words import ChosenWords
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, Prediction, lengths_of


@dataclasses.dataclass(frozen=True)
class NgramMatching(config_json.Config):
    """The objective is minus the score, averaged over sentences (Shao & Feng 2022)."""

    ngram: int = 2
    """tokens of an n-gram; 2 in the paper"""

    def __post_init__(self) -> None:
        _require_pairs("ngram_matching.ngram", self.ngram)


def _require_pairs(name: str, ngram: int) -> None:
    if ngram < 2:
        raise ConfigError(f"{name} must be at least 2, for words have no order, got {ngram}")


@dataclasses.dataclass(frozen=True)
class BagOfNgrams(TokenLoss):
    """N-grams of the target that the positions are expected to say, wherever (Shao et al. 2020)."""

    ngram: int = 2
    """tokens of an n-gram; 2 in the paper"""

    def __post_init__(self) -> None:
        _require_pairs("token_loss.ngram", self.ngram)

    @property
    def name(self) -> str:
        return "BoN"

    def __call__(
        self,
        prediction: Prediction,
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """Minus the score, averaged over sentences; smoothing has no part in it. The term `match` is the score."""
        is_word = target != PAD
        compare = functools.partial(_compare_positions, ngram=self.ngram)
        words = ctc.asked(target)
        objective, (scores, nats) = chosen_words.total(compare, prediction, words, target, is_word)
        is_sentence = is_word.any(axis=1)
        terms = {
            "match": cross_entropy.masked_mean(scores, is_sentence),
            "token": Mean(nats.sum(), is_word.sum().astype(jnp.float32)),
        }
        return Mean(objective, is_sentence.sum().astype(jnp.float32)).value, terms


def _compare_positions(
    found: ChosenWords, target: Int[Array, "rows width"], *, ngram: int
) -> tuple[Float[Array, ""], tuple[Float[Array, "rows"], Float[Array, "rows"]]]:
    """What to minimise, summed; the score of each sentence, and its nats with every word at its own position."""
    lengths = lengths_of(target)
    scores = matching(found, lengths, target, ngram=ngram, merges=False)
    log_p = found.logits[..., 1:] - found.normaliser[..., None]
    in_place = jnp.diagonal(log_p, axis1=1, axis2=2)
    return -scores.sum(), (scores, jnp.where(target != PAD, -in_place, 0.0).sum(axis=1))


def matching(
    found: ChosenWords,
    frame_lengths: Int[Array, "batch"],
    target: Int[Array, "batch target_length"],
    *,
    ngram: int,
    merges: bool,
) -> Float[Array, "batch"]:
    """The score of each sentence, from 0 to 1, of what was found of `ctc.asked`; 0 for one without words.

    merges: frames are CTC's, one word may stay on several and BLANK is none; otherwise each position is a word."""
    is_frame = jnp.arange(found.logits.shape[1]) < frame_lengths[:, None]
    p = jnp.exp(found.logits - found.normaliser[..., None])
    p = jnp.where(is_frame[..., None], p, 0.0)
    blank = p[..., 0] if merges else jnp.zeros_like(found.normaliser)
    is_word = target != PAD
    words = jnp.where(is_word[:, None], p[..., 1:], 0.0)

    expected = expected_ngrams(words, blank, is_frame, target, ngram=ngram, merges=merges)
    ids = jnp.pad(target, ((0, 0), (1, ngram)), constant_values=PAD)
    ids = ids.at[:, 0].set(ngrams.BOS_ID)
    target_lengths = is_word.sum(axis=1)
    num_ngrams = jnp.maximum(target_lengths + 3 - ngram, 0)
    found_ngrams = ngrams.shared(expected, ids, num_ngrams, ngram=ngram)
    said = jnp.where(is_frame, 1.0 - blank, 0.0).sum(axis=1)
    if merges:
        said -= (words[:, 1:] * words[:, :-1] * _is_first(target)[:, None]).sum(axis=(1, 2))
    both = jnp.maximum(said + 3 - ngram, 0.0) + num_ngrams
    return jnp.where(target_lengths > 0, 2.0 * found_ngrams / jnp.maximum(both, 1.0), 0.0)


def _is_first(target: Int[Array, "batch target_length"]) -> Bool[Array, "batch target_length"]:
    """True at the first of equal words."""
    places = jnp.arange(target.shape[1])
    is_same = target[:, :, None] == target[:, None]
    return ~(is_same & (places < places[:, None])).any(axis=2) & (target != PAD)


def expected_ngrams(
    words: Float[Array, "batch frames target_length"],
    blank: Float[Array, "batch frames"],
    is_frame: Bool[Array, "batch frames"],
    target: Int[Array, "batch target_length"],
    *,
    ngram: int,
    merges: bool,
) -> Float[Array, "batch starts"]:
    """How often labels drawn for themselves say each n-gram of a target: that of BOS and its first words, of its first
    word, its second, ..., as many as tokens with BOS and EOS; 0 where less than n tokens are left.

    words: p of each word of the target at each frame, 0 at its padding; blank: that of BLANK."""
    target_lengths = (target != PAD).sum(axis=1)
    starts = target.shape[1] + 2
    # [batch, tokens] of BOS, words, EOS and what the last n-grams lack; only words are labels of frames.
    tokens = starts + ngram - 1
    p = jnp.pad(words, ((0, 0), (0, 0), (1, tokens - target.shape[1] - 1)))
    ids = jnp.pad(target, ((0, 0), (1, tokens - target.shape[1] - 1)), constant_values=PAD)
    repeats = (ids == jnp.pad(ids, ((0, 0), (1, 0)), constant_values=PAD)[:, :-1]) & (ids != PAD)
    place = jnp.arange(starts)
    is_bos = jnp.broadcast_to(place == 0, (len(target), starts)).astype(words.dtype)

    def of(token: int, values: Array) -> Array:
        """Of the first, second, ... token of the n-grams of all starts."""
        return values[..., token : token + starts]

    def advance(
        state: tuple[Array, Array, Array], frame: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array, Array], Array]:
        """The state before a frame, [tokens said but the last, batch, starts]: `opened[m]` p(the n-gram's first m + 1
        tokens are said, and nothing since), `after_blank[m]` the same with BLANK on the frame before, `on[m]` with the
        last of these tokens there. Returns p(the last token begins at this frame)."""
        opened, after_blank, on = state
        p, blank, is_frame = frame
        said = []
        for m in range(ngram):
            here = of(m, p)
            if m == 0:
                said.append(here)
                continue
            before = opened[m - 1]
            if merges:
                before = jnp.where(of(m, repeats), after_blank[m - 1], before)
            begins = before * here
            stays = on[m] * here if merges and m < ngram - 1 else 0.0
            said.append(begins + stays)
        waited = blank[:, None] * opened
        now = jnp.stack(said)
        new = (now[:-1] + waited, waited, now[:-1])
        keep = is_frame[:, None]
        state = jax.tree.map(lambda old, new: jnp.where(keep, new, old), state, new)
        return state, jnp.where(keep, now[-1], 0.0)

    opened = jnp.zeros((ngram - 1, *is_bos.shape), words.dtype).at[0].set(is_bos)
    by_frame = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (p, blank, is_frame))
    (opened, _, _), ended = jax.lax.scan(
        advance, (opened, opened, jnp.zeros_like(opened)), by_frame
    )
    # The n-gram whose last token is EOS: whatever has been said of it when the frames end.
    ends = place == (target_lengths + 2 - ngram)[:, None]
    return ended.sum(axis=0) + jnp.where(ends, opened[-1], 0.0)
