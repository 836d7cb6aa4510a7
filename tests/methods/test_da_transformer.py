"""The DA-Transformer: the graph that it predicts, the loss over its paths, glancing, decoding."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import dag
from nat_ar.losses.fuzzy_alignment import FuzzyAlignment
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.da_transformer import DaTransformer, DaTransformerModel
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.graph import (
    Links,
    TargetGraph,
    TransitionSmoothing,
    log_normalisers,
    smoothed_transitions,
    transition_log_probabilities,
)
from nat_ar.search import limits
from nat_ar.search.dag import Graph, GraphBeam, Lookahead
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD, UNK
from nat_ar.types import Batch, Encoded, Hypotheses, Loss
from toys import TINY

VOCABULARY = 14
CONFIG = DaTransformer(
    dataclasses.replace(TINY, dropout_rate=0.01),
    upsample_factor=3,
    num_link_heads=2,
    glancing=Glancing(1.0, 0.0, anneal_steps=10),
)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
ROWS, WIDTH, TARGET_WIDTH = 8, 5, 8
ROOM = limits.length_limit(WIDTH)


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


def ragged(seed: int) -> Batch:
    """Of 8 rows some are no sentence, and some targets are too long for 3 vertices a source token."""
    random = np.random.default_rng(seed)
    source_lengths = random.integers(0, WIDTH + 1, ROWS)
    target_lengths = np.where(source_lengths, random.integers(1, TARGET_WIDTH + 1, ROWS), 0)
    source = sentences(seed, source_lengths.tolist(), WIDTH)
    return Batch(source, sentences(seed + 1, target_lengths.tolist(), TARGET_WIDTH))


def example() -> Batch:
    """The third target has 7 tokens for 6 vertices; the last rows are no sentences."""
    none = [0] * 5
    return Batch(
        sentences(0, [5, 3, 2, *none], WIDTH), sentences(1, [4, 6, 7, *none], TARGET_WIDTH)
    )


def alone(batch: Batch, row: int) -> Batch:
    """One row, in wider arrays."""
    return jax.tree.map(lambda ids: jnp.pad(ids[row : row + 1], ((0, 0), (0, 3))), batch)


@pytest.fixture(scope="module")
def model() -> DaTransformerModel:
    return CONFIG.build(SIZES, rngs=nnx.Rngs(0))


@functools.partial(jax.jit, static_argnames="graph")
def training_loss(
    graph: nnx.GraphDef, params: nnx.State, batch: Batch, step: jax.Array, key: jax.Array
) -> tuple[Loss, nnx.State]:
    """With dropout and glancing; and its gradient."""

    def objective(params: nnx.State) -> tuple[jax.Array, Loss]:
        rngs = nnx.Rngs(dropout=key)
        loss = nnx.merge(graph, params).loss(batch, step=step, rngs=rngs)
        return loss.objective, loss

    gradients, loss = jax.grad(objective, has_aux=True)(params)
    return loss, gradients


def in_training(model: DaTransformerModel, batch: Batch, step: int = 0) -> tuple[Loss, nnx.State]:
    parts = nnx.split(model, nnx.Param)
    return training_loss(*parts, batch, jnp.int32(step), jax.random.key(7))


@functools.partial(jax.jit, static_argnames="graph")
def loss_jitted(graph: nnx.GraphDef, params: nnx.State, batch: Batch) -> Loss:
    return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None)


def in_evaluation(model: DaTransformerModel, batch: Batch) -> Loss:
    return loss_jitted(*nnx.split(model, nnx.Param), batch)


def decode(model: DaTransformerModel, source: jax.Array, max_length: int = ROOM) -> Hypotheses:
    return toys.decode(model, source, Lookahead(), max_length)


def even_moves(graph: int) -> jax.Array:
    """From every vertex to each on its right with the same probability."""
    moves = np.full((1, graph, graph), dag.IMPOSSIBLE, np.float32)
    for i in range(graph - 1):
        moves[0, i, i + 1 :] = -math.log(graph - 1 - i)
    return jnp.asarray(moves)


def test_each_vertex_moves_to_the_right_within_its_graph() -> None:
    links, lengths = Links(16, 2, dtype="float32", rngs=nnx.Rngs(0)), [12, 3, 0]
    states = np.random.default_rng(0).normal(size=(3, 12, 16)).astype(np.float32)
    moves = np.exp(jax.jit(lambda *given: links(*given))(states, np.array(lengths, np.int32)))
    for row, length in enumerate(lengths):
        may_move = np.triu(np.ones((12, 12), bool), 1) & (np.arange(12) < length)
        np.testing.assert_array_equal(moves[row] > 0.0, may_move)
        np.testing.assert_allclose(moves[row].sum(axis=1)[: max(length - 1, 0)], 1.0, rtol=1e-5)


def test_transitions_mix_heads_by_their_gates() -> None:
    """From vertex 0 one head goes to 1 and 2 alike, the other to 2 with odds 3 : 1; the gate says 1 : 4.
    To vertex 2: 0.2 * 0.5 + 0.8 * 0.75 = 0.7."""
    query = np.ones((1, 3, 2, 1), np.float32)
    key = np.zeros((1, 3, 2, 1), np.float32)
    key[0, 2, 1] = math.log(3.0)
    gates = np.broadcast_to(np.log(np.array([1.0, 4.0], np.float32)), (1, 3, 2))
    mix = jax.jit(transition_log_probabilities)
    found = mix(query, key, gates, np.array([3], np.int32))
    expected = [[0.0, 0.3, 0.7], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(np.exp(found[0]), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 6, 1000])
def test_normalisers_in_blocks_are_those_of_all_logits(rows: int) -> None:
    """2 * 7 vertices: one at a time, three of each row at a time, all at once; and their gradients."""
    random = np.random.default_rng(0)
    states, table = random.normal(size=(2, 7, 4)), random.normal(size=(VOCABULARY, 4))
    logits = states @ table.T
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)

    @jax.jit
    def normalisers(states: jax.Array, table: jax.Array) -> tuple[jax.Array, Any]:
        found, back = jax.vjp(
            lambda states, table: log_normalisers(lambda block: block @ table.T, states, rows=rows),
            states,
            table,
        )
        return found, back(jnp.ones_like(found))

    found, gradients = normalisers(*(jnp.asarray(x, jnp.float32) for x in (states, table)))
    np.testing.assert_allclose(found, np.log(np.exp(logits).sum(axis=-1)), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], softmax @ table, atol=1e-5)
    np.testing.assert_allclose(gradients[1], np.einsum("bgv,bgd->vd", softmax, states), atol=1e-5)


def sizes_of(jaxpr: Any) -> Iterator[int]:
    """Elements of every array that a program makes, loops and inner programs too."""
    for equation in jaxpr.eqns:
        yield from (math.prod(variable.aval.shape) for variable in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes_of(inner)


def test_training_never_holds_the_logits_of_all_vertices() -> None:
    """Glancing and gradient at 32 * 240 vertices and 6,000 tokens: blocks of 2,048 vertices at most."""
    config = dataclasses.replace(CONFIG, upsample_factor=8)
    sizes = VocabularySizes(6000, 6000, is_joint=True)
    parts = nnx.split(nnx.eval_shape(lambda: config.build(sizes, rngs=nnx.Rngs(0))), nnx.Param)
    ids = np.zeros((32, 30), np.int32)
    arguments = jax.eval_shape(lambda: (Batch(*2 * [jnp.asarray(ids)]), 0, jax.random.key(0)))
    program = jax.make_jaxpr(functools.partial(training_loss, parts[0]))(parts[1], *arguments)
    largest = max(sizes_of(program.jaxpr))
    assert 1024 * 6000 < largest <= 2048 * 6000  # so the walk does see them


def test_emissions_are_log_probabilities_of_the_vocabulary() -> None:
    """log softmax of the logits of all tokens, with smoothing 0.3 mixed with their mean; EOS is certain."""
    model = dataclasses.replace(CONFIG, label_smoothing=0.3).build(SIZES, rngs=nnx.Rngs(0))
    target = jnp.array([[8, 11, EOS, PAD]])

    @jax.jit
    def emit(states: jax.Array) -> tuple[jax.Array, TargetGraph]:
        encoded = Encoded(jnp.zeros((1, 1, 16)), jnp.array([1]))
        logits = model.target_embedding.attend(states)
        return jax.nn.log_softmax(logits), model.target_graph(states, encoded, target)

    states = np.random.default_rng(0).normal(size=(1, 3, 16))
    log_p, found = jax.device_get(emit(jnp.asarray(states, jnp.float32)))
    np.testing.assert_allclose(found.emissions[0, :2], log_p[0][:, [8, 11]].T, rtol=1e-5)
    expected = 0.7 * log_p[0][:, [8, 11]].T + 0.3 * log_p[0].mean(axis=1)
    np.testing.assert_allclose(found.smoothed[0, :2], expected, rtol=1e-5)
    assert not found.emissions[0, 2].any()
    assert not found.smoothed[0, 2].any()
    assert (found.target_lengths.tolist(), found.graph_lengths.tolist()) == ([3], [3])


def test_the_loss_is_minus_log_of_the_sum_over_paths() -> None:
    """Words of 1/14, and every move even: one word in a graph of 4 vertices goes by vertex 1 (1/3 * 1/2)
    or vertex 2 (1/3 * 1). Two tokens, EOS counted, share the nats; smoothing takes one more off."""
    emissions = jnp.zeros((1, 3, 4)).at[:, 0].set(-math.log(VOCABULARY))
    lengths = jnp.array([2]), jnp.array([4])
    graph = TargetGraph(emissions, emissions.at[:, 0].add(-1.0), even_moves(4), *lengths)
    means = jax.jit(lambda graph: [graph.per_token(nats).value for nats in graph.nats()])
    smoothed, plain = means(graph)
    expected = -math.log((1 / 6 + 1 / 3) / VOCABULARY) / 2
    assert float(plain) == pytest.approx(expected, rel=1e-5)
    assert float(smoothed) == pytest.approx(expected + 0.5, rel=1e-5)


def test_a_shown_token_is_certain_at_its_vertex_and_the_vertex_emits_no_other() -> None:
    """Words a b in a graph of 5 vertices, where each of 3 emits both with 1/14 and every move is even.
    With b shown at vertex 2 there are the paths 1 2 (moves 1/4 * 1/3 * 1/2) and, with another b, 1 3
    (1/4 * 1/3 * 1), but no longer 2 3, for vertex 2 emits no a."""
    emissions = jnp.full((1, 3, 5), -math.log(VOCABULARY)).at[:, 2].set(0.0)
    is_at = jnp.zeros((1, 3, 5), bool).at[0, 1, 2].set(True)
    lengths = jnp.array([3]), jnp.array([5])
    graph = TargetGraph(emissions, emissions, even_moves(5), *lengths)
    for found in jax.jit(lambda graph, is_at: graph.showing(is_at).nats())(graph, is_at):
        expected = 1 / VOCABULARY / 24 + 1 / VOCABULARY**2 / 12
        assert float(jnp.exp(-found[0])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_tokens_and_sentences_without_a_path_are_counted(model: DaTransformerModel) -> None:
    trained, gradients = in_training(model, example())
    evaluated = in_evaluation(model, example())
    for loss in (trained, evaluated):
        assert float(loss.terms["token"].count) == 4 + 6
        assert float(loss.terms["infeasible"].total) == 1
        assert float(loss.terms["infeasible"].count) == 3
    assert float(evaluated.objective) == float(evaluated.terms["token"].value)
    assert float(trained.objective) == float(trained.terms["glanced"].value)
    assert float(trained.terms["revealed"].count) == 3 + 5  # words: no EOS
    for name in ("links", "decoder", "encoder", "target_embedding"):
        leaves = [np.asarray(x) for x in jax.tree.leaves(gradients[name])]
        assert all(np.isfinite(x).all() for x in leaves)
        assert any(x.any() for x in leaves)


def test_a_batch_of_what_has_no_path_costs_and_teaches_nothing(model: DaTransformerModel) -> None:
    none = [0] * 6
    batch = Batch(sentences(0, [2, 2, *none], WIDTH), sentences(1, [7, 7, *none], TARGET_WIDTH))
    loss, gradients = in_training(model, batch)
    assert float(loss.objective) == float(in_evaluation(model, batch).objective) == 0.0
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(gradients))
    assert float(loss.terms["infeasible"].value) == 1.0


def test_infeasible_pairs_of_a_corpus_are_those_of_the_loss(model: DaTransformerModel) -> None:
    """Graphs of 6 vertices hold 4 words between the first and the last: 5 tokens, EOS counted. Lengths
    of a corpus count no EOS, repeats do no harm."""
    source, target = np.array([1, 1, 1, 2, 1]), np.array([3, 4, 5, 7, 0])
    expected = [True, True, False, True, True]
    assert CONFIG.is_feasible(source, target, np.zeros(5, np.int64)).tolist() == expected
    assert CONFIG.is_feasible(source, target, np.maximum(target - 1, 0)).tolist() == expected
    none = [0] * 3
    batch = Batch(
        sentences(0, [*(source + 1).tolist(), *none], WIDTH),
        sentences(1, [*(target + 1).tolist(), *none], TARGET_WIDTH),
    )
    loss = in_evaluation(model, batch)
    assert float(loss.terms["infeasible"].total) == 1
    assert float(loss.terms["token"].count) == 4 + 5 + 8 + 1


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_neighbours_padding_and_buckets_change_no_loss(
    seed: int, model: DaTransformerModel
) -> None:
    """What a batch pays is the sum of what its sentences pay alone, in wider arrays."""
    batch = ragged(seed)
    together = in_evaluation(model, batch).terms
    each = [in_evaluation(model, alone(batch, row)).terms for row in range(ROWS)]
    for name in ("token", "infeasible"):
        for part in ("total", "count"):
            total = sum(float(getattr(terms[name], part)) for terms in each)
            assert float(getattr(together[name], part)) == pytest.approx(total, rel=1e-4)


def test_as_many_words_are_shown_as_the_annealed_ratio_of_the_wrong_ones(
    model: DaTransformerModel,
) -> None:
    shares = {}
    for step in (0, 5, 10):
        terms = in_training(model, example(), step)[0].terms
        shares[step] = float(terms["revealed"].total) / float(terms["wrong"].total)
    assert shares[0] == 1.0
    assert 0.3 < shares[5] < 0.7  # two sentences, each rounded
    assert shares[10] == 0.0


def test_both_passes_drop_the_same_values(model: DaTransformerModel) -> None:
    """At step 10 nothing is shown any more: the second pass is the first once more, dropout and all."""
    terms = in_training(model, example(), step=10)[0].terms
    assert float(terms["glanced"].value) == pytest.approx(float(terms["token"].value), rel=1e-6)
    without_dropout = in_evaluation(model, example()).terms["token"]
    assert float(terms["token"].value) != pytest.approx(float(without_dropout.value), rel=1e-4)


def test_shown_tokens_are_seen_by_all_vertices(model: DaTransformerModel) -> None:
    source = sentences(0, [2, 2], 2)

    @jax.jit
    def states(shown: jax.Array) -> jax.Array:
        return model.states(source, model.encode(source), shown)

    hidden = states(jnp.full((2, 6), PAD))
    shown = states(jnp.full((2, 6), PAD).at[0, 3].set(9))
    assert (np.abs(shown[0] - hidden[0]).max(axis=1) > 1e-4).all()
    np.testing.assert_allclose(shown[1], hidden[1], atol=1e-6)


def inputs_of(
    config: DaTransformer, source: jax.Array, shown: jax.Array | None = None
) -> tuple[DaTransformerModel, np.ndarray]:
    model = config.build(SIZES, rngs=nnx.Rngs(0))

    @jax.jit
    def inputs() -> jax.Array:
        return model.decoder_inputs(source, model.encode(source), shown)

    return model, np.asarray(inputs())


def test_a_shown_token_keeps_the_vector_of_its_vertex() -> None:
    """Vertex 4 of three a token is the second of its token; with layout "even" the token stands alone."""
    source, shown = sentences(0, [3], 4), jnp.full((1, 12), PAD).at[0, 4].set(9)
    for layout, is_kept in (("token", 1.0), ("even", 0.0)):
        config = dataclasses.replace(CONFIG, layout=layout)  # type: ignore[arg-type]
        model, inputs = inputs_of(config, source, shown)
        vector = is_kept * model.vertex_embedding(jnp.int32(1))
        np.testing.assert_allclose(
            inputs[0, 4], model.target_embedding(jnp.int32(9)) + vector, atol=1e-6
        )
        _, hidden = inputs_of(config, source)
        np.testing.assert_array_equal(np.delete(inputs[0], 4, axis=0), np.delete(hidden[0], 4, 0))


@pytest.mark.parametrize("factor", [3, 4, 8])
def test_every_source_token_has_its_vertices_and_no_two_are_alike(factor: int) -> None:
    """Vertex t copies token t // factor, with vector t % factor."""
    config = dataclasses.replace(CONFIG, upsample_factor=factor)
    source = sentences(0, [5], 5)
    model, inputs = inputs_of(config, source)
    embeddings = np.repeat(np.asarray(model.embed_source(source)[0]), factor, axis=0)
    own = np.tile(np.asarray(model.vertex_embedding(jnp.arange(factor))), (5, 1))
    np.testing.assert_allclose(inputs[0], embeddings + own, atol=1e-6)
    assert len(np.unique(inputs[0].round(4), axis=0)) == 5 * factor


