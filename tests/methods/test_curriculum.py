"""The curriculum from teacher forcing to copies: what it starts as, what it ends as, what it must not show."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import toys
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.losses.axe import Axe
from nat_ar.methods import base, curriculum
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.fertility_prediction import FineTuning
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_nat import LengthNat
from nat_ar.special_tokens import BOS, PAD
from nat_ar.types import Batch, Loss, without_eos
from toys import TINY

SIZES = VocabularySizes(16, 16, is_joint=True)
BATCH = Batch(
    toys.sentences(0, [4, 3, 2, 0], 5, vocabulary=16),
    toys.sentences(1, [6, 2, 4, 0], 6, vocabulary=16),
    jnp.array([[2, 0, 3, 0, 0], [1, 0, 0, 0, 0], [3, 0, 0, 0, 0], [0] * 5]),
)
STEPS = 9
CURRICULUM = Curriculum(STEPS, causal_above=0.4)
LENGTH = LengthNat(TINY, length_loss_weight=0.3, curriculum=CURRICULUM)
FERTILITY = FertilityNat(TINY, positional_attention=False, curriculum=CURRICULUM)


@functools.partial(jax.jit, static_argnames="graph")
def loss_and_gradient(
    params: nnx.State, graph: nnx.GraphDef, step: jax.Array
) -> tuple[nnx.State, Loss]:
    def objective(params: nnx.State) -> tuple[jax.Array, Loss]:
        rngs = nnx.Rngs(dropout=jax.random.key(7, impl="rbg"))
        loss = nnx.merge(graph, params).loss(BATCH, step=step, rngs=rngs)
        return loss.objective, loss

    return jax.grad(objective, has_aux=True)(params)


def in_training(model: Any, step: int) -> tuple[Any, Loss]:
    graph, params = nnx.split(model, nnx.Param)
    gradients, loss = loss_and_gradient(params, graph, jnp.int32(step))
    return jax.device_get(gradients), jax.device_get(loss)


def test_the_share_of_forced_words_falls_evenly_or_fast_at_first() -> None:
    """In 199 steps the log pace is 1 - log(1 + step) / log 200."""
    linear, log = Curriculum(10, pace="linear"), Curriculum(199)
    shares = [float(linear.forced_share(jnp.int32(step))) for step in (0, 1, 5, 10, 99)]
    assert shares == pytest.approx([1.0, 0.9, 0.5, 0.0, 0.0])
    shares = [float(log.forced_share(jnp.int32(step))) for step in (0, 13, 199, 10**6)]
    assert shares[1] == pytest.approx(1 - math.log(14) / math.log(200), rel=1e-5)
    assert (shares[0], *shares[2:]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("method", [LENGTH, FERTILITY], ids=["length", "fertility"])
def test_it_starts_as_the_teachers_own_training(method: Method) -> None:
    """With the teacher's parameters a student's loss of the words is the teacher's, of all of them but EOS, whatever
    the student's copies and its attention are without the curriculum."""
    teacher, student = (
        made.build(SIZES, rngs=nnx.Rngs(seed))
        for seed, made in enumerate((Autoregressive(TINY), method))
    )
    base.start_encoder(student, teacher)
    assert base.start_decoder(student, teacher) == []

    @jax.jit
    def forced() -> jax.Array:
        logits = teacher.logits(BATCH.source, BATCH.target)
        target = without_eos(BATCH.target)
        return cross_entropy.smoothed_cross_entropy(logits, target, smoothing=0.0)[1].value

    _, loss = in_training(student, 0)
    assert float(loss.terms["token"].value) == pytest.approx(float(forced()), rel=1e-5)
    assert float(loss.terms["token"].count) == 5 + 1 + 3
    assert float(loss.terms["forced"].value) == 1.0
    _, ended = in_training(student, STEPS)
    assert abs(float(ended.terms["token"].value) - float(forced())) > 0.01


