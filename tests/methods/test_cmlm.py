"""Masks in training, mask-predict in decoding: with one pass it is the one-pass model."""

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
from nat_ar.methods import cmlm
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.cmlm import Cmlm, CmlmModel
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.search import limits
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.refinement import MaskPredict
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Batch, Hypotheses, Loss
from toys import TINY, SmallIds, one_width

VOCABULARY = 16
CONFIG = Cmlm(TINY, max_length_offset=5, label_smoothing=0.0)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LENGTHS = [1, 2, 3, 3, 0, 3, 2]  # of sources, EOS counted
ROOM = limits.length_limit(3)
ONE, FOUR = (MaskPredict(iterations, length_beam=2, n_best=2) for iterations in (1, 4))
TEN = MaskPredict(10, length_beam=1)
RESCORED = MaskPredict(4, length_beam=2, rescore=True, n_best=2)


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model() -> CmlmModel:
    """Doubled parameters make the words depend on each other more than a start of training does."""
    model = CONFIG.build(SIZES, rngs=nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda x: 2.0 * x, nnx.state(model, nnx.Param)))
    return model


def decode(
    model: CmlmModel | LengthNatModel,
    source: jax.Array,
    decoding: MaskPredict | LengthBeam,
    max_length: int = ROOM,
) -> Hypotheses:
    return toys.decode(model, source, decoding, max_length, scorer=SmallIds(), widths=one_width)


def loss_of(params: nnx.State, graph: nnx.GraphDef, batch: Batch, rngs: nnx.Rngs | None) -> Loss:
    return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=rngs)


@functools.partial(jax.jit, static_argnames="graph")
def certain_loss(graph: nnx.GraphDef, params: nnx.State, batch: Batch) -> Loss:
    return loss_of(params, graph, batch, None)


@functools.partial(jax.jit, static_argnames="graph")
def log_probabilities(
    graph: nnx.GraphDef, params: nnx.State, source: jax.Array, tokens: jax.Array
) -> jax.Array:
    """log p of every token at every place, given a target that holds masks."""
    model = nnx.merge(graph, params)
    lengths = (tokens != PAD).sum(axis=1)
    states = model.states(tokens, lengths, source, model.encode(source))
    return jax.nn.log_softmax(model.target_embedding.attend(states))


RAGGED = Batch(sentences(0, LENGTHS, 3), sentences(1, [4, 6, 2, 5, 0, 1, 1], ROOM))
WORDS = [3, 5, 1, 4, 0, 0, 0]  # of its targets: the last but two is none, and two are EOS alone


def test_any_number_of_masks_is_as_likely_and_so_is_any_place() -> None:
    """4 of the 4000 rows' 5 places hold a word: 1, 2, 3 or 4 of them are hidden, 2.5 on average."""
    lengths = jnp.asarray([4, 1, 0, 4] * 1000)
    masks = np.asarray(cmlm.random_masks(lengths, 5, jax.random.key(0)))
    assert masks[1::4, 0].all()
    assert not masks[1::4, 1:].any()
    assert not masks[2::4].any()
    hidden = np.concatenate([masks[::4], masks[3::4]])
    assert not hidden[:, 4].any()
    numbers = np.bincount(hidden.sum(axis=1), minlength=5)
    assert numbers[0] == 0
    np.testing.assert_allclose(numbers[1:] / 2000, 0.25, atol=0.04)
    np.testing.assert_allclose(hidden[:, :4].mean(axis=0), 2.5 / 4, atol=0.04)


@pytest.mark.slow
def test_without_rngs_every_word_is_hidden(model: CmlmModel) -> None:
    loss = certain_loss(*nnx.split(model, nnx.Param), RAGGED)
    assert float(loss.terms["token"].count) == sum(WORDS)
    assert float(loss.terms["masked"].value) == 1.0
    expected = float(loss.terms["token"].value) + 0.1 * float(loss.terms["length"].value)
    assert float(loss.objective) == pytest.approx(expected, rel=1e-6)
    nats = []
    for row, length in enumerate(WORDS):
        masks = jnp.array([[MASK] * length + [PAD] * (ROOM - length)])
        parts = nnx.split(model, nnx.Param)
        log_p = log_probabilities(*parts, RAGGED.source[row : row + 1], masks)[0]
        nats += [-float(log_p[i, RAGGED.target[row, i]]) for i in range(length)]
    assert float(loss.terms["token"].value) == pytest.approx(np.mean(nats), rel=1e-4)


