"""Sampling over a table of logits instead of a model: its distribution, and what a draw depends on."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits, sampling
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.search.step_function import Cache
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD, UNK
from nat_ar.types import Hypotheses

VOCABULARY, MAX_LENGTH = 10, 6
TEXT = [EOS, UNK, *range(NUM_SPECIAL, VOCABULARY)]
"""What may be drawn."""


def table(seed: int) -> jax.Array:
    """Logits [position, last token, next token]; forbidden tokens are the most tempting."""
    logits = np.random.default_rng(seed).normal(0.0, 1.5, (MAX_LENGTH + 1, *[VOCABULARY] * 2))
    forbidden = [token for token in range(VOCABULARY) if token not in TEXT]
    logits[..., forbidden] += 9.0
    return jnp.asarray(logits, jnp.float32)


@functools.partial(jax.jit, static_argnames="decoding")
def search(logits: jax.Array, source: jax.Array, decoding: Sampling | Greedy) -> Hypotheses:
    """The same table for every row."""

    def step(last: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        return logits[position, last], cache

    cache = jnp.zeros((source.shape[0], 1))
    return decoding.search(step, lambda hypotheses: cache, source, max_length=MAX_LENGTH)


def distinct_sources(number: int) -> jax.Array:
    """Sentences of three tokens and EOS, no two alike."""
    digits = np.stack(np.unravel_index(np.arange(number), (40, 40, 40)), axis=1) + NUM_SPECIAL
    return jnp.asarray(np.pad(digits, ((0, 0), (0, 1)), constant_values=EOS), jnp.int32)


def test_a_temperature_near_zero_and_one_best_token_are_greedy_search() -> None:
    source = distinct_sources(200)
    for seed in range(3):
        expected = search(table(seed), source, Greedy())
        for decoding in (Sampling(temperature=1e-4), Sampling(top_k=1, temperature=3.0)):
            found = search(table(seed), source, decoding)
            np.testing.assert_array_equal(found.tokens, expected.tokens)
            np.testing.assert_array_equal(found.passes, expected.passes)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_follow_the_softmax(temperature: float) -> None:
    logits, draws = table(0), 20_000
    found = search(logits, distinct_sources(draws), Sampling(temperature=temperature))
    first = np.asarray(found.tokens[:, 0, 0])
    first = np.where(first == PAD, EOS, first)  # a translation without a word
    weights = np.exp(np.asarray(logits[0, 1], np.float64)[TEXT] / temperature)
    expected = draws * weights / weights.sum()
    observed = np.array([(first == token).sum() for token in TEXT])
    assert observed.sum() == draws
    # Chi-square with 5 degrees of freedom: 20.5 is exceeded once in a thousand.
    assert ((observed - expected) ** 2 / expected).sum() < 20.5


def test_positions_draw_independently() -> None:
    """Under equal logits everywhere, two places agree as often as chance has it: 1 in 5."""
    logits = jnp.zeros((MAX_LENGTH + 1, VOCABULARY, VOCABULARY)).at[..., EOS].set(-1e9)
    tokens = np.asarray(search(logits, distinct_sources(20_000), Sampling()).tokens[:, 0])
    assert (tokens != PAD).all()
    for place in range(1, MAX_LENGTH):
        # Standard deviation sqrt(0.2 * 0.8 / 20,000) = 0.0028.
        assert (tokens[:, 0] == tokens[:, place]).mean() == pytest.approx(0.2, abs=0.011)


def test_top_k_draws_all_of_the_k_most_probable_and_no_other() -> None:
    logits = table(1)
    found = search(logits, distinct_sources(200), Sampling(top_k=3))
    first = np.asarray(found.tokens[:, 0, 0])
    first = np.where(first == PAD, EOS, first)
    ranked = sorted(TEXT, key=lambda token: -float(logits[0, 1, token]))
    assert set(first.tolist()) == set(ranked[:3])


def test_top_k_keeps_exactly_k_of_equal_logits() -> None:
    kept = sampling.most_probable(jnp.zeros((2, 7)), 4)
    np.testing.assert_array_equal(jnp.isfinite(kept).sum(axis=1), [4, 4])
    logits = jnp.arange(6.0).reshape(2, 3)
    for unlimited in (0, 3, 8):
        np.testing.assert_array_equal(sampling.most_probable(logits, unlimited), logits)


def test_the_same_seed_draws_the_same_and_another_draws_others() -> None:
    source = distinct_sources(200)
    once, again = (search(table(0), source, Sampling(seed=3)).tokens for _ in range(2))
    other = search(table(0), source, Sampling(seed=4)).tokens
    np.testing.assert_array_equal(once, again)
    assert (once != other).any(axis=(1, 2)).mean() > 0.5


def test_scores_are_log_p_under_the_model_whatever_the_temperature() -> None:
    logits = table(2)
    found = jax.device_get(search(logits, distinct_sources(20), Sampling(temperature=2.0)))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    for tokens, score in zip(found.tokens[:, 0], found.scores[:, 0], strict=True):
        words = tokens[tokens != PAD].tolist()
        path = zip([1, *words], [*words, EOS], strict=True)  # BOS is 1
        total = sum(log_p[place, last, word] for place, (last, word) in enumerate(path))
        assert score == pytest.approx(total, rel=1e-5)


def test_keys_depend_on_the_tokens_and_their_order_alone() -> None:
    def key(*row: int) -> list[int]:
        rows = jnp.array([[7, 7, 7, 7, 7], [*row, *[PAD] * (5 - len(row))]])
        return jax.random.key_data(sampling.row_keys(rows, seed=0))[1].tolist()

    alone = jax.random.key_data(sampling.row_keys(jnp.array([[6, 9, 2]]), seed=0))[0].tolist()
    assert key(6, 9, 2) == alone
    others = [key(9, 6, 2), key(6, 9, 2, 2), key(6, 9), key(6, 8, 2)]
    assert len({tuple(other) for other in [*others, alone]}) == 5


def padded(rows: Sequence[Sequence[int]], width: int) -> jax.Array:
    return jnp.array([[*row, *[PAD] * (width - len(row))] for row in rows], jnp.int32)


@pytest.mark.slow
def test_a_translation_depends_on_its_sentence_alone() -> None:
    transformer = TransformerConfig(
        d_model=16, d_hidden=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
    )
    config = Autoregressive(transformer=transformer, decoding=Sampling(temperature=1.5, top_k=12))
    model = config.build(base.VocabularySizes(24, 24, True), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    def translate(source: jax.Array) -> jax.Array:
        model: AutoregressiveModel = nnx.merge(graphdef, params)
        longest = limits.length_limit(source.shape[1])
        return model.decode(source, decoding=config.decoding, max_length=longest).tokens[:, 0]

    rows = [[6 + i, 7, *[9 + i] * i, EOS] for i in range(6)]
    together = np.asarray(translate(padded(rows, 8)))
    wider = np.asarray(translate(padded([*rows[::-1], []], 12)))[:6][::-1]
    assert len({tuple(row) for row in together.tolist()}) == 6
    np.testing.assert_array_equal(wider[:, : together.shape[1]], together)
    alone = [np.asarray(translate(padded([row], 8)))[0] for row in rows[::2]]
    np.testing.assert_array_equal(alone, together[::2])


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": -1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Sampling needs"):
        Sampling(**settings)  # type: ignore[arg-type]
