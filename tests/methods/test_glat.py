"""Glancing training of the one-pass model: two passes, and the loss is over what stays hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.losses import cross_entropy
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import one_pass
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD
from nat_ar.types import Batch, Loss

SOURCE = jnp.array([[6, 7, 8, EOS], [9, 6, EOS, PAD], [8, EOS, PAD, PAD], [PAD] * 4])
LENGTHS = jnp.array([4, 3, 1, 0])  # words of the targets; the last row is no sentence
IS_WORD = np.arange(5) < np.asarray(LENGTHS)[:, None]
NUM_WORDS = 8
GLANCING = Glancing(start_ratio=1.0, end_ratio=0.0, anneal_steps=100, count="round")


def build(dropout_rate: float, *, num_layers: int = 1) -> LengthNatModel:
    """More than one layer: all of them supervised."""
    transformer = TransformerConfig(
        d_model=8,
        d_hidden=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=num_layers,
        dropout_rate=dropout_rate,
    )
    config = LengthNat(
        transformer, label_smoothing=0.0, glancing=GLANCING, deep_supervision=num_layers > 1
    )
    return config.build(VocabularySizes(12, 12, is_joint=True), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model() -> LengthNatModel:
    return build(dropout_rate=0.0)


def first_pass(model: LengthNatModel) -> jax.Array:
    """The words that the model says where nothing is revealed."""
    encoded = model.encode(SOURCE)
    inputs = model.decoder_inputs(SOURCE, encoded, LENGTHS, 5)
    return one_pass.best_words(model.logits(inputs, LENGTHS, encoded)).tokens


@pytest.fixture(scope="module")
def predicted(model: LengthNatModel) -> np.ndarray:
    return np.where(IS_WORD, jax.jit(lambda: first_pass(model))(), PAD)


def batch_of(words: np.ndarray) -> Batch:
    target = words.copy()
    target[np.arange(3), np.asarray(LENGTHS)[:3]] = EOS
    return Batch(SOURCE, jnp.asarray(target, jnp.int32))


def all_wrong(predicted: np.ndarray) -> np.ndarray:
    return np.where(IS_WORD, NUM_SPECIAL + (predicted - NUM_SPECIAL + 1) % 6, PAD)


def loss_of(params: nnx.State, graph: nnx.GraphDef, batch: Batch, step: jax.Array) -> Loss:
    rngs = nnx.Rngs(dropout=jax.random.key(7))
    return nnx.merge(graph, params).loss(batch, step=step, rngs=rngs)


@functools.partial(jax.jit, static_argnames="graph")
def loss_and_gradient(
    params: nnx.State, graph: nnx.GraphDef, batch: Batch, step: jax.Array
) -> tuple[nnx.State, Loss]:
    def objective(params: nnx.State) -> tuple[jax.Array, Loss]:
        loss = loss_of(params, graph, batch, step)
        return loss.objective, loss

    return jax.grad(objective, has_aux=True)(params)


def training_loss(model: LengthNatModel, words: np.ndarray, step: int) -> Loss:
    graph, params = nnx.split(model, nnx.Param)
    gradient, loss = loss_and_gradient(params, graph, batch_of(words), jnp.int32(step))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    return jax.device_get(loss)


def plain_loss(model: LengthNatModel, words: np.ndarray) -> Loss:
    """Without rngs: no dropout, nothing revealed."""
    return jax.jit(lambda batch: model.loss(batch, step=jnp.int32(0), rngs=None))(batch_of(words))


@pytest.mark.slow
def test_where_nothing_is_wrong_the_loss_is_the_plain_one(
    model: LengthNatModel, predicted: np.ndarray
) -> None:
    found, plain = training_loss(model, predicted, 0), plain_loss(model, predicted)
    assert float(found.terms["wrong"].value) == float(found.terms["revealed"].value) == 0.0
    assert float(found.terms["glanced"].count) == NUM_WORDS
    assert set(plain.terms) == {"token", "length"}
    assert float(found.objective) == pytest.approx(float(plain.objective), rel=1e-5)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (50, 0.5), (100, 0.0), (500, 0.0)])
def test_revealed_words_leave_the_loss_and_the_fewer_the_later(
    model: LengthNatModel, predicted: np.ndarray, step: int, share: float
) -> None:
    """4, 3 and 1 errors: half of them, halves rounded to even, are 2, 2 and 0."""
    terms = training_loss(model, all_wrong(predicted), step).terms
    assert float(terms["wrong"].value) == 1.0
    assert float(terms["revealed"].total) == share * NUM_WORDS
    assert float(terms["glanced"].count) == (1.0 - share) * NUM_WORDS
    assert float(terms["token"].count) == NUM_WORDS


def test_all_revealed_leaves_only_the_length_to_learn(
    model: LengthNatModel, predicted: np.ndarray
) -> None:
    found = training_loss(model, all_wrong(predicted), 0)
    assert float(found.terms["glanced"].total) == 0.0
    assert float(found.objective) == pytest.approx(0.1 * float(found.terms["length"].value))


def test_the_second_pass_sees_the_revealed_words(
    model: LengthNatModel, predicted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second and third word of the first sentence, the first of the second."""
    is_revealed = np.zeros((4, 5), bool)
    is_revealed[0, 1:3] = is_revealed[1, 0] = True
    monkeypatch.setattr(Glancing, "revealed", lambda *arguments: jnp.asarray(is_revealed))
    words = all_wrong(predicted)

    def token_nats(model: LengthNatModel) -> tuple[Loss, jax.Array]:
        """The loss, and -log p of the words in a pass that sees those revealed."""
        loss = loss_of(params, graph, batch_of(words), jnp.int32(0))
        encoded = model.encode(SOURCE)
        inputs = model.decoder_inputs(SOURCE, encoded, LENGTHS, 5)
        shown = model.target_embedding(jnp.asarray(words))
        inputs = jnp.where(is_revealed[..., None], shown, inputs)
        logits = model.logits(inputs, LENGTHS, encoded)
        return loss, -cross_entropy.token_log_probabilities(logits, jnp.asarray(words))

    graph, params = nnx.split(model, nnx.Param)
    loss, nats = jax.jit(lambda: token_nats(model))()
    expected = np.asarray(nats)[IS_WORD & ~is_revealed].mean()
    assert float(loss.terms["glanced"].value) == pytest.approx(expected, rel=1e-5)


def test_both_passes_have_the_same_dropout(predicted: np.ndarray) -> None:
    """With nothing revealed the second pass is the first once more, of deeply supervised layers too;
    other dropout would differ."""
    batch = batch_of(all_wrong(predicted))
    graph, params = nnx.split(build(dropout_rate=0.5, num_layers=2), nnx.Param)
    terms = jax.jit(lambda: loss_of(params, graph, batch, jnp.int32(100)))().terms
    assert float(terms["revealed"].value) == 0.0
    assert float(terms["glanced"].value) == pytest.approx(float(terms["token"].value), rel=1e-6)
