"""Ensembles under the searches: the mean of probabilities, one cache for each member."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import toys
from nat_ar.config_json import ConfigError
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.ensemble import Ensemble, EnsembleModel, log_mean
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.jacobi import Jacobi
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD
from nat_ar.types import Batch, append_eos
from toys import TINY

VOCABULARY = 14
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LENGTHS = [1, 2, 3, 4, 5, 4, 0, 2]
ROOM = limits.length_limit(5)
BEAM = Beam(3, n_best=3)
MEMBERS = (
    Autoregressive(TINY),
    DecoderOnly(TransformerConfig(8, 16, 1, 1, 2)),
    Recurrent(RecurrentConfig(d_model=16, dropout_rate=0.0)),
)
"""Three architectures, whose caches differ in their layout."""

sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


def single(member: Any, seed: int) -> Any:
    """Random, but with opinions."""
    model = member.build(SIZES, rngs=nnx.Rngs(seed))
    model.target_embedding.table[...] = 3.0 * model.target_embedding.table[...]
    return model


def together(*models: Any) -> EnsembleModel:
    config = Ensemble(tuple(model.config for model in models))
    ensemble = config.build(SIZES, rngs=nnx.Rngs(9))
    for member, model in zip(ensemble.members, models, strict=True):
        nnx.update(member, nnx.state(model))
    return ensemble


@pytest.fixture(scope="module")
def mixed() -> EnsembleModel:
    return together(*(single(member, seed) for seed, member in enumerate(MEMBERS)))


@pytest.mark.parametrize("decoding", [Greedy(), BEAM])
def test_a_model_with_itself_translates_as_it_does_alone(decoding: Greedy | Beam) -> None:
    model, source = single(MEMBERS[0], 0), sentences(1, LENGTHS, 5)
    alone = toys.decode(model, source, decoding, ROOM)
    twice = toys.decode(together(model, model), source, decoding, ROOM)
    np.testing.assert_array_equal(twice.tokens, alone.tokens)
    np.testing.assert_allclose(twice.scores, alone.scores, atol=1e-4)
    np.testing.assert_array_equal(twice.passes, alone.passes)


def test_the_mean_of_probabilities_by_hand() -> None:
    """(0.8 + 0.2) / 2, not the mean of logits, which would be 2 / 3 : 1 / 3 for 4 : 1 and 1 : 1."""
    one, other = jnp.log(jnp.array([0.8, 0.2])), jnp.log(jnp.array([0.2, 0.8])) + 7.0
    np.testing.assert_allclose(jnp.exp(log_mean([one, other])), [0.5, 0.5], atol=1e-6)
    even = jnp.zeros(2)
    np.testing.assert_allclose(jnp.exp(log_mean([one, even])), [0.65, 0.35], atol=1e-6)


def test_the_score_of_a_translation_is_the_mean_at_every_word() -> None:
    """Of two models: the sum of log((p + q) / 2) over the words and EOS."""
    models = [single(member, seed) for seed, member in enumerate(MEMBERS[:2])]
    source = sentences(3, [4, 2], 4)
    hypotheses = jnp.array([[[7, 8, 9, PAD]], [[9, PAD, PAD, PAD]]], jnp.int32)
    target = append_eos(hypotheses[:, 0])
    probabilities = [np.asarray(jax.nn.softmax(model.logits(source, target))) for model in models]
    expected = [
        sum(
            np.log(np.mean([p[row, place, word] for p in probabilities]))
            for place, word in enumerate(words)
        )
        for row, words in enumerate([[7, 8, 9, EOS], [9, EOS]])
    ]
    ensemble = together(*models)
    scores = ensemble.score(source, hypotheses, length_penalty=0.0)
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5)
    per_word = ensemble.score(source, hypotheses)  # its rescoring_length_penalty is 1
    np.testing.assert_allclose(per_word[:, 0], np.asarray(expected) / [4, 2], rtol=1e-5)
    loss = ensemble.loss(Batch(source, target), step=jnp.int32(0), rngs=None)
    assert loss.objective == pytest.approx(-sum(expected) / 6, rel=1e-5)


@pytest.mark.parametrize("decoding", [Greedy(), BEAM])
def test_caches_follow_their_hypotheses_in_every_member(
    mixed: EnsembleModel, decoding: Greedy | Beam
) -> None:
    """What a search of cached steps says of its translations, one pass over all positions says too."""
    source = sentences(5, LENGTHS, 5)
    found = toys.decode(mixed, source, decoding, ROOM)
    penalty = getattr(decoding, "length_penalty", 0.0)
    scores = mixed.score(source, jnp.asarray(found.tokens), length_penalty=penalty)
    is_real = np.isfinite(found.scores) & (np.array(LENGTHS) > 0)[:, None]
    np.testing.assert_allclose(np.asarray(scores)[is_real], found.scores[is_real], atol=1e-4)
    assert is_real.sum() > len(LENGTHS) - 2


def test_a_beam_of_all_sequences_finds_the_best() -> None:
    """Brute force over every translation of one or two of four words, and of none."""
    small = VocabularySizes(NUM_SPECIAL + 4, NUM_SPECIAL + 4, is_joint=True)
    config = Ensemble(MEMBERS)
    model = config.build(small, rngs=nnx.Rngs(2))
    source = toys.sentences(1, [3], 3, vocabulary=NUM_SPECIAL + 4)
    words = range(NUM_SPECIAL, NUM_SPECIAL + 4)
    every = [
        [*chosen, *[PAD] * (2 - len(chosen))]
        for length in range(3)
        for chosen in itertools.product(words, repeat=length)
    ]
    scores = model.score(source, jnp.array([every], jnp.int32), length_penalty=1.0)[0]
    found = toys.decode(model, source, Beam(32), 2)
    assert found.tokens[0, 0].tolist() == every[int(np.argmax(scores))]
    assert found.scores[0, 0] == pytest.approx(float(np.max(scores)), abs=1e-4)


@pytest.mark.parametrize("decoding", [Greedy(), BEAM])
def test_company_padding_and_room_change_no_translation(
    mixed: EnsembleModel, decoding: Greedy | Beam
) -> None:
    source = sentences(7, LENGTHS, 5)
    found = toys.decode(mixed, source, decoding, ROOM)
    order = np.array([3, 1, 7, 6, 0, 2, 5, 4])
    elsewhere = toys.decode(mixed, source[order], decoding, ROOM)
    wider = jnp.pad(source, ((0, 0), (0, 4)), constant_values=PAD)
    alone = [toys.decode(mixed, wider[row : row + 1], decoding, ROOM + 8) for row in range(8)]
    for row, one in enumerate(alone):
        np.testing.assert_array_equal(one.tokens[0, :, :ROOM], found.tokens[row])
        np.testing.assert_allclose(one.scores[0], found.scores[row], atol=1e-4)
        np.testing.assert_array_equal(elsewhere.tokens[row], found.tokens[order[row]])


def test_a_block_of_guesses_is_verified_by_all_members(mixed: EnsembleModel) -> None:
    source = sentences(7, LENGTHS, 5)
    greedy = toys.decode(mixed, source, Greedy(), ROOM)
    verified = toys.decode(mixed, source, Jacobi(block=3), ROOM)
    np.testing.assert_array_equal(verified.tokens, greedy.tokens)
    np.testing.assert_allclose(verified.scores, greedy.scores, atol=1e-4)


def test_what_cannot_be_an_ensemble_is_refused() -> None:
    ar = Autoregressive(TINY)
    for other in (LengthNat(TINY), Joint(TINY)):
        with pytest.raises(
            ConfigError, match=f"expected members of family AR, got {type(other).__name__}"
        ):
            Ensemble((ar, other))
    with pytest.raises(ConfigError, match="needs two members or more, got 1"):
        Ensemble((ar,))
    with pytest.raises(ConfigError, match="compute in one dtype, got bfloat16 and float32"):
        Ensemble((ar, Autoregressive(TransformerConfig(16, 32, 2, 1, 1, dtype="bfloat16"))))
    short = Autoregressive(TransformerConfig(16, 32, 2, 1, 1, max_length=1024))
    assert Ensemble((MEMBERS[2], short)).network.max_length == 1024
