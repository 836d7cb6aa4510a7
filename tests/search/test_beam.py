"""Beam search against greedy search, against all sequences, and against what a cache remembers.

The model is a tiny recurrent one: its state, which is the cache, depends on every token so far, so that
a cache reordered wrongly gives other scores."""

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import beam, greedy
from nat_ar.search.beam import Beam
from nat_ar.search.step_function import Cache, StepFunction
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Hypotheses

VOCABULARY, HIDDEN = 9, 6
WORDS = (3, 6, 7, 8)  # UNK and three words: all that a translation may hold
Weights = dict[str, np.ndarray]


def weights(seed: int, batch: int) -> Weights:
    """A random recurrent model; every row of the batch starts from a state of its own."""
    random = np.random.default_rng(seed)
    arrays = {
        "start": random.normal(size=(batch, HIDDEN)),
        "token": random.normal(size=(VOCABULARY, HIDDEN)),
        "state": random.normal(size=(HIDDEN, HIDDEN)),
        "output": random.normal(size=(HIDDEN, VOCABULARY)),
        "bias": np.zeros(VOCABULARY),
    }
    arrays["bias"][[PAD, BOS, MASK, BLANK]] = 3.0  # forbidden, and the most tempting
    arrays["bias"][EOS] = 0.5
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def step_of(model: Weights) -> StepFunction:
    def step(last: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        state = jnp.tanh(cache @ model["state"] + jnp.asarray(model["token"])[last])
        return state @ model["output"] + model["bias"], state

    return step


def log_probability(model: Weights, row: int, tokens: list[int]) -> float:
    """log p of the tokens and EOS, one after the other, in numpy."""
    state, total = model["start"][row].astype(np.float64), 0.0
    for last, following in itertools.pairwise([BOS, *tokens, EOS]):
        state = np.tanh(state @ model["state"] + model["token"][last])
        logits = state @ model["output"] + model["bias"]
        total += logits[following] - np.log(np.exp(logits).sum())
    return float(total)


def words_of(tokens: np.ndarray) -> list[int]:
    """A padded row without its padding, which must all stand on the right."""
    length = int((tokens != PAD).sum())
    assert not tokens[length:].any()
    return tokens[:length].tolist()


@functools.partial(jax.jit, static_argnames=("settings", "max_length"))
def search(
    model: Weights,
    settings: Beam,
    length_limits: np.ndarray,
    is_sentence: np.ndarray,
    max_length: int,
) -> Hypotheses:
    batch = model["start"].shape[0]
    cache = jnp.broadcast_to(jnp.asarray(model["start"])[:, None], (batch, settings.size, HIDDEN))
    return beam.search(
        step_of(model),
        cache,
        settings,
        length_limits=jnp.asarray(length_limits),
        is_sentence=jnp.asarray(is_sentence),
        max_length=max_length,
    )


@functools.partial(jax.jit, static_argnames="max_length")
def search_greedily(model: Weights, length_limits: np.ndarray, max_length: int) -> Hypotheses:
    return greedy.search(
        step_of(model),
        jnp.asarray(model["start"])[:, None],
        length_limits=jnp.asarray(length_limits),
        is_sentence=jnp.ones(length_limits.shape, bool),
        max_length=max_length,
    )


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_is_greedy(seed: int) -> None:
    """64 random models' rows at a time: the same tokens, log p and steps."""
    model, row_limits = weights(seed, 64), np.random.default_rng(seed).integers(0, 9, 64)
    settings = Beam(size=1, length_penalty=0.0)
    one = jax.device_get(search(model, settings, row_limits, np.ones(64, bool), 8))
    plain = jax.device_get(search_greedily(model, row_limits, 8))
    np.testing.assert_array_equal(one.tokens, plain.tokens)
    np.testing.assert_allclose(one.scores, plain.scores, rtol=1e-5)
    np.testing.assert_array_equal(one.passes, plain.passes)
    assert len(set(plain.passes.tolist())) > 3  # short and long ones, or the test says little


def all_sequences(limit: int) -> Iterator[list[int]]:
    for length in range(limit + 1):
        yield from ([*words] for words in itertools.product(WORDS, repeat=length))


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_large_as_all_sequences_finds_them_all_in_order(penalty: float) -> None:
    model, limit = weights(0, 2), 3
    number = 1 + 4 + 16 + 64
    settings = Beam(size=128, length_penalty=penalty, n_best=128)
    found = jax.device_get(search(model, settings, np.full(2, limit), np.ones(2, bool), limit))
    for row in range(2):
        expected = {
            tuple(words): log_probability(model, row, words) / (len(words) + 1) ** penalty
            for words in all_sequences(limit)
        }
        assert len(expected) == number
        got = [tuple(words_of(tokens)) for tokens in found.tokens[row, :number]]
        assert sorted(got) == sorted(expected)
        np.testing.assert_allclose(
            found.scores[row, :number], [expected[words] for words in got], rtol=1e-4
        )
        assert (np.diff(found.scores[row, :number]) <= 0).all()
        assert (found.scores[row, number:] == -np.inf).all()
        assert not found.tokens[row, number:].any()


def test_scores_belong_to_the_tokens_and_hypotheses_are_sorted_and_distinct() -> None:
    model, row_limits = weights(1, 8), np.array([0, 1, 2, 3, 5, 8, 8, 8])
    settings = Beam(size=4, length_penalty=1.0, n_best=4)
    found = jax.device_get(search(model, settings, row_limits, np.ones(8, bool), 8))
    for row, limit in enumerate(row_limits):
        finite = np.isfinite(found.scores[row])
        number = int(finite.sum())
        assert finite[:number].all()
        assert number == (1 if limit == 0 else 4)
        hypotheses = [words_of(tokens) for tokens in found.tokens[row, :number]]
        assert len({tuple(words) for words in hypotheses}) == number
        for words, score in zip(hypotheses, found.scores[row], strict=False):
            assert len(words) <= limit
            assert set(words) <= set(WORDS)
            expected = log_probability(model, row, words) / (len(words) + 1)
            assert score == pytest.approx(expected, rel=1e-4)
        assert (np.diff(found.scores[row, :number]) <= 0).all()


def test_a_beam_wider_than_the_vocabulary_does_not_fall_back_on_forbidden_tokens() -> None:
    model, settings = weights(2, 1), Beam(size=8, n_best=8)
    found = jax.device_get(search(model, settings, np.array([1]), np.ones(1, bool), 1))
    got = {tuple(words_of(tokens)) for tokens in found.tokens[0, :5]}
    assert got == {(), (3,), (6,), (7,), (8,)}
    assert np.isfinite(found.scores[0, :5]).all()
    assert (found.scores[0, 5:] == -np.inf).all()


def test_the_cache_follows_its_hypothesis() -> None:
    """The cache is the history. The model says three words of its choice, then the history's words
    backwards, then EOS: every hypothesis is a palindrome, if history and tokens belong together."""
    half, size = 3, 5
    free = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)
    free[:, EOS] = -1e3

    def step(last: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, Cache]:
        cache = jax.lax.dynamic_update_slice(cache, last[..., None], (0, 0, position))
        # cache[p] is the token before position p: word number p - 1.
        mirrored = jnp.take(cache, jnp.clip(2 * half - position, 0, 2 * half), axis=-1)
        mirrored = jnp.where(position == 2 * half, EOS, mirrored)
        forced = jnp.where(jax.nn.one_hot(mirrored, VOCABULARY) > 0, 0.0, -1e3)
        return jnp.where(position < half, jnp.asarray(free)[last], forced), cache

    @jax.jit
    def run() -> Hypotheses:
        return beam.search(
            step,
            jnp.zeros((2, size, 2 * half + 1), jnp.int32),
            Beam(size=size, n_best=size),
            length_limits=jnp.full(2, 2 * half),
            is_sentence=jnp.ones(2, bool),
            max_length=2 * half,
        )

    for hypothesis in np.asarray(run().tokens[0]):
        words = words_of(hypothesis)
        assert len(words) == 2 * half
        assert words == words[::-1]


