"""The graph that a DA-Transformer predicts (Huang et al. 2022, arXiv:2205.07459, sections 3.1 and 3.2): transitions
between its vertices, and what a target's loss sees of it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar.losses import cross_entropy, dag
from nat_ar.nn import layers, positions
from nat_ar.types import Mean, pytree_dataclass


class Links(nnx.Module):
    """Vertex states to transitions: several heads of queries and keys, mixed by a gate (section 3.2)."""

    def __init__(self, d_model: int, num_heads: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        self.query_key = layers.Linear(2 * d_model, d_model, parts=2, dtype=dtype, rngs=rngs)
        self.gate = layers.Linear(2 * d_model, num_heads, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads

    def __call__(
        self, states: Float[Array, "batch graph d_model"], graph_lengths: Int[Array, "batch"]
    ) -> Float[Array, "batch graph graph"]:
        batch, graph, d_model = states.shape
        places = jnp.asarray(positions.sinusoids(graph, d_model), states.dtype)
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
    vertices = jnp.arange(scores.shape[-1])
    is_inside = (vertices < graph_lengths[:, None])[:, None]
    may_move = (vertices > vertices[:, None]) & is_inside  # [batch, graph, graph]
    scores = jnp.where(may_move[:, None], scores, dag.IMPOSSIBLE)
    gates = jax.nn.log_softmax(gate_logits.astype(jnp.float32)).swapaxes(1, 2)
    mixed = jax.nn.logsumexp(jax.nn.log_softmax(scores) + gates[..., None], axis=1)
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

    def showing(self, is_at: Bool[Array, "batch target_length graph"]) -> "TargetGraph":
        """The graph in which each shown token has probability 1 at its vertex, and the vertex emits no other."""

        def certain(emissions: Array) -> Array:
            emissions = jnp.where(is_at.any(axis=1, keepdims=True), dag.IMPOSSIBLE, emissions)
            return jnp.where(is_at, 0.0, emissions)

        smoothed = None if self.smoothed is None else certain(self.smoothed)
        return dataclasses.replace(self, emissions=certain(self.emissions), smoothed=smoothed)

    def nats(self) -> tuple[Mean, Mean]:
        """-log p per token, EOS counted, of the targets with a path: with label smoothing, to minimise, and without,
        to report."""
        is_learned = self.has_path()
        num_tokens = jnp.where(is_learned, self.target_lengths, 0).sum().astype(jnp.float32)

        def mean(emissions: Array) -> Mean:
            log_p = dag.log_likelihood(
                emissions, self.transitions, self.target_lengths, self.graph_lengths
            )
            return Mean(-jnp.where(is_learned, log_p, 0.0).sum(), num_tokens)

        plain = mean(self.emissions)
        return (plain if self.smoothed is None else mean(self.smoothed)), plain


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