@pytest.mark.parametrize(
    "method",
    [
        dataclasses.replace(LENGTH, glancing=Glancing(1.0, 1.0)),
        dataclasses.replace(FERTILITY, positional_attention=True),
    ],
    ids=["glat", "fertility"],
)
def test_after_its_end_the_method_is_the_one_without_it(method: Method) -> None:
    """Glancing and dropout too: for training, which asks the method (bit for bit), and, to rounding of the gradients,
    for whoever goes on with its loss."""
    method = dataclasses.replace(method, transformer=dataclasses.replace(TINY, dropout_rate=0.3))  # type: ignore[call-arg]
    plain = dataclasses.replace(method, curriculum=None)  # type: ignore[call-arg]
    assert (method.at(STEPS - 1), method.at(STEPS), method.at(10**6)) == (method, plain, plain)
    assert plain.at(STEPS) is plain
    (gradients, loss), (expected, without) = (
        in_training(made.build(SIZES, rngs=nnx.Rngs(0)), STEPS) for made in (method, plain)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), gradients, expected)
    assert float(loss.objective) == pytest.approx(float(without.objective), rel=1e-6)
    assert loss.terms.pop("forced").total == 0.0
    for name, term in without.terms.items():
        assert float(loss.terms[name].value) == pytest.approx(float(term.value), rel=1e-6)


def test_some_words_read_the_one_before_them_and_the_mask_goes() -> None:
    """In evaluation, none. The middle of a linear curriculum: half of 4,000 words."""
    target = jnp.full((80, 60), 9).at[:, 50:].set(PAD).at[:, 0].set(7)
    settings = Curriculum(10, pace="linear", causal_above=0.5)
    found = {
        step: curriculum.lesson(settings, target, step=jnp.int32(step), rngs=nnx.Rngs(dropout=1))
        for step in (0, 4, 5, 10)
    }
    assert [bool(lesson.is_causal) for lesson in found.values()] == [True, True, False, False]
    assert found[5].before is not None
    forced = np.asarray(found[5].before) != PAD
    assert not forced[:, 50:].any()
    assert 0.45 < forced[:, :50].mean() < 0.55
    assert float(found[5].terms["forced"].value) == pytest.approx(forced[:, :50].mean())
    words = np.asarray(found[0].before)
    np.testing.assert_array_equal(words[0, :4], [BOS, 7, 9, 9])
    evaluated = curriculum.lesson(settings, target, step=jnp.int32(0), rngs=None)
    assert (evaluated.before, evaluated.is_causal, evaluated.terms) == (None, False, {})


def test_what_glancing_shows_stays() -> None:
    """Position 0 reads the word before it, 1 what is shown there, 2 the copy."""
    embedding = LENGTH.build(SIZES, rngs=nnx.Rngs(0)).target_embedding
    lesson = curriculum.Lesson(jnp.array([[BOS, 7, PAD]]), True, {})
    copies = jnp.arange(3.0)[None, :, None] * jnp.ones((1, 3, 16))
    read = lesson.read(copies, jnp.array([[PAD, 8, PAD]]), embedding)
    np.testing.assert_array_equal(read[0, 0], embedding(jnp.array(BOS)))
    np.testing.assert_array_equal(read[0, 1:], copies[0, 1:])


def test_configs_go_to_json_and_back_and_old_ones_have_none() -> None:
    for method in (LENGTH, FERTILITY):
        written = config_json.to_json(method)
        assert config_json.from_json(type(method), written) == method
        del written["curriculum"]
        read = config_json.from_json(type(method), written)
        assert read == dataclasses.replace(method, curriculum=None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Curriculum(0), "curriculum.steps must be at least 1, got 0"),
        (lambda: Curriculum(causal_above=1.5), "causal_above must be from 0 to 1, got 1.5"),
        (
            lambda: dataclasses.replace(LENGTH, token_loss=Axe()),
            "curriculum predicts .* got Axe; set curriculum to None or token_loss to",
        ),
        (
            lambda: dataclasses.replace(FERTILITY, fine_tuning=FineTuning()),
            "got curriculum as well; set curriculum to None",
        ),
        (
            lambda: dataclasses.replace(
                LENGTH,
                transformer=dataclasses.replace(TINY, implementation="cudnn", dtype="bfloat16"),
            ),
            "curriculum changes the mask .* set transformer.implementation to 'xla'",
        ),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
