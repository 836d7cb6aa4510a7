"""How far the words of frames lag behind a source that goes on, on average over what the frames may say: a price on
CTC models that keep their words for the end, where every frame has read everything (Ma et al. 2023,
arXiv:2310.14883, NAST).

A word w begins in frame j where the frame says w and the one before does not. Labels of frames are independent of each
other, so that

    e_j = sum_{w != BLANK} p_j(w) (1 - p_{j-1}(w))

words are expected to begin there. With d_j source tokens read, of |X|, they lag

    (sum_{j: d_j < |X|} e_j d_j + z |X| - r c (c - 1) / 2) / c,    c = sum_{j: d_j < |X|} e_j + z

tokens behind an output that comes evenly, r = |X| / max(|Y|, sum_j e_j) tokens a word. It is LAAL (Papi et al. 2022,
arXiv:2206.05807), of tokens, where the frames are sure of their labels: the first word that has the whole source
counts, z = min(1, words of the frames with d_j = |X|), and those after it do not.

The authors leave z out, take for |Y| the words before the last source token, and d_j = floor(j / frames a token). Then
the lag of a model that is silent until the end has no bound. Numbers in, numbers out: no model."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.special_tokens import BLANK

NOTHING = 1e-6
"""words, of which the lag is divided by; less is no word"""


@dataclasses.dataclass(frozen=True)
class ExpectedLag(config_json.Config):
    """A price on words that come late."""

    weight: float = 1.0
    """nats a word that a token of lag costs, beyond the free ones"""
    free: float = 0.0
    """tokens of lag that cost nothing"""

    def __post_init__(self) -> None:
        config_json.require_at_least(0, weight=self.weight, free=self.free)

    def of(self, lags: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """What lags of so many tokens cost, in nats a word."""
        return self.weight * jnp.maximum(lags - self.free, 0.0)


def expected_words(
    logits: Float[Array, "batch frames vocabulary"], frame_lengths: Int[Array, "batch"]
) -> Float[Array, "batch frames"]:
    """e_j: the number of words expected to begin in each frame; 0 past a row's frames."""
    says = jax.nn.softmax(logits, axis=-1)
    is_word = jnp.arange(logits.shape[-1]) != BLANK
    repeats = says[:, 1:] * says[:, :-1]
    begun = jnp.where(is_word, says, 0.0).sum(axis=-1)
    begun = begun.at[:, 1:].add(-jnp.where(is_word, repeats, 0.0).sum(axis=-1))
    return jnp.where(jnp.arange(logits.shape[1]) < frame_lengths[:, None], begun, 0.0)


def expected_lag(
    words: Float[Array, "batch frames"],
    read: Int[Array, "batch frames"],
    source_lengths: Int[Array, "batch"],
    target_lengths: Int[Array, "batch"],
) -> Float[Array, "batch"]:
    """The lag in source tokens of rows that are expected to begin so many `words` in each frame, which has `read` so
    much of the source; |Y| is the longer of target and output. 0 where no word is expected."""
    is_whole = read >= source_lengths[:, None]
    early = jnp.where(is_whole, 0.0, words)
    first_late = jnp.minimum(jnp.where(is_whole, words, 0.0).sum(axis=1), 1.0)
    counted = early.sum(axis=1) + first_late
    pace = source_lengths / jnp.maximum(jnp.maximum(target_lengths, words.sum(axis=1)), 1.0)
    delays = (early * read).sum(axis=1) + first_late * source_lengths
    return (delays - pace * counted * (counted - 1.0) / 2.0) / jnp.maximum(counted, NOTHING)
