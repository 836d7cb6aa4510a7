"""The one-pass model with length prediction: all words at once, as many as a classifier says."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import toys
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.losses.axe import Axe
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods import length_prediction
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.search import limits, one_pass
from nat_ar.search.candidates import Ladder
from nat_ar.search.one_pass import LengthBeam
from nat_ar.special_tokens import BLANK, EOS, PAD, UNK
from nat_ar.types import Batch, Hypotheses, Prediction
from toys import TINY, one_width

VOCABULARY = 16
TRANSFORMER = dataclasses.replace(TINY, d_model=32, d_hidden=64)
SOFT = LengthNat(TRANSFORMER, label_smoothing=0.0)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LENGTHS = [1, 2, 3, 3, 2, 3, 3, 2]  # of sources, EOS counted
ROOM = limits.length_limit(3)
DECODINGS = {
    "one": LengthBeam(1, length_multiplier=1.5),
    "three": LengthBeam(3, n_best=3),
    "rescored": LengthBeam(3, rescore=True, n_best=3),
}


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model() -> LengthNatModel:
    """With Gu's options where a mistake would let padding or a neighbour in."""
    config = LengthNat(
        TRANSFORMER,
        copy="uniform",
        sees_itself=False,
        max_length_offset=5,
        label_smoothing=0.0,
    )
    return config.build(SIZES, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def teacher() -> AutoregressiveModel:
    return Autoregressive(TRANSFORMER).build(SIZES, rngs=nnx.Rngs(1))


def decode(
    model: LengthNatModel,
    teacher: AutoregressiveModel,
    source: jax.Array,
    decoding: LengthBeam,
    max_length: int = ROOM,
    widths: Ladder = limits.width_ladder,
) -> Hypotheses:
    return toys.decode(model, source, decoding, max_length, scorer=teacher, widths=widths)


def lengths_of(tokens: np.ndarray) -> np.ndarray:
    return (tokens != PAD).sum(axis=-1)


def test_the_loss_counts_words_without_eos_and_sentences(model: LengthNatModel) -> None:
    batch = Batch(sentences(0, [5, 3, 0], 6), sentences(1, [4, 6, 0], 7))
    loss = jax.jit(lambda batch: model.loss(batch, step=jnp.int32(0), rngs=None))(batch)
    assert float(loss.terms["token"].count) == 3 + 5
    assert float(loss.terms["length"].count) == 2
    expected = float(loss.terms["token"].value) + 0.1 * float(loss.terms["length"].value)
    assert float(loss.objective) == pytest.approx(expected, rel=1e-6)


def test_padding_and_empty_rows_change_no_loss(model: LengthNatModel) -> None:
    objective = jax.jit(lambda batch: model.loss(batch, step=jnp.int32(0), rngs=None).objective)
    batch = Batch(sentences(0, [5, 3, 2], 6), sentences(1, [4, 6, 2], 7))  # a target of one word
    wider = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 2), (0, 4))), batch)
    assert float(objective(wider)) == pytest.approx(float(objective(batch)), rel=1e-5)


def test_length_classes_are_offsets_to_the_source_and_the_outermost_catch_the_rest() -> None:
    """A head that always says class c (of -2 ... 2) costs nothing where the offset is c - 2."""
    config = LengthNat(TRANSFORMER, max_length_offset=2)
    model = config.build(SIZES, rngs=nnx.Rngs(0))
    model.length_predictor.head.kernel[...] = jnp.zeros((32, 5))
    source = sentences(0, [5], 5)

    @jax.jit
    def length_loss(params: nnx.State, target: jax.Array) -> jax.Array:
        loss = nnx.merge(graph, params).loss(Batch(source, target), step=jnp.int32(0), rngs=None)
        return loss.terms["length"].value

    for class_id in range(5):
        bias = 100.0 * (np.arange(5) == class_id)
        model.length_predictor.head.bias[...] = jnp.asarray(bias, jnp.float32)
        graph, params = nnx.split(model, nnx.Param)
        for target_length, said in [(2, 0), (3, 1), (4, 2), (5, 3), (6, 4), (1, 0), (9, 4)]:
            target = sentences(1, [target_length + 1], 10)
            assert (float(length_loss(params, target)) < 1.0) == (class_id == said)


