"""Searches through a directed acyclic graph of vertices that emit tokens (Huang et al. 2022,
arXiv:2205.07459, section 3.4): one decoder pass has predicted the graph, the rest is here.

A row's graph has the vertices 0 ... last. A translation is a path from vertex 0 to the last vertex and a
token for every vertex between them; vertex 0 emits nothing, and the sentence ends at the last vertex (in the paper
they emit BOS and EOS, with probability near 1). All searches keep to a row's length limit: at the limit a path
moves to the last vertex.

Knows logits and transitions only: no text, no model class. Settings are static; shapes are fixed by the
graph's width and max_length."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, limits
from nat_ar.search.base import Decoding, penalised, require_length_penalty, require_n_best
from nat_ar.search.candidates import best_first
from nat_ar.search.step_function import take_beams
from nat_ar.search.top_k import top_k
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Hypotheses, pytree_dataclass


@pytree_dataclass
class Graph:
    """A decoder's prediction for every sentence, all at once."""

    logits: Float[Array, "batch graph vocabulary"]
    """of the tokens of each vertex"""
    transitions: Float[Array, "batch graph graph"]
    """log p of moving from vertex i to vertex j; -1e9 or less unless i < j < length"""
    lengths: Int[Array, "batch"]
    """vertices of each row, 0 for no sentence, else at least 2"""


@dataclasses.dataclass(frozen=True)
class GraphDecoding(Decoding, config_json.Open, abc.ABC):
    """A search through a graph."""

    @abc.abstractmethod
    def search_sentences(
        self, graph: Graph, *, length_limits: Int[Array, "batch"], max_length: int
    ) -> Hypotheses:
        """Translations of at most length_limits tokens, none above max_length; rows without a sentence may have
        any score. `passes` is the one decoder pass that made the graph."""

    def search(
        self, graph: Graph, *, length_limits: Int[Array, "batch"], max_length: int
    ) -> Hypotheses:
        """As search_sentences, with the score 0 for rows without a sentence."""
        hypotheses = self.search_sentences(
            graph, length_limits=length_limits, max_length=max_length
        )
        scores = jnp.where(graph.lengths[:, None] > 0, hypotheses.scores, 0.0)
        return Hypotheses(hypotheses.tokens, scores, hypotheses.passes)


@dataclasses.dataclass(frozen=True)
class GraphGreedy(GraphDecoding):
    """From each vertex the most probable transition, at each vertex the most probable token."""

    @property
    def own_score(self) -> str:
        return penalised("log p of path and words", 0.0)

    def search_sentences(
        self, graph: Graph, *, length_limits: Int[Array, "batch"], max_length: int
    ) -> Hypotheses:
        """Scores: log p of path and tokens, in nats."""
        return follow(graph, length_limits, max_length, looks_ahead=False)


@dataclasses.dataclass(frozen=True)
class Lookahead(GraphDecoding):
    """From each vertex the transition with the highest probability times that of the best token behind it."""

    @property
    def own_score(self) -> str:
        return penalised("log p of path and words", 0.0)

    def search_sentences(
        self, graph: Graph, *, length_limits: Int[Array, "batch"], max_length: int
    ) -> Hypotheses:
        """Scores: log p of path and tokens, in nats."""
        return follow(graph, length_limits, max_length, looks_ahead=True)


@dataclasses.dataclass(frozen=True)
class Viterbi(GraphDecoding):
    """The best of all paths with their best tokens by log p / length ** length_penalty (Shao et al. 2022,
    arXiv:2210.05193, joint Viterbi decoding)."""

    length_penalty: float = 1.0
    """exponent of the length (EOS counted) that divides log p; 0 is the most probable path, and prefers
    short"""

    def __post_init__(self) -> None:
        require_length_penalty(self.length_penalty, least=0.0)

    @property
    def own_score(self) -> str:
        return penalised("log p of path and words", self.length_penalty)

    def search_sentences(
        self, graph: Graph, *, length_limits: Int[Array, "batch"], max_length: int
    ) -> Hypotheses:
        """Scores: the maximum, log p / length ** length_penalty, in nats."""
        return _viterbi(graph, self, length_limits, max_length)