def test_a_run_of_version_0_1_spreads_its_source_as_it_did() -> None:
    """Two tokens and EOS on nine vertices: 0 0 1 1 1 2 2 2 2, as 3 / 9 of a place rounds."""
    written = config_json.to_json(CONFIG)
    later = ("layout", "learned_positions", "link_scale", "transition_smoothing", "loss_mean")
    for name in (*later, "fuzzy_alignment"):
        del written[name]
    del written["glancing"]["count"]
    old = config_json.from_json(DaTransformer, written)
    glancing = dataclasses.replace(CONFIG.glancing, count="round")
    assert old == dataclasses.replace(CONFIG, layout="even", glancing=glancing)
    assert config_json.from_json(DaTransformer, config_json.to_json(CONFIG)) == CONFIG

    source = sentences(0, [3], 4)
    model, copies = inputs_of(dataclasses.replace(old, vertex_embeddings=False), source)
    embeddings = model.embed_source(source)
    np.testing.assert_array_equal(
        copies[0, :9], embeddings[0, jnp.array([0, 0, 1, 1, 1, 2, 2, 2, 2])]
    )


def test_vertices_that_know_their_position_only_start_all_alike() -> None:
    config = dataclasses.replace(CONFIG, vertex_embeddings=False, inputs="positions")
    _, inputs = inputs_of(config, sentences(0, [3], 4))
    assert inputs.shape == (1, 12, 16)
    assert np.ptp(inputs, axis=1).max() == 0.0