def test_one_pass_tokens_by_hand() -> None:
    """The best word of each place inside the length; no special token, however probable."""
    logits = np.zeros((1, 3, 8), np.float32)
    logits[0, :, EOS] = 9.0
    logits[0, 0, 7] = logits[0, 1, UNK] = logits[0, 2, 6] = 5.0
    tokens, score = one_pass.one_pass_tokens(jnp.asarray(logits), jnp.array([2]))
    np.testing.assert_array_equal(tokens, [[7, UNK, PAD]])
    one = 5.0 - np.log(np.exp(9.0) + np.exp(5.0) + 6.0)  # log p of each word, over all 8 tokens
    assert float(score[0]) == pytest.approx(one, rel=1e-5)


def test_blanks_are_dropped_and_equal_neighbours_stay() -> None:
    """Places say 7, BLANK, 7, 6, BLANK and past the length 6; all of them count for the mean log p."""
    said = np.array([[7, BLANK, 7, 6, BLANK, 6]])
    logits = jnp.asarray(5.0 * (said[..., None] == np.arange(8)))
    tokens, score = one_pass.one_pass_tokens(logits, jnp.array([5]), may_be_blank=True)
    np.testing.assert_array_equal(tokens, [[7, 7, 6, PAD, PAD, PAD]])
    assert float(score[0]) == pytest.approx(5.0 - math.log(math.exp(5.0) + 7.0), rel=1e-5)
    tokens, _ = one_pass.one_pass_tokens(logits, jnp.array([5]))
    assert BLANK not in np.asarray(tokens)


def test_the_width_ladder_equals_decoding_at_full_width(
    model: LengthNatModel, teacher: AutoregressiveModel
) -> None:
    source, decoding = sentences(2, LENGTHS, 3), DECODINGS["three"]
    by_ladder = decode(model, teacher, source, decoding)
    assert lengths_of(by_ladder.tokens).max() <= 8 < ROOM  # the narrowest width was enough
    in_full = decode(model, teacher, source, decoding, widths=one_width)
    np.testing.assert_array_equal(by_ladder.tokens, in_full.tokens)
    np.testing.assert_allclose(by_ladder.scores, in_full.scores, atol=1e-5)
    np.testing.assert_array_equal(by_ladder.passes, in_full.passes)


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [DECODINGS["one"], DECODINGS["rescored"]])
def test_company_padding_and_room_change_no_translation(
    model: LengthNatModel, teacher: AutoregressiveModel, decoding: LengthBeam
) -> None:
    """The same sentence alone, and among seven others with wider padding and a larger max_length."""
    source = sentences(2, LENGTHS, 3)
    wider = jnp.pad(source, ((0, 0), (0, 5)), constant_values=PAD)
    together = decode(model, teacher, source, decoding)
    others = {
        "alone": [decode(model, teacher, source[i : i + 1], decoding) for i in range(8)],
        "wider": [decode(model, teacher, wider, decoding, ROOM + 2)],
    }
    for name, parts in others.items():
        tokens = np.concatenate([part.tokens for part in parts])
        np.testing.assert_array_equal(tokens[..., :ROOM], together.tokens, err_msg=name)
        assert not tokens[..., ROOM:].any()
        scores = np.concatenate([part.scores for part in parts])
        np.testing.assert_allclose(scores, together.scores, atol=1e-5, err_msg=name)
        steps = np.concatenate([part.passes for part in parts])
        np.testing.assert_array_equal(steps, together.passes, err_msg=name)
    assert len(np.unique(lengths_of(together.tokens))) > 2  # or the test says little
    assert (np.diff(together.scores, axis=1) <= 0).all()
    np.testing.assert_array_equal(together.passes, 2 if decoding.rescore else 1)


def test_a_length_beam_tries_different_lengths_within_the_limit(
    model: LengthNatModel, teacher: AutoregressiveModel
) -> None:
    """Offsets of -5 ... 5 to sources of 0 to 2 words: those below one word are no candidates."""
    source = sentences(2, LENGTHS, 3)
    lengths = lengths_of(decode(model, teacher, source, DECODINGS["three"]).tokens)
    for row, of_source in zip(lengths, LENGTHS, strict=True):
        assert len(set(row.tolist())) == 3
        assert 1 <= row.min() <= row.max() <= limits.length_limit(of_source)


