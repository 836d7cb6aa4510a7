"""Expected n-grams of a graph, against all its translations written out."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.config_json import ConfigError
from nat_ar.losses import dag, fuzzy_alignment
from nat_ar.losses.fuzzy_alignment import FuzzyAlignment, Overlap
from nat_ar.search.dag import expected_visits
from nat_ar.special_tokens import EOS, PAD

A, B, C = 10, 11, 12
WORDS = (A, B, C)
BATCH, TARGET, GRAPH = 4, 5, 6
BOS = -1


@functools.partial(jax.jit, static_argnames="ngram")
def overlap(emissions: jax.Array, transitions: jax.Array, *rest: jax.Array, ngram: int) -> Overlap:
    visits = expected_visits(transitions)
    return fuzzy_alignment.expected_overlap(emissions, transitions, visits, *rest, ngram=ngram)


def total(emissions: jax.Array, transitions: jax.Array, *rest: jax.Array, ngram: int) -> jax.Array:
    found = overlap(emissions, transitions, *rest, ngram=ngram)
    return (found.precision * found.brevity).sum()


gradients = jax.jit(jax.grad(total, (0, 1)), static_argnames="ngram")


def moves_of(pairs: dict[tuple[int, int], float], graph: int) -> np.ndarray:
    moves = np.full((1, graph, graph), dag.IMPOSSIBLE, np.float32)
    for (i, j), p in pairs.items():
        moves[0, i, j] = np.log(p)
    return moves


def emissions_of(words: np.ndarray, target: np.ndarray) -> np.ndarray:
    """As DaTransformerModel.target_graph makes them of [batch, graph, 3] p of A, B and C; EOS has 0 everywhere."""
    found = np.zeros((*target.shape, words.shape[1]), np.float32)
    for row, t in np.ndindex(target.shape):
        if target[row, t] in WORDS:
            found[row, t] = np.log(words[row, :, WORDS.index(target[row, t])])
    return found


def test_two_grams_of_mixed_and_of_unmixed_paths_by_hand() -> None:
    """Target A B. Paths 0 1 2 5 and 0 3 4 5 have 1/2 each; vertices 1 and 2 say A B, 3 and 4 say C C: half of all
    translations are right, with the three 2-grams of BOS A B EOS, the others have none. Where the first two vertices
    mix, A or C, then B or C, the 2-grams BOS A, A B and B EOS are expected 1/2, 1/4 and 1/2 times."""
    target, lengths = jnp.array([[A, B, EOS]]), (jnp.array([3]), jnp.array([6]))
    sure, never = 1.0 - 2e-12, 1e-12
    words = np.full((1, 6, 3), never)
    words[0, 1, 0] = words[0, 2, 1] = words[0, 3, 2] = words[0, 4, 2] = sure
    apart = moves_of(
        {(0, 1): 0.5, (0, 3): 0.5, (1, 2): 1.0, (2, 5): 1.0, (3, 4): 1.0, (4, 5): 1.0}, 6
    )
    found = overlap(emissions_of(words, np.asarray(target)), apart, target, *lengths, ngram=2)
    np.testing.assert_allclose(found.precision, [1.5 / 3], rtol=1e-5)
    np.testing.assert_allclose(found.brevity, [1.0], rtol=1e-5)

    words[0, 1] = [0.5, never, 0.5]
    words[0, 2] = [never, 0.5, 0.5]
    shared = moves_of({(0, 1): 1.0, (1, 2): 1.0, (2, 5): 1.0}, 6)
    found = overlap(emissions_of(words, np.asarray(target)), shared, target, *lengths, ngram=2)
    np.testing.assert_allclose(found.precision, [1.25 / 3], rtol=1e-5)


def test_short_translations_pay_and_repeats_are_clipped() -> None:
    """Target A A A on two vertices that say A: of BOS A, A A and A EOS all three are the target's: precision 1. The
    4 tokens stand against 5: exp(1 - 5/4). The other way round, A A A against the target A: A A is not the target's,
    and precision is 2/4."""
    sure = np.tile(np.array([1.0 - 2e-12, 1e-12, 1e-12]), (1, 5, 1))
    target = jnp.array([[A, A, A, EOS]])
    two = moves_of({(0, 1): 1.0, (1, 2): 1.0, (2, 4): 1.0}, 5)
    case = (emissions_of(sure, np.asarray(target)), two, target, jnp.array([4]), jnp.array([5]))
    found = overlap(*case, ngram=2)
    np.testing.assert_allclose(found.precision, [1.0], rtol=1e-5)
    np.testing.assert_allclose(found.brevity, [np.exp(1 - 5 / 4)], rtol=1e-5)
    target = jnp.array([[A, EOS, PAD, PAD]])
    three = moves_of({(0, 1): 1.0, (1, 2): 1.0, (2, 3): 1.0, (3, 4): 1.0}, 5)
    case = (emissions_of(sure, np.asarray(target)), three, target, jnp.array([2]), jnp.array([5]))
    found = overlap(*case, ngram=2)
    np.testing.assert_allclose(found.precision, [2 / 4], rtol=1e-5)
    np.testing.assert_allclose(found.brevity, [1.0], rtol=1e-5)


def random_case(seed: int) -> tuple[np.ndarray, ...]:
    """p of A, B and C at every vertex, transitions, targets of the same three words, lengths; some rows are none."""
    random = np.random.default_rng(seed)
    target_lengths = random.integers(0, TARGET + 1, BATCH).astype(np.int32)
    graph_lengths = np.where(target_lengths, random.integers(2, GRAPH + 1, BATCH), 0)
    target = random.choice(WORDS, (BATCH, TARGET))
    transitions = np.full((BATCH, GRAPH, GRAPH), dag.IMPOSSIBLE)
    for row in range(BATCH):
        target[row, target_lengths[row] :] = PAD
        if target_lengths[row]:
            target[row, target_lengths[row] - 1] = EOS
        for i in range(graph_lengths[row] - 1):
            p = random.dirichlet(np.ones(graph_lengths[row] - 1 - i))
            transitions[row, i, i + 1 : graph_lengths[row]] = np.log(p)
    words = random.dirichlet(np.ones(3), (BATCH, GRAPH))
    return words, transitions, target, target_lengths, graph_lengths.astype(np.int32)


def case_of(parts: tuple[np.ndarray, ...]) -> list[jax.Array]:
    words, transitions, target, *lengths = parts
    emissions = emissions_of(words, target)
    return [jnp.asarray(x) for x in (emissions, transitions.astype(np.float32), target, *lengths)]


def translations(
    words: np.ndarray, transitions: np.ndarray, last: int
) -> list[tuple[tuple[int, ...], float]]:
    """Every sentence that a graph can say, BOS and EOS included, with p of the path that says it."""
    found = []
    for length in range(last):
        for between in itertools.combinations(range(1, last), length):
            moves = sum(transitions[i, j] for i, j in itertools.pairwise((0, *between, last)))
            for chosen in itertools.product(range(3), repeat=length):
                said = np.prod([words[j, word] for j, word in zip(between, chosen, strict=True)])
                sentence = (BOS, *(WORDS[word] for word in chosen), EOS)
                found.append((sentence, float(np.exp(moves) * said)))
    return found


def ngrams(sentence: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    return [sentence[k : k + n] for k in range(len(sentence) - n + 1)]


@pytest.mark.parametrize("ngram", [1, 2, 3])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_the_overlap_is_that_of_all_translations(ngram: int, seed: int) -> None:
    parts = random_case(seed)
    words, transitions, target, target_lengths, graph_lengths = parts
    found = overlap(*case_of(parts), ngram=ngram)
    for row in range(BATCH):
        if not target_lengths[row]:
            assert found.precision[row] == found.brevity[row] == 0.0
            continue
        expected: collections.Counter[tuple[int, ...]] = collections.Counter()
        length = 0.0
        every = translations(words[row], transitions[row], int(graph_lengths[row]) - 1)
        for sentence, p in every:
            length += p * len(sentence)
            for gram in ngrams(sentence, ngram):
                expected[gram] += p
        assert sum(p for _, p in every) == pytest.approx(1.0)
        reference = (BOS, *target[row, : target_lengths[row]].tolist())
        wanted = collections.Counter(ngrams(reference, ngram))
        matched = sum(min(expected[gram], count) for gram, count in wanted.items())
        precision = matched / max(sum(expected.values()), 1e-30)
        assert found.precision[row] == pytest.approx(precision, abs=1e-5)
        brevity = min(1.0, float(np.exp(1 - len(reference) / length)))
        assert found.brevity[row] == pytest.approx(brevity, rel=1e-5)


@pytest.mark.parametrize("ngram", [2, 3])
def test_gradients_are_slopes(ngram: int) -> None:
    """Of the score by emissions and transitions, in a random direction; nothing comes back from what is impossible."""
    case = case_of(random_case(6))
    random = np.random.default_rng(0)
    ways = [random.normal(size=x.shape).astype(np.float32) for x in case[:2]]
    ways[1] = np.where(np.asarray(case[1]) > dag.IMPOSSIBLE, ways[1], 0.0)
    slopes = gradients(*case, ngram=ngram)
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert not np.asarray(slopes[1])[np.asarray(case[1]) <= dag.IMPOSSIBLE].any()
    step = 3e-3
    ahead, behind = (
        total(
            case[0] + sign * step * ways[0], case[1] + sign * step * ways[1], *case[2:], ngram=ngram
        )
        for sign in (1, -1)
    )
    expected = (float(ahead) - float(behind)) / (2 * step)
    along = sum(float((slope * way).sum()) for slope, way in zip(slopes, ways, strict=True))
    assert abs(expected) > 0.05
    assert along == pytest.approx(expected, rel=2e-2)


def test_padding_and_neighbours_change_nothing() -> None:
    case = case_of(random_case(5))
    wide = [jnp.pad(case[0], ((0, 2), (0, 3), (0, 4)))]
    wide.append(jnp.pad(case[1], ((0, 2), (0, 4), (0, 4)), constant_values=dag.IMPOSSIBLE))
    wide.append(jnp.pad(case[2], ((0, 2), (0, 3)), constant_values=PAD))
    wide += [jnp.pad(x, (0, 2)) for x in case[3:]]
    narrow, padded = overlap(*case, ngram=2), overlap(*wide, ngram=2)
    np.testing.assert_allclose(padded.precision[:BATCH], narrow.precision, rtol=1e-5)
    np.testing.assert_allclose(padded.brevity[:BATCH], narrow.brevity, rtol=1e-5)
    assert not padded.precision[BATCH:].any()


def test_an_ngram_has_a_token() -> None:
    with pytest.raises(ConfigError, match="ngram must be at least 1, got 0"):
        FuzzyAlignment(0)
