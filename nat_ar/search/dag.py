"""Searches through a directed acyclic graph of vertices that emit tokens (Huang et al. 2022,
arXiv:2205.07459, section 3.4): one decoder pass has predicted the graph, the rest is here.

A row's graph has the vertices 0 ... last. A translation is a path from vertex 0 to the last vertex and a
token for every vertex between them; vertex 0 emits nothing, and coming to the last vertex is the end of the
sentence (the paper has both emit, with probability near 1, BOS and EOS). All searches keep to a row's length
limit: at the limit a path goes to the last vertex.

Knows logits and transitions only: no text, no model class. Settings are static; shapes are fixed by the
graph's width and max_length."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, limits
from nat_ar.search.beam import take_beams
from nat_ar.search.candidates import best_first
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Hypotheses, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class GraphGreedy:
    """From each vertex the most probable transition, at each vertex the most probable token."""


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """From each vertex the transition with the highest probability times that of the best token behind it."""


@dataclasses.dataclass(frozen=True)
class Viterbi:
    """The best of all paths with their best tokens by log p / length ** length_penalty (Shao et al. 2022,
    arXiv:2210.05193, joint Viterbi decoding)."""

    length_penalty: float = 1.0
    """exponent of the length (EOS counted) that divides log p; 0 is the most probable path, and prefers
    short"""

    def __post_init__(self) -> None:
        _refuse_negative(self.length_penalty)


@dataclasses.dataclass(frozen=True)
class GraphBeam:
    """The best translations by log p / length ** length_penalty, where log p sums over all their paths."""

    size: int = 10
    """prefixes kept at every position"""
    length_penalty: float = 1.0
    """exponent of the length (EOS counted) that divides log p; 0 prefers short, above 1 long"""
    num_candidates: int = 256
    """tokens that a sentence's translations may hold: those that its graph emits most often; the rest of
    the vocabulary costs time and is never chosen"""
    n_best: int = 1
    """translations handed back, best first; at most size"""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                "GraphBeam needs 1 <= n_best <= size, got "
                f"n_best {self.n_best} and size {self.size}"
            )
        if self.num_candidates < 1:
            raise ConfigError(
                f"GraphBeam needs num_candidates of at least 1, got {self.num_candidates}"
            )
        _refuse_negative(self.length_penalty)


def _refuse_negative(length_penalty: float) -> None:
    if length_penalty < 0.0:
        raise ConfigError(f"length_penalty must not be below 0, got {length_penalty}")


GraphDecoding = GraphGreedy | Lookahead | Viterbi | GraphBeam


@pytree_dataclass
class Graph:
    """What a decoder predicts of every sentence, all at once."""

    logits: Float[Array, "batch graph vocabulary"]
    """of the tokens of each vertex"""
    transitions: Float[Array, "batch graph graph"]
    """log p of moving from vertex i to vertex j; -1e9 or less unless i < j < length"""
    lengths: Int[Array, "batch"]
    """vertices of each row, 0 where there is no sentence, else at least 2"""


def search(
    graph: Graph,
    decoding: GraphDecoding,
    *,
    length_limits: Int[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """Translations of at most length_limits tokens, none above max_length. Scores in nats: log p of path
    and tokens for GraphGreedy and Lookahead, and what Viterbi and GraphBeam maximise; 0 for rows that are no
    sentence. `steps` is the one decoder pass that made the graph."""
    if isinstance(decoding, GraphBeam):
        found = _beam(graph, decoding, length_limits, max_length)
    elif isinstance(decoding, Viterbi):
        found = _viterbi(graph, decoding, length_limits, max_length)
    else:
        found = _follow(graph, decoding, length_limits, max_length)
    scores = jnp.where(graph.lengths[:, None] > 0, found.scores, 0.0)
    return Hypotheses(found.tokens, scores, found.steps)


def best_words(
    graph: Graph,
) -> tuple[Int[Array, "batch graph"], Float[Array, "batch graph"]]:
    """The most probable token of each vertex that a translation may hold, and its log p; log p is 0 at the
    last vertex, which emits none."""
    best = argmax.argmax(graph.logits, (*limits.NEVER_TEXT, EOS))
    is_last = jnp.arange(best.tokens.shape[1]) == graph.lengths[:, None] - 1
    return best.tokens, jnp.where(is_last, 0.0, best.log_probabilities)


def _steps(graph: Graph) -> Int[Array, "batch"]:
    return jnp.where(graph.lengths > 0, 1, 0)


@pytree_dataclass
class Walk:
    position: Int[Array, ""]
    vertex: Int[Array, "batch"]
    tokens: Int[Array, "batch max_length"]
    score: Float[Array, "batch"]
    is_finished: Bool[Array, "batch"]


def _follow(
    graph: Graph,
    decoding: GraphGreedy | Lookahead,
    length_limits: Int[Array, "batch"],
    max_length: int,
) -> Hypotheses:
    """The best successor of every vertex is found for all vertices at once; the walk only follows."""
    words, gains = best_words(graph)
    entering = graph.transitions + gains[:, None]  # [batch, graph, graph]
    preference = entering if isinstance(decoding, Lookahead) else graph.transitions
    successors = jnp.argmax(preference, axis=-1)
    last, rows = graph.lengths - 1, jnp.arange(words.shape[0])

    def unfinished(walk: Walk) -> Bool[Array, ""]:
        return ~walk.is_finished.all()

    def move(walk: Walk) -> Walk:
        following = successors[rows, walk.vertex]
        following = jnp.where(walk.position >= length_limits, last, following)
        is_finished = walk.is_finished | (following == last)
        written = jnp.where(is_finished, PAD, words[rows, following])
        tokens = jax.lax.dynamic_update_slice(
            walk.tokens, written[:, None], (jnp.int32(0), walk.position)
        )
        gain = jnp.where(walk.is_finished, 0.0, entering[rows, walk.vertex, following])
        return Walk(
            position=walk.position + 1,
            vertex=jnp.where(walk.is_finished, walk.vertex, following),
            # The move after the last position writes nothing but PAD; the slice index is then clamped.
            tokens=jnp.where(walk.position < max_length, tokens, walk.tokens),
            score=walk.score + gain,
            is_finished=is_finished,
        )

    start = Walk(
        position=jnp.int32(0),
        vertex=jnp.zeros_like(last),
        tokens=jnp.full((words.shape[0], max_length), PAD, jnp.int32),
        score=jnp.zeros_like(gains[:, 0]),
        is_finished=graph.lengths == 0,
    )
    final = jax.lax.while_loop(unfinished, move, start)
    return Hypotheses(final.tokens[:, None], final.score[:, None], _steps(graph))


def _viterbi(
    graph: Graph, settings: Viterbi, length_limits: Int[Array, "batch"], max_length: int
) -> Hypotheses:
    """The best path of every number of moves; then the best of these numbers, and its path back."""
    words, gains = best_words(graph)
    entering = graph.transitions + gains[:, None]
    batch, width = words.shape
    last = jnp.maximum(graph.lengths - 1, 0)
    positions = jnp.arange(min(width - 1, max_length + 1))

    def move(
        best: Float[Array, "batch graph"], _: Int[Array, ""]
    ) -> tuple[Float[Array, "batch graph"], tuple[Array, Array]]:
        following = (best[:, :, None] + entering).max(axis=1)
        at_last = jnp.take_along_axis(following, last[:, None], axis=1)[:, 0]
        return following, (best, at_last)

    start = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf).astype(gains.dtype)
    start = jnp.broadcast_to(start, (batch, width))
    _, (before, ended) = jax.lax.scan(move, start, positions)

    # Ending by the move at `position` leaves `position` tokens; no more moves than vertices to go to.
    is_possible = (positions[:, None] <= length_limits) & (positions[:, None] < last)
    normalised = ended / (positions[:, None] + 1.0) ** settings.length_penalty
    normalised = jnp.where(is_possible, normalised, -jnp.inf)  # [positions, batch]
    end = jnp.argmax(normalised, axis=0)

    def go_back(
        following: Int[Array, "batch"], item: tuple[Float[Array, "batch graph"], Int[Array, ""]]
    ) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
        best, position = item
        vertex = jnp.where(position == end, last, following)
        word = jnp.take_along_axis(words, vertex[:, None], axis=1)[:, 0]
        is_word = (position < end) & (graph.lengths > 0)
        entries = jnp.take_along_axis(entering, vertex[:, None, None], axis=2)[..., 0]
        came_from = jnp.argmax(best + entries, axis=1).astype(vertex.dtype)
        return came_from, jnp.where(is_word, word, PAD)

    _, tokens = jax.lax.scan(go_back, jnp.zeros_like(last), (before, positions), reverse=True)
    tokens = tokens.T[:, :max_length]
    tokens = jnp.pad(tokens, ((0, 0), (0, max_length - tokens.shape[1])), constant_values=PAD)
    return Hypotheses(tokens[:, None], normalised.max(axis=0)[:, None], _steps(graph))


def expected_visits(graph: Graph) -> Float[Array, "batch graph"]:
    """How probable it is that a random path comes by each vertex: visits = start + visits @ moves, solved
    for all vertices at once, as the matrix of moves is strictly triangular."""
    moves = jnp.exp(graph.transitions)
    batch, width, _ = moves.shape
    start = jnp.broadcast_to((jnp.arange(width) == 0).astype(moves.dtype), (batch, width))
    return jax.lax.linalg.triangular_solve(
        jnp.eye(width, dtype=moves.dtype) - moves,
        start[:, None],
        left_side=False,
        lower=False,
        unit_diagonal=True,
    )[:, 0]


def likely_tokens(
    graph: Graph, num_candidates: int
) -> tuple[Int[Array, "batch candidates"], Float[Array, "batch graph candidates"]]:
    """The tokens that a random path emits most often, by their expected number, and their probability at
    every vertex that emits one (0 at the others, and of what is no text)."""
    vertices, lengths = jnp.arange(graph.logits.shape[1]), graph.lengths[:, None]
    emits = (vertices > 0) & (vertices < lengths - 1)
    text = limits.text_logits(graph.logits, may_end=False)
    log_p = text - argmax.normalisers(graph.logits)[..., None]
    emissions = jnp.where(emits[..., None], jnp.exp(log_p), 0.0)
    counts = jnp.einsum("bg,bgv->bv", expected_visits(graph), emissions)
    _, candidates = jax.lax.top_k(counts, min(num_candidates, counts.shape[1]))
    return candidates, jnp.take_along_axis(emissions, candidates[:, None], axis=2)


@pytree_dataclass
class Prefixes:
    position: Int[Array, ""]
    tokens: Int[Array, "batch beam max_length"]
    log_probability: Float[Array, "batch beam"]
    places: Float[Array, "batch beam graph"]
    """where the last token of the prefix may stand, given the prefix"""
    finished_tokens: Int[Array, "batch n_best max_length"]
    finished_scores: Float[Array, "batch n_best"]
    is_done: Bool[Array, "batch"]


def _beam(
    graph: Graph, settings: GraphBeam, length_limits: Int[Array, "batch"], max_length: int
) -> Hypotheses:
    """Paths that emit the same prefix are one hypothesis (section 3.4): it holds the distribution of the
    vertex where the prefix ends, so that its log p is the exact sum over its paths. A prefix is worth its
    probability, whatever comes after it; each may end at every position.

    A row stops when no prefix can still give one of the n_best: log p of a translation is at most that of its
    prefix, its length at most the limit."""
    candidates, emissions = likely_tokens(graph, settings.num_candidates)
    moves = jnp.exp(graph.transitions)
    smallest = jnp.finfo(moves.dtype).tiny
    (batch, width, num_candidates), size = emissions.shape, settings.size
    is_last = jnp.arange(width) == graph.lengths[:, None] - 1
    lengths = (length_limits + 1.0)[:, None]
    precision = jax.lax.Precision.HIGHEST  # else accelerators round every sum to a thousandth

    def unfinished(state: Prefixes) -> Bool[Array, ""]:
        return ~state.is_done.all()

    def extend(state: Prefixes) -> Prefixes:
        arrived = jnp.einsum("bki,bij->bkj", state.places, moves, precision=precision)
        ending = jnp.where(is_last[:, None], arrived, 0.0).sum(axis=-1)
        ended = state.log_probability + jnp.log(jnp.maximum(ending, smallest))
        ended = ended / (state.position + 1.0) ** settings.length_penalty
        finished = best_first(
            jnp.concatenate([state.finished_tokens, state.tokens], axis=1),
            jnp.concatenate([state.finished_scores, ended], axis=1),
            _steps(graph),
            n_best=settings.n_best,
        )

        shares = jnp.einsum("bkg,bgc->bkc", arrived, emissions, precision=precision)
        # log of 0 is -inf: a beam wider than what can follow holds nothing there.
        scores = state.log_probability[..., None] + jnp.log(shares)
        scores = jnp.where((state.position >= length_limits)[:, None, None], -jnp.inf, scores)
        log_probability, index = top_k(scores.reshape(batch, -1), size)
        beams, choices = index // num_candidates, index % num_candidates
        last = jnp.take_along_axis(candidates, choices, axis=1)
        tokens = jax.lax.dynamic_update_slice(
            take_beams(state.tokens, beams), last[..., None], (0, 0, state.position)
        )
        emitted = jnp.take_along_axis(emissions, choices[:, None], axis=2).swapaxes(1, 2)
        places = take_beams(arrived, beams) * emitted
        places = places / jnp.maximum(places.sum(axis=-1, keepdims=True), smallest)

        highest = log_probability[:, :1] / lengths**settings.length_penalty
        is_done = state.is_done | (highest <= finished.scores[:, -1:])[:, 0]
        was_done = state.is_done[:, None]
        return Prefixes(
            position=state.position + 1,
            tokens=tokens,
            log_probability=log_probability,
            places=places,
            finished_tokens=jnp.where(was_done[..., None], state.finished_tokens, finished.tokens),
            finished_scores=jnp.where(was_done, state.finished_scores, finished.scores),
            is_done=is_done,
        )

    first = jnp.arange(size) == 0
    empty = jnp.full((batch, size, max_length), PAD, jnp.int32)
    start = Prefixes(
        position=jnp.int32(0),
        tokens=empty,
        log_probability=jnp.broadcast_to(jnp.where(first, 0.0, -jnp.inf), (batch, size)),
        places=jnp.broadcast_to((jnp.arange(width) == 0).astype(moves.dtype), (batch, size, width)),
        finished_tokens=empty[:, : settings.n_best],
        finished_scores=jnp.full((batch, settings.n_best), -jnp.inf),
        is_done=graph.lengths == 0,
    )
    final = jax.lax.while_loop(unfinished, extend, start)
    return Hypotheses(final.finished_tokens, final.finished_scores, _steps(graph))