def test_the_length_multiplier_makes_translations_longer(
    model: LengthNatModel, teacher: AutoregressiveModel
) -> None:
    source = sentences(2, LENGTHS, 3)
    lengths = lengths_of(decode(model, teacher, source, DECODINGS["one"]).tokens)
    predicted = jax.jit(
        lambda: model.length_predictor.best(model.encode(source), 1, max_length=100)
    )()
    expected = length_prediction.stretch(
        predicted, lengths_of(source), multiplier=1.5, max_length=100
    )
    np.testing.assert_array_equal(lengths, expected)
    assert (lengths > predicted).any()


def test_lengths_that_the_limit_forbids_are_not_chosen(teacher: AutoregressiveModel) -> None:
    """The head says offset 64 always; a source of n tokens may become 2 n + 10 long."""
    model = SOFT.build(SIZES, rngs=nnx.Rngs(0))
    model.length_predictor.head.kernel[...] = jnp.zeros((32, 129))
    model.length_predictor.head.bias[...] = jnp.asarray(np.arange(129), jnp.float32)
    source = sentences(2, [1, 2, 3, 4, 5, 6, 0, 0], 6)
    found = decode(model, teacher, source, LengthBeam(1), 22)
    np.testing.assert_array_equal(lengths_of(found.tokens[:, 0]), [12, 14, 16, 18, 20, 22, 0, 0])


def test_rescoring_scores_are_the_teachers(
    model: LengthNatModel, teacher: AutoregressiveModel
) -> None:
    source = sentences(2, LENGTHS, 3)
    rescored = decode(model, teacher, source, DECODINGS["rescored"])
    expected = jax.jit(teacher.score)(source, jnp.asarray(rescored.tokens))
    np.testing.assert_allclose(rescored.scores, expected, atol=1e-5)
    own = decode(model, teacher, source, DECODINGS["three"])
    for row in range(8):  # the same candidates, ordered by another judge
        assert {tuple(t) for t in own.tokens[row]} == {tuple(t) for t in rescored.tokens[row]}


def test_rescoring_without_a_teacher_is_refused(model: LengthNatModel) -> None:
    with pytest.raises(ValueError, match="needs a teacher to rescore with; got none"):
        model.decode(sentences(0, [3], 3), decoding=LengthBeam(2, rescore=True), max_length=16)


def test_a_row_without_a_sentence_decodes_to_nothing(
    model: LengthNatModel, teacher: AutoregressiveModel
) -> None:
    source = sentences(4, [3, 0, 2, 0, 0, 0, 0, 0], 3)
    for decoding in DECODINGS.values():
        found = decode(model, teacher, source, decoding)
        assert not found.tokens[[1, 3]].any()
        np.testing.assert_array_equal(found.passes[1::2], 0)
        assert np.isfinite(found.scores).all()


@pytest.mark.parametrize(("size", "n_best"), [(0, 1), (2, 0), (2, 3)])
def test_impossible_settings_are_refused(size: int, n_best: int) -> None:
    with pytest.raises(ConfigError, match=f"got n_best {n_best} and size {size}"):
        LengthBeam(size=size, n_best=n_best)


def test_impossible_combinations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"length_multiplier must be at least 1, got 0\.9"):
        LengthBeam(length_multiplier=0.9)
    for token_loss in (Axe(), Oaxe()):
        with pytest.raises(ConfigError, match=f"got {type(token_loss).__name__}; set glancing"):
            LengthNat(token_loss=token_loss, glancing=Glancing())
    on_gpu = dataclasses.replace(TRANSFORMER, implementation="cudnn", dtype="bfloat16")
    with pytest.raises(ConfigError, match="cannot hide a position from itself"):
        LengthNat(on_gpu, sees_itself=False)


WORDS = jnp.array([[6, 7, 8, 6], [8, 7, 6, PAD], [7, PAD, PAD, PAD], [PAD] * 4])
NUM_WORDS = [4, 3, 1, 0]
LOGITS = np.random.default_rng(7).normal(0.0, 2.0, (4, 4, 9))
HALVED = Oaxe(start_step=100, anneal_steps=200, truncation_margin=0.0)
"""Weight of the plain cross entropy: 1 up to step 100, 1/2 at 200, 0 from 300 on."""


