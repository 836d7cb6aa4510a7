"""A translation that is read and written anew: passes one by one, errors for the denoiser, stopping."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import iterative_refinement
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.iterative_refinement import (
    KEEP,
    REPEAT,
    REPLACE,
    SWAP,
    IterativeRefinement,
    IterativeRefinementModel,
)
from nat_ar.search import limits, one_pass, refinement
from nat_ar.search.refinement import Refine
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, NUM_SPECIAL, PAD
from nat_ar.types import Batch, Hypotheses, Loss
from toys import TINY, SmallIds, one_width

VOCABULARY = 16
TRANSFORMER = dataclasses.replace(TINY, dropout_rate=0.05)
CONFIG = IterativeRefinement(
    TRANSFORMER, training_iterations=3, max_length_offset=5, label_smoothing=0.0
)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LENGTHS = [1, 2, 3, 3, 0, 3, 2]  # of sources, EOS counted
ROOM = limits.length_limit(3)
ADAPTIVE, FIXED = Refine(5, length_beam=2, n_best=2), Refine(5, False, length_beam=2, n_best=2)
STOPPED = Refine(5, stop_distance=0.5, length_beam=2, n_best=2)
RESCORED = Refine(5, length_beam=2, rescore=True, remove_repeats=True, n_best=2)


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


RAGGED = Batch(sentences(0, LENGTHS, 3), sentences(1, [4, 6, 2, 5, 0, 1, 1], ROOM))
WORDS = [3, 5, 1, 4, 0, 0, 0]  # of its targets: the last but two is none, and two are EOS alone


@pytest.fixture(scope="module")
def model() -> IterativeRefinementModel:
    return CONFIG.build(SIZES, rngs=nnx.Rngs(1))


def decode(
    model: IterativeRefinementModel, source: jax.Array, decoding: Refine, max_length: int = ROOM
) -> Hypotheses:
    return toys.decode(model, source, decoding, max_length, scorer=SmallIds(), widths=one_width)


def loss_of(params: nnx.State, graph: nnx.GraphDef, batch: Batch, rngs: nnx.Rngs | None) -> Loss:
    return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=rngs)


@functools.partial(jax.jit, static_argnames="graph")
def certain_loss(graph: nnx.GraphDef, params: nnx.State, batch: Batch) -> Loss:
    return loss_of(params, graph, batch, None)


@functools.partial(jax.jit, static_argnames="graph")
def first_logits(
    graph: nnx.GraphDef, params: nnx.State, source: jax.Array, lengths: jax.Array
) -> jax.Array:
    model = nnx.merge(graph, params)
    return model.first_logits(source, lengths, ROOM, model.encode(source))


@functools.partial(jax.jit, static_argnames="graph")
def refined_logits(
    graph: nnx.GraphDef, params: nnx.State, source: jax.Array, tokens: jax.Array
) -> jax.Array:
    model = nnx.merge(graph, params)
    return model.refined_logits(tokens, (tokens != PAD).sum(axis=1), model.encode(source))


def passes_of(
    model: IterativeRefinementModel, source: jax.Array, lengths: jax.Array, number: int
) -> list[jax.Array]:
    """Logits of the first pass, and of those that each read the one before."""
    parts = nnx.split(model, nnx.Param)
    passes = [first_logits(*parts, source, lengths)]
    while len(passes) < number:
        tokens = refinement.most_probable(passes[-1], lengths).tokens
        passes.append(refined_logits(*parts, source, tokens))
    return passes


def nats_of(logits: jax.Array, target: jax.Array) -> float:
    """Mean cross entropy of the target's words."""
    return float(cross_entropy.smoothed_cross_entropy(logits, target, smoothing=0.0)[1].value)


def test_corruption_by_hand() -> None:
    """Of 6 7 8; where a word is replaced, it becomes 9."""
    for operations, expected in [
        ([KEEP, KEEP, KEEP], [6, 7, 8]),
        ([REPEAT, KEEP, KEEP], [6, 6, 8]),
        ([REPEAT, REPEAT, KEEP], [6, 6, 6]),  # what was repeated is repeated again
        ([SWAP, KEEP, KEEP], [7, 6, 8]),
        ([SWAP, SWAP, KEEP], [7, 8, 6]),  # and what was moved moves on
        ([KEEP, REPLACE, KEEP], [6, 9, 8]),
        ([SWAP, REPLACE, KEEP], [7, 9, 8]),
        ([KEEP, KEEP, REPEAT], [6, 7, 8]),  # the last word has none to overwrite
        ([KEEP, KEEP, SWAP], [6, 7, 8]),
        ([KEEP, KEEP, REPLACE], [6, 7, 9]),
    ]:
        target = jnp.array([[6, 7, 8, PAD, PAD]])
        past_the_end = [REPLACE, SWAP]
        found = iterative_refinement.corrupt(
            target, jnp.array([operations + past_the_end]), jnp.full((1, 5), 9)
        )
        np.testing.assert_array_equal(found, [[*expected, PAD, PAD]])