@pytest.mark.parametrize("inputs", ["states", "split"])
def test_vertices_may_read_the_encoder(inputs: Literal["states", "split"]) -> None:
    """Vertex t reads the state of token t // 3, as it is or through map t % 3, and has vector t % 3. A vertex that
    shows a token reads that instead."""
    config = dataclasses.replace(CONFIG, inputs=inputs)
    source, shown = sentences(0, [4], 4), jnp.full((1, 12), PAD).at[0, 7].set(9)
    model, found = inputs_of(config, source, shown)
    states = np.asarray(jax.jit(model.encode)(source).states[0])
    own = np.asarray(model.vertex_embedding(jnp.arange(3)))
    for vertex in range(12):
        token, place = divmod(vertex, 3)
        read = states[token]
        if inputs == "split":
            kernel = np.asarray(model.splitter.kernel[...])
            read = read @ kernel[:, 16 * place :][:, :16]
        if vertex == 7:
            read = np.asarray(model.target_embedding(jnp.int32(9)))
        np.testing.assert_allclose(found[0, vertex], read + own[place], atol=1e-5)
    assert len(np.unique(found[0].round(4), axis=0)) == 12


@pytest.mark.parametrize("inputs", ["states", "split"])
def test_padding_changes_no_loss_from_states(inputs: Literal["states", "split"]) -> None:
    model = dataclasses.replace(CONFIG, inputs=inputs).build(SIZES, rngs=nnx.Rngs(0))
    together = in_evaluation(model, example()).terms["token"]
    each = [in_evaluation(model, alone(example(), row)).terms["token"] for row in (0, 1)]
    assert float(together.total) == pytest.approx(sum(float(x.total) for x in each), rel=1e-4)
    _, gradients = in_training(model, example())
    for name in ("encoder", "splitter") if inputs == "split" else ("encoder",):
        assert any(np.asarray(x).any() for x in jax.tree.leaves(gradients[name]))


