"""The graph that a DA-Transformer predicts (Huang et al. 2022, arXiv:2205.07459, sections 3.1 and 3.2): transitions
between its vertices, and what a target's loss sees of it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words, cross_entropy, dag, fuzzy_alignment
from nat_ar.losses.fuzzy_alignment import Overlap
from nat_ar.nn import layers, positions
from nat_ar.nn.layers import Embedding
from nat_ar.search import dag as dag_search
from nat_ar.search.dag import Graph, expected_visits
from nat_ar.types import Internal, Mean, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class TransitionSmoothing(config_json.Config):
    """Training mixes the transitions with even ones, fewer and fewer of them. Where transitions have committed to a
    path, two ways to say a thing that share its vertices stay together."""

    start: float = 0.2
    """share of even transitions, to any vertex on the right alike, at step 0"""
    anneal_steps: int = 100_000
    """optimizer steps until none is left; until then the share falls linearly"""

    def __post_init__(self) -> None:
        config_json.require_share("transition_smoothing.start", self.start, may_be_one=False)
        if self.anneal_steps < 1:
            raise ConfigError(
                f"transition_smoothing.anneal_steps must be at least 1, got {self.anneal_steps}"
            )

    def share(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Of the even transitions, at an optimizer step."""
        return self.start * (1.0 - jnp.minimum(step / self.anneal_steps, 1.0))


