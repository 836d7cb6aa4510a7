"""Mask-predict and refinement against plain loops in Python, over a table instead of a model."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.search import refinement
from nat_ar.search.refinement import Refined, Words
from nat_ar.special_tokens import EOS, MASK, NUM_SPECIAL, PAD, UNK

VOCABULARY, WIDTH = 12, 7
WORDS = [UNK, *range(NUM_SPECIAL, VOCABULARY)]
LENGTHS = np.array([0, 1, 2, 3, 5, 6, 7])


class Table:
    """What stands at a place depends on the place and on all words: logits = base + sum of pulls."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.base = rng.normal(0.0, 1.0, (WIDTH, VOCABULARY)).astype(np.float32)
        self.pull = rng.normal(0.0, 1.0, (VOCABULARY, WIDTH, VOCABULARY)).astype(np.float32)
        self.pull[PAD] = 0.0

    def logits(self, tokens: jax.Array) -> jax.Array:
        return self.base + jnp.asarray(self.pull)[tokens].sum(axis=-3)

    def best(self, tokens: list[int]) -> list[tuple[int, float]]:
        """The most probable word of every place, and its log p."""
        logits = self.base.astype(np.float64) + sum(self.pull[token] for token in tokens)
        rows = [row - np.log(np.exp(row).sum()) for row in logits[: len(tokens)]]
        return [
            max(((word, row[word]) for word in WORDS), key=lambda pair: pair[1]) for row in rows
        ]


def mask_predict_by_hand(
    table: Table, length: int, iterations: int
) -> tuple[list[int], float, int]:
    words, gains, passes = [MASK] * length, [0.0] * length, 0
    for t in range(iterations):
        hidden = sorted(range(length), key=lambda i: gains[i])[
            : length * (iterations - t) // iterations
        ]
        if not hidden:
            break
        passes += 1
        answers = table.best([MASK if i in hidden else words[i] for i in range(length)])
        for i in hidden:
            words[i], gains[i] = answers[i]
    return words, float(np.mean(gains)), passes


@pytest.mark.parametrize("iterations", [1, 4, 10])
def test_mask_predict_is_the_loop_in_python(iterations: int) -> None:
    """The rows stand in two axes: a batch of one sentence with seven candidates."""
    table, lengths = Table(iterations), jnp.asarray(LENGTHS)[None]
    search = functools.partial(refinement.mask_predict, table.logits, iterations=iterations)
    found = jax.device_get(jax.jit(search, static_argnums=1)(lengths, WIDTH))
    check_rows(found, LENGTHS, lambda n: mask_predict_by_hand(table, n, iterations))


def check_rows(
    found: Refined, lengths: np.ndarray, by_hand: Callable[[int], tuple[list[int], float, int]]
) -> None:
    assert found.passes[0, 0] == 0
    assert found.scores[0, 0] == 0.0
    assert not found.tokens[0, 0].any()
    for row, length in enumerate(lengths):
        if length:
            words, score, passes = by_hand(int(length))
            np.testing.assert_array_equal(found.tokens[0, row], words + [PAD] * (WIDTH - length))
            assert found.scores[0, row] == pytest.approx(score, abs=1e-4)
            assert found.passes[0, row] == passes


def refine_by_hand(
    table: Table, length: int, iterations: int, is_adaptive: bool
) -> tuple[list[int], float, int]:
    answers, passes = table.best([PAD] * length), 1
    while passes < iterations:
        before, answers = answers, table.best([word for word, _ in answers])
        passes += 1
        if is_adaptive and [word for word, _ in before] == [word for word, _ in answers]:
            break
    return [word for word, _ in answers], float(np.mean([gain for _, gain in answers])), passes


@pytest.mark.parametrize(("iterations", "is_adaptive"), [(1, True), (6, True), (6, False)])
def test_refinement_is_the_loop_in_python(iterations: int, is_adaptive: bool) -> None:
    table, lengths = Table(4), jnp.asarray(LENGTHS)[None]

    @jax.jit
    def search(lengths: jax.Array) -> Refined:
        nothing = jnp.full((*lengths.shape, WIDTH), PAD)
        first = refinement.most_probable(table.logits(nothing), lengths)
        options = {"iterations": iterations, "is_adaptive": is_adaptive}
        return refinement.refine(table.logits, first, lengths, **options)

    found = jax.device_get(search(lengths))
    check_rows(found, LENGTHS, lambda n: refine_by_hand(table, n, iterations, is_adaptive))
    assert (found.passes[0, 1:] == iterations).all() == (iterations == 1 or not is_adaptive)