def test_other_inputs_leave_the_other_parameters_as_they_start() -> None:
    """So that two runs of one seed differ by what they read alone."""
    plain, split = (
        nnx.to_pure_dict(nnx.state(config.build(SIZES, rngs=nnx.Rngs(0))))
        for config in (CONFIG, dataclasses.replace(CONFIG, inputs="split"))
    )
    assert split.pop("splitter")["kernel"].shape == (16, 48)
    jax.tree.map(np.testing.assert_array_equal, plain, split)


@pytest.mark.parametrize("inputs", ["uniform", "positions"])
def test_a_vector_of_its_own_tells_each_vertex_of_a_source_token_from_the_others(
    inputs: Literal["uniform", "positions"],
) -> None:
    """Three vertices a token: 0 1 2 0 1 2 ... of the learned vectors, on top of what there is without."""
    config = dataclasses.replace(CONFIG, inputs=inputs)
    source = sentences(0, [3], 4)
    model, told = inputs_of(config, source)
    own = jax.jit(lambda: model.vertex_embedding(jnp.arange(3)))()
    model.vertex_embedding = None
    plain = jax.jit(lambda: model.decoder_inputs(source, model.encode(source)))()
    np.testing.assert_allclose(told - plain, jnp.tile(own, (4, 1))[None], atol=1e-5)
    assert np.abs(own[0] - own[1]).max() > 0.1


