"""Which tokens n-gram blocking takes away, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.search import ngrams
from nat_ar.special_tokens import PAD

A, B, C = 6, 7, 8
VOCABULARY = 9


@pytest.mark.parametrize(
    ("tokens", "size", "blocked"),
    [
        ([], 1, []),
        ([A, B], 1, [A, B]),  # no token twice
        ([A], 2, []),  # "A A" is new
        ([A, A], 2, [A]),
        ([A, B, A], 2, [B]),
        ([A, B, A, C, A], 2, [B, C]),
        ([A, B, C, A], 3, []),
        ([A, B, C, A, B], 3, [C]),
        ([A, A, A], 3, [A]),
        ([A, B, C, A, B], 4, []),
        ([A, B], 6, []),
        ([A, B], 7, []),  # longer than all of max_length
    ],
)
def test_a_token_that_would_end_a_known_ngram_is_blocked(
    tokens: list[int], size: int, blocked: list[int]
) -> None:
    """What stands behind the position is never read: padding, or what another hypothesis left there."""
    max_length, position = 6, len(tokens)
    block = jax.jit(ngrams.block_repeats, static_argnums=3)
    for rest in (PAD, A, B):
        written = np.full((2, 3, max_length), rest)
        written[1, 2, :position] = tokens
        logits = np.arange(2 * 3 * VOCABULARY, dtype=np.float32).reshape(2, 3, VOCABULARY)
        got = np.asarray(block(jnp.asarray(logits), jnp.asarray(written), position, size))[1, 2]
        assert np.flatnonzero(got == -np.inf).tolist() == blocked
        kept = [token for token in range(VOCABULARY) if token not in blocked]
        np.testing.assert_array_equal(got[kept], logits[1, 2, kept])


def test_each_hypothesis_is_asked_about_itself() -> None:
    tokens = jnp.array([[[A, B, A], [A, A, C]], [[C, C, C], [B, A, B]]])
    got = ngrams.block_repeats(jnp.zeros((2, 2, VOCABULARY)), tokens, jnp.int32(3), 2)
    expected = np.zeros((2, 2, VOCABULARY))
    expected[0, 0, B] = expected[1, 0, C] = expected[1, 1, A] = -np.inf
    np.testing.assert_array_equal(got, expected)