def two_ways_out(penalty: float) -> tuple[list[list[int]], np.ndarray]:
    """p(EOS) = 0.4 and p(6) = 0.6 at first, p(EOS | 6) = p(7 | 6) = 0.5, then EOS for sure."""
    table = np.full((VOCABULARY, VOCABULARY), -np.inf, np.float32)
    table[:, EOS] = 0.0
    for last, following, probability in [
        (BOS, EOS, 0.4), (BOS, 6, 0.6), (6, EOS, 0.5), (6, 7, 0.5), (7, EOS, 1.0)
    ]:  # fmt: skip
        table[last, following] = math.log(probability)

    @jax.jit
    def run() -> Hypotheses:
        return beam.search(
            lambda last, cache, position: (jnp.asarray(table)[last], cache),
            jnp.zeros((1, 3)),
            Beam(size=3, length_penalty=penalty, n_best=3),
            length_limits=jnp.array([4]),
            is_sentence=jnp.array([True]),
            max_length=4,
        )

    found = jax.device_get(run())
    return [words_of(tokens) for tokens in found.tokens[0]], found.scores[0]


def test_no_length_penalty_prefers_the_probable_and_a_strong_one_the_long() -> None:
    hypotheses, scores = two_ways_out(0.0)
    assert hypotheses[0] == []
    np.testing.assert_allclose(scores, np.log([0.4, 0.3, 0.3]), rtol=1e-5)
    hypotheses, scores = two_ways_out(1.0)
    assert hypotheses == [[6, 7], [6], []]
    expected = [math.log(0.3) / 3, math.log(0.3) / 2, math.log(0.4) / 1]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_rows_that_are_no_sentence_stay_empty_and_cost_no_step() -> None:
    is_sentence = np.array([True, False, True])
    found = jax.device_get(search(weights(3, 3), Beam(4), np.full(3, 5), is_sentence, 5))
    assert not found.tokens[1].any()
    assert found.passes[1] == 0
    assert found.scores[1, 0] == -np.inf
    assert (found.passes[[0, 2]] > 0).all()