def test_every_position_may_have_a_learned_vector_in_the_decoder_and_another_in_the_links() -> None:
    """Seven of the twelve vertices of a graph: the others have none, and the graph is as wide as ever."""
    source = sentences(0, [4], 4)
    plain, without = inputs_of(CONFIG, source)
    model, inputs = inputs_of(dataclasses.replace(CONFIG, learned_positions=7), source)
    table = model.learned_positions.embedding.table[...]
    assert table.shape == model.links.positions.embedding.table[...].shape == (7, 16)
    model.vertex_embedding, model.target_embedding = plain.vertex_embedding, plain.target_embedding
    inputs = np.asarray(jax.jit(lambda: model.decoder_inputs(source, model.encode(source)))())
    np.testing.assert_allclose((inputs - without)[0, :7], 4.0 * table, atol=1e-5)  # sqrt(d_model)
    np.testing.assert_array_equal(inputs[0, 7:], without[0, 7:])

    states = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 16)), jnp.float32)
    move = jax.jit(lambda links: links(states, jnp.array([12])))
    links = model.links
    told = move(links)
    links.positions = None
    assert np.abs(told - move(links))[0, 0, 1:].max() > 0.01
    np.testing.assert_allclose(np.exp(told).sum(axis=-1)[0, :-1], 1.0, rtol=1e-5)


