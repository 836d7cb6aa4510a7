"""The prefix language model under the searches and the contract that it shares with the others."""

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
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.decoder_only import DecoderOnly, DecoderOnlyModel
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD
from nat_ar.types import Batch, Hypotheses
from toys import TINY

VOCABULARY = 14
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LENGTHS = [1, 2, 3, 4, 5, 4, 3, 2]
ROOM = limits.length_limit(5)
BEAM = Beam(3, n_best=3)
RAGGED = st.lists(st.integers(0, 5), min_size=8, max_size=8)
"""Lengths of eight sources, EOS counted; 0: no sentence."""


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model() -> DecoderOnlyModel:
    """Random, but with opinions: embeddings twice as large make peaked distributions."""
    model = DecoderOnly(TINY, label_smoothing=0.0).build(SIZES, rngs=nnx.Rngs(0))
    model.target_embedding.table[...] = 2.0 * model.target_embedding.table[...]
    return model


def decode(
    model: DecoderOnlyModel, source: jax.Array, decoding: Greedy | Beam, max_length: int = ROOM
) -> Hypotheses:
    return toys.decode(model, source, decoding, max_length)


@given(RAGGED, st.permutations(range(8)), st.integers(0, 99))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_company_padding_and_room_change_no_translation(
    model: DecoderOnlyModel, lengths: list[int], order: list[int], seed: int
) -> None:
    """The same sentences in another order, and each alone with wider padding and a larger max_length:
    target positions go on from the source's own length, not from its padded width."""
    decoding, source = BEAM, sentences(seed, lengths, 5)
    together = decode(model, source, decoding)
    elsewhere = decode(model, source[np.array(order)], decoding)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(elsewhere), strict=True):
        np.testing.assert_allclose(one[order], other, atol=1e-4)
    wider = jnp.pad(source, ((0, 0), (0, 4)), constant_values=PAD)
    alone = [decode(model, wider[i : i + 1], decoding, ROOM + 8) for i in range(8)]
    tokens = np.concatenate([found.tokens for found in alone])
    np.testing.assert_array_equal(tokens[..., :ROOM], together.tokens)
    assert not tokens[..., ROOM:].any()
    scores = np.concatenate([found.scores for found in alone])
    np.testing.assert_allclose(scores, together.scores, atol=1e-4)
    steps = np.concatenate([found.passes for found in alone])
    np.testing.assert_array_equal(steps, together.passes)
    written = (together.tokens != PAD).sum(axis=-1).max(axis=1)
    assert (written <= [limits.length_limit(length) if length else 0 for length in lengths]).all()


def test_beam_scores_are_those_of_score_and_of_the_teacher_forced_logits(
    model: DecoderOnlyModel,
) -> None:
    """Length penalty 1 in all: the mean log p of the tokens and EOS."""
    source = sentences(2, LENGTHS, 5)
    found = decode(model, source, BEAM)
    assert np.isfinite(found.scores).all()
    scores = jax.jit(model.score)(source, jnp.asarray(found.tokens))
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)
    best = np.pad(found.tokens[:, 0], ((0, 0), (0, 1)))
    lengths = (best != PAD).sum(axis=1)
    assert len(set(lengths.tolist())) > 2  # or the tests here say little
    best[np.arange(8), lengths] = EOS
    log_p = jax.nn.log_softmax(jax.jit(model.logits)(source, jnp.asarray(best)), axis=-1)
    chosen = np.take_along_axis(np.asarray(log_p), best[..., None], axis=-1)[..., 0]
    expected = np.where(best != PAD, chosen, 0.0).sum(axis=1) / (lengths + 1)
    np.testing.assert_allclose(found.scores[:, 0], expected, atol=1e-5)