def test_steps_are_those_until_the_beam_is_full_or_the_limit_reached() -> None:
    """All weight on EOS at every step: a beam of 2 has two hypotheses after two passes."""
    model = weights(4, 2)
    model["bias"][EOS] = 50.0
    found = jax.device_get(search(model, Beam(2), np.array([6, 0]), np.ones(2, bool), 6))
    np.testing.assert_array_equal(found.passes, [2, 1])
    model["bias"][EOS] = -50.0
    found = jax.device_get(search(model, Beam(2), np.array([6, 0]), np.ones(2, bool), 6))
    np.testing.assert_array_equal(found.passes, [7, 1])


def test_a_row_finds_the_same_alone_and_in_company() -> None:
    model, row_limits = weights(5, 16), np.arange(16) % 9
    together = jax.device_get(search(model, Beam(3, n_best=3), row_limits, np.ones(16, bool), 8))
    for row in range(16):
        alone = {**model, "start": model["start"][row : row + 1]}
        limit = row_limits[row : row + 1]
        found = jax.device_get(search(alone, Beam(3, n_best=3), limit, np.ones(1, bool), 8))
        np.testing.assert_array_equal(found.tokens[0], together.tokens[row])
        np.testing.assert_allclose(found.scores[0], together.scores[row], rtol=1e-5)
        assert found.passes[0] == together.passes[row]


def has_repeat(words: list[int], size: int) -> bool:
    found = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return len(set(found)) < len(found)