@functools.partial(jax.jit, static_argnames=("config", "smoothing"))
def option_loss(
    logits: jax.Array,
    target: jax.Array,
    config: Axe | Oaxe,
    step: jax.Array,
    smoothing: float = 0.1,
) -> tuple[jax.Array, dict, jax.Array]:
    """Objective, terms, and the objective's gradient."""

    def objective(logits: jax.Array) -> tuple[jax.Array, dict]:
        prediction = Prediction(logits, jnp.eye(logits.shape[-1]))
        return config(prediction, target, step=step, smoothing=smoothing)

    (value, terms), gradient = jax.value_and_grad(objective, has_aux=True)(logits)
    return value, terms, gradient


def uniform_nats() -> float:
    """Mean cost, over the places of LOGITS with a word, of a uniform target."""
    costs = np.log(np.exp(LOGITS).sum(axis=-1)) - LOGITS.mean(axis=-1)
    return float(costs[np.asarray(WORDS) != PAD].mean())


@pytest.mark.parametrize(("step", "weight"), [(100, 1.0), (200, 0.5), (300, 0.0)])
def test_the_order_agnostic_loss_takes_the_best_of_all_orders(step: int, weight: float) -> None:
    value, terms, _ = option_loss(jnp.float32(LOGITS), WORDS, HALVED, jnp.int32(step))
    costs = np.log(np.exp(LOGITS).sum(axis=-1, keepdims=True)) - LOGITS
    in_place = in_order = 0.0
    for row, length in enumerate(NUM_WORDS):
        orders = itertools.permutations(np.asarray(WORDS)[row, :length].tolist())
        paid = [sum(costs[row, place, word] for place, word in enumerate(o)) for o in orders]
        in_place, in_order = in_place + paid[0], in_order + min(paid)
    in_place, in_order = in_place / 8, in_order / 8
    assert in_order < in_place - 0.5  # or the test says little
    mixed = weight * in_place + (1.0 - weight) * in_order
    assert float(value) == pytest.approx(0.9 * mixed + 0.1 * uniform_nats(), rel=1e-5)
    assert float(terms["in_place"].value) == pytest.approx(in_place, rel=1e-5)
    found = in_place if weight == 1.0 else in_order
    assert float(terms["token"].value) == pytest.approx(found, rel=1e-5)


def test_words_that_no_place_finds_probable_are_left_out() -> None:
    """Places say 7 and, with probability 0.1 only, 6; the target is 6 7."""
    probability = np.full((1, 3, 8), 0.05)
    probability[0, 0, 7], probability[0, 1, 6], probability[0, 1, 0] = 0.65, 0.1, 0.6
    logits, target = jnp.log(jnp.asarray(probability, jnp.float32)), jnp.array([[6, 7, PAD]])
    config = Oaxe(anneal_steps=1, truncation_margin=0.15)
    value, terms, gradient = option_loss(logits, target, config, jnp.int32(1), smoothing=0.0)
    assert float(value) == pytest.approx(-math.log(0.65) / 2, rel=1e-5)
    assert float(terms["left_out"].value) == 0.5
    expected = (-math.log(0.65) - math.log(0.1)) / 2
    assert float(terms["token"].value) == pytest.approx(expected, rel=1e-5)
    assert np.abs(np.asarray(gradient)).sum(axis=-1)[0, 0] > 0.1
    assert not np.asarray(gradient)[0, 1:].any()


def test_aligned_cross_entropy_is_counted_by_words() -> None:
    """AXE by itself is in tests/losses; row 0 here says the word before, after a BLANK."""
    logits = LOGITS.copy()
    logits[0, np.arange(4), [BLANK, 6, 7, 8]] += 20.0
    logits[:, :, BLANK] -= np.where(np.arange(4)[:, None] == 0, 0.0, 50.0)
    _, terms, _ = option_loss(jnp.float32(logits), WORDS, Axe(), jnp.int32(0))
    assert float(terms["blank"].total) == 1.0
    assert float(terms["blank"].count) == float(terms["token"].count) == 8.0
    value, terms, _ = option_loss(jnp.float32(LOGITS), WORDS, Axe(), jnp.int32(0))
    expected = 0.9 * float(terms["token"].value) + 0.1 * uniform_nats()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    plain = cross_entropy.smoothed_cross_entropy(jnp.float32(LOGITS), WORDS, smoothing=0.0)[0]
    assert float(terms["token"].value) < float(plain.value)


