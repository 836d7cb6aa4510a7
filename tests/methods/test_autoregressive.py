"""The autoregressive model, and what one must know of autoregressive decoding: the parallel pass of
training and the cached steps of translating are one function, held together by the causal mask."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import toys
from nat_ar.losses import cross_entropy
from nat_ar.methods import left_to_right
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.methods.base import VocabularySizes
from nat_ar.search import limits
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.special_tokens import BOS, EOS, NUM_SPECIAL, PAD
from nat_ar.types import Batch, append_eos, lengths_of
from toys import TINY

VOCABULARY = 16
TRANSFORMER = dataclasses.replace(TINY, d_model=32, d_hidden=64)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model() -> AutoregressiveModel:
    """Random, but with opinions: embeddings three times as large make peaked distributions."""
    model = Autoregressive(TRANSFORMER, label_smoothing=0.0).build(SIZES, rngs=nnx.Rngs(0))
    model.target_embedding.table[...] = 3.0 * model.target_embedding.table[...]
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(sentences(0, [5, 3, 6], 6), sentences(1, [7, 4, 6], 7))


@pytest.fixture(scope="module")
def parallel(model: AutoregressiveModel, batch: Batch) -> np.ndarray:
    """Teacher-forced logits of all positions at once."""
    return np.asarray(jax.jit(model.logits)(batch.source, batch.target))


def test_decoder_inputs_are_the_target_one_place_later() -> None:
    target = jnp.array([[7, 8, EOS, PAD], [9, EOS, PAD, PAD]])
    np.testing.assert_array_equal(
        left_to_right.shift_right(target), [[BOS, 7, 8, EOS], [BOS, 9, EOS, PAD]]
    )


def test_eos_follows_the_last_token_of_every_row() -> None:
    np.testing.assert_array_equal(
        append_eos(jnp.array([[7, 8], [9, PAD], [PAD, PAD]])),
        [[7, 8, EOS], [9, EOS, PAD], [EOS, PAD, PAD]],
    )


def test_parallel_logits_equal_cached_steps(
    model: AutoregressiveModel, batch: Batch, parallel: np.ndarray
) -> None:
    encoded = jax.jit(model.encode)(batch.source)
    inputs = np.asarray(left_to_right.shift_right(batch.target))
    rows, length = inputs.shape

    @jax.jit
    def step(last: jax.Array, cache: list, position: jax.Array) -> tuple[jax.Array, list]:
        memory = model.decoder.memory(encoded)
        embedded = model.target_embedding(last)
        states, cache = model.decoder.step(embedded, cache, position, memory, encoded.lengths)
        return model.target_embedding.attend(states), cache

    cache = model.decoder.empty_cache(rows, 1, length)
    for position in range(length):
        last = jnp.asarray(inputs[:, position : position + 1])
        logits, cache = step(last, cache, jnp.int32(position))
        np.testing.assert_allclose(logits[:, 0], parallel[:, position], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_future_is_hidden_by_the_causal_mask_and_by_nothing_else(
    model: AutoregressiveModel, batch: Batch, is_causal: bool
) -> None:
    """Changes the token that position `changed` is to predict: the decoder reads it one later."""
    changed = 3

    @jax.jit
    def states(target: jax.Array) -> jax.Array:
        inputs = model.target_embedding(left_to_right.shift_right(target))
        return model.decoder(
            inputs, lengths_of(target), model.encode(batch.source), is_causal=is_causal
        )

    target = np.asarray(batch.target)
    other = target.copy()
    other[0, changed] = NUM_SPECIAL + (target[0, changed] - NUM_SPECIAL + 1) % 10
    difference = np.abs(np.asarray(states(jnp.asarray(other)) - states(batch.target))).max(axis=-1)
    assert (difference[0, changed + 1 :] > 1e-3).all()
    assert (difference[1:] == 0.0).all()
    if is_causal:
        assert (difference[0, : changed + 1] == 0.0).all()
    else:  # the leak: a model trained so would read its answers, and knows nothing when translating
        assert (difference[0, : changed + 1] > 1e-3).all()


@pytest.mark.slow
def test_training_step_by_step_gives_the_same_loss_at_several_times_the_cost(
    model: AutoregressiveModel, batch: Batch
) -> None:
    length = batch.target.shape[1]

    def at_once(batch: Batch) -> jax.Array:
        return model.loss(batch, step=jnp.int32(0), rngs=None).objective

    def step_by_step(batch: Batch) -> jax.Array:
        """The prefix goes through the decoder anew for every position, as without a causal mask."""
        encoded, inputs = model.encode(batch.source), left_to_right.shift_right(batch.target)
        logits = []
        for position in range(length):
            prefix = model.target_embedding(inputs[:, : position + 1])
            state = model.decoder(prefix, None, encoded, is_causal=True)[:, -1]
            logits.append(model.target_embedding.attend(state))
        mean, _ = cross_entropy.smoothed_cross_entropy(
            jnp.stack(logits, axis=1), batch.target, smoothing=0.0
        )
        return mean.value

    def compiled(function: Callable[[Batch], jax.Array]) -> tuple[float, float]:
        program = jax.jit(function).lower(batch).compile()
        return float(program(batch)), program.cost_analysis()["flops"]

    loss, cost = compiled(at_once)
    slow_loss, slow_cost = compiled(step_by_step)
    assert slow_loss == pytest.approx(loss, rel=1e-5)
    # The decoder reads 1 + 2 + ... + 7 = 28 positions instead of 7: 4 times its cost;
    # with the encoder and the projection, which both pay once, 2.55 times all.
    assert 2.0 < slow_cost / cost < 4.0


def test_the_loss_is_the_mean_log_probability_of_the_target_tokens(
    model: AutoregressiveModel, batch: Batch, parallel: np.ndarray
) -> None:
    loss = jax.jit(lambda batch: model.loss(batch, step=jnp.int32(0), rngs=None))(batch)
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(parallel), axis=-1))
    target = np.asarray(batch.target)
    chosen = np.take_along_axis(log_p, target[..., None], axis=-1)[..., 0][target != PAD]
    assert float(loss.terms["token"].count) == 7 + 4 + 6
    assert float(loss.objective) == pytest.approx(-chosen.mean(), rel=1e-5)


def test_a_row_without_a_sentence_changes_no_loss(model: AutoregressiveModel, batch: Batch) -> None:
    value = jax.jit(lambda batch: model.loss(batch, step=jnp.int32(0), rngs=None).objective)
    empty = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 2), (0, 3))), batch)
    assert float(value(empty)) == pytest.approx(float(value(batch)), rel=1e-5)


LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [Greedy(), Beam(3, n_best=3)])
def test_company_padding_and_room_change_no_translation(
    model: AutoregressiveModel, decoding: Greedy | Beam
) -> None:
    """The same sentence alone, among seven others, with wider padding, with a larger max_length."""
    source, max_length = sentences(2, LENGTHS, 8), limits.length_limit(8)
    wider = jnp.pad(source, ((0, 0), (0, 5)), constant_values=PAD)
    together = toys.decode(model, source, decoding, max_length)
    others = {
        "alone": [toys.decode(model, source[i : i + 1], decoding, max_length) for i in range(8)],
        "wider": [toys.decode(model, wider, decoding, max_length + 10)],
    }
    for name, parts in others.items():
        tokens = np.concatenate([part.tokens for part in parts])
        np.testing.assert_array_equal(tokens[..., :max_length], together.tokens, err_msg=name)
        assert not tokens[..., max_length:].any()
        scores = np.concatenate([part.scores for part in parts])
        np.testing.assert_allclose(scores, together.scores, atol=1e-5, err_msg=name)
        steps = np.concatenate([part.passes for part in parts])
        np.testing.assert_array_equal(steps, together.passes, err_msg=name)
    lengths = (together.tokens != PAD).sum(axis=-1)
    assert (lengths <= np.array([[limits.length_limit(n)] for n in LENGTHS])).all()
    assert len(np.unique(lengths)) > 2  # or the test says little


def test_beam_scores_are_those_of_score(model: AutoregressiveModel) -> None:
    """Length penalty 1 in both: the mean log p of the tokens and EOS."""
    source = sentences(3, LENGTHS, 8)
    found = toys.decode(model, source, Beam(3, n_best=3), 26)
    scores = jax.jit(model.score)(source, found.tokens)
    assert np.isfinite(found.scores).all()
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)


def test_score_counts_eos_and_divides_by_the_length(
    model: AutoregressiveModel, batch: Batch, parallel: np.ndarray
) -> None:
    """Hypotheses without EOS, the second of each row with a wrong first word; score adds the EOS."""
    target = np.asarray(batch.target)
    hypotheses = np.where(target == EOS, PAD, target)
    worse = hypotheses.copy()
    worse[:, 0] = NUM_SPECIAL + (worse[:, 0] - NUM_SPECIAL + 1) % 10
    candidates = jnp.asarray(np.stack([hypotheses, worse], axis=1))
    scores = np.asarray(jax.jit(model.score)(batch.source, candidates))
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(parallel), axis=-1))
    chosen = np.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
    expected = np.where(target != PAD, chosen, 0.0).sum(axis=1) / np.array([7, 4, 6])
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5)
    assert (np.abs(scores[:, 1] - scores[:, 0]) > 1e-4).all()


def test_a_row_without_a_sentence_decodes_to_nothing(model: AutoregressiveModel) -> None:
    source = sentences(4, [3, 0, 5, 0, 0, 0, 0, 0], 8)
    for decoding in (Greedy(), Beam(3, n_best=3)):
        found = toys.decode(model, source, decoding, 26)
        assert not found.tokens[[1, 3]].any()
        assert not found.passes[[1, 3]].any()
        assert (found.passes[[0, 2]] > 0).all()


@pytest.mark.slow
def test_eight_pairs_are_learned_by_heart(learn: Callable[..., Any]) -> None:
    config = Autoregressive(TRANSFORMER, label_smoothing=0.0)
    graph, params = nnx.split(config.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    batch = Batch(sentences(5, [5, 4, 6, 3, 6, 5, 4, 6], 6), sentences(6, LENGTHS, 8))

    def objective(params: nnx.State, step: jax.Array) -> jax.Array:
        return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None).objective

    params, history = learn(objective, params, jnp.arange(100))
    assert history[0] > 2.0
    assert history[-1] < 0.05
    found = toys.decode(nnx.merge(graph, params), batch.source, Greedy(), 26)
    expected = np.where(batch.target == EOS, PAD, batch.target)
    np.testing.assert_array_equal(found.tokens[:, 0, :8], expected)
    assert not np.asarray(found.tokens[:, 0, 8:]).any()