def plain_beam(
    model: Weights, row: int, limit: int, size: int, ngram: int
) -> list[tuple[float, list[int]]]:
    """Beam search of one sentence with lists, no length penalty: (log p, words), best first."""
    alive: list[tuple[float, list[int], np.ndarray]] = [
        (0.0, [], model["start"][row].astype(float))
    ]
    finished: list[tuple[float, list[int]]] = []
    for position in range(limit + 1):
        continuations = []
        for total, words, state in alive:
            state = np.tanh(state @ model["state"] + model["token"][[BOS, *words][-1]])
            logits = state @ model["output"] + model["bias"]
            log_p = logits - np.log(np.exp(logits).sum())
            for token in (EOS,) if position == limit else (EOS, *WORDS):
                if token == EOS or not ngram or not has_repeat([*words, token], ngram):
                    continuations.append((total + log_p[token], [*words, token], state))
        continuations.sort(key=lambda item: -item[0])
        finished += [(p, words[:-1]) for p, words, _ in continuations[:size] if words[-1] == EOS]
        if len(finished) >= size:
            break
        alive = [item for item in continuations if item[1][-1] != EOS][:size]
    return sorted(finished, key=lambda item: -item[0])[:size]


@pytest.mark.parametrize(("ngram", "size"), [(0, 3), (1, 3), (2, 1), (2, 3), (3, 4)])
def test_blocked_ngrams_are_those_that_a_plain_beam_search_leaves_out(
    ngram: int, size: int
) -> None:
    """With ngram 1 a hypothesis runs out of words before its limit, and ends."""
    model, row_limits = weights(0, 8), np.array([0, 2, 4, 6, 8, 8, 8, 8])
    model["bias"][EOS] = -2.0  # long ones, which repeat themselves
    settings = Beam(size, length_penalty=0.0, n_best=size, no_repeat_ngram_size=ngram)
    found = jax.device_get(search(model, settings, row_limits, np.ones(8, bool), 8))
    repeats = 0
    for row, limit in enumerate(row_limits):
        expected = plain_beam(model, row, limit, size, ngram)
        got = [words_of(tokens) for tokens in found.tokens[row]][: len(expected)]
        assert got == [words for _, words in expected]
        np.testing.assert_allclose(
            found.scores[row, : len(expected)], [score for score, _ in expected], rtol=1e-4
        )
        assert (found.scores[row, len(expected) :] == -np.inf).all()
        repeats += sum(has_repeat(words, max(ngram, 1)) for words in got)
    assert (repeats > 0) == (ngram == 0)


def test_blocking_does_not_depend_on_the_batch_or_on_room() -> None:
    model, row_limits = weights(5, 6), np.arange(3, 9)
    settings = Beam(3, n_best=3, no_repeat_ngram_size=2)
    together = jax.device_get(search(model, settings, row_limits, np.ones(6, bool), 8))
    roomy = jax.device_get(search(model, settings, row_limits, np.ones(6, bool), 13))
    np.testing.assert_array_equal(roomy.tokens[..., :8], together.tokens)
    for row in range(6):
        alone = {**model, "start": model["start"][row : row + 1]}
        limit = row_limits[row : row + 1]
        found = jax.device_get(search(alone, settings, limit, np.ones(1, bool), 8))
        np.testing.assert_array_equal(found.tokens[0], together.tokens[row])


def test_a_beam_from_before_there_was_blocking_blocks_nothing() -> None:
    data = config_json.to_json(Beam(size=5))
    del data["no_repeat_ngram_size"]
    assert config_json.from_json(Beam, data) == Beam(size=5)


def test_a_negative_ngram_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no_repeat_ngram_size of at least 0 .*, got -1"):
        Beam(no_repeat_ngram_size=-1)


@pytest.mark.parametrize(("size", "n_best"), [(0, 1), (2, 0), (2, 3)])
def test_impossible_settings_are_refused(size: int, n_best: int) -> None:
    with pytest.raises(ConfigError, match=f"got n_best {n_best} and size {size}"):
        Beam(size=size, n_best=n_best)
