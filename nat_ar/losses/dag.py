"""The likelihood of a target under a directed acyclic graph of vertices, and its best path (Huang et al.
2022, arXiv:2205.07459, sections 3.2 and 3.3).

A row's graph has the vertices 0 ... last. A path starts at vertex 0, which emits nothing, moves only to the right,
emits one token of the target at every vertex that it reaches, and ends at the last vertex with the target's last
token (EOS). With M target tokens

    p(target) = sum over 0 = a_0 < a_1 < ... < a_M = last of prod_t transition[a_t-1, a_t] emission[t, a_t]

and there is a path if and only if 1 <= M <= last. The sum goes over target positions: the log probabilities of all
vertices at which a prefix can end are one [batch, graph] array, which a position multiplies with the matrix of
transitions.

That product is taken of probabilities, in blocks of 32 vertices, each shifted by its largest, and only the sum over
blocks is taken in log space: 85 ms for value and gradient at batch 32, 30 target tokens and 240 vertices, where a sum
of exponentials over all pairs of vertices takes 306 ms. One shift for all vertices takes 56 ms but underflows: before
training, nearly all mass of a long graph lies near its end, where the rest of the target does not fit, and the prefixes
that count were less than e^-87 of the largest (log p of 120 tokens on 480 vertices was wrong by 12 nats). Values below
e^-87 of their block's largest count as e^-87 of it, without a gradient, so that no value is ever infinite.

Gradients come from automatic differentiation. Every position is computed again in the backward pass: it leaves one
[batch, graph] array behind, and no array of the size target * graph * graph ever exists. Memory grows with the square
of the graph, and hardly with the target: 18 MiB at the sizes above, beside inputs and gradients of 8 MiB each."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

IMPOSSIBLE = -1e9
"""The log of 0: finite, so that neither sums of it nor gradients are NaN."""


def has_path(
    target_lengths: Int[Array, "batch"], graph_lengths: Int[Array, "batch"]
) -> Bool[Array, "batch"]:
    """Whether the target, EOS counted, fits into the graph at all."""
    return (target_lengths >= 1) & (target_lengths < graph_lengths)


def log_likelihood(
    emissions: Float[Array, "batch target graph"],
    transitions: Float[Array, "batch graph graph"],
    target_lengths: Int[Array, "batch"],
    graph_lengths: Int[Array, "batch"],
    *,
    block: int = 32,
) -> Float[Array, "batch"]:
    """log p(target), the sum over all paths, in nats; IMPOSSIBLE, without a gradient, for rows without a path.

    emissions[b, t, j] is log p of target token t at vertex j, transitions[b, i, j] log p of the move from
    i to j: IMPOSSIBLE where j <= i or j lies outside the row's graph. Lengths count EOS, vertex 0 and the
    last vertex. `block` vertices share a shift: 16 took a fifth more time, 64 a tenth less."""
    moves = _blocks(jnp.exp(transitions), block, filling=0.0)

    def emit(
        prefix: Float[Array, "batch graph"],
        item: tuple[Float[Array, "batch graph"], Int[Array, ""]],
    ) -> tuple[Float[Array, "batch graph"], None]:
        gains, position = item
        longer = _arrivals(prefix, moves) + gains
        longer = jnp.where(
            _fits(position, longer, target_lengths, graph_lengths), longer, IMPOSSIBLE
        )
        return jnp.where(position < target_lengths[:, None], longer, prefix), None

    final, _ = jax.lax.scan(emit, _start(emissions), _by_position(emissions))
    total = _at_last(final, graph_lengths)
    return jnp.where(has_path(target_lengths, graph_lengths), total, IMPOSSIBLE)


@functools.partial(jax.checkpoint, prevent_cse=False)  # inside a scan nothing can undo it
def _arrivals(
    prefix: Float[Array, "batch graph"], moves: Float[Array, "batch blocks block graph"]
) -> Float[Array, "batch graph"]:
    """log of the sum over i of exp(prefix[i]) moves[i, j], for every vertex j."""
    smallest = jnp.finfo(prefix.dtype).tiny
    block = moves.shape[2]
    blocks = _blocks(prefix, block, filling=IMPOSSIBLE)
    largest = jax.lax.stop_gradient(blocks.max(axis=2, keepdims=True))
    # In float32 on accelerators too: the default would round every position's sum to a thousandth.
    precision = jax.lax.Precision.HIGHEST
    shares = jnp.exp(blocks - largest)
    arrived = jnp.einsum("bki,bkij->bkj", shares, moves, precision=precision)
    arrived = jnp.log(jnp.maximum(arrived, smallest)) + largest
    first = block * jnp.arange(blocks.shape[1])
    is_ahead = jnp.arange(prefix.shape[1]) > first[:, None]  # [blocks, graph]
    return jax.nn.logsumexp(jnp.where(is_ahead, arrived, IMPOSSIBLE), axis=1)


def _blocks(
    values: Float[Array, "batch graph *axes"], block: int, *, filling: float
) -> Float[Array, "batch blocks block *axes"]:
    """The vertices in blocks, the last one filled up."""
    batch, graph, *axes = values.shape
    missing = -graph % block
    padding = [(0, 0), (0, missing), *((0, 0) for _ in axes)]
    padded = jnp.pad(values, padding, constant_values=filling)
    return padded.reshape(batch, -1, block, *axes)


def best_path(
    emissions: Float[Array, "batch target graph"],
    transitions: Float[Array, "batch graph graph"],
    target_lengths: Int[Array, "batch"],
    graph_lengths: Int[Array, "batch"],
) -> tuple[Int[Array, "batch target"], Float[Array, "batch"]]:
    """The most probable path that emits the target: the vertex of every token, 0 past the target's end and for rows
    without a path; and its log p in nats. Arguments as for log_likelihood.

    The forward pass leaves its scores instead of back pointers, and the way back computes the best predecessor of the
    one vertex that it visits: on a CPU a maximum is quick, its index is not."""

    def emit(
        prefix: Float[Array, "batch graph"],
        item: tuple[Float[Array, "batch graph"], Int[Array, ""]],
    ) -> tuple[Float[Array, "batch graph"], Float[Array, "batch graph"]]:
        gains, position = item
        longer = (prefix[:, :, None] + transitions).max(axis=1) + gains
        longer = jnp.where(
            _fits(position, longer, target_lengths, graph_lengths), longer, IMPOSSIBLE
        )
        return jnp.where(position < target_lengths[:, None], longer, prefix), prefix

    items = _by_position(emissions)
    final, prefixes = jax.lax.scan(emit, _start(emissions), items)
    exists = has_path(target_lengths, graph_lengths)

    def go_back(
        following: Int[Array, "batch"], item: tuple[Float[Array, "batch graph"], Int[Array, ""]]
    ) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
        prefix, position = item
        vertex = jnp.where(position == target_lengths - 1, graph_lengths - 1, following)
        vertex = jnp.where(exists & (position < target_lengths), vertex, 0)
        return _predecessor(prefix, transitions, vertex), vertex

    _, path = jax.lax.scan(
        go_back, jnp.zeros_like(graph_lengths), (prefixes, items[1]), reverse=True
    )
    return path.T, jnp.where(exists, _at_last(final, graph_lengths), IMPOSSIBLE)


def _predecessor(
    prefix: Float[Array, "batch graph"],
    gains: Float[Array, "batch graph graph"],
    vertex: Int[Array, "batch"],
) -> Int[Array, "batch"]:
    """The vertex i with the largest prefix[i] + gains[i, vertex]: the step before on a best path. Ties go to the
    left."""
    column = jnp.take_along_axis(gains, vertex[:, None, None], axis=2)[..., 0]
    return jnp.argmax(prefix + column, axis=1).astype(jnp.int32)


def _start(emissions: Float[Array, "batch target graph"]) -> Float[Array, "batch graph"]:
    """The empty prefix ends at vertex 0."""
    batch, _, graph = emissions.shape
    start = jnp.where(jnp.arange(graph) == 0, 0.0, IMPOSSIBLE).astype(emissions.dtype)
    return jnp.broadcast_to(start, (batch, graph))


def _by_position(
    emissions: Float[Array, "batch target graph"],
) -> tuple[Float[Array, "target batch graph"], Int[Array, "target"]]:
    """The items of a scan over target positions."""
    return emissions.swapaxes(0, 1), jnp.arange(emissions.shape[1])


def _fits(
    position: Int[Array, ""],
    prefix: Float[Array, "batch graph"],
    target_lengths: Int[Array, "batch"],
    graph_lengths: Int[Array, "batch"],
) -> Bool[Array, "batch graph"]:
    """True at the vertices where some path emits the token at this position: enough vertices lie before them, and
    behind them there is one for each remaining token."""
    vertices = jnp.arange(prefix.shape[1])
    left = target_lengths - 1 - position
    return (vertices > position) & (vertices <= (graph_lengths - 1 - left)[:, None])


def _at_last(
    values: Float[Array, "batch graph"], graph_lengths: Int[Array, "batch"]
) -> Float[Array, "batch"]:
    """The value of every row's last vertex."""
    last = jnp.maximum(graph_lengths - 1, 0)
    return jnp.take_along_axis(values, last[:, None], axis=1)[:, 0]
