"""Two decoders on one encoder: each does what it would do alone, and one scores for the other."""

import functools
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
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.joint import Joint, JointModel
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.search import limits
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.special_tokens import PAD
from nat_ar.types import Batch, Hypotheses
from toys import TINY, one_width

VOCABULARY = 14
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
CONFIG = Joint(TINY, max_length_offset=4, autoregressive_weight=0.25, rescoring_length_penalty=0.5)
LENGTHS = [1, 2, 3, 3]  # of sources, EOS counted
ROOM = limits.length_limit(3)
RESCORED = LengthBeam(3, rescore=True, n_best=3)


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def model() -> JointModel:
    return CONFIG.build(SIZES, rngs=nnx.Rngs(0))


def with_parameters_of(model: JointModel, other: Any, **names: str) -> Any:
    """The other model, with the joint one's parameters under its own names."""
    shared = {"target_embedding": "target_embedding", "encoder": "encoder"}
    for name, joint_name in {**shared, **names}.items():
        nnx.update(getattr(other, name), nnx.state(getattr(model, joint_name), nnx.Param))
    return other


@pytest.fixture(scope="module")
def autoregressive(model: JointModel) -> AutoregressiveModel:
    """The causal half as a model of its own."""
    config = Autoregressive(TINY, rescoring_length_penalty=0.5)
    other = config.build(SIZES, rngs=nnx.Rngs(1))
    return with_parameters_of(model, other, decoder="causal_decoder")


@pytest.fixture(scope="module")
def length_nat(model: JointModel) -> LengthNatModel:
    """The other half."""
    other = LengthNat(TINY, max_length_offset=4).build(SIZES, rngs=nnx.Rngs(1))
    return with_parameters_of(model, other, decoder="decoder", length_predictor="length_predictor")


def decode(
    model: Any, source: jax.Array, decoding: Any, scorer: Any = None, max_length: int = ROOM
) -> Hypotheses:
    options = {"widths": one_width} if isinstance(model, LengthNatModel) else {}
    return toys.decode(model, source, decoding, max_length, scorer=scorer, **options)


def assert_equal(found: Hypotheses, expected: Hypotheses) -> None:
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(found.passes, expected.passes)


@pytest.mark.slow
def test_rescoring_equals_a_separate_teacher_with_the_same_parameters(
    model: JointModel, length_nat: LengthNatModel, autoregressive: AutoregressiveModel
) -> None:
    source = sentences(2, LENGTHS, 3)
    found = decode(model, source, RESCORED)
    assert_equal(found, decode(length_nat, source, RESCORED, scorer=autoregressive))
    np.testing.assert_array_equal(found.passes, 2)
    scores = jax.jit(model.score)(source, jnp.asarray(found.tokens))
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)


def test_the_causal_decoder_translates_as_it_would_alone(
    model: JointModel, autoregressive: AutoregressiveModel
) -> None:
    source = sentences(2, LENGTHS, 3)
    assert_equal(decode(model, source, Greedy()), decode(autoregressive, source, Greedy()))


@pytest.mark.parametrize(
    "decoding", [RESCORED, LengthBeam(2), Greedy(), Beam(2)], ids=lambda d: type(d).__name__
)
def test_every_decoding_encodes_once(
    model: JointModel, decoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, encode = [], Encoder.__call__

    def counted(self: Encoder, *arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return encode(self, *arguments, **named)

    monkeypatch.setattr(Encoder, "__call__", counted)
    translate = functools.partial(model.decode, decoding=decoding, max_length=ROOM)
    jax.eval_shape(translate, sentences(2, LENGTHS, 3))
    assert len(calls) == 1


def test_the_loss_weighs_those_of_the_halves(
    model: JointModel, length_nat: LengthNatModel, autoregressive: AutoregressiveModel
) -> None:
    batch = Batch(sentences(0, [4, 3, 0], 4), sentences(1, [3, 5, 0], 5))

    @jax.jit
    def losses(batch: Batch) -> list:
        models = (model, length_nat, autoregressive)
        return [one.loss(batch, step=jnp.int32(0), rngs=None) for one in models]

    both, at_once, causal = losses(batch)
    expected = 0.25 * float(causal.objective) + 0.75 * float(at_once.objective)
    assert float(both.objective) == pytest.approx(expected, rel=1e-5)
    assert float(both.terms["autoregressive"].count) == 3 + 5
    assert float(both.terms["token"].count) == 2 + 4
    for name, of_half in {"autoregressive": causal.terms["token"], **at_once.terms}.items():
        assert float(both.terms[name].value) == pytest.approx(float(of_half.value), rel=1e-5)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.permutations(range(4)))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_company_padding_and_room_change_no_rescored_translation(
    model: JointModel, lengths: list[int], order: list[int]
) -> None:
    """The same sentences in another order, and each alone with wider padding and a larger max_length;
    length 0: no sentence."""
    source = sentences(sum(lengths), lengths, 3)
    together = decode(model, source, RESCORED)
    elsewhere = decode(model, source[np.array(order)], RESCORED)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(elsewhere), strict=True):
        np.testing.assert_allclose(one[order], other, atol=1e-5)
    wider = jnp.pad(source, ((0, 0), (0, 3)), constant_values=PAD)
    alone = [decode(model, wider[i : i + 1], RESCORED, max_length=ROOM + 6) for i in range(4)]
    tokens = np.concatenate([found.tokens for found in alone])
    np.testing.assert_array_equal(tokens[..., :ROOM], together.tokens)
    assert not tokens[..., ROOM:].any()
    scores = np.concatenate([found.scores for found in alone])
    is_sentence = np.array(lengths) > 0
    np.testing.assert_allclose(scores[is_sentence], together.scores[is_sentence], atol=1e-5)
    assert np.isfinite(together.scores).all()
    np.testing.assert_array_equal(together.passes, 2 * is_sentence)
    assert not together.tokens[~is_sentence].any()


def test_the_causal_decoder_may_be_shallower() -> None:
    config = Joint(TransformerConfig(), num_autoregressive_layers=2)
    model = nnx.eval_shape(lambda: config.build(SIZES, rngs=nnx.Rngs(0)))
    assert (len(model.decoder.blocks), len(model.causal_decoder.blocks)) == (6, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autoregressive_weight": 1.0}, "above 0 and below 1, .* got 1.0"),
        ({"num_autoregressive_layers": 0}, "at least 1, or None, got 0"),
    ],
)
def test_impossible_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Joint(**change)
