"""The sum over all paths and the best of them, against all paths written out."""

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.losses import dag

BATCH, TARGET, GRAPH = 4, 4, 6
Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

BLOCK = 4  # the graphs here have two of them, and the second is not full
log_likelihood = jax.jit(functools.partial(dag.log_likelihood, block=BLOCK))
best_path = jax.jit(dag.best_path)


@jax.jit
def gradients(*case: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.grad(lambda *case: dag.log_likelihood(*case, block=BLOCK).sum(), (0, 1))(*case)


def transitions_of(logits: np.ndarray, graph_lengths: np.ndarray) -> np.ndarray:
    """log softmax over the vertices to the right, within each row's graph."""
    log_p = np.full(logits.shape, dag.IMPOSSIBLE)
    for row, length in enumerate(graph_lengths):
        for i in range(length - 1):
            right = logits[row, i, i + 1 : length]
            log_p[row, i, i + 1 : length] = right - np.log(np.exp(right).sum())
    return log_p


def random_case(seed: int, scale: float = 2.0) -> Case:
    """Emissions, transitions and ragged lengths; targets longer than the graph and empty rows as well."""
    random = np.random.default_rng(seed)
    target_lengths = random.integers(0, TARGET + 1, BATCH).astype(np.int32)
    graph_lengths = random.integers(2, GRAPH + 1, BATCH).astype(np.int32)
    graph_lengths[target_lengths == 0] *= random.integers(0, 2)
    emissions = -np.abs(random.normal(0.0, scale, (BATCH, TARGET, GRAPH)))
    logits = random.normal(0.0, scale, (BATCH, GRAPH, GRAPH))
    return emissions, transitions_of(logits, graph_lengths), target_lengths, graph_lengths


def float32(case: Case) -> list[np.ndarray]:
    return [x.astype(np.float32) if x.dtype == np.float64 else x for x in case]


def paths(case: Case, row: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every path of a row and its log p: any vertices between the first and the last, in order."""
    emissions, transitions, target_lengths, graph_lengths = (x[row] for x in case)
    length, last = int(target_lengths), int(graph_lengths) - 1
    for between in itertools.combinations(range(1, last), length - 1) if length else ():
        path = (*between, last)
        if last > 0:
            moves = sum(transitions[i, j] for i, j in itertools.pairwise((0, *path)))
            yield path, float(moves + sum(emissions[t, j] for t, j in enumerate(path)))


def test_two_paths_by_hand() -> None:
    """0 -> 1 -> 3 with 0.6 * 0.5 and the word's 0.2, or 0 -> 2 -> 3 with 0.4 * 1 and 0.7: 0.06 + 0.28."""
    moves = np.zeros((1, 4, 4))
    moves[0, 0, 1:3], moves[0, 1, 2:], moves[0, 2, 3] = [0.6, 0.4], [0.5, 0.5], 1.0
    emissions = np.log([[[1.0, 0.2, 0.7, 1.0], [1.0, 1.0, 1.0, 1.0]]])
    transitions = np.log(np.maximum(moves, 1e-30))
    transitions[moves == 0.0] = dag.IMPOSSIBLE
    case = float32((emissions, transitions, np.array([2], np.int32), np.array([4], np.int32)))
    assert float(np.exp(log_likelihood(*case)[0])) == pytest.approx(0.34)
    path, score = best_path(*case)
    assert path.tolist() == [[2, 3]]
    assert float(np.exp(score[0])) == pytest.approx(0.28)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), scale=st.sampled_from([0.5, 3.0, 15.0]))
def test_sum_and_best_path_equal_all_paths(seed: int, scale: float) -> None:
    case = random_case(seed, scale)
    total = np.asarray(log_likelihood(*float32(case)))
    found, score = (np.asarray(x) for x in best_path(*float32(case)))
    exists = np.asarray(dag.has_path(jnp.asarray(case[2]), jnp.asarray(case[3])))
    for row in range(BATCH):
        every = dict(paths(case, row))
        assert bool(every) == exists[row]
        if not every:
            assert total[row] == score[row] == np.float32(dag.IMPOSSIBLE)
            assert not found[row].any()
            continue
        length = case[2][row]
        assert total[row] == pytest.approx(np.logaddexp.reduce(list(every.values())), rel=1e-4)
        assert score[row] == pytest.approx(max(every.values()), rel=1e-4)
        path = tuple(int(vertex) for vertex in found[row, :length])
        assert every[path] == pytest.approx(max(every.values()), rel=1e-4)
        assert not found[row, length:].any()