@dataclasses.dataclass(frozen=True)
class GraphBeam(GraphDecoding):
    """The best translations by log p / length ** length_penalty, where log p sums over all their paths."""

    size: int = 10
    """prefixes kept at every position"""
    length_penalty: float = 1.0
    """exponent of the length (EOS counted) that divides log p; 0 prefers short, above 1 long"""
    num_candidates: int = 256
    """tokens allowed in a sentence's translations: those that its graph emits most often; the rest of the
    vocabulary would cost time and is never chosen"""
    n_best: int = 1
    """translations handed back, best first; at most size"""

    def __post_init__(self) -> None:
        require_n_best(self, size=self.size)
        if self.num_candidates < 1:
            raise ConfigError(
                f"GraphBeam needs num_candidates of at least 1, got {self.num_candidates}"
            )
        require_length_penalty(self.length_penalty, least=0.0)

    @property
    def own_score(self) -> str:
        return penalised("log p", self.length_penalty)

    def search_sentences(
        self, graph: Graph, *, length_limits: Int[Array, "batch"], max_length: int
    ) -> Hypotheses:
        """Scores: the maximum, log p / length ** length_penalty, in nats."""
        return _beam(graph, self, length_limits, max_length)


def best_words(
    graph: Graph,
) -> tuple[Int[Array, "batch graph"], Float[Array, "batch graph"]]:
    """The most probable allowed token of each vertex, and its log p; log p is 0 at the last vertex, which emits
    none."""
    best = argmax.argmax(graph.logits, (*limits.NEVER_TEXT, EOS))
    is_last = jnp.arange(best.tokens.shape[1]) == graph.lengths[:, None] - 1
    return best.tokens, jnp.where(is_last, 0.0, best.log_probabilities)


def _passes(graph: Graph) -> Int[Array, "batch"]:
    return jnp.where(graph.lengths > 0, 1, 0)


@pytree_dataclass
class Walk:
    position: Int[Array, ""]
    vertex: Int[Array, "batch"]
    tokens: Int[Array, "batch max_length"]
    score: Float[Array, "batch"]
    is_finished: Bool[Array, "batch"]


def follow(
    graph: Graph, length_limits: Int[Array, "batch"], max_length: int, *, looks_ahead: bool
) -> Hypotheses:
    """From each vertex to its best successor: by the transition, or by the transition and the token behind it.

    The successors of all vertices are computed at once; the walk only follows them."""
    words, gains = best_words(graph)
    entering = graph.transitions + gains[:, None]  # [batch, graph, graph]
    preference = entering if looks_ahead else graph.transitions
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
    return Hypotheses(final.tokens[:, None], final.score[:, None], _passes(graph))


def _viterbi(
    graph: Graph, settings: Viterbi, length_limits: Int[Array, "batch"], max_length: int
) -> Hypotheses:
    """The best path of every number of moves; then the best of these numbers, and its path back."""
    words, gains = best_words(graph)
    entering = (
        graph.transitions + gains[:, None]
    )  # [batch, graph i, graph j]: move i -> j and j's token
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
    return Hypotheses(tokens[:, None], normalised.max(axis=0)[:, None], _passes(graph))


def expected_visits(
    transitions: Float[Array, "batch graph graph"],
) -> Float[Array, "batch graph"]:
    """The probability that a random path visits each vertex: visits = start + visits @ moves, solved for all
    vertices at once, as the matrix of moves is strictly triangular."""
    moves = jnp.exp(transitions)
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
    """The tokens that a random path emits most often, by their expected number, and their probability at every
    vertex; 0 at vertices that emit none and for tokens that are no text."""
    vertices, lengths = jnp.arange(graph.logits.shape[1]), graph.lengths[:, None]
    emits = (vertices > 0) & (vertices < lengths - 1)
    text = limits.text_logits(graph.logits, may_end=False)
    log_p = text - argmax.normalisers(graph.logits)[..., None]
    emissions = jnp.where(emits[..., None], jnp.exp(log_p), 0.0)
    counts = jnp.einsum("bg,bgv->bv", expected_visits(graph.transitions), emissions)
    _, candidates = jax.lax.top_k(counts, min(num_candidates, counts.shape[1]))
    return candidates, jnp.take_along_axis(emissions, candidates[:, None], axis=2)