def test_a_third_of_the_words_gets_one_of_three_errors() -> None:
    operations, words = iterative_refinement.random_errors(
        (200, 50), 0.33, VOCABULARY, jax.random.key(0)
    )
    shares = np.bincount(np.asarray(operations).ravel(), minlength=4) / operations.size
    np.testing.assert_allclose(shares, [0.67, 0.11, 0.11, 0.11], atol=0.02)
    assert set(np.unique(words)) == set(range(NUM_SPECIAL, VOCABULARY))


def test_without_rngs_every_pass_reads_the_one_before(model: IterativeRefinementModel) -> None:
    loss = certain_loss(*nnx.split(model, nnx.Param), RAGGED)
    target = jnp.where(RAGGED.target == EOS, PAD, RAGGED.target)
    passes = passes_of(model, RAGGED.source, jnp.array(WORDS), 3)
    nats = [nats_of(logits, target) for logits in passes]
    terms = {name: float(term.value) for name, term in loss.terms.items()}
    assert terms["first_pass"] == pytest.approx(nats[0], rel=1e-4)
    assert terms["last_pass"] == pytest.approx(nats[2], rel=1e-4)
    assert terms["token"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert float(loss.terms["token"].count) == 3 * sum(WORDS)
    assert float(loss.terms["length"].count) == 6
    assert float(loss.objective) == pytest.approx(terms["token"] + 0.1 * terms["length"], rel=1e-5)


def test_a_denoiser_reads_the_target_with_its_errors(model: IterativeRefinementModel) -> None:
    """Without errors, and where all sentences are denoised, every later pass reads the target itself."""
    graph, params = nnx.split(model, nnx.Param)
    config = dataclasses.replace(
        CONFIG,
        transformer=dataclasses.replace(TRANSFORMER, dropout_rate=0.0),
        denoising_probability=1.0,
        corruption_probability=0.0,
    )
    denoiser = nnx.graphdef(config.build(SIZES, rngs=nnx.Rngs(0)))
    loss = jax.jit(lambda key: loss_of(params, denoiser, RAGGED, nnx.Rngs(dropout=key)))
    terms = loss(jax.random.key(0)).terms
    target = jnp.where(RAGGED.target == EOS, PAD, RAGGED.target)
    expected = nats_of(refined_logits(graph, params, RAGGED.source, target), target)
    assert float(terms["last_pass"].value) == pytest.approx(expected, rel=1e-4)
    both = (float(terms["first_pass"].value) + 2 * expected) / 3
    assert float(terms["token"].value) == pytest.approx(both, rel=1e-4)


def test_padding_and_empty_rows_change_no_loss(model: IterativeRefinementModel) -> None:
    wider = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 2), (0, 4))), RAGGED)
    expected, found = (
        float(certain_loss(*nnx.split(model, nnx.Param), batch).objective)
        for batch in (RAGGED, wider)
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_decoding_is_one_pass_after_another(model: IterativeRefinementModel) -> None:
    """A loop in Python over the two best lengths, each in a batch of its own."""
    source = sentences(2, LENGTHS, 3)
    found = decode(model, source, FIXED)
    best = jax.jit(
        lambda source: model.length_predictor.best(model.encode(source), 2, max_length=100)
    )
    lengths = best(source).T
    candidates = []
    for column in lengths:
        last = passes_of(model, source, column, 5)[-1]
        words = refinement.most_probable(last, column)
        means = words.log_probabilities.sum(axis=1) / jnp.maximum(column, 1)
        candidates.append((np.asarray(words.tokens), np.asarray(means)))
    for row in range(len(LENGTHS)):
        by_hand = sorted(candidates, key=lambda candidate: -candidate[1][row])
        for place, (tokens, means) in enumerate(by_hand):
            np.testing.assert_array_equal(found.tokens[row, place], tokens[row])
            assert found.scores[row, place] == pytest.approx(means[row], abs=1e-5)
    np.testing.assert_array_equal(found.passes, np.where(np.array(LENGTHS) > 0, 5, 0))


@pytest.mark.slow
def test_adaptive_stopping_gives_the_same_translations_in_fewer_passes(
    model: IterativeRefinementModel,
) -> None:
    """And where a small change stops a sentence, in fewer still, but not the same ones."""
    source = sentences(2, LENGTHS, 3)
    adaptive, fixed, stopped = (
        decode(model, source, decoding) for decoding in (ADAPTIVE, FIXED, STOPPED)
    )
    np.testing.assert_array_equal(adaptive.tokens, fixed.tokens)
    np.testing.assert_allclose(adaptive.scores, fixed.scores, atol=1e-5)
    assert (stopped.passes <= adaptive.passes).all()
    assert (adaptive.passes <= fixed.passes).all()
    assert stopped.passes.sum() < adaptive.passes.sum() < fixed.passes.sum()
    assert (stopped.tokens != adaptive.tokens).any()
    assert len(set(adaptive.passes.tolist())) > 2  # none, few and many


@settings(max_examples=8, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 3), min_size=7, max_size=7), seed=st.integers(0, 10_000))
def test_company_padding_and_room_change_no_translation(
    model: IterativeRefinementModel, lengths: list[int], seed: int
) -> None:
    """The same sentence among six others, and alone with wider padding and a larger max_length. It stops
    where it would change again if it were not left alone, in as many passes as it needs by itself."""
    source = sentences(seed, lengths, 3)
    wider = jnp.pad(source, ((0, 0), (0, 5)), constant_values=PAD)
    together = decode(model, source, STOPPED)
    alone = [decode(model, wider[i : i + 1], STOPPED, ROOM + 2) for i in range(7)]
    tokens = np.concatenate([part.tokens for part in alone])
    np.testing.assert_array_equal(tokens[..., :ROOM], together.tokens)
    assert not tokens[..., ROOM:].any()
    scores = np.concatenate([part.scores for part in alone])
    np.testing.assert_allclose(scores, together.scores, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([part.passes for part in alone]), together.passes)
    assert (np.diff(together.scores, axis=1) <= 0).all()
    assert not np.isin(together.tokens, [BOS, EOS, MASK, BLANK]).any()
    np.testing.assert_array_equal(together.tokens.any(axis=(1, 2)), np.array(lengths) > 0)


