"""Verified drafts in every left-to-right model: the words, scores and ends of greedy search, alone and in company."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.joint import Joint
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn import packed
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.search import limits
from nat_ar.search.blockwise import Blockwise
from nat_ar.search.greedy import Greedy
from nat_ar.search.jacobi import Jacobi
from nat_ar.search.sampling import Sampling
from nat_ar.search.speculative import Speculative
from nat_ar.special_tokens import PAD
from nat_ar.translation import decodings
from nat_ar.types import Batch, Hypotheses, Mean, append_eos
from toys import TINY, sentences

VOCABULARY, WIDTH, MAX_LENGTH = 24, 6, 14
SIZES = base.VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
METHODS = {
    "plain": Autoregressive(transformer=TINY),
    "decoder_only": DecoderOnly(transformer=TINY),
    "recurrent": Recurrent(
        network=RecurrentConfig(d_model=16, num_encoder_layers=1, num_decoder_layers=1)
    ),
    "joint": Joint(transformer=TINY),
    "heads": Autoregressive(transformer=TINY, lookahead_words=3),
}
SOURCE = sentences(0, [6, 4, 0, 5, 1, 3, 6], WIDTH, vocabulary=VOCABULARY)


@functools.cache
def model_of(name: str, is_packed: bool) -> nnx.Module:
    """Random parameters, made larger so that words depend on the words before."""
    model = METHODS[name].build(SIZES, rngs=nnx.Rngs(1))
    params = jax.tree.map(lambda leaf: 2.0 * leaf, nnx.state(model, nnx.Param))
    nnx.update(model, params)
    if is_packed:
        packed.pack(model)
    return model


def decode(
    model: nnx.Module, source: jax.Array, decoding: object, draft: Hypotheses | None, kernels: bool
) -> Hypotheses:
    graph, params = nnx.split(model)

    @jax.jit
    def run(params: nnx.State, source: jax.Array, draft: Hypotheses | None) -> Hypotheses:
        options = {} if draft is None else {"draft": draft}
        with cpu_kernels.in_use(kernels):
            return nnx.merge(graph, params).decode(
                source, decoding=decoding, max_length=MAX_LENGTH, **options
            )

    return jax.device_get(run(params, source, draft))


def draft_of(found: Hypotheses) -> Hypotheses:
    """The translations with every third word another one, and the last one lost."""
    tokens = np.array(found.tokens)
    tokens[..., ::3] = np.where(tokens[..., ::3] == PAD, PAD, 7)
    tokens[..., -1] = PAD
    return Hypotheses(jnp.asarray(tokens), jnp.asarray(found.scores), jnp.ones_like(found.passes))


KINDS = [
    *((name, False) for name in METHODS),
    ("plain", True),
    pytest.param("joint", True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "is_packed"), KINDS)
def test_words_scores_and_ends_are_those_of_greedy_search_and_of_sampling(
    name: str, is_packed: bool
) -> None:
    """All rows together, and one alone."""
    if is_packed and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    model = model_of(name, is_packed)
    greedy = decode(model, SOURCE, Greedy(), None, is_packed)
    assert len({tuple(row) for row in greedy.tokens[:, 0].tolist()}) >= 3  # they tell rows apart
    cases = [(greedy, Jacobi(block=4), None)]
    if name == "plain":
        cases.append((greedy, Speculative(block=5), draft_of(greedy)))
        drawn = decode(model, SOURCE, Sampling(seed=3), None, is_packed)
        cases.append((drawn, Jacobi(block=3, temperature=1.0, seed=3), None))
    if name == "heads":
        cases = [(greedy, Blockwise(block=6), None)]
    if name == "joint":
        cases = [(greedy, Speculative(), None)]
    for expected, decoding, draft in cases:
        found = decode(model, SOURCE, decoding, draft, is_packed)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        assert (found.verification.passes <= expected.passes).all()
        if is_packed:
            assert found.verification.near_ties is None
            np.testing.assert_array_equal(found.scores, expected.scores)
        else:
            assert found.verification.near_ties is not None
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        first = draft and Hypotheses(draft.tokens[:1], draft.scores[:1], draft.passes[:1])
        alone = decode(model, SOURCE[:1], decoding, first, is_packed)
        np.testing.assert_array_equal(alone.tokens, expected.tokens[:1])


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_shallow_model_goes_on_from_the_final_words(is_packed: bool) -> None:
    """Its cache holds what it has read of them, whatever was accepted: passes are those of a drafter that reads all
    words anew each time."""
    if is_packed and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    model, block = model_of("plain", is_packed), 4
    shallow = Autoregressive(transformer=dataclasses.replace(TINY, num_decoder_layers=1))
    drafter = shallow.build(SIZES, rngs=nnx.Rngs(1))
    params = jax.tree.map(lambda leaf: 1.5 * leaf, nnx.state(drafter, nnx.Param))
    nnx.update(drafter, params)
    base.start_encoder(drafter, METHODS["plain"].build(SIZES, rngs=nnx.Rngs(1)))
    plain = nnx.clone(drafter)
    if is_packed:
        packed.pack(drafter)
    greedy = decode(model, SOURCE, Greedy(), None, is_packed)

    def run(source: jax.Array) -> Hypotheses:
        with cpu_kernels.in_use(is_packed):
            draft = drafter.drafting(source, max_length=MAX_LENGTH)
            return model.decode(
                source, decoding=Speculative(block=block), max_length=MAX_LENGTH, draft=draft
            )

    found = jax.jit(run)(SOURCE)
    np.testing.assert_array_equal(found.tokens, greedy.tokens)
    if is_packed:
        np.testing.assert_array_equal(found.scores, greedy.scores)
    target = np.asarray(append_eos(jnp.asarray(greedy.tokens[:, 0])))
    logits = jax.jit(plain.logits)(SOURCE, target)
    allowed = limits.text_logits(logits, may_end=True)
    is_right = np.asarray(allowed.argmax(axis=-1)) == target
    assert 0.05 < is_right.mean() < 0.95
    expected = []
    for right, number in zip(is_right, greedy.passes.tolist(), strict=True):
        position = passes = 0
        while position < number:
            wrong = np.flatnonzero(~right[position : min(position + block - 1, number)])
            position += (wrong[0] if wrong.size else block - 1) + 1
            passes += 1
        expected.append(passes)
    np.testing.assert_array_equal(found.verification.passes, expected)
    np.testing.assert_array_equal(found.passes, block * np.array(expected))


def test_an_encoder_is_the_same_where_every_bit_of_it_is() -> None:
    model = METHODS["plain"].build(SIZES, rngs=nnx.Rngs(1))
    small = dataclasses.replace(TINY, num_decoder_layers=1)
    drafter = Autoregressive(small).build(SIZES, rngs=nnx.Rngs(2))
    assert not base.has_encoder_of(drafter, model)
    base.start_encoder(drafter, model)
    assert base.has_encoder_of(drafter, model)
    bias = drafter.encoder.blocks[0].feed_forward.expand.bias
    bias[...] = bias[...].at[0].add(1e-7)
    assert not base.has_encoder_of(drafter, model)
    assert not base.has_encoder_of(METHODS["recurrent"].build(SIZES, rngs=nnx.Rngs(1)), model)


def test_passes_count_those_of_the_drafter() -> None:
    model = model_of("joint", is_packed=False)
    found = decode(model, SOURCE, Speculative(), None, kernels=False)
    np.testing.assert_array_equal(found.passes - found.verification.passes, [1, 1, 0, 1, 1, 1, 1])
    other = model_of("plain", is_packed=False)
    greedy = decode(other, SOURCE, Greedy(), None, kernels=False)
    draft = Hypotheses(*map(jnp.asarray, (greedy.tokens, greedy.scores, np.full(7, 3, np.int32))))
    found = decode(other, SOURCE, Speculative(block=40), draft, kernels=False)
    np.testing.assert_array_equal(found.verification.passes, [1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.passes, [4, 4, 3, 4, 4, 4, 4])


def test_heads_take_turns_and_alone_they_leave_the_rest_as_it_is() -> None:
    """Of three heads the second learns at step 4: the words two places after the next one. The word that is
    predicted next, and its gradients, are those of a model without heads, at a quarter of their weight."""
    source, target = SOURCE[:2], SOURCE[:2]
    gradients = {}
    for only in (False, True):
        method = Autoregressive(TINY, lookahead_words=3, only_heads_learn=only, label_smoothing=0.0)
        model = method.build(SIZES, rngs=nnx.Rngs(0))

        def objective(model: nnx.Module) -> tuple[jax.Array, dict[str, Mean]]:
            loss = model.loss(Batch(source, target), step=jnp.int32(4), rngs=None)
            return loss.objective, loss.terms

        (value, terms), of_all = nnx.value_and_grad(objective, has_aux=True)(model)
        gradients[only] = nnx.to_pure_dict(of_all)
        token, ahead = float(terms["token"].value), float(terms["lookahead"].value)
        assert float(value) == pytest.approx(ahead if only else (token + 3 * ahead) / 4, rel=1e-5)
        assert terms["token"].count == 6 + 4
        assert terms["lookahead"].count == 4 + 2  # sentences less two places
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients[True]["decoder"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients[True]["target_embedding"]))
    for each in gradients.values():
        moved = [bool(head["kernel"].any()) for head in each["lookahead"]["contract"].values()]
        assert moved == [False, True, False]
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients[False]["target_embedding"]))


def test_blockwise_needs_heads() -> None:
    with pytest.raises(ConfigError, match="train Autoregressive with lookahead_words"):
        decodings.choose(Autoregressive(TINY), "Blockwise(block=4)")
    assert decodings.choose(METHODS["heads"], "Blockwise(block=4)").text == "Blockwise(block=4)"
    with pytest.raises(ConfigError, match="nothing would learn"):
        Autoregressive(TINY, only_heads_learn=True)
