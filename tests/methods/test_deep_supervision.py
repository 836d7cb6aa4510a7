"""Every decoder layer predicts, learns, and hands its words to the next; here also with AXE."""

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
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.losses.axe import Axe
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.deep_supervision import DeepSupervision
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.nn import layers
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits
from nat_ar.search.one_pass import LengthBeam
from nat_ar.special_tokens import BLANK, EOS, PAD
from nat_ar.types import Batch, Hypotheses, lengths_of, without_eos
from toys import TINY, one_width

SIZES = VocabularySizes(14, 14, is_joint=True)
TRANSFORMER = dataclasses.replace(TINY, num_decoder_layers=2)
WITH_AXE = LengthNat(
    TRANSFORMER,
    max_length_offset=5,
    label_smoothing=0.0,
    token_loss=Axe(),
    deep_supervision=True,
)
ROOM = limits.length_limit(3)


sentences = functools.partial(toys.sentences, vocabulary=14)


def decode(model: LengthNatModel, source: jax.Array, max_length: int = ROOM) -> Hypotheses:
    decoding = LengthBeam(2, n_best=2)
    return toys.decode(model, source, decoding, max_length, widths=one_width)


@pytest.mark.parametrize(
    ("norm", "reads"), [("pre", "states"), ("pre", "normalised"), ("post", "states")]
)
def test_the_next_layer_reads_the_state_and_the_word_it_predicts(norm: Any, reads: Any) -> None:
    """Two layers by hand, the second of which answers what it reads."""
    config = TransformerConfig(4, 8, num_heads=2, num_decoder_layers=2, norm=norm)
    supervision = DeepSupervision(config, reads=reads, rngs=nnx.Rngs(0))
    kernel = np.random.default_rng(1).normal(size=(8, 4))
    supervision.merges[0].kernel[...] = jnp.asarray(kernel, jnp.float32)
    embedding = layers.Embedding(8, 4, rngs=nnx.Rngs(1))
    states = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 4)), jnp.float32)
    words = jnp.array([[6, 7]])
    said_by = supervision.layer_states(
        lambda between_blocks: between_blocks(0, states), embedding, lambda logits: words
    )
    first, second = map(embedding.attend, said_by)
    said = states
    if norm == "pre":
        mean, deviation = states.mean(axis=-1, keepdims=True), states.std(axis=-1, keepdims=True)
        said = (states - mean) / deviation
    np.testing.assert_allclose(first, said @ embedding.table[...].T, atol=1e-4)
    read = jnp.concatenate([said if reads == "normalised" else states, embedding(words)], axis=-1)
    merge = supervision.merges[0]
    expected = (read @ merge.kernel[...] + merge.bias[...]) @ embedding.table[...].T
    np.testing.assert_allclose(second, expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_it_starts_as_the_decoder_without(norm: Any) -> None:
    """The same decoder parameters under both: the last layer says the same, until the merges have learned."""
    plain = LengthNat(dataclasses.replace(TRANSFORMER, num_decoder_layers=3, norm=norm))
    deep = dataclasses.replace(plain, deep_supervision=True)
    source, lengths = sentences(0, [5, 3], 5), jnp.array([4, 6])

    def last_logits(config: LengthNat, share_of_words: float = 0.0) -> jax.Array:
        model = config.build(SIZES, rngs=nnx.Rngs(0))
        if model.deep_supervision is not None:
            of_words = share_of_words * jnp.eye(32, 16, -16)
            model.deep_supervision.merges[0].kernel[...] += of_words
        encoded = model.encode(source)
        inputs = model.decoder_inputs(source, encoded, lengths, 6)
        return model.logits(inputs, lengths, encoded)

    np.testing.assert_allclose(last_logits(deep), last_logits(plain), atol=1e-5)
    learned = last_logits(deep, share_of_words=0.5)
    assert float(jnp.abs(learned - last_logits(plain)).max()) > 0.1


def test_runs_of_earlier_versions_go_on_reading_normalised_states() -> None:
    data = config_json.to_json(WITH_AXE)
    assert config_json.from_json(LengthNat, data) == WITH_AXE
    del data["deep_supervision_reads"]
    of_today = dataclasses.replace(WITH_AXE, deep_supervision_reads="normalised")
    assert config_json.from_json(LengthNat, data) == of_today
    data = {**data, "deep_supervision": False}
    assert config_json.from_json(LengthNat, data).deep_supervision_reads == "states"


def test_the_loss_is_the_mean_of_all_layers_and_all_layers_learn() -> None:
    config = dataclasses.replace(WITH_AXE, token_loss=CrossEntropy())
    model = config.build(SIZES, rngs=nnx.Rngs(0))
    batch = Batch(sentences(0, [5, 3, 0], 5), sentences(1, [4, 5, 0], 5))
    graph, params = nnx.split(model, nnx.Param)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def objective(params: nnx.State) -> tuple[jax.Array, tuple]:
        model = nnx.merge(graph, params)
        loss = model.loss(batch, step=jnp.int32(0), rngs=None)
        target = without_eos(batch.target)
        lengths, encoded = lengths_of(target), model.encode(batch.source)
        inputs = model.decoder_inputs(batch.source, encoded, lengths, target.shape[1])
        logits = map(model.target_embedding.attend, model.layer_states(inputs, lengths, encoded))
        each = [cross_entropy.smoothed_cross_entropy(x, target, smoothing=0.0)[1] for x in logits]
        return loss.objective, (loss, [mean.value for mean in each])

    (_, (loss, each)), gradient = objective(params)
    assert abs(float(each[0] - each[1])) > 0.01
    assert float(loss.terms["token"].value) == pytest.approx(float(each[-1]), rel=1e-5)
    expected = np.mean(each) + 0.1 * float(loss.terms["length"].value)
    assert float(loss.objective) == pytest.approx(expected, rel=1e-5)
    for layer in range(2):
        block = gradient["decoder"]["blocks"][layer]["feed_forward"]["contract"]["kernel"]
        assert float(jnp.abs(block[...]).max()) > 0.0
    kernel = gradient["deep_supervision"]["merges"][0]["kernel"]
    assert float(jnp.abs(kernel[...]).max()) > 0.0


def test_one_layer_cannot_be_supervised_more_deeply() -> None:
    with pytest.raises(ConfigError, match="num_decoder_layers of at least 2, got 1"):
        LengthNat(TransformerConfig(num_decoder_layers=1), deep_supervision=True)


def test_company_padding_and_room_change_no_translation_with_blanks() -> None:
    """The same sentence alone, and among others with wider padding and a larger max_length."""
    model = WITH_AXE.build(SIZES, rngs=nnx.Rngs(0))
    blank = jnp.asarray(np.random.default_rng(4).normal(0.0, 0.75, 16), jnp.float32)
    table = model.target_embedding.table[...]
    model.target_embedding.table[...] = table.at[BLANK].set(blank)  # three times the other vectors
    source = sentences(2, [1, 2, 3, 3], 3)
    together = decode(model, source)
    wider = decode(model, jnp.pad(source, ((0, 0), (0, 4))), ROOM + 6)
    np.testing.assert_array_equal(wider.tokens[..., :ROOM], together.tokens)
    np.testing.assert_allclose(wider.scores, together.scores, atol=1e-5)
    for row in range(4):
        alone = decode(model, jnp.where(jnp.arange(4)[:, None] == row, source, PAD))
        np.testing.assert_array_equal(alone.tokens[row], together.tokens[row])
        np.testing.assert_allclose(alone.scores[row], together.scores[row], atol=1e-5)
        assert not np.delete(alone.tokens, row, axis=0).any()
    said = (together.tokens != PAD).sum(axis=-1)
    lengths = jax.jit(
        lambda: model.length_predictor.best(model.encode(source), 2, max_length=100)
    )()
    assert 8 < said.sum() < lengths.sum() - 4  # many places are blank, many are not
    assert not np.isin(together.tokens, [EOS, BLANK]).any()


@pytest.mark.slow
def test_pairs_are_learned_by_heart_with_axe(learn: Callable[..., Any]) -> None:
    model = WITH_AXE.build(SIZES, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    batch = Batch(sentences(5, [3, 2, 3, 3], 3), sentences(6, [3, 4, 5, 2], 5))

    def objective(params: nnx.State, step: jax.Array) -> jax.Array:
        return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None).objective

    params, history = learn(objective, params, jnp.arange(150))
    assert history[0] > 2.0
    assert history[-1] < 0.1
    found = decode(nnx.merge(graph, params), batch.source)
    expected = np.where(batch.target == EOS, PAD, batch.target)
    is_right = (found.tokens[:, :, :5] == expected[:, None]).all(axis=-1)
    assert is_right.any(axis=1).all()  # of two lengths the wrong one may have the higher mean log p