def test_a_row_stops_when_it_repeats_itself_whatever_its_neighbours_do() -> None:
    """A model that raises every word by one up to 9: 9 9 stays; 6 8 becomes 7 9, 8 9, 9 9, 9 9."""

    def logits_of(tokens: jax.Array) -> jax.Array:
        return 20.0 * jax.nn.one_hot(jnp.minimum(tokens + 1, 9), 10)

    def search(first: list[list[int]], iterations: int) -> Refined:
        tokens = jnp.asarray(first, jnp.int32)
        words, lengths = Words(tokens, jnp.zeros(tokens.shape)), jnp.full(len(first), 2)
        run = functools.partial(refinement.refine, logits_of, is_adaptive=True)
        return jax.jit(run, static_argnames="iterations")(words, lengths, iterations=iterations)

    both = search([[9, 9], [6, 8]], 10)
    np.testing.assert_array_equal(both.tokens, [[9, 9], [9, 9]])
    np.testing.assert_array_equal(both.passes, [2, 5])
    np.testing.assert_array_equal(search([[6, 8]], 10).passes, [5])
    short = search([[9, 9], [6, 8]], 3)
    np.testing.assert_array_equal(short.tokens, [[9, 9], [8, 9]])
    np.testing.assert_array_equal(short.passes, [2, 3])


def test_a_row_that_changed_little_stays_as_it_was_then() -> None:
    """The same model: 6 7 8 9 becomes 7 8 9 9, then 8 9 9 9, then 9 9 9 9, and each time keeps 3 of the 5
    words of both; 6 6 6 6 becomes 7 7 7 7, 8 8 8 8, 9 9 9 9 and is then repeated."""

    def logits_of(tokens: jax.Array) -> jax.Array:
        return 20.0 * jax.nn.one_hot(jnp.minimum(tokens + 1, 9), 10)

    tokens = jnp.array([[6, 7, 8, 9], [6, 6, 6, 6], [PAD] * 4])
    words, lengths = Words(tokens, jnp.zeros(tokens.shape)), jnp.array([4, 4, 0])

    @functools.partial(jax.jit, static_argnums=0)
    def search(stop_distance: float) -> Refined:
        options = {"iterations": 10, "is_adaptive": True, "stop_distance": stop_distance}
        return refinement.refine(logits_of, words, lengths, **options)

    found = search(0.4)
    np.testing.assert_array_equal(found.tokens, [[7, 8, 9, 9], [9, 9, 9, 9], [PAD] * 4])
    np.testing.assert_array_equal(found.passes, [2, 5, 0])
    found = search(0.39)
    np.testing.assert_array_equal(found.tokens, [[9, 9, 9, 9], [9, 9, 9, 9], [PAD] * 4])
    np.testing.assert_array_equal(found.passes, [5, 5, 0])


def test_the_distance_of_two_bags_by_hand() -> None:
    for one, other, expected in [
        ([6, 7, 8], [8, 6, 7], 0.0),
        ([6, 7, 8], [9, 10, 11], 1.0),
        ([6, 6, 7], [6, 7, 7], 1 - 2 / 4),  # one 6 and one 7 are shared
        ([6, 6, 6], [6, 7, 8], 1 - 1 / 5),
        ([6, 7, PAD], [6, 6, PAD], 1 - 1 / 3),
        ([PAD] * 3, [PAD] * 3, 0.0),
    ]:
        found = jax.jit(refinement.bag_distance)(jnp.array([one, other]), jnp.array([other, one]))
        np.testing.assert_allclose(found, [expected, expected], rtol=1e-6)


def test_the_lowest_by_hand() -> None:
    values = jnp.array([[3.0, 1.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    found = refinement.lowest(values, jnp.array([3, 2, 0]))
    np.testing.assert_array_equal(found, [[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])


def test_the_decay_by_hand() -> None:
    """Of 5 words in 4 passes: 5, 3, 2, 1; of 2 words: 2, 1, 1, 0."""
    for lengths, expected in [(5, [5, 3, 2, 1]), (2, [2, 1, 1, 0]), (0, [0, 0, 0, 0])]:
        masked = [refinement.num_masked(jnp.int32(lengths), jnp.int32(t), 4) for t in range(4)]
        np.testing.assert_array_equal(masked, expected)


def test_passes_are_those_that_hide_a_word() -> None:
    lengths = jnp.arange(25)
    for iterations in (1, 3, 10):
        passes = jnp.arange(iterations)
        count = functools.partial(refinement.num_masked, lengths, iterations=iterations)
        hidden = jax.jit(jax.vmap(count))(passes)
        found = refinement.num_passes(lengths, iterations)
        np.testing.assert_array_equal(found, (hidden > 0).sum(axis=0))


def test_most_probable_words_by_hand() -> None:
    """The best word of each place inside the length; no special token, however probable."""
    logits = np.zeros((1, 3, 8), np.float32)
    logits[0, :, EOS] = 9.0
    logits[0, 0, 7] = logits[0, 1, UNK] = logits[0, 2, 6] = 5.0
    words = jax.jit(refinement.most_probable)(jnp.asarray(logits), jnp.array([2]))
    one = 5.0 - np.log(np.exp(9.0) + np.exp(5.0) + 6.0)  # log p of each word, over all 8 tokens
    np.testing.assert_array_equal(words.tokens, [[7, UNK, PAD]])
    np.testing.assert_allclose(words.log_probabilities, [[one, one, 0.0]], rtol=1e-5)
