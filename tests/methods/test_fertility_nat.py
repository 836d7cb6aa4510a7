"""The fertility model: copies, limits, losses, decodings and fine-tuning, on models of a few thousand
parameters."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import distillation
from nat_ar.losses.ngram_matching import BagOfNgrams
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.fertility_prediction import FineTuning
from nat_ar.methods.glancing import Glancing
from nat_ar.nn.attention import SelfAttention
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import fertility, limits
from nat_ar.search.fertility import Argmax, Average, NoisyParallel
from nat_ar.special_tokens import EOS, PAD, UNK
from nat_ar.types import Batch, Hypotheses, Loss
from toys import TINY

SIZES = base.VocabularySizes(source=30, target=30, is_joint=True)
SHORT = dataclasses.replace(TINY, max_length=64)
CONFIG = FertilityNat(transformer=SHORT, max_fertility=10)
SOURCE = np.array([[7, 8, EOS], [12, EOS, PAD], [14, 15, EOS], [PAD, PAD, PAD]], np.int32)
FERTILITIES = np.array([[3, 2, 0], [2, 0, 0], [0, 3, 0], [0, 0, 0]], np.int32)
TARGET = np.array(
    [
        [20, 21, 22, 23, 24, EOS],
        [25, 26, EOS, PAD, PAD, PAD],
        [27, 28, 29, EOS, PAD, PAD],
        [PAD, PAD, PAD, PAD, PAD, PAD],
    ],
    np.int32,
)
BATCH = Batch(jnp.asarray(SOURCE), jnp.asarray(TARGET), jnp.asarray(FERTILITIES))
STEP = jnp.int32(0)


@functools.cache
def graphdef_of(config: Any) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: config.build(SIZES, rngs=nnx.Rngs(0))))


def params_of(config: Any, seed: int) -> Any:
    """Random parameters, by one program instead of one for each array."""
    return jax.jit(lambda: nnx.state(config.build(SIZES, rngs=nnx.Rngs(seed)), nnx.Param))()


def merge(config: Any, params: Any) -> Any:
    return nnx.merge(graphdef_of(config), params)


TEACHER_CONFIG = Autoregressive(transformer=SHORT)


@pytest.fixture(scope="module")
def params() -> Any:
    return params_of(CONFIG, 0)


@pytest.fixture(scope="module")
def teacher_params() -> Any:
    return params_of(TEACHER_CONFIG, 1)


def changed(params: Any, **values: Any) -> Any:
    """The same parameters but for some, named like target_embedding__table."""
    model = nnx.clone(merge(CONFIG, params))
    for name, value in values.items():
        *modules, leaf = name.split("__")
        getattr(functools.reduce(getattr, modules, model), leaf)[...] = jnp.asarray(
            value, jnp.float32
        )
    return nnx.state(model, nnx.Param)


@functools.cache
def decoder_of(config: FertilityNat, decoding: Any, max_length: int) -> Callable[..., Hypotheses]:
    @jax.jit
    def run(params: Any, source: jax.Array, teacher_params: Any) -> Hypotheses:
        scorer = None if teacher_params is None else merge(TEACHER_CONFIG, teacher_params)
        return merge(config, params).decode(
            source, decoding=decoding, max_length=max_length, scorer=scorer
        )

    return run


def decode(
    params: Any,
    source: np.ndarray,
    decoding: Any,
    teacher_params: Any = None,
    *,
    config: FertilityNat = CONFIG,
    max_length: int = 16,
) -> Hypotheses:
    """Sources of up to 3 tokens have translations of up to 16; compiled once for each shape."""
    run = decoder_of(config, decoding, max_length)
    return jax.device_get(run(params, jnp.asarray(source), teacher_params))


@functools.cache
def loss_of(config: FertilityNat) -> Callable[..., Loss]:
    @jax.jit
    def run(params: Any, batch: Batch, teacher_params: Any = None) -> Loss:
        teacher = None if teacher_params is None else merge(TEACHER_CONFIG, teacher_params)
        return merge(config, params).loss(batch, step=STEP, rngs=None, teacher=teacher)

    return run


# Limits and roundings, by hand


def test_average_rounds_the_expected_fertility() -> None:
    # 0 or 3 with p = 0.4, 0.6: 1.8 -> 2; 0 or 1 with 0.7, 0.3: 0.3 -> 0; sure of 3.
    probabilities = jnp.array([[[0.4, 0, 0, 0.6], [0.7, 0.3, 0, 0], [0, 0, 0, 1.0]]])
    logits = jnp.log(probabilities + 1e-12)
    source = jnp.array([[7, 8, 9]])
    average = Average().search(logits, source)
    assert average.tolist() == [[[2, 0, 3]]]
    argmax = Argmax().search(logits, source)
    assert argmax.tolist() == [[[3, 0, 3]]]


def test_fertilities_are_trimmed_from_the_end_and_absent_on_eos_and_padding() -> None:
    source = jnp.array([[7, 8, 9, EOS], [10, 11, EOS, PAD]])
    wanted = jnp.array([[[3, 1, 3, 3], [1, 1, 1, 3]], [[3, 3, 3, 3], [0, 1, 2, 3]]])
    within = jax.jit(fertility.within_limits)
    found = within(wanted, jnp.zeros((2, 4, 5)), source, jnp.array([5, 4]))
    assert found[0].tolist() == [[3, 1, 1, 0], [1, 1, 1, 0]]
    assert found[1].tolist() == [[3, 1, 0, 0], [0, 1, 0, 0]]


def test_a_sentence_without_any_word_gets_one_from_its_likeliest_token() -> None:
    source = jnp.array([[7, 8, EOS], [9, EOS, PAD], [PAD, PAD, PAD]])
    # Token 1 of row 0 is the least sure of fertility 0; EOS and padding are even less sure.
    absence = jnp.array([[5.0, 4, 1], [5, 1, 1], [1, 1, 1]])
    logits = jnp.zeros((3, 3, 4)).at[:, :, 0].set(absence)
    within = jax.jit(fertility.within_limits)
    found = within(jnp.zeros((3, 1, 3), int), logits, source, jnp.array([16, 14, 10]))
    assert found[:, 0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_decoding_never_exceeds_the_length_limit(params: Any) -> None:
    # Fertility 9 everywhere: two tokens would become 18 words, the limit is 2 * 3 + 10 = 16.
    generous = changed(params, fertility_head__bias=1e3 * jnp.eye(10)[9])
    found = decode(generous, SOURCE, Argmax())
    assert (found.tokens[:, 0] != PAD).sum(axis=1).tolist() == [16, 9, 16, 0]
    assert limits.length_limit(3) == 16


# The decoder


def test_self_mask_hides_a_position_from_itself() -> None:
    attention = SelfAttention(16, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 2, 16))
    lengths = jnp.array([2])

    @functools.partial(jax.jit, static_argnames="sees_itself")
    def attend(x: jax.Array, *, sees_itself: bool) -> jax.Array:
        return attention(x, lengths, sees_itself=sees_itself)

    # Of two places, each sees only the other: what stands at 1 cannot reach 1.
    blind, blind_changed = (attend(y, sees_itself=False) for y in (x, x.at[0, 1].add(1.0)))
    np.testing.assert_allclose(blind[0, 1], blind_changed[0, 1], atol=1e-6)
    assert jnp.abs(blind[0, 0] - blind_changed[0, 0]).max() > 1e-3
    seeing, seeing_changed = (attend(y, sees_itself=True) for y in (x, x.at[0, 1].add(1.0)))
    assert (jnp.abs(seeing - seeing_changed).max(axis=-1) > 1e-3).all()


def test_padding_changes_no_word_not_even_a_lone_one(params: Any) -> None:
    # A word that may not see itself and has no neighbour must not look at the padding instead.
    source, fertilities = jnp.asarray(SOURCE), jnp.array([[1, 2, 0], [1, 0, 0], [0, 1, 0], [0] * 3])

    @functools.partial(jax.jit, static_argnums=1)
    def logits(params: Any, width: int) -> jax.Array:
        model = merge(CONFIG, params)
        encoded = model.encode(source)
        inputs = model.decoder_inputs(source, encoded, fertilities, width)
        return model.logits(inputs, fertilities.sum(axis=1), encoded)

    narrow, wide = logits(params, 4), logits(params, 9)
    np.testing.assert_allclose(narrow[0, :3], wide[0, :3], atol=1e-5)
    np.testing.assert_allclose(narrow[1:3, :1], wide[1:3, :1], atol=1e-5)


def test_decoder_inputs_by_copy(params: Any) -> None:
    source = jnp.asarray(SOURCE[:2])
    fertilities = jnp.array([[2, 3, 0], [2, 0, 0]])

    def inputs(fertilities: jax.Array, width: int, **changes: Any) -> jax.Array:
        model = merge(dataclasses.replace(CONFIG, **changes), params)
        encoded = model.encode(source)
        return jax.jit(lambda: model.decoder_inputs(source, encoded, fertilities, width))()

    embeddings = merge(CONFIG, params).embed_source(source)
    copied = inputs(fertilities, 5)
    np.testing.assert_array_equal(copied[0], embeddings[0, jnp.array([0, 0, 1, 1, 1])])
    np.testing.assert_array_equal(copied[1, :2], embeddings[1, jnp.array([0, 0])])
    uniform = inputs(fertilities, 5, copy="uniform")
    # 3 tokens with EOS on 5 places: t * 0.6 = 0, 0.6, 1.2, 1.8, 2.4; 2 tokens on 2 places.
    np.testing.assert_array_equal(uniform[0], embeddings[0, jnp.array([0, 1, 1, 2, 2])])
    np.testing.assert_array_equal(uniform[1, :2], embeddings[1, :2])
    soft = inputs(jnp.array([[2, 1, 0], [2, 0, 0]]), 3, copy="soft", soft_copy_temperature=1e-3)
    np.testing.assert_allclose(soft[0], embeddings[0], atol=1e-5)
    np.testing.assert_allclose(soft[1, :2], embeddings[1, :2], atol=1e-5)


# The loss


def test_loss_of_an_undecided_model_is_the_log_of_the_choices(params: Any) -> None:
    undecided = changed(
        params, target_embedding__table=jnp.zeros((30, 16)), fertility_head__kernel=0.0
    )
    loss = loss_of(CONFIG)(undecided, BATCH)
    assert float(loss.terms["token"].value) == pytest.approx(math.log(30))
    assert loss.terms["token"].count == 5 + 2 + 3
    assert float(loss.terms["fertility"].value) == pytest.approx(math.log(10))
    assert loss.terms["fertility"].count == 2 + 1 + 2  # neither EOS nor padding
    assert loss.terms["clipped_fertilities"].value == 0
    assert float(loss.objective) == pytest.approx(math.log(30) + math.log(10))


def test_fertilities_without_a_class_are_clipped_in_the_loss_and_counted(params: Any) -> None:
    # Classes 0 to 9; row 0 has a token of fertility 12.
    bias = jnp.log(jnp.full(10, 0.05).at[9].set(0.55))
    sure = changed(params, fertility_head__kernel=0.0, fertility_head__bias=bias)
    target = np.full((4, 13), PAD, np.int32)
    target[0] = [*range(10, 22), EOS]
    target[1:, :6] = TARGET[1:]
    fertilities = FERTILITIES.copy()
    fertilities[0] = [12, 0, 0]
    loss = loss_of(CONFIG)(sure, Batch(BATCH.source, jnp.asarray(target), jnp.asarray(fertilities)))
    assert float(loss.terms["clipped_fertilities"].value) == pytest.approx(1 / 5)
    expected = -(math.log(0.55) + 4 * math.log(0.05)) / 5
    assert float(loss.terms["fertility"].value) == pytest.approx(expected)
    assert loss.terms["token"].count == 12 + 2 + 3  # the copy still has all twelve


@functools.partial(jax.jit, static_argnames="config")
def glancing_loss(params: Any, config: FertilityNat, batch: Batch) -> Loss:
    return merge(config, params).loss(batch, step=STEP, rngs=nnx.Rngs(dropout=jax.random.key(0)))


def test_glancing_at_nothing_is_the_plain_loss(params: Any) -> None:
    plain = loss_of(CONFIG)(params, BATCH)
    config = dataclasses.replace(CONFIG, glancing=Glancing(0.0, 0.0))
    found = glancing_loss(params, config, BATCH)
    assert float(found.terms["revealed"].total) == 0.0
    assert float(found.objective) == pytest.approx(float(plain.objective), rel=1e-5)
    for term in ("token", "glanced"):
        expected = float(plain.terms["token"].value)
        assert float(found.terms[term].value) == pytest.approx(expected, rel=1e-5)


def test_glancing_at_half_of_the_words_leaves_the_other_half(params: Any) -> None:
    """A model that says UNK everywhere. Of 5, 2 and 3 words 2, 1 and 1 are revealed: 0.45 of the errors, halves up.
    Words of one probability would not be errors: none is more probable than the right one."""
    only_unk = jnp.zeros((30, 16)).at[UNK].set(1.0)
    unknowing = changed(
        params,
        target_embedding__table=only_unk,
        decoder__final_norm__scale=0.0,
        decoder__final_norm__bias=1.0,
    )
    settings = Glancing(0.45, 0.45, count="floor_half_up")
    found = glancing_loss(unknowing, dataclasses.replace(CONFIG, glancing=settings), BATCH)
    assert float(found.terms["wrong"].value) == 1.0
    assert float(found.terms["revealed"].total) == 2 + 1 + 1
    assert float(found.terms["glanced"].count) == 3 + 1 + 2
    assert float(found.terms["token"].count) == 10


def test_n_grams_may_take_the_place_of_the_words_at_their_positions(params: Any) -> None:
    """Minus their score, beside the fertility loss; the nats of the words are reported still."""
    config = dataclasses.replace(CONFIG, token_loss=BagOfNgrams(), fertility_loss_weight=0.5)
    plain = dataclasses.replace(CONFIG, label_smoothing=0.0)
    loss, before = (loss_of(one)(params, BATCH) for one in (config, plain))
    expected = 0.5 * loss.terms["fertility"].value - loss.terms["match"].value
    np.testing.assert_allclose(loss.objective, expected, rtol=1e-6)
    for term in ("token", "fertility"):
        np.testing.assert_allclose(loss.terms[term].value, before.terms[term].value, rtol=1e-5)
    assert (config.variant, config.learns_distributions) == ("fertility NAT + BoN", False)
    with pytest.raises(ConfigError, match="needs token_loss CrossEntropy, got BagOfNgrams"):
        dataclasses.replace(config, glancing=Glancing())


def test_missing_fertilities_and_missing_teachers_are_named(params: Any) -> None:
    with pytest.raises(ValueError, match="prepare the data with an aligner"):
        loss_of(CONFIG)(params, Batch(BATCH.source, BATCH.target))
    tuned = dataclasses.replace(CONFIG, fine_tuning=FineTuning())
    with pytest.raises(ValueError, match="needs an autoregressive teacher"):
        loss_of(tuned)(params, BATCH)
    with pytest.raises(ValueError, match="needs a teacher to rescore"):
        decode(params, SOURCE, NoisyParallel())


def test_impossible_configs_are_refused_and_others_survive_json() -> None:
    with pytest.raises(ConfigError, match="1 <= n_best <= samples"):
        NoisyParallel(samples=2, n_best=3)
    with pytest.raises(ConfigError, match="temperature"):
        NoisyParallel(temperature=0.0)
    with pytest.raises(ConfigError, match="max_fertility"):
        FertilityNat(max_fertility=1)
    with pytest.raises(ConfigError, match="set glancing to None"):
        FertilityNat(glancing=Glancing(), fine_tuning=FineTuning())
    with pytest.raises(ConfigError, match="weight"):
        FineTuning(weight=1.5)
    cudnn = TransformerConfig(dtype="bfloat16", implementation="cudnn")
    with pytest.raises(ConfigError, match="sees_itself"):
        FertilityNat(transformer=cudnn)
    tuned = dataclasses.replace(CONFIG, fine_tuning=FineTuning(), decoding=NoisyParallel(seed=3))
    for config in (tuned, dataclasses.replace(CONFIG, glancing=Glancing())):
        assert config_json.from_json(FertilityNat, config_json.to_json(config)) == config


# Decodings

OWN = NoisyParallel(samples=6, rescore=False, n_best=6)
RESCORED = NoisyParallel(samples=6, temperature=2.0, n_best=6)


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [Argmax(), Average(), OWN, RESCORED])
def test_a_translation_depends_on_its_sentence_alone(
    params: Any, teacher_params: Any, decoding: Argmax | Average | NoisyParallel
) -> None:
    # About 5 words for a token, so that row 0 becomes a long sentence and row 1 a short one.
    bias = -0.2 * (jnp.arange(10) - 5) ** 2
    params = changed(params, fertility_head__bias=bias)
    together = decode(params, SOURCE, decoding, teacher_params)
    alone = decode(params, SOURCE[1:2, :2], decoding, teacher_params, max_length=14)
    # No padding, no company, and for one candidate another width: 8 instead of 16.
    assert (together.tokens[0] != PAD).sum(axis=-1).max() > 8
    if isinstance(decoding, Argmax | Average):
        assert (alone.tokens != PAD).sum() <= 8
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[1, :, :14])
    assert (together.tokens[1, :, 14:] == PAD).all()
    np.testing.assert_allclose(alone.scores[0], together.scores[1], atol=1e-4)
    again = decode(params, SOURCE[[1, 0, 3, 1]], decoding, teacher_params)
    np.testing.assert_array_equal(again.tokens[[0, 1, 3]], together.tokens[[1, 0, 1]])
    np.testing.assert_allclose(again.scores[[0, 1, 3]], together.scores[[1, 0, 1]], atol=1e-4)
    steps = 2 if decoding == RESCORED else 1
    assert together.passes.tolist() == [steps, steps, steps, 0]
    assert (together.tokens[3] == PAD).all()  # a row of padding is no sentence
    assert ((together.tokens[:3] != PAD).sum(axis=-1) >= 1).all()


def test_noisy_parallel_with_one_sample_is_argmax(params: Any) -> None:
    one = decode(params, SOURCE, NoisyParallel(samples=1, rescore=False))
    argmax = decode(params, SOURCE, Argmax())
    np.testing.assert_array_equal(one.tokens, argmax.tokens)
    np.testing.assert_allclose(one.scores, argmax.scores, atol=1e-6)


def test_noisy_parallel_never_falls_below_argmax_under_the_score_it_chooses_by(
    params: Any, teacher_params: Any
) -> None:
    argmax = decode(params, SOURCE, Argmax())
    own = decode(params, SOURCE, OWN, teacher_params)
    rescored = decode(params, SOURCE, RESCORED, teacher_params)
    score = jax.jit(lambda params, *rest: merge(TEACHER_CONFIG, params).score(*rest))
    of_argmax = score(teacher_params, jnp.asarray(SOURCE), jnp.asarray(argmax.tokens))
    assert (own.scores[:3, 0] >= argmax.scores[:3, 0] - 1e-5).all()
    assert (rescored.scores[:3, 0] >= of_argmax[:3, 0] - 1e-5).all()
    assert (rescored.scores[:3, 0] > of_argmax[:3, 0] + 1e-3).any()  # sampling finds better ones
    for found in (own, rescored):
        assert (np.diff(found.scores[:3], axis=1) <= 0).all()
        for row in range(3):  # the most probable fertilities are always among the candidates
            assert (found.tokens[row] == argmax.tokens[row]).all(axis=-1).any()


def test_sampled_fertilities_follow_their_distribution() -> None:
    probabilities = jnp.array([0.5, 0.0, 0.3, 0.2])
    source = jnp.array([[7, 8, EOS], [9, 8, EOS]])
    logits = jnp.broadcast_to(jnp.log(probabilities), (2, 3, 4))

    @jax.jit
    def draw() -> list[jax.Array]:
        keys = [fertility.position_keys(source, seed=seed) for seed in (0, 1)]
        return [fertility.sample_fertilities(logits, k, num_samples=4000) for k in keys]

    first, other = np.asarray(draw())
    for row, place in itertools.product(range(2), range(2)):
        counts = np.bincount(first[row, :, place], minlength=4) / 4000
        np.testing.assert_allclose(counts, probabilities, atol=0.03)  # 4 standard errors
        assert counts[1] == 0.0
    # Independent draws agree with p = 0.5^2 + 0.3^2 + 0.2^2 = 0.38: places, sentences, seeds.
    assert np.mean(first[0, :, 0] == first[0, :, 1]) == pytest.approx(0.38, abs=0.04)
    assert np.mean(first[0, :, 1] == first[1, :, 1]) == pytest.approx(0.38, abs=0.04)
    assert np.mean(first == other) == pytest.approx(0.38, abs=0.04)


# Fine-tuning


def test_reverse_kl_against_a_teacher_of_one_opinion() -> None:
    opinion = jnp.log(jnp.full(30, 0.25 / 29).at[20].set(0.75))

    @jax.jit
    def divergence(logits: jax.Array) -> jax.Array:
        teacher = jnp.broadcast_to(opinion, logits.shape)
        return distillation.reverse_kl(logits, teacher, jnp.array([2]))[0]

    same = divergence(jnp.broadcast_to(opinion, (1, 3, 30)))
    np.testing.assert_allclose(same, [0, 0, 0], atol=1e-6)
    uniform = math.log(1 / 30) - (math.log(0.75) + 29 * math.log(0.25 / 29)) / 30
    found = divergence(jnp.zeros((1, 3, 30)))
    np.testing.assert_allclose(found, [uniform, uniform, 0], rtol=1e-4)  # nothing past the length


@pytest.mark.slow
def test_reinforce_is_the_gradient_of_the_expected_cost(params: Any, teacher_params: Any) -> None:
    """All 10 * 10 fertilities of a sentence of two tokens, weighed by their probability: the mean of
    what REINFORCE estimates from one draw equals the derivative of sum p(f) cost(f), whatever the
    baseline."""
    source = jnp.array([[7, 8, EOS]])
    draws = jnp.array([[[first, second, 0]] for first in range(10) for second in range(10)])

    def log_p(params: Any) -> jax.Array:
        student = merge(CONFIG, params)
        table = jax.nn.log_softmax(student.fertility_logits(student.encode(source)))[0]
        return (table[0, :, None] + table[1]).reshape(100)

    def estimate(params: Any, draw: jax.Array, teacher_params: Any) -> tuple[jax.Array, jax.Array]:
        student, teacher = merge(CONFIG, params), merge(TEACHER_CONFIG, teacher_params)
        encoded = student.encode(source)
        value, terms = student.reinforce(encoded, source, draw, teacher, width=12)
        return value, terms["sample_excess_kl"].value

    @jax.jit
    def compare(params: Any, teacher_params: Any) -> tuple[Any, Any, jax.Array, jax.Array]:
        gradient = jax.vmap(jax.grad(estimate, has_aux=True), (None, 0, None))
        estimates, excess = gradient(params, draws, teacher_params)
        p = jnp.exp(log_p(params))
        mean = jax.tree.map(lambda leaf: jnp.tensordot(p, leaf, 1), estimates)
        exact = jax.grad(lambda params: (jnp.exp(log_p(params)) * excess).sum())(params)
        student = merge(CONFIG, params)
        logits = student.fertility_logits(student.encode(source))
        return mean, exact, excess, fertility.mean_fertilities(logits)[0]

    mean, exact, excess, baseline = compare(params, teacher_params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), mean, exact)
    assert jnp.abs(mean["fertility_head"]["kernel"][...]).max() > 1e-3
    # Only the predictor and what feeds it learn: the decoder has no gradient.
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(mean["decoder"]))
    assert np.ptp(excess) > 1e-2
    np.testing.assert_allclose(excess[10 * baseline[0] + baseline[1]], 0.0, atol=1e-5)
    np.testing.assert_allclose(excess[99], excess[93], atol=1e-5)  # both lose their end at 12


@pytest.mark.slow
def test_fine_tuning_draws_to_the_teacher_and_leaves_it_alone(
    params: Any, teacher_params: Any
) -> None:
    config = dataclasses.replace(CONFIG, fine_tuning=FineTuning(weight=0.9))
    optimizer = optax.adam(1e-2)

    def objective(params: Any, teacher_params: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        teacher, rngs = merge(TEACHER_CONFIG, teacher_params), nnx.Rngs(dropout=key)
        loss = merge(config, params).loss(BATCH, step=STEP, rngs=rngs, teacher=teacher)
        return loss.objective, loss.terms

    @jax.jit
    def advance(params: Any, opt_state: Any, key: jax.Array) -> tuple[Any, Any, Any, Any]:
        gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (mine, theirs), terms = gradient(params, teacher_params, key)
        updates, opt_state = optimizer.update(mine, opt_state)
        reached = optax.tree.norm(theirs)
        return optax.apply_updates(params, updates), opt_state, terms, reached

    opt_state, history = optimizer.init(params), []
    for step in range(60):
        params, opt_state, terms, reached = advance(params, opt_state, jax.random.key(step))
        assert reached == 0.0
        assert terms["trimmed_samples"].count == terms["sample_excess_kl"].count == 3
        history.append(float(terms["reverse_kl"].value))
    assert history[-1] < 0.5 * history[0]


def test_fine_tuning_without_rngs_samples_nothing(params: Any, teacher_params: Any) -> None:
    plain = loss_of(CONFIG)(params, BATCH)
    tuned_config = dataclasses.replace(CONFIG, fine_tuning=FineTuning(weight=0.25))
    tuned = loss_of(tuned_config)(params, BATCH, teacher_params)
    assert "sample_excess_kl" not in tuned.terms
    expected = 0.25 * tuned.terms["reverse_kl"].value + 0.75 * plain.objective
    np.testing.assert_allclose(tuned.objective, expected, rtol=1e-5)


# Learning


@pytest.mark.slow
def test_a_small_model_learns_eight_sentences_by_heart() -> None:
    generator = np.random.default_rng(0)
    source = np.full((8, 7), PAD, np.int32)
    target = np.full((8, 10), PAD, np.int32)
    fertilities = np.zeros((8, 7), np.int32)
    for row in range(8):
        tokens = generator.integers(6, 30, generator.integers(2, 7))
        counts = generator.integers(0, 3, tokens.size)
        counts[0] = 1
        counts[np.cumsum(counts) > 9] = 0
        words = generator.integers(6, 30, counts.sum())
        source[row, : tokens.size + 1] = [*tokens, EOS]
        target[row, : words.size + 1] = [*words, EOS]
        fertilities[row, : tokens.size] = counts
    batch = Batch(jnp.asarray(source), jnp.asarray(target), jnp.asarray(fertilities))
    transformer = dataclasses.replace(SHORT, d_model=32, d_hidden=64)
    config = FertilityNat(transformer=transformer, max_fertility=4, label_smoothing=0.0)
    optimizer = optax.adam(5e-3)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def advance(params: Any, opt_state: Any) -> tuple[Any, Any, jax.Array]:
        def objective(params: Any) -> jax.Array:
            return merge(config, params).loss(batch, step=STEP, rngs=None).objective

        value, gradient = jax.value_and_grad(objective)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    params = params_of(config, 0)
    opt_state = optimizer.init(params)
    for _ in range(100):
        params, opt_state, value = advance(params, opt_state)
    assert value < 0.1
    found = decode(params, source, Argmax(), config=config, max_length=24)
    np.testing.assert_array_equal(found.tokens[:, 0, :10], np.where(target == EOS, PAD, target))
    assert (found.tokens[:, 0, 10:] == PAD).all()