def test_only_hidden_words_cost(model: CmlmModel) -> None:
    graph, params = nnx.split(model, nnx.Param)
    random_loss = jax.jit(lambda key: loss_of(params, graph, RAGGED, nnx.Rngs(dropout=key)))
    counts = set()
    for seed in range(8):
        loss = random_loss(jax.random.key(seed))
        assert loss.terms["token"].count == loss.terms["masked"].total
        assert loss.terms["masked"].count == sum(WORDS)
        assert jnp.isfinite(loss.objective)
        counts.add(float(loss.terms["token"].count))
    assert min(counts) >= 4  # one of each sentence at least
    assert len(counts) > 2


def test_padding_and_empty_rows_change_no_loss(model: CmlmModel) -> None:
    wider = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 2), (0, 4))), RAGGED)
    expected, found = (
        float(certain_loss(*nnx.split(model, nnx.Param), batch).objective)
        for batch in (RAGGED, wider)
    )
    assert found == pytest.approx(expected, rel=1e-5)


class FromMasks(LengthNatModel):
    """The one-pass model, with masks for copies of the source."""

    def decoder_inputs(
        self, source: Any, encoded: Any, target_lengths: jax.Array, width: int, shown: None = None
    ) -> jax.Array:
        return self.target_embedding(jnp.full((len(target_lengths), width), MASK))


def test_with_one_pass_it_is_the_one_pass_model(model: CmlmModel) -> None:
    """The parameters of the one are those of the other, and so are two translations of each row."""
    config = LengthNat(TINY, max_length_offset=5)
    one_pass = FromMasks(config, SIZES, rngs=nnx.Rngs(1))
    nnx.update(one_pass, nnx.state(model, nnx.Param))
    source = sentences(2, LENGTHS, 3)
    expected = decode(one_pass, source, LengthBeam(2, n_best=2))
    found = decode(model, source, ONE)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    np.testing.assert_array_equal(found.passes, expected.passes)
    assert len(np.unique((found.tokens != PAD).sum(axis=-1))) > 3  # or equality says little


def mask_predict_by_hand(
    model: CmlmModel, source: jax.Array, length: int, iterations: int
) -> tuple[list[int], float, int]:
    """Words, mean log p and passes of one sentence at one length."""
    words, gains, passes = [MASK] * length, np.zeros(length), 0
    for iteration in range(iterations):
        number = length * (iterations - iteration) // iterations
        hidden = np.argsort(gains, kind="stable")[:number]
        if not number:
            break
        passes += 1
        for place in hidden:
            words[place] = MASK
        tokens = jnp.array([words + [PAD] * (ROOM - length)])
        log_p = log_probabilities(*nnx.split(model, nnx.Param), source[None], tokens)
        log_p = np.array(log_p)[0]
        allowed = np.delete(np.arange(VOCABULARY), [PAD, BOS, EOS, MASK, BLANK])
        for place in hidden:
            words[place] = int(allowed[log_p[place, allowed].argmax()])
            gains[place] = log_p[place, words[place]]
    return words, float(gains.mean()), passes


@pytest.mark.parametrize("decoding", [FOUR, TEN])
def test_each_pass_hides_and_predicts_fewer_words(model: CmlmModel, decoding: MaskPredict) -> None:
    """A loop in Python over each row's best lengths, with the same parameters for 4 passes and for 10."""
    source = sentences(2, LENGTHS, 3)
    found = decode(model, source, decoding)
    best = jax.jit(
        lambda source: model.length_predictor.best(
            model.encode(source), decoding.length_beam, max_length=100
        )
    )
    lengths = best(source)
    num_changed, num_passes = 0, set()
    for row in np.flatnonzero(LENGTHS):
        by_hand = [
            mask_predict_by_hand(model, source[row], int(length), decoding.iterations)
            for length in lengths[row]
        ]
        at_once, _, _ = mask_predict_by_hand(model, source[row], int(lengths[row, 0]), 1)
        num_changed += at_once != by_hand[0][0]
        num_passes |= {passes for _, _, passes in by_hand}
        by_hand.sort(key=lambda candidate: -candidate[1])
        for place, (words, score, _) in enumerate(by_hand):
            expected = words + [PAD] * (ROOM - len(words))
            np.testing.assert_array_equal(found.tokens[row, place], expected)
            assert found.scores[row, place] == pytest.approx(score, abs=1e-5)
        assert found.passes[row] == max(passes for _, _, passes in by_hand)
    assert num_changed > 1  # or the later passes would not show
    assert len(num_passes) > 1


