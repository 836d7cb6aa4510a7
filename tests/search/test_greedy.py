"""Greedy search against five lines of Python, over a table of logits instead of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.search import greedy
from nat_ar.search.step_function import Cache
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Hypotheses

VOCABULARY, MAX_LENGTH, BATCH = 10, 6, 5
LIMITS, IS_SENTENCE = np.array([6, 0, 3, 6, 6]), np.array([True, True, True, False, True])


def table(seed: int) -> np.ndarray:
    """Logits [row, position, last token, next token]; forbidden tokens are the most tempting."""
    logits = np.random.default_rng(seed).normal(
        0.0, 2.0, (BATCH, MAX_LENGTH + 1, VOCABULARY, VOCABULARY)
    )
    logits[..., [PAD, BOS, MASK, BLANK]] += 5.0
    logits[..., EOS] += 1.0
    return logits.astype(np.float32)


@jax.jit
def search(logits: jax.Array) -> Hypotheses:
    """The cache says which row of the table belongs to a hypothesis."""

    def step(last: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        return logits[cache, position, last], cache

    return greedy.search(
        step,
        jnp.arange(BATCH)[:, None],
        length_limits=jnp.asarray(LIMITS),
        is_sentence=jnp.asarray(IS_SENTENCE),
        max_length=MAX_LENGTH,
    )


def by_hand(logits: np.ndarray, limit: int) -> tuple[list[int], float]:
    """Tokens of one row, and log p with EOS."""
    tokens, last, total = [], BOS, 0.0
    while last != EOS:
        row = logits[len(tokens), last].astype(np.float64)
        best = EOS if len(tokens) == limit else max([EOS, 3, 6, 7, 8, 9], key=lambda t: row[t])
        total += row[best] - np.log(np.exp(row).sum())
        tokens, last = [*tokens, best], best
    return tokens[:-1], total


@pytest.mark.parametrize("seed", range(10))
def test_tokens_scores_and_steps_are_those_of_the_loop_in_python(seed: int) -> None:
    logits = table(seed)
    found = jax.device_get(search(jnp.asarray(logits)))
    assert found.tokens.shape == (BATCH, 1, MAX_LENGTH)
    for row in np.flatnonzero(IS_SENTENCE):
        tokens, total = by_hand(logits[row], LIMITS[row])
        padding = [PAD] * (MAX_LENGTH - len(tokens))
        np.testing.assert_array_equal(found.tokens[row, 0], tokens + padding)
        assert found.scores[row, 0] == pytest.approx(total, rel=1e-5)
        assert found.passes[row] == len(tokens) + 1  # EOS is a step, too


def test_rows_that_are_no_sentence_stay_empty_and_cost_no_step() -> None:
    found = jax.device_get(search(jnp.asarray(table(0))))
    assert not found.tokens[3].any()
    assert (found.scores[3, 0], found.passes[3]) == (0.0, 0)


def test_a_limit_of_zero_leaves_only_the_end() -> None:
    logits = table(0)
    found = jax.device_get(search(jnp.asarray(logits)))
    first = logits[1, 0, BOS].astype(np.float64)
    assert not found.tokens[1].any()
    assert found.passes[1] == 1
    assert found.scores[1, 0] == pytest.approx(first[EOS] - np.log(np.exp(first).sum()), rel=1e-5)


def test_a_finished_row_stays_finished_while_others_go_on() -> None:
    logits = np.full((BATCH, MAX_LENGTH + 1, VOCABULARY, VOCABULARY), -5.0, np.float32)
    logits[..., 7] = 5.0  # everybody says 7 for ever
    logits[0, 2, 7] = logits[0, 0, 0]
    logits[0, 2, 7, EOS] = 5.0  # but row 0 ends after two
    logits[0, 3:, PAD, 8] = 9.0  # and would say 8 if it were asked again
    found = jax.device_get(search(jnp.asarray(logits)))
    np.testing.assert_array_equal(found.tokens[0, 0], [7, 7, PAD, PAD, PAD, PAD])
    np.testing.assert_array_equal(found.tokens[2, 0], [7, 7, 7, PAD, PAD, PAD])  # its limit
    np.testing.assert_array_equal(found.tokens[4, 0], [7] * 6)
    np.testing.assert_array_equal(found.passes, [3, 1, 4, 0, 7])