def test_the_probabilities_of_all_targets_sum_to_one() -> None:
    """Two words, three vertices for them: 1 + 2 + 4 + 8 targets of 0 to 3 words, each with its EOS."""
    random = np.random.default_rng(0)
    words = random.dirichlet([1.0, 1.0], 5)  # [graph, vocabulary]
    targets = [list(t) for n in range(4) for t in itertools.product((0, 1), repeat=n)]
    assert len(targets) == 15
    emissions = np.zeros((15, 4, 5))
    for row, target in enumerate(targets):
        emissions[row, : len(target)] = np.log(words[:, target].T)
    graph_lengths = np.full(15, 5, np.int32)
    logits = np.repeat(random.normal(size=(1, 5, 5)), 15, axis=0)
    lengths = np.array([len(target) + 1 for target in targets], np.int32)
    case = float32((emissions, transitions_of(logits, graph_lengths), lengths, graph_lengths))
    assert float(np.exp(log_likelihood(*case)).sum()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_gradients_equal_finite_differences_in_float64() -> None:
    case = random_case(6)
    assert (case[2] < case[3]).sum() >= 3
    step = 1e-5
    with jax.enable_x64(True):
        found = [np.asarray(x) for x in gradients(*map(jnp.asarray, case))]
        assert found[0].dtype == np.float64
        possible = [np.ones(case[0].shape, bool), case[1] > dag.IMPOSSIBLE]
        for which in (0, 1):
            for place in np.argwhere(possible[which]):
                totals = []
                for sign in (1.0, -1.0):
                    moved = [x.copy() for x in case]
                    moved[which][tuple(place)] += sign * step
                    rows = np.asarray(log_likelihood(*map(jnp.asarray, moved)))
                    totals.append(rows[rows > dag.IMPOSSIBLE].sum())
                expected = (totals[0] - totals[1]) / (2 * step)
                assert found[which][tuple(place)] == pytest.approx(expected, abs=1e-8)
            assert not found[which][~possible[which]].any()


def test_the_gradient_says_how_often_a_path_emits_each_token_where() -> None:
    """d log p / d emission is a probability: it sums to 1 for each token of a target with a path."""
    case = random_case(6)
    of_emissions, _ = gradients(*float32(case))
    exists = (case[2] >= 1) & (case[2] < case[3])
    is_token = (np.arange(TARGET) < case[2][:, None]) & exists[:, None]
    np.testing.assert_allclose(of_emissions.sum(axis=2), is_token, atol=1e-5)


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_extreme_scores_and_rows_without_a_path_give_no_nan(scale: float) -> None:
    """A target longer than its graph, no target, no graph, and a sentence; log p down to -10^5."""
    random = np.random.default_rng(1)
    emissions = -np.abs(random.normal(0.0, scale, (BATCH, TARGET, GRAPH)))
    graph_lengths = np.array([4, 6, 0, 6], np.int32)
    logits = np.clip(random.normal(0.0, scale, (BATCH, GRAPH, GRAPH)), -300, 300)
    target_lengths = np.array([4, 0, 2, 4], np.int32)
    transitions = transitions_of(logits, graph_lengths)
    case = float32((emissions, transitions, target_lengths, graph_lengths))
    total = np.asarray(log_likelihood(*case))
    assert (total[:3] == np.float32(dag.IMPOSSIBLE)).all()
    assert -1e6 < total[3] < 0.0
    for gradient in gradients(*case):
        assert np.isfinite(gradient).all()
        assert not np.asarray(gradient)[:3].any()


def test_dead_ends_that_are_far_more_probable_hide_no_path() -> None:
    """Four tokens need every vertex of five; each move to the next costs 60 nats, the others nearly
    nothing. The sum, of which e^-240 is too small for float32, is right."""
    transitions = np.full((1, 5, 5), dag.IMPOSSIBLE)
    for i in range(4):
        transitions[0, i, i + 1 :] = -math.log(5)
        transitions[0, i, i + 1] = -60.0
    lengths = np.array([4], np.int32), np.array([5], np.int32)
    case = float32((np.zeros((1, 4, 5)), transitions, *lengths))
    assert float(log_likelihood(*case)[0]) == pytest.approx(-240.0)
    assert best_path(*case)[0].tolist() == [[1, 2, 3, 4]]


def test_long_graphs_whose_mass_lies_near_their_end() -> None:
    """As before training: every move even, from vertex 0 to half-way to the end, where 120 tokens hardly
    fit any more; the paths that count start with e^-100 of the mass. Whatever adds probabilities without
    a shift of their own for near vertices misses log p by 12 nats."""
    num_tokens, graph = 120, 480
    random = np.random.default_rng(0)
    graph_lengths = np.array([graph], np.int32)
    transitions = transitions_of(random.normal(0.0, 2.0, (1, graph, graph)), graph_lengths)
    emissions = random.normal(-9.0, 2.0, (1, num_tokens, graph))
    case = emissions, transitions, np.array([num_tokens], np.int32), graph_lengths
    prefix = np.where(np.arange(graph) == 0, 0.0, -np.inf)
    for gains in emissions[0]:
        prefix = np.logaddexp.reduce(prefix[:, None] + transitions[0], axis=0) + gains
    value_and_grad = jax.jit(jax.value_and_grad(lambda *case: dag.log_likelihood(*case)[0]))
    found, gradient = value_and_grad(*float32(case))
    assert float(found) == pytest.approx(prefix[-1], rel=1e-5)
    np.testing.assert_allclose(gradient.sum(axis=2), 1.0, rtol=1e-3)


def test_gradients_keep_nothing_for_pairs_of_vertices_and_tokens() -> None:
    """Of 64 tokens on 128 vertices the largest array, in a loop or handed from the way there to the way
    back, is that of the transitions."""
    floats = np.zeros((4, 64, 128), np.float32), np.zeros((4, 128, 128), np.float32)
    lengths = np.zeros(4, np.int32), np.zeros(4, np.int32)
    gradients = jax.grad(lambda *case: dag.log_likelihood(*case).sum(), (0, 1))
    program = jax.make_jaxpr(gradients)(*floats, *lengths)
    made = [variable for equation in program.eqns for variable in equation.outvars]
    assert max(math.prod(variable.aval.shape) for variable in made) == 4 * 128 * 128


def test_padding_of_target_and_graph_changes_nothing() -> None:
    case = float32(random_case(3))
    emissions = np.pad(case[0], ((0, 0), (0, 2), (0, 3)))
    transitions = np.pad(
        case[1], ((0, 0), (0, 3), (0, 3)), constant_values=np.float32(dag.IMPOSSIBLE)
    )
    wider = (emissions, transitions, *case[2:])
    np.testing.assert_allclose(log_likelihood(*wider), log_likelihood(*case), rtol=1e-5)
    (path, score), (expected, same) = best_path(*wider), best_path(*case)
    np.testing.assert_array_equal(path[:, :TARGET], expected)
    np.testing.assert_allclose(score, same, rtol=1e-5)