@settings(max_examples=8, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 3), min_size=7, max_size=7), seed=st.integers(0, 10_000))
def test_company_padding_and_room_change_no_translation(
    model: CmlmModel, lengths: list[int], seed: int
) -> None:
    """The same sentence among six others, and alone with wider padding and a larger max_length."""
    source = sentences(seed, lengths, 3)
    wider = jnp.pad(source, ((0, 0), (0, 5)), constant_values=PAD)
    together = decode(model, source, FOUR)
    alone = [decode(model, wider[i : i + 1], FOUR, ROOM + 2) for i in range(7)]
    tokens = np.concatenate([part.tokens for part in alone])
    np.testing.assert_array_equal(tokens[..., :ROOM], together.tokens)
    assert not tokens[..., ROOM:].any()
    scores = np.concatenate([part.scores for part in alone])
    np.testing.assert_allclose(scores, together.scores, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([part.passes for part in alone]), together.passes)
    assert (np.diff(together.scores, axis=1) <= 0).all()
    assert not np.isin(together.tokens, [BOS, EOS, MASK, BLANK]).any()
    np.testing.assert_array_equal(together.tokens.any(axis=(1, 2)), np.array(lengths) > 0)


def test_a_row_without_a_sentence_decodes_to_nothing(model: CmlmModel) -> None:
    found = decode(model, sentences(2, LENGTHS, 3), RESCORED)
    assert not found.tokens[4].any()
    assert found.passes[4] == 0
    assert np.isfinite(found.scores).all()


def test_rescoring_orders_the_same_candidates_by_the_scorer(model: CmlmModel) -> None:
    source = sentences(2, LENGTHS, 3)
    rescored, own = (decode(model, source, d) for d in (RESCORED, FOUR))
    np.testing.assert_array_equal(rescored.scores, -rescored.tokens.sum(axis=-1))
    assert (np.diff(rescored.scores, axis=1) <= 0).all()
    assert (rescored.tokens[:, 0] != own.tokens[:, 0]).any()
    for row in range(len(LENGTHS)):
        assert {tuple(t) for t in own.tokens[row]} == {tuple(t) for t in rescored.tokens[row]}
    np.testing.assert_array_equal(rescored.passes, own.passes + (np.array(LENGTHS) > 0))


def test_rescoring_without_a_teacher_is_refused(model: CmlmModel) -> None:
    with pytest.raises(ValueError, match="needs a teacher to rescore with; got none"):
        model.decode(sentences(0, [3], 3), decoding=RESCORED, max_length=16)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="iterations of at least 1, got 0"):
        MaskPredict(0)
    with pytest.raises(ConfigError, match="got n_best 3 and length_beam 2"):
        MaskPredict(length_beam=2, n_best=3)


@pytest.mark.slow
def test_five_pairs_are_learned_by_heart(learn: Callable[..., Any]) -> None:
    """From masks drawn anew in every step, beside a row without a sentence and a target without words;
    translated in 1, 4 and 10 passes with the same parameters."""
    graph, params = nnx.split(CONFIG.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    pairs = Batch(sentences(5, LENGTHS, 3), sentences(6, [2, 3, 4, 5, 0, 1, 6], 6))
    batch = jax.tree.map(lambda rows: jnp.repeat(rows, 4, axis=0), pairs)  # four draws a step

    def objective(params: nnx.State, key: jax.Array) -> jax.Array:
        return loss_of(params, graph, batch, nnx.Rngs(dropout=key)).objective

    params, history = learn(objective, params, jax.random.split(jax.random.key(0), 200))
    assert history[0] > 2.0
    assert history[-20:].mean() < 0.2
    expected = np.where(pairs.target == EOS, PAD, pairs.target)
    expected = np.pad(expected, ((0, 0), (0, ROOM - 6)))[:, None]
    for decoding in (ONE, FOUR, TEN):
        found = decode(nnx.merge(graph, params), pairs.source, decoding)
        is_right = (found.tokens == expected).all(axis=-1).any(axis=-1)  # at one of the lengths
        np.testing.assert_array_equal(is_right, [1, 1, 1, 1, 1, 0, 1])
