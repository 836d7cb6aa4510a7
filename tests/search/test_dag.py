"""Searches through a graph of vertices, against all paths and all translations written out."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.config_json import ConfigError
from nat_ar.search import dag
from nat_ar.search.dag import Graph, GraphBeam, GraphDecoding, GraphGreedy, Lookahead, Viterbi
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD, UNK
from nat_ar.types import Hypotheses

VOCABULARY, BATCH, WIDTH, ROOM = 9, 3, 5, 4
WORDS = (UNK, 6, 7, 8)  # all that a translation may hold
A, B, C = 6, 7, 8
EVERYTHING = GraphBeam(size=85, length_penalty=0.7, num_candidates=VOCABULARY, n_best=6)
NARROW = GraphBeam(size=4, num_candidates=2, n_best=2)
IMPOSSIBLE = -1e9
NO_LIMIT = [ROOM] * BATCH


@functools.partial(jax.jit, static_argnames=("decoding", "max_length"))
def search_jitted(
    graph: Graph, decoding: GraphDecoding, length_limits: jax.Array, max_length: int
) -> Hypotheses:
    return decoding.search(graph, length_limits=length_limits, max_length=max_length)


def search(
    graph: Graph,
    decoding: GraphDecoding,
    length_limits: list[int] | np.ndarray,
    max_length: int = ROOM,
) -> Hypotheses:
    limits = jnp.asarray(length_limits, jnp.int32)
    return jax.device_get(search_jitted(graph, decoding, limits, max_length))


def graph_of(words: list[dict[int, float]], moves: dict[tuple[int, int], float]) -> Graph:
    """The same row again and again, in probabilities: the tokens of each vertex between the first and the
    last, and the moves."""
    logits = np.full((BATCH, WIDTH, VOCABULARY), -30.0, np.float32)
    transitions = np.full((BATCH, WIDTH, WIDTH), IMPOSSIBLE, np.float32)
    for vertex, tokens in enumerate(words, 1):
        for token, probability in tokens.items():
            logits[:, vertex, token] = math.log(probability)
    for (i, j), probability in moves.items():
        transitions[:, i, j] = math.log(probability)
    lengths = jnp.full(BATCH, len(words) + 2, jnp.int32)
    return Graph(jnp.asarray(logits), jnp.asarray(transitions), lengths)


def random_graph(seed: int) -> tuple[Graph, np.ndarray]:
    """Ragged graphs of 2 to 5 vertices, and a length limit of 0 to 4 for each. What is no text is the
    most tempting."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.0, 1.5, (BATCH, WIDTH, VOCABULARY))
    logits[..., [PAD, BOS, EOS, MASK, BLANK]] += 2.0
    lengths = random.integers(2, WIDTH + 1, BATCH)
    transitions = np.full((BATCH, WIDTH, WIDTH), IMPOSSIBLE)
    for row, length in enumerate(lengths):
        for i in range(length - 1):
            transitions[row, i, i + 1 : length] = np.log(random.dirichlet(np.ones(length - i - 1)))
    floats = (jnp.asarray(x, jnp.float32) for x in (logits, transitions))
    return Graph(*floats, jnp.asarray(lengths, jnp.int32)), random.integers(0, ROOM + 1, BATCH)


def every_path(
    graph: Graph, row: int, limit: int
) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    """(vertices, tokens) of every path with every choice of words, and its log p."""
    logits, transitions = (np.asarray(x[row], float) for x in (graph.logits, graph.transitions))
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    last, found = int(graph.lengths[row]) - 1, {}
    for length in range(min(limit, last - 1) + 1):
        for vertices in itertools.combinations(range(1, last), length):
            moves = sum(transitions[i, j] for i, j in itertools.pairwise((0, *vertices, last)))
            for tokens in itertools.product(WORDS, repeat=length):
                emissions = sum(log_p[v, token] for v, token in zip(vertices, tokens, strict=True))
                found[vertices, tokens] = float(moves + emissions)
    return found