def test_rescoring_orders_what_is_handed_back(model: IterativeRefinementModel) -> None:
    """The candidates without their repeated words, by the scorer; nothing for the empty row."""
    source = sentences(2, LENGTHS, 3)
    rescored, own = (decode(model, source, d) for d in (RESCORED, ADAPTIVE))
    np.testing.assert_array_equal(rescored.scores, -rescored.tokens.sum(axis=-1))
    assert (np.diff(rescored.scores, axis=1) <= 0).all()
    cleaned = np.asarray(one_pass.remove_repeats(jnp.asarray(own.tokens)))
    assert (cleaned != own.tokens).any()
    for row in range(len(LENGTHS)):
        assert {tuple(t) for t in cleaned[row]} == {tuple(t) for t in rescored.tokens[row]}
    np.testing.assert_array_equal(rescored.passes, own.passes + (np.array(LENGTHS) > 0))
    assert not rescored.tokens[4].any()
    assert np.isfinite(rescored.scores).all()


def test_rescoring_without_a_teacher_is_refused(model: IterativeRefinementModel) -> None:
    with pytest.raises(ValueError, match="needs a teacher to rescore with; got none"):
        model.decode(sentences(0, [3], 3), decoding=RESCORED, max_length=16)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="iterations of at least 1, got 0"):
        Refine(0)
    with pytest.raises(ConfigError, match="got n_best 3 and length_beam 2"):
        Refine(length_beam=2, n_best=3)
    with pytest.raises(ConfigError, match=r"got adaptive False and stop_distance 0\.1"):
        Refine(adaptive=False, stop_distance=0.1)
    with pytest.raises(ConfigError, match=r"from 0 to less than 1, .* got 1\.0"):
        Refine(stop_distance=1.0)
    with pytest.raises(ConfigError, match=r"at least 2, or .* learns nothing, got 1"):
        IterativeRefinement(training_iterations=1)
    with pytest.raises(ConfigError, match=r"corruption_probability must be from 0 to 1, got 1\.5"):
        IterativeRefinement(corruption_probability=1.5)


@pytest.mark.slow
def test_five_pairs_are_learned_by_heart(learn: Callable[..., Any]) -> None:
    """Beside a row without a sentence and a target without words."""
    graph, params = nnx.split(CONFIG.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    pairs = Batch(sentences(5, LENGTHS, 3), sentences(6, [2, 3, 4, 5, 0, 1, 6], 6))
    batch = jax.tree.map(lambda rows: jnp.repeat(rows, 4, axis=0), pairs)  # four draws a step

    def objective(params: nnx.State, key: jax.Array) -> jax.Array:
        return loss_of(params, graph, batch, nnx.Rngs(dropout=key)).objective

    params, history = learn(objective, params, jax.random.split(jax.random.key(0), 200))
    assert history[0] > 2.0
    assert history[-20:].mean() < 0.4  # with dropout, and with errors in what is read
    expected = np.where(pairs.target == EOS, PAD, pairs.target)
    expected = np.pad(expected, ((0, 0), (0, ROOM - 6)))[:, None]
    found = decode(nnx.merge(graph, params), pairs.source, ADAPTIVE)
    is_right = (found.tokens == expected).all(axis=-1).any(axis=-1)  # at one of the lengths
    np.testing.assert_array_equal(is_right, [1, 1, 1, 1, 1, 0, 1])