@pytest.mark.parametrize("config", [Axe(2.0), HALVED])
def test_gradients_equal_finite_differences(config: Axe | Oaxe) -> None:
    """Both parts of the order-agnostic loss, and padding and an empty row that get no gradient."""
    direction, step = np.random.default_rng(8).normal(size=LOGITS.shape), jnp.int32(200)
    _, _, gradient = option_loss(jnp.float32(LOGITS), WORDS, config, step)
    above, below = (
        option_loss(jnp.float32(LOGITS + change * direction), WORDS, config, step)[0]
        for change in (0.01, -0.01)
    )
    slope = float(above - below) / 0.02
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-3)
    has_gradient = np.abs(np.asarray(gradient)).sum(axis=-1) > 0
    np.testing.assert_array_equal(has_gradient, np.asarray(WORDS) != PAD)


@pytest.mark.parametrize("config", [Axe(), HALVED])
def test_padding_changes_no_option_and_no_words_cost_nothing(config: Axe | Oaxe) -> None:
    logits, target = jnp.float32(LOGITS), WORDS
    value, terms, _ = option_loss(logits, target, config, jnp.int32(200))
    wider = jnp.pad(logits, ((0, 1), (0, 2), (0, 0)), constant_values=9.0)
    padded = jnp.pad(target, ((0, 1), (0, 2)))
    found, found_terms, _ = option_loss(wider, padded, config, jnp.int32(200))
    assert float(found) == pytest.approx(float(value), rel=1e-5)
    for name, term in terms.items():
        assert float(found_terms[name].value) == pytest.approx(float(term.value), rel=1e-5)
    nothing, _, gradient = option_loss(logits, jnp.zeros_like(target), config, jnp.int32(200))
    assert float(nothing) == 0.0
    assert not np.asarray(gradient).any()


@pytest.mark.slow
@pytest.mark.parametrize("token_loss", [CrossEntropy(), Oaxe(20, anneal_steps=40)])
def test_eight_pairs_are_learned_by_heart(
    token_loss: CrossEntropy | Oaxe, teacher: AutoregressiveModel
) -> None:
    """Without regard to order too, once the plain cross entropy has brought the words to their places."""
    config = dataclasses.replace(SOFT, token_loss=token_loss)
    model = config.build(SIZES, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    batch = Batch(
        sentences(5, [5, 4, 6, 3, 6, 5, 4, 6], 6), sentences(6, [2, 3, 4, 5, 6, 7, 8, 8], 8)
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 100))

    @jax.jit
    def train(params: nnx.State) -> tuple[nnx.State, list[jax.Array]]:
        def objective(params: nnx.State, step: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
            loss = nnx.merge(graph, params).loss(batch, step=step, rngs=None)
            in_place = loss.terms.get("in_place", loss.terms["token"])
            return loss.objective, [loss.objective, in_place.value]

        def update(state: tuple, step: jax.Array) -> tuple[tuple, list[jax.Array]]:
            params, moments = state
            gradients, numbers = jax.grad(objective, has_aux=True)(params, step)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), numbers

        start = (params, optimizer.init(params))
        (params, _), history = jax.lax.scan(update, start, jnp.arange(100))
        return params, history

    params, history = train(params)
    for numbers in history:
        assert numbers[0] > 2.0
        assert numbers[-1] < 0.1
    if isinstance(token_loss, Oaxe):
        return  # it translates as any other
    found = decode(nnx.merge(graph, params), teacher, batch.source, LengthBeam(1), 22)
    expected = np.where(batch.target == EOS, PAD, batch.target)
    np.testing.assert_array_equal(found.tokens[:, 0, :8], expected)
    assert not found.tokens[:, 0, 8:].any()