@pytree_dataclass
class Prefixes:
    position: Int[Array, ""]
    tokens: Int[Array, "batch beam max_length"]
    log_probability: Float[Array, "batch beam"]
    vertices: Float[Array, "batch beam graph"]
    """distribution of the last token's vertex, given the prefix"""
    finished_tokens: Int[Array, "batch n_best max_length"]
    finished_scores: Float[Array, "batch n_best"]
    is_done: Bool[Array, "batch"]


def _beam(
    graph: Graph, settings: GraphBeam, length_limits: Int[Array, "batch"], max_length: int
) -> Hypotheses:
    """Paths that emit the same prefix are one hypothesis (section 3.4): it holds the distribution of its last vertex,
    so that its log p is the exact sum over its paths. Prefixes are ordered by their probability; each may end at
    every position.

    A row stops when no prefix can still become one of the n_best: log p of a translation is at most that of its
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
        # [batch, beam, graph]: p(the next move leads to vertex j | prefix)
        arrived = jnp.einsum("bki,bij->bkj", state.vertices, moves, precision=precision)
        ending = jnp.where(is_last[:, None], arrived, 0.0).sum(axis=-1)
        ended = state.log_probability + jnp.log(jnp.maximum(ending, smallest))
        ended = ended / (state.position + 1.0) ** settings.length_penalty
        finished = best_first(
            jnp.concatenate([state.finished_tokens, state.tokens], axis=1),
            jnp.concatenate([state.finished_scores, ended], axis=1),
            _passes(graph),
            n_best=settings.n_best,
        )

        # [batch, beam, candidates]: p(next token | prefix), summed over the vertices that may emit it
        shares = jnp.einsum("bkg,bgc->bkc", arrived, emissions, precision=precision)
        # log of 0 is -inf: a beam wider than what can follow holds nothing there.
        scores = state.log_probability[..., None] + jnp.log(shares)
        scores = jnp.where((state.position >= length_limits)[:, None, None], -jnp.inf, scores)
        log_probability, index = top_k(scores.reshape(batch, -1), size)  # of beam * candidates
        beams, choices = index // num_candidates, index % num_candidates  # [batch, size]
        last = jnp.take_along_axis(candidates, choices, axis=1)
        tokens = jax.lax.dynamic_update_slice(
            take_beams(state.tokens, beams), last[..., None], (0, 0, state.position)
        )
        # Where the chosen token may be: [batch, graph, size] -> [batch, size, graph]
        emitted = jnp.take_along_axis(emissions, choices[:, None], axis=2).swapaxes(1, 2)
        vertices = take_beams(arrived, beams) * emitted
        vertices = vertices / jnp.maximum(vertices.sum(axis=-1, keepdims=True), smallest)

        highest = log_probability[:, :1] / lengths**settings.length_penalty
        is_done = state.is_done | (highest <= finished.scores[:, -1:])[:, 0]
        was_done = state.is_done[:, None]
        return Prefixes(
            position=state.position + 1,
            tokens=tokens,
            log_probability=log_probability,
            vertices=vertices,
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
        vertices=jnp.broadcast_to(
            (jnp.arange(width) == 0).astype(moves.dtype), (batch, size, width)
        ),
        finished_tokens=empty[:, : settings.n_best],
        finished_scores=jnp.full((batch, settings.n_best), -jnp.inf),
        is_done=graph.lengths == 0,
    )
    final = jax.lax.while_loop(unfinished, extend, start)
    return Hypotheses(final.finished_tokens, final.finished_scores, _passes(graph))
