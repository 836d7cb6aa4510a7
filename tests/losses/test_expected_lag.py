"""The lag of frames: of sure ones SimulEval's, of others the mean over what they may say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.evaluation import latency
from nat_ar.losses.expected_lag import ExpectedLag, expected_lag, expected_words
from nat_ar.nn import waiting
from nat_ar.special_tokens import BLANK, NUM_SPECIAL

A, B = range(NUM_SPECIAL, NUM_SPECIAL + 2)
VOCABULARY, FRAMES = NUM_SPECIAL + 2, 8


def sure(labels: list[int]) -> jax.Array:
    """Logits of a row of FRAMES frames that all but certainly say this, then anything."""
    padded = labels + [A] * (FRAMES - len(labels))
    return 50.0 * jax.nn.one_hot(jnp.asarray([padded]), VOCABULARY)


@jax.jit
def lag_of(logits: jax.Array, k: int, source_length: int, target_length: int) -> jax.Array:
    """Of one row, two frames a token, a source of at most FRAMES / 2 tokens."""
    lengths = jnp.asarray([source_length])
    words = expected_words(logits, 2 * lengths)
    read = waiting.read_at_frames(k, lengths, FRAMES // 2, 2)
    return expected_lag(words, read, lengths, jnp.asarray([target_length]))[0]


def test_words_by_hand() -> None:
    """A, BLANK, B with 1/2, 1/4, 1/4, then the same: A begins with 1/2 * 1/2, B with 1/4 * 3/4."""
    frame = jnp.full((VOCABULARY,), -jnp.inf)
    frame = frame.at[jnp.asarray([A, BLANK, B])].set(jnp.log(jnp.asarray([0.5, 0.25, 0.25])))
    logits = jnp.broadcast_to(frame, (1, 4, VOCABULARY))
    words = expected_words(logits, jnp.asarray([3]))
    np.testing.assert_allclose(words[0], [0.75, 0.4375, 0.4375, 0.0], rtol=1e-6)


def test_words_are_counted_over_all_that_frames_may_say() -> None:
    """Against all labellings of three frames, each with its probability."""
    logits = jax.random.normal(jax.random.key(0), (1, 3, VOCABULARY))
    p = np.asarray(jax.nn.softmax(logits[0]))
    expected = np.zeros(3)
    for labels in itertools.product(range(VOCABULARY), repeat=3):
        before = (BLANK, *labels)
        begins = [x not in (BLANK, y) for x, y in zip(labels, before, strict=False)]
        expected += np.prod(p[range(3), labels]) * np.asarray(begins)
    np.testing.assert_allclose(expected_words(logits, jnp.asarray([3]))[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "k", "delays"),
    [
        ([A, B, BLANK, A, A, BLANK, BLANK, B], 1, [1, 1, 2, 4]),
        ([A, A, B, BLANK, BLANK, A, B, A], 2, [2, 3, 4, 4, 4]),
        ([A, B, A, B, A, B, A, B], 1, [1, 1, 2, 2, 3, 3, 4, 4]),  # more than the target has
        ([BLANK] * 6 + [A, B], 1, [4, 4]),  # nothing before the end: |X|
        ([A, BLANK] * 2 + [BLANK] * 4, 1, [1, 2]),  # nothing at the end
        ([A, BLANK, A, BLANK, A, B], 1, [1, 2, 3, 3]),  # three tokens
        ([A, B], 3, [1, 1]),  # one
    ],
)
@pytest.mark.parametrize("target_length", [2, 4, 6])
def test_sure_frames_lag_as_simuleval_says(
    labels: list[int], k: int, delays: list[int], target_length: int
) -> None:
    source_length = len(labels) // 2
    expected = latency.length_adaptive_average_lagging(delays, source_length, target_length)
    found = float(lag_of(sure(labels), k, source_length, target_length))
    assert found == pytest.approx(expected, rel=1e-4)


def test_by_hand() -> None:
    """Words at 1, 1, 2 and 4 of 4 tokens, four in the target: (1 + (1 - 1) + (2 - 2) + (4 - 3)) / 4."""
    labels = [A, B, BLANK, A, A, BLANK, BLANK, B]
    assert float(lag_of(sure(labels), 1, 4, 4)) == pytest.approx(0.5, rel=1e-4)


def test_who_says_nothing_has_no_lag() -> None:
    assert float(lag_of(sure([BLANK] * FRAMES), 1, 4, 3)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_its_gradient_is_that_of_finite_differences(k: int) -> None:
    """In double precision, in the direction of every logit of a row with a padded token."""
    with jax.enable_x64(True):
        logits = jnp.asarray(np.random.default_rng(k).normal(0.0, 1.0, (1, FRAMES, VOCABULARY)))
        directions = jnp.eye(logits.size).reshape(-1, *logits.shape)

        def lag(logits: jax.Array) -> jax.Array:
            return lag_of(logits, k, 3, 4)

        step = 1e-5
        ahead, behind = (jax.vmap(lag)(logits + sign * step * directions) for sign in (1.0, -1.0))
        slopes = np.asarray((ahead - behind) / (2 * step)).reshape(logits.shape)
        gradient = np.asarray(jax.grad(lag)(logits))
        np.testing.assert_allclose(gradient, slopes, atol=1e-8)
        assert np.abs(gradient[0, :6]).max() > 0.01
        assert not gradient[0, 6:].any()


def test_a_row_of_nothing_costs_nothing() -> None:
    """As a batch is filled up with."""
    zeros = jnp.zeros((1, FRAMES), jnp.int32)
    nothing = jnp.asarray([0])
    words = expected_words(jnp.zeros((1, FRAMES, VOCABULARY)), nothing)
    assert float(expected_lag(words, zeros, nothing, nothing)[0]) == 0.0


def test_a_price_is_paid_beyond_the_free_tokens() -> None:
    price = ExpectedLag(weight=2.0, free=1.0)
    assert price.of(jnp.asarray([0.5, 1.0, 2.5])).tolist() == [0.0, 0.0, 3.0]


def test_a_price_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="weight must be at least 0, got -1"):
        ExpectedLag(weight=-1.0)