def test_transitions_may_start_all_alike() -> None:
    """At a tenth of the usual scale a product of two is a hundredth: so far from a fifth each, from vertex 0 of six."""
    states = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 16)), jnp.float32)
    spread = {}
    for scale in (1.0, 0.1):
        links = Links(16, 1, scale=scale, dtype="float32", rngs=nnx.Rngs(0))
        moves = jax.jit(lambda links=links: links(states, jnp.array([6])))()[0, 0, 1:]
        spread[scale] = np.ptp(moves)
    assert spread[0.1] == pytest.approx(0.01 * spread[1.0], rel=1e-2)
    assert spread[1.0] > 0.1


def test_smoothed_transitions_are_mixed_with_even_ones() -> None:
    """Of four vertices the first goes to 1 for certain. A fifth of it to 1, 2 and 3 alike: 13/15, 1/15, 1/15."""
    moves = np.full((2, 4, 4), dag.IMPOSSIBLE, np.float32)
    moves[:, 0, 1] = moves[:, 1, 2] = moves[0, 2, 3] = 0.0
    smooth = jax.jit(smoothed_transitions)
    found = np.exp(smooth(moves, jnp.array([4, 3]), jnp.float32(0.2)))
    expected = [[0, 13 / 15, 1 / 15, 1 / 15], [0, 0, 0.9, 0.1], [0, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    expected = [[0, 0.9, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found[1], expected, atol=1e-6)
    np.testing.assert_allclose(
        np.exp(smooth(moves, jnp.array([4, 3]), jnp.float32(0.0))), np.exp(moves), atol=1e-6
    )


def test_training_alone_smooths_transitions_and_less_and_less() -> None:
    """The same parameters, dropout and glanced tokens: at step 0 half even, from step 10 on as they are."""
    plain = dataclasses.replace(CONFIG, glancing=None)
    smoothing = TransitionSmoothing(0.5, anneal_steps=10)
    smooth = dataclasses.replace(plain, transition_smoothing=smoothing)
    models = [config.build(SIZES, rngs=nnx.Rngs(0)) for config in (plain, smooth)]
    assert [float(smoothing.share(jnp.int32(step))) for step in (0, 5, 10, 99)] == [0.5, 0.25, 0, 0]
    before, after = (
        [float(in_training(model, example(), step)[0].objective) for model in models]
        for step in (0, 10)
    )
    assert before[0] == pytest.approx(after[0])
    assert abs(before[0] - before[1]) > 0.01
    assert after[1] == pytest.approx(after[0], rel=1e-5)
    evaluated = [float(in_evaluation(model, example()).objective) for model in models]
    assert evaluated[1] == evaluated[0]


def test_a_token_of_a_short_sentence_may_weigh_more() -> None:
    """6 nats of 3 tokens and 5 of 1, and a target that does not fit: 11 / 4 a token, (2 + 5) / 2 a sentence."""
    lengths = jnp.array([3, 1, 5]), jnp.array([6, 6, 4])
    graph = TargetGraph(jnp.zeros((3, 5, 6)), None, jnp.zeros((3, 6, 6)), *lengths)
    nats = jnp.array([6.0, 5.0, 0.0])
    assert float(graph.per_token(nats).value) == pytest.approx(11 / 4)
    assert float(graph.per_sentence(nats).value) == pytest.approx(7 / 2)


def test_the_mean_over_sentences_is_the_objective_where_it_is_asked_for(
    model: DaTransformerModel,
) -> None:
    """Of the two sentences with a path, each in evaluation alone."""
    by_sentence = dataclasses.replace(CONFIG, loss_mean="sentences").build(SIZES, rngs=nnx.Rngs(0))
    each = [float(in_evaluation(model, alone(example(), row)).objective) for row in (0, 1)]
    loss = in_evaluation(by_sentence, example())
    assert float(loss.objective) == pytest.approx(sum(each) / 2, rel=1e-4)
    tokens = float(in_evaluation(model, example()).objective)
    assert float(loss.terms["token"].value) == pytest.approx(tokens, rel=1e-5)


def test_the_entropy_of_moves_along_a_path() -> None:
    """0 1 3 of four vertices with even moves: from 0 to three vertices, from 1 to two."""
    lengths = jnp.array([2]), jnp.array([4])
    graph = TargetGraph(jnp.zeros((1, 3, 4)), None, even_moves(4), *lengths)
    found = jax.jit(lambda graph: graph.move_entropy(jnp.array([[1, 3, 0]])))(graph)
    assert float(found.value) == pytest.approx((math.log(3) + math.log(2)) / 2, rel=1e-5)
    assert float(found.count) == 2


def test_the_overlap_of_ngrams_takes_the_place_of_the_likelihood(
    model: DaTransformerModel,
) -> None:
    """Of sentences that fit, with the decoder pass that glancing has helped."""
    config = dataclasses.replace(CONFIG, fuzzy_alignment=FuzzyAlignment())
    fuzzy = config.build(SIZES, rngs=nnx.Rngs(0))
    batch = example()
    found, plain = in_evaluation(fuzzy, batch), in_evaluation(model, batch)
    assert float(found.terms["token"].value) == float(plain.terms["token"].value)

    @jax.jit
    def overlap() -> jax.Array:
        encoded = fuzzy.encode(batch.source)
        graph = fuzzy.target_graph(fuzzy.states(batch.source, encoded), encoded, batch.target)
        found = graph.overlap(batch.target, 2)
        return (found.precision * found.brevity)[:2].mean()

    assert float(found.objective) == pytest.approx(-float(overlap()), rel=1e-5)
    trained, gradients = in_training(fuzzy, batch)
    assert {"token", "glanced", "precision", "brevity", "revealed"} <= set(trained.terms)
    assert float(trained.terms["precision"].count) == 2
    for name in ("links", "decoder", "encoder", "target_embedding"):
        leaves = [np.asarray(x) for x in jax.tree.leaves(gradients[name])]
        assert all(np.isfinite(x).all() for x in leaves)
        assert any(x.any() for x in leaves)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_neighbours_padding_and_room_change_no_translation(
    seed: int, model: DaTransformerModel
) -> None:
    """A sentence among seven others, and alone in a wider bucket with a larger max_length."""
    batch = ragged(seed)
    together = decode(model, batch.source)
    for row, length in enumerate((batch.source != PAD).sum(axis=1).tolist()):
        found = decode(model, alone(batch, row).source, ROOM + 2)
        np.testing.assert_array_equal(found.tokens[0, :, :ROOM], together.tokens[row])
        assert not found.tokens[..., ROOM:].any()
        np.testing.assert_allclose(found.scores[0], together.scores[row], atol=1e-4)
        assert found.passes[0] == together.passes[row] == (1 if length else 0)
    assert np.isin(together.tokens, [PAD, UNK, *range(NUM_SPECIAL, VOCABULARY)]).all()


def test_searches_get_the_limits_of_each_sentence(
    model: DaTransformerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of 3 vertices a token and limits of 2 * tokens + 10, or max_length; 0 without a sentence."""

    def told(
        self: GraphBeam, graph: Graph, *, length_limits: jax.Array, max_length: int
    ) -> Hypotheses:
        tokens = jnp.zeros((3, 1, max_length), jnp.int32)
        return Hypotheses(tokens, length_limits[:, None].astype(jnp.float32), graph.lengths)

    monkeypatch.setattr(GraphBeam, "search_sentences", told)
    source = sentences(2, [4, 2, 0], 4)
    decode = functools.partial(model.decode, decoding=GraphBeam(3), max_length=17)
    found = jax.jit(decode)(source)
    assert found.tokens.shape == (3, 1, 17)
    assert found.passes.tolist() == [12, 6, 0]
    assert found.scores[:, 0].tolist() == [17, 14, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample_factor": 1}, "upsample_factor must be at least 2"),
        ({"num_link_heads": 3}, "got d_model 16 and num_link_heads 3"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"learned_positions": 0}, "learned_positions must be at least 1, or None, got 0"),
        ({"link_scale": 0.0}, "link_scale must be above 0, got 0.0"),
        ({"inputs": "split", "layout": "even"}, "inputs 'split' gives .* set layout to 'token'"),
        (
            {"fuzzy_alignment": FuzzyAlignment(), "label_smoothing": 0.1},
            "fuzzy_alignment takes the place of the likelihood",
        ),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_impossible_smoothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="anneal_steps must be at least 1, got 0"):
        TransitionSmoothing(anneal_steps=0)
    with pytest.raises(ConfigError, match="start must be in"):
        TransitionSmoothing(1.0)


@pytest.mark.slow
def test_eight_pairs_are_learned_by_heart_with_glancing(model: DaTransformerModel) -> None:
    graph, params = nnx.split(model, nnx.Param)
    lengths = [5, 4, 5, 3, 5, 5, 4, 5], [2, 3, 4, 5, 6, 7, 8, 8]
    batch = Batch(sentences(5, lengths[0], WIDTH), sentences(6, lengths[1], TARGET_WIDTH))
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 180))
    moments = optimizer.init(params)

    @jax.jit
    def update(params: nnx.State, moments: optax.OptState, gradients: nnx.State) -> tuple:
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments

    for step in range(180):
        glancing_step = jnp.int32(step // 5)  # shows all wrong words at first, none from step 50 on
        loss, gradients = training_loss(graph, params, batch, glancing_step, jax.random.key(step))
        params, moments = update(params, moments, gradients)
        if step == 0:
            assert float(loss.terms["token"].value) > 2.0
    assert float(loss_jitted(graph, params, batch).objective) < 0.2
    found = decode(nnx.merge(graph, params), batch.source).tokens[:, 0]
    expected = np.where(batch.target == EOS, PAD, batch.target)
    np.testing.assert_array_equal(found[:, :TARGET_WIDTH], expected)
    assert not found[:, TARGET_WIDTH:].any()