def every_translation(graph: Graph, row: int, limit: int) -> dict[tuple[int, ...], float]:
    """log p of every translation, the sum over its paths."""
    found: dict[tuple[int, ...], float] = {}
    for (_, tokens), log_p in every_path(graph, row, limit).items():
        found[tokens] = float(np.logaddexp(found.get(tokens, -np.inf), log_p))
    return found


def words_of(tokens: np.ndarray) -> tuple[int, ...]:
    """A padded row without its padding, which must all stand on the right."""
    length = int((tokens != PAD).sum())
    assert not tokens[length:].any()
    return tuple(tokens[:length].tolist())


def test_greedy_follows_transitions_and_lookahead_what_they_lead_to() -> None:
    """From the start 0.6 to vertex 1, whose best word has 0.3, or 0.4 to vertex 2 with 0.9: greedy goes
    to 1, lookahead to 2, as 0.18 < 0.36."""
    graph = graph_of(
        [{A: 0.3, B: 0.2, UNK: 0.2, EOS: 0.3}, {B: 0.9, A: 0.1}],
        {(0, 1): 0.6, (0, 2): 0.4, (1, 2): 0.1, (1, 3): 0.9, (2, 3): 1.0},
    )
    greedy = search(graph, GraphGreedy(), NO_LIMIT)
    assert words_of(greedy.tokens[0, 0]) == (A,)
    assert np.exp(greedy.scores[0, 0]) == pytest.approx(0.6 * 0.3 * 0.9, rel=1e-5)
    ahead = search(graph, Lookahead(), NO_LIMIT)
    assert words_of(ahead.tokens[0, 0]) == (B,)
    assert np.exp(ahead.scores[0, 0]) == pytest.approx(0.4 * 0.9, rel=1e-5)
    assert greedy.passes.tolist() == ahead.passes.tolist() == [1] * BATCH


def test_lookahead_knows_that_the_end_needs_no_word() -> None:
    """To vertex 1 with 0.6 and a word of 0.5, or to the end with 0.4: 0.3 < 0.4."""
    graph = graph_of([{A: 0.5, B: 0.5}], {(0, 1): 0.6, (0, 2): 0.4, (1, 2): 1.0})
    assert words_of(search(graph, Lookahead(), NO_LIMIT).tokens[0, 0]) == ()
    assert words_of(search(graph, GraphGreedy(), NO_LIMIT).tokens[0, 0]) == (A,)


@pytest.mark.parametrize("decoding", [GraphGreedy(), Lookahead(), Viterbi(1.0), EVERYTHING])
@pytest.mark.parametrize("limit", [0, 2, 3, 4])
def test_at_its_limit_a_path_goes_to_the_end(decoding: GraphDecoding, limit: int) -> None:
    """Each move to the next vertex has 0.9, each over others 0.01: words are worth it as long as they may
    be."""
    moves = {(i, j): 0.9 if j == i + 1 else 0.01 for j in range(5) for i in range(j)}
    found = search(graph_of([{A: 1.0}, {B: 1.0}, {C: 1.0}], moves), decoding, [limit] * BATCH)
    words = (A, B, C)[:limit]
    assert words_of(found.tokens[0, 0]) == words
    log_p = len(words) * math.log(0.9) + math.log(0.9 if limit >= 3 else 0.01)
    expected = log_p / (len(words) + 1) ** getattr(decoding, "length_penalty", 0.0)
    assert found.scores[0, 0] == pytest.approx(expected, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100_000), penalty=st.sampled_from([0.0, 1.0]))