class VertexEmbedding(nnx.Module):
    """A learned vector for each of the first vertices of a graph; 0 for those beyond."""

    def __init__(self, num_vertices: int, d_model: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        self.embedding = layers.Embedding(num_vertices, d_model, dtype=dtype, rngs=rngs)
        self.num_vertices = num_vertices

    def __call__(self, graph: int) -> Float[Array, "graph d_model"]:
        known = self.embedding(jnp.arange(min(graph, self.num_vertices)))
        return jnp.pad(known, ((0, graph - known.shape[0]), (0, 0)))


class Links(nnx.Module):
    """Vertex states to transitions: several heads of queries and keys, mixed by a gate (section 3.2). Their features
    are the states beside encodings of the vertices' positions: sinusoids, plus learned vectors of the first
    `learned_positions`. Initial kernels are `scale` times Xavier's."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        learned_positions: int | None = None,
        scale: float = 1.0,
        dtype: str,
        rngs: nnx.Rngs,
    ) -> None:
        self.query_key = layers.Linear(2 * d_model, d_model, parts=2, dtype=dtype, rngs=rngs)
        self.gate = layers.Linear(2 * d_model, num_heads, dtype=dtype, rngs=rngs)
        for linear in (self.query_key, self.gate):
            linear.kernel[...] = scale * linear.kernel[...]
        self.positions = (
            None
            if learned_positions is None
            else VertexEmbedding(learned_positions, d_model, dtype=dtype, rngs=rngs)
        )
        self.num_heads = num_heads

    def __call__(
        self, states: Float[Array, "batch graph d_model"], graph_lengths: Int[Array, "batch"]
    ) -> Float[Array, "batch graph graph"]:
        batch, graph, d_model = states.shape
        places = jnp.asarray(positions.sinusoids(graph, d_model), states.dtype)
        if self.positions is not None:
            places = places + self.positions(graph)
        places = jnp.broadcast_to(places, states.shape)
        features = jnp.concatenate([states, places], axis=-1)
        shape = (batch, graph, self.num_heads, d_model // self.num_heads)
        query, key = (x.reshape(shape) for x in jnp.split(self.query_key(features), 2, axis=-1))
        return transition_log_probabilities(query, key, self.gate(features), graph_lengths)


def transition_log_probabilities(
    query: Float[Array, "batch graph heads head_dim"],
    key: Float[Array, "batch graph heads head_dim"],
    gate_logits: Float[Array, "batch graph heads"],
    graph_lengths: Int[Array, "batch"],
) -> Float[Array, "batch graph graph"]:
    """log p of moving from vertex i to j, in float32: sum over heads of gate_i,h softmax_j(q_i k_j), over the
    vertices j to the right of i within the row's graph; dag.IMPOSSIBLE elsewhere, as everywhere from the last
    vertex."""
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("bihd,bjhd->bhij", query, key, preferred_element_type=jnp.float32)
    may_move = _may_move(graph_lengths, scores.shape[-1])
    scores = jnp.where(may_move[:, None], scores, dag.IMPOSSIBLE)
    gates = jax.nn.log_softmax(gate_logits.astype(jnp.float32)).swapaxes(1, 2)
    mixed = jax.nn.logsumexp(jax.nn.log_softmax(scores) + gates[..., None], axis=1)
    return jnp.where(may_move, mixed, dag.IMPOSSIBLE)


def _may_move(
    graph_lengths: Int[Array, "batch"], num_vertices: int
) -> Bool[Array, "batch graph graph"]:
    """True from vertex i to the vertices j on its right within the row's graph."""
    vertices = jnp.arange(num_vertices)
    is_inside = (vertices < graph_lengths[:, None])[:, None]
    return (vertices > vertices[:, None]) & is_inside


def smoothed_transitions(
    transitions: Float[Array, "batch graph graph"],
    graph_lengths: Int[Array, "batch"],
    share: Float[Array, ""],
) -> Float[Array, "batch graph graph"]:
    """log of (1 - share) p + share / n, where n vertices can be reached; IMPOSSIBLE where p is 0 by the graph's
    shape."""
    may_move = _may_move(graph_lengths, transitions.shape[1])
    reachable = jnp.maximum(may_move.sum(axis=2, keepdims=True), 1)
    even = jnp.log(jnp.maximum(share, jnp.finfo(jnp.float32).tiny) / reachable)
    mixed = jnp.logaddexp(jnp.log1p(-share) + transitions, even)
    return jnp.where(may_move, mixed, dag.IMPOSSIBLE)


@pytree_dataclass
class TargetGraph:
    """A decoder pass as the loss sees it: the graph's probabilities of one target a row."""

    emissions: Float[Array, "batch target_length graph"]
    """log p of each target token at each vertex, in nats; 0 for EOS, which is the move to the last vertex"""
    smoothed: Float[Array, "batch target_length graph"] | None
    """the same with label smoothing, if there is any"""
    transitions: Float[Array, "batch graph graph"]
    target_lengths: Int[Array, "batch"]
    graph_lengths: Int[Array, "batch"]

    def has_path(self) -> Bool[Array, "batch"]:
        return dag.has_path(self.target_lengths, self.graph_lengths)

    def infeasible(self) -> Mean:
        """The share of sentences whose target does not fit into their graph."""
        has_no_path = (~self.has_path()).astype(jnp.float32)
        return cross_entropy.masked_mean(has_no_path, self.target_lengths > 0)

    def best_path(self) -> Int[Array, "batch target_length"]:
        """The vertex of every target token; 0 past the target's end and in rows without a path."""
        path, _ = dag.best_path(
            self.emissions, self.transitions, self.target_lengths, self.graph_lengths
        )
        return path

    def move_entropy(self, path: Int[Array, "batch target_length"]) -> Mean:
        """The entropy of the transitions from the vertices of a path, vertex 0 included, in nats."""
        before = jnp.pad(path, ((0, 0), (1, 0)))[:, :-1]
        moves = jnp.take_along_axis(self.transitions, before[..., None], axis=1)
        entropy = -(jnp.exp(moves) * moves).sum(axis=-1)
        is_move = jnp.arange(path.shape[1]) < self.target_lengths[:, None]
        return cross_entropy.masked_mean(entropy, is_move & self.has_path()[:, None])

    def showing(self, is_at: Bool[Array, "batch target_length graph"]) -> "TargetGraph":
        """The graph in which each shown token has probability 1 at its vertex, and the vertex emits no other."""

        def certain(emissions: Array) -> Array:
            emissions = jnp.where(is_at.any(axis=1, keepdims=True), dag.IMPOSSIBLE, emissions)
            return jnp.where(is_at, 0.0, emissions)

        smoothed = None if self.smoothed is None else certain(self.smoothed)
        return dataclasses.replace(self, emissions=certain(self.emissions), smoothed=smoothed)

    def overlap(self, target: Int[Array, "batch target_length"], ngram: int) -> Overlap:
        """Of a random path with the target; see losses.fuzzy_alignment."""
        return fuzzy_alignment.expected_overlap(
            self.emissions,
            self.transitions,
            expected_visits(self.transitions),
            target,
            self.target_lengths,
            self.graph_lengths,
            ngram=ngram,
        )

    def nats(
        self, even_share: Float[Array, ""] | None = None
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """-log p of every target, 0 of those without a path: to minimise, with label smoothing and with transitions of
        which this share is even; and plain, to report."""

        def of(emissions: Array, transitions: Array) -> Array:
            log_p = dag.log_likelihood(
                emissions, transitions, self.target_lengths, self.graph_lengths
            )
            return -jnp.where(self.has_path(), log_p, 0.0)

        plain = of(self.emissions, self.transitions)
        if self.smoothed is None and even_share is None:
            return plain, plain
        transitions = self.transitions
        if even_share is not None:
            transitions = smoothed_transitions(transitions, self.graph_lengths, even_share)
        emissions = self.emissions if self.smoothed is None else self.smoothed
        return of(emissions, transitions), plain

    def per_token(self, nats: Float[Array, "batch"]) -> Mean:
        """Nats of all sentences by their tokens, EOS counted, without the sentences that have no path."""
        num_tokens = jnp.where(self.has_path(), self.target_lengths, 0).sum()
        return Mean(nats.sum(), num_tokens.astype(jnp.float32))

    def per_sentence(self, nats: Float[Array, "batch"]) -> Mean:
        """Nats a token of each sentence, by sentences: a token of a short one weighs more."""
        return cross_entropy.masked_mean(
            nats / jnp.maximum(self.target_lengths, 1), self.has_path()
        )


def words_at_vertices(
    embedding: Embedding,
    states: Float[Array, "batch graph d_model"],
    target: Int[Array, "batch target_length"],
    graph_lengths: Int[Array, "batch"],
) -> tuple[
    Float[Array, "batch target_length graph"],
    Float[Array, "batch graph"],
    Float[Array, "batch graph"],
]:
    """The logits of a target's tokens at every vertex, and each vertex's normaliser and mean logit: never all logits
    at once."""
    prediction = embedding.predict(states)
    if chosen_words.may_look_up(prediction):
        is_vertex = jnp.arange(states.shape[1]) < graph_lengths[:, None]
        found = chosen_words.look_up(prediction, target, is_vertex)
        return found.logits.swapaxes(1, 2), found.normaliser, found.mean
    table = prediction.table.astype(states.dtype)
    chosen = jnp.einsum("btd,bgd->btg", table[target], states, preferred_element_type=jnp.float32)
    mean = states.astype(jnp.float32) @ prediction.table.mean(axis=0)
    return chosen, log_normalisers(embedding.attend, states), mean


def log_normalisers(
    attend: Callable[[Float[Array, "... d_model"]], Float[Array, "... vocabulary"]],
    states: Float[Array, "batch graph d_model"],
    *,
    rows: int = 2048,
) -> Float[Array, "batch graph"]:
    """log of the sum of exp(logits) at each vertex. The logits of about `rows` vertices exist at a time, and are
    computed again in the backward pass: memory grows with rows * vocabulary, not batch * graph * vocabulary."""
    batch, graph, d_model = states.shape
    num_blocks = -(-batch * graph // rows)
    width = -(-graph // min(num_blocks, graph))
    missing = -graph % width
    padded = jnp.pad(states, ((0, 0), (0, missing), (0, 0)))
    blocks = padded.reshape(batch, -1, width, d_model).swapaxes(0, 1)

    @jax.checkpoint
    def normalise(block: Float[Array, "batch width d_model"]) -> Float[Array, "batch width"]:
        return jax.nn.logsumexp(attend(block), axis=-1)

    normalisers = jax.lax.map(normalise, blocks)  # [blocks, batch, width]
    return normalisers.swapaxes(0, 1).reshape(batch, -1)[:, :graph]


def shown_graph(graph: Graph) -> dict[str, Internal]:
    """The internals of a graph, whatever is translated."""
    lengths = graph.lengths
    words, gains = dag_search.best_words(graph)
    return {
        "transitions": Internal(jnp.exp(graph.transitions), {1: lengths, 2: lengths}),
        "vertex_tokens": Internal(words, {1: lengths}),
        "vertex_log_probabilities": Internal(gains, {1: lengths}),
        "visits": Internal(expected_visits(graph.transitions), {1: lengths}),
    }


def shown_path(
    graph: Graph, target_graph: TargetGraph, target: Int[Array, "batch target_length"]
) -> dict[str, Internal]:
    """The internals of a target's most probable path; `target_graph` is that of the same decoder pass."""
    path = target_graph.best_path()  # [batch, target]
    before = jnp.pad(path, ((0, 0), (1, 0)))[:, :-1]
    rows = jnp.arange(path.shape[0])[:, None]
    emissions = jnp.take_along_axis(target_graph.emissions, path[..., None], axis=2)[..., 0]
    target_lengths = target_graph.target_lengths
    num_vertices = jnp.where(graph.lengths > 0, target_lengths + 1, 0)
    return {
        "path": Internal(jnp.pad(path, ((0, 0), (1, 0))), {1: num_vertices}),
        "path_tokens": Internal(target, {1: target_lengths}),
        "move_log_probabilities": Internal(
            graph.transitions[rows, before, path], {1: target_lengths}
        ),
        "token_log_probabilities": Internal(emissions, {1: target_lengths}),
    }