def test_a_beam_of_one_is_greedy(model: DecoderOnlyModel) -> None:
    source = sentences(2, LENGTHS, 5)
    by_beam, greedy = decode(model, source, Beam(1)), decode(model, source, Greedy())
    np.testing.assert_array_equal(by_beam.tokens, greedy.tokens)
    np.testing.assert_array_equal(by_beam.passes, greedy.passes)


def test_a_row_without_a_sentence_decodes_to_nothing(model: DecoderOnlyModel) -> None:
    source = sentences(4, [3, 0, 5, 0, 0, 0, 0, 0], 5)
    for decoding in (BEAM, Greedy()):
        found = decode(model, source, decoding)
        assert not found.tokens[[1, 3]].any()
        assert not found.passes[[1, 3]].any()
        assert (found.passes[[0, 2]] > 0).all()


def test_a_causal_source_is_a_language_model_of_its_own() -> None:
    """Every source token but the first is predicted, from those before it only; the row of padding and
    wider padding change no loss."""
    config = DecoderOnly(TINY, source_attention="causal", source_loss_weight=0.5)
    model = config.build(SIZES, rngs=nnx.Rngs(0))
    batch = Batch(sentences(0, [5, 3, 4], 5), sentences(1, [6, 4, 5], 6))
    wider = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 1), (0, 3))), batch)

    @jax.jit
    def losses(*batches: Batch) -> list:
        return [model.loss(batch, step=jnp.int32(0), rngs=None) for batch in batches]

    narrow, wide = losses(batch, wider)
    assert float(narrow.objective) == pytest.approx(float(wide.objective), rel=1e-5)
    assert float(wide.terms["token"].count) == 6 + 4 + 5
    assert float(wide.terms["source"].count) == 4 + 2 + 3
    source_logits = jax.jit(lambda x: model.source_prediction(model.encode(x)).logits())
    other = batch.source.at[0, 2].set(NUM_SPECIAL + (batch.source[0, 2] - NUM_SPECIAL + 1) % 8)
    moved = np.abs(source_logits(other) - source_logits(batch.source)).max(axis=-1)
    assert not moved[0, :2].any()
    assert (moved[0, 2:] > 1e-4).all()


def test_vocabularies_may_differ() -> None:
    sizes = VocabularySizes(9, 12, is_joint=False)
    model = DecoderOnly(TINY, source_attention="causal").build(sizes, rngs=nnx.Rngs(0))
    source, target = sentences(0, [3, 2], 3), sentences(1, [4, 2], 4)
    assert jax.eval_shape(model.logits, source, target).shape == (2, 4, 12)
    logits = jax.eval_shape(lambda x: model.source_prediction(model.encode(x)).logits(), source)
    assert logits.shape == (2, 2, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source_loss_weight": 0.5},
            "set source_attention to 'causal' or source_loss_weight to 0",
        ),
        ({"source_loss_weight": -1.0}, "must not be below 0, got -1.0"),
        (
            {"transformer": TransformerConfig(dtype="bfloat16", implementation="cudnn")},
            "set transformer.implementation to 'xla'",
        ),
    ],
)
def test_impossible_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecoderOnly(**change)


@pytest.mark.slow
def test_eight_pairs_are_learned_by_heart(learn: Callable[..., Any]) -> None:
    config = DecoderOnly(TINY, label_smoothing=0.0)
    graph, params = nnx.split(config.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    batch = Batch(sentences(5, [5, 4, 3, 3, 5, 5, 4, 5], 5), sentences(6, LENGTHS, 5))

    def objective(params: nnx.State, step: jax.Array) -> jax.Array:
        return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None).objective

    params, history = learn(objective, params, jnp.arange(120))
    assert history[0] > 2.0
    assert history[-1] < 0.05
    found = decode(nnx.merge(graph, params), batch.source, Greedy())
    expected = np.where(batch.target == EOS, PAD, batch.target)
    np.testing.assert_array_equal(found.tokens[:, 0, :5], expected)
    assert not np.asarray(found.tokens[:, 0, 5:]).any()