def test_viterbi_finds_the_best_of_all_paths(seed: int, penalty: float) -> None:
    graph, length_limits = random_graph(seed)
    found = search(graph, Viterbi(penalty), length_limits)
    for row, limit in enumerate(length_limits):
        scores = {
            tokens: log_p / (len(tokens) + 1) ** penalty
            for (_, tokens), log_p in sorted(
                every_path(graph, row, limit).items(), key=lambda item: item[1]
            )
        }  # of several paths with the same words the best one stays
        assert found.scores[row, 0] == pytest.approx(max(scores.values()), rel=1e-4, abs=1e-6)
        assert scores[words_of(found.tokens[row, 0])] == pytest.approx(
            max(scores.values()), rel=1e-4
        )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_a_beam_wide_enough_finds_the_best_of_all_translations(seed: int) -> None:
    """1 + 4 + 16 + 64 translations of up to three words: none is pruned."""
    graph, length_limits = random_graph(seed)
    found = search(graph, EVERYTHING, length_limits)
    for row, limit in enumerate(length_limits):
        scores = {
            tokens: log_p / (len(tokens) + 1) ** EVERYTHING.length_penalty
            for tokens, log_p in every_translation(graph, row, limit).items()
        }
        best = sorted(scores.values(), reverse=True)[: EVERYTHING.n_best]
        missing = EVERYTHING.n_best - len(best)
        np.testing.assert_allclose(
            found.scores[row], best + [-np.inf] * missing, rtol=1e-4, atol=1e-6
        )
        words = [words_of(tokens) for tokens in found.tokens[row]]
        assert len(set(words[: len(best)])) == len(best)
        for translation, score in zip(words, best, strict=False):
            assert scores[translation] == pytest.approx(score, rel=1e-4, abs=1e-6)
        assert not found.tokens[row, len(best) :].any()


def test_a_narrow_beam_scores_what_it_finds_exactly() -> None:
    graph, _ = random_graph(1)
    found = search(graph, NARROW, NO_LIMIT)
    for row in range(BATCH):
        exact = every_translation(graph, row, ROOM)
        for tokens, score in zip(found.tokens[row], found.scores[row], strict=True):
            if np.isfinite(score):
                words = words_of(tokens)
                assert score == pytest.approx(exact[words] / (len(words) + 1), rel=1e-4)


def test_a_beam_adds_up_the_paths_of_a_translation_and_viterbi_does_not() -> None:
    """A by two paths of 0.3 each, B by one of 0.4."""
    graph = graph_of(
        [{A: 1.0}, {A: 1.0}, {B: 1.0}],
        {(0, 1): 0.3, (0, 2): 0.3, (0, 3): 0.4, (1, 4): 1.0, (2, 4): 1.0, (3, 4): 1.0},
    )
    viterbi = search(graph, Viterbi(), NO_LIMIT)
    assert words_of(viterbi.tokens[0, 0]) == (B,)
    assert np.exp(2 * viterbi.scores[0, 0]) == pytest.approx(0.4, rel=1e-4)
    beam = search(graph, NARROW, NO_LIMIT)
    assert [words_of(tokens) for tokens in beam.tokens[0]] == [(A,), (B,)]
    np.testing.assert_allclose(np.exp(2 * beam.scores[0]), [0.6, 0.4], rtol=1e-4)


def test_a_beam_goes_on_while_a_longer_translation_may_win() -> None:
    """No word at all has 0.3, A alone as a prefix 0.7 * 0.4, and B C follow for certain: 0.3 is more than
    0.28, but not by length, ln 0.3 / 1 < ln 0.28 / 4."""
    graph = graph_of(
        [{A: 0.4, B: 0.3, UNK: 0.3}, {B: 1.0}, {C: 1.0}],
        {(0, 4): 0.3, (0, 1): 0.7, (1, 2): 1.0, (2, 3): 1.0, (3, 4): 1.0},
    )
    found = search(graph, GraphBeam(size=4), NO_LIMIT)
    assert words_of(found.tokens[0, 0]) == (A, B, C)
    assert found.scores[0, 0] == pytest.approx(math.log(0.28) / 4, rel=1e-4)


def test_expected_visits_are_the_sums_over_all_paths() -> None:
    graph, _ = random_graph(4)
    visits = np.asarray(jax.jit(dag.expected_visits)(graph.transitions))
    for row in range(BATCH):
        last = int(graph.lengths[row]) - 1
        transitions = np.asarray(graph.transitions[row], float)
        expected = np.zeros(WIDTH)
        for length in range(last):
            for between in itertools.combinations(range(1, last), length):
                path = (0, *between, last)
                log_p = sum(transitions[i, j] for i, j in itertools.pairwise(path))
                expected[list(path)] += np.exp(log_p)
        np.testing.assert_allclose(visits[row], expected, atol=1e-6)


def test_only_the_tokens_emitted_most_often_are_candidates() -> None:
    """A is expected 0.9 * 0.6 + 0.1 * 0.2 times, B 0.9 * 0.4, C 0.1 * 0.8: of two candidates C is none,
    though it is the word of vertex 2."""
    graph = graph_of(
        [{A: 0.6, B: 0.4}, {A: 0.2, C: 0.8}],
        {(0, 1): 0.9, (0, 2): 0.1, (1, 3): 1.0, (2, 3): 1.0},
    )
    two = search(graph, NARROW, NO_LIMIT)
    assert [words_of(tokens) for tokens in two.tokens[0, :2]] == [(A,), (B,)]
    np.testing.assert_allclose(np.exp(2 * two.scores[0, :2]), [0.56, 0.36], rtol=1e-4)
    assert not (two.tokens == C).any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100_000), decoding=st.sampled_from([GraphGreedy(), Lookahead()]))
def test_greedy_and_lookahead_are_a_walk(seed: int, decoding: GraphDecoding) -> None:
    graph, length_limits = random_graph(seed)
    found = search(graph, decoding, length_limits)
    for row, limit in enumerate(length_limits):
        logits, moves = (np.asarray(x[row], float) for x in (graph.logits, graph.transitions))
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        last = int(graph.lengths[row]) - 1
        best = {v: max(WORDS, key=log_p[v].__getitem__) for v in range(1, last)}
        gains = {v: log_p[v, word] for v, word in best.items()} | {last: 0.0}
        vertex, words, total = 0, [], 0.0
        while vertex != last:
            ahead = {
                j: moves[vertex, j] + (gains[j] if decoding == Lookahead() else 0.0)
                for j in range(vertex + 1, last + 1)
            }
            following = max(ahead, key=ahead.__getitem__) if len(words) < limit else last
            total += moves[vertex, following] + gains[following]
            words += [best[following]] if following != last else []
            vertex = following
        assert words_of(found.tokens[row, 0]) == tuple(words)
        assert found.scores[row, 0] == pytest.approx(total, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("decoding", [GraphGreedy(), Lookahead(), Viterbi(), EVERYTHING])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 100_000), empty=st.integers(0, BATCH))
def test_neighbours_padding_and_room_change_no_translation(
    decoding: GraphDecoding, seed: int, empty: int
) -> None:
    """A row, which may be no sentence, among others, and alone in wider arrays with more room."""
    graph, length_limits = random_graph(seed)
    is_empty = jnp.arange(BATCH) == empty
    graph = Graph(graph.logits, graph.transitions, jnp.where(is_empty, 0, graph.lengths))
    together = search(graph, decoding, length_limits)
    wider = Graph(
        jnp.pad(graph.logits, ((0, 0), (0, 3), (0, 0))),
        jnp.pad(graph.transitions, ((0, 0), (0, 3), (0, 3)), constant_values=IMPOSSIBLE),
        graph.lengths,
    )
    for row in range(BATCH):
        of_row = slice(row, row + 1)
        alone = jax.tree.map(lambda x, of_row=of_row: x[of_row], wider)
        found = search(alone, decoding, length_limits[of_row], ROOM + 2)
        np.testing.assert_array_equal(found.tokens[..., :ROOM], together.tokens[of_row])
        assert not found.tokens[..., ROOM:].any()
        np.testing.assert_allclose(found.scores, together.scores[of_row], rtol=1e-5)
        assert found.passes.tolist() == together.passes[of_row].tolist() == [int(row != empty)]
        if row == empty:
            assert not found.tokens.any()
            assert not found.scores.any()
    assert np.isin(together.tokens, [PAD, *WORDS]).all()


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        (lambda: GraphBeam(size=2, n_best=3), "got n_best 3 and size 2"),
        (lambda: GraphBeam(num_candidates=0), "num_candidates of at least 1, got 0"),
        (lambda: GraphBeam(length_penalty=-1.0), "length_penalty must be from 0 to 10, got -1.0"),
        (lambda: Viterbi(-0.5), "length_penalty must be from 0 to 10, got -0.5"),
    ],
)
def test_impossible_settings_are_refused(decoding: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decoding()  # type: ignore[operator]
