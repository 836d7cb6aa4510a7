"""The one-pass model with length prediction: all words at once, as many as a classifier says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.methods import length_nat
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.length_nat import LengthBeam, LengthNat, LengthNatModel
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits
from nat_ar.special import EOS, NUM_SPECIAL, PAD, UNK
from nat_ar.types import Batch, Hypotheses

VOCABULARY = 16
TRANSFORMER = TransformerConfig(
    d_model=32,
    d_hidden=64,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
SOFT = LengthNat(TRANSFORMER, label_smoothing=0.0)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LENGTHS = [1, 2, 3, 3, 2, 3, 3, 2]  # of sources, EOS counted
ROOM = limits.length_limit(3)
DECODINGS = {
    "one": LengthBeam(1),
    "three": LengthBeam(3, n_best=3),
    "rescored": LengthBeam(3, rescore=True, n_best=3),
}


def sentences(seed: int, lengths: list[int], width: int) -> jax.Array:
    """Random words, EOS after each row's length (0: no sentence), padded to width."""
    rows = np.random.default_rng(seed).integers(NUM_SPECIAL, VOCABULARY, (len(lengths), width))
    for row, length in zip(rows, lengths, strict=True):
        row[length:] = PAD
        if length:
            row[length - 1] = EOS
    return jnp.asarray(rows, jnp.int32)


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


@functools.partial(jax.jit, static_argnames=("graph", "scorer_graph", "decoding", "max_length"))
def decode_jitted(
    graph: nnx.GraphDef,
    params: nnx.State,
    scorer_graph: nnx.GraphDef,
    scorer_params: nnx.State,
    source: jax.Array,
    decoding: LengthBeam,
    max_length: int,
) -> Hypotheses:
    scorer = nnx.merge(scorer_graph, scorer_params)
    model = nnx.merge(graph, params)
    return model.decode(source, decoding=decoding, max_length=max_length, scorer=scorer)


def decode(
    model: LengthNatModel,
    teacher: AutoregressiveModel,
    source: jax.Array,
    decoding: LengthBeam,
    max_length: int = ROOM,
) -> Hypotheses:
    parts = (*nnx.split(model, nnx.Param), *nnx.split(teacher, nnx.Param))
    return jax.device_get(decode_jitted(*parts, source, decoding, max_length))


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
    model.length_head.kernel[...] = jnp.zeros((32, 5))
    source = sentences(0, [5], 5)

    @jax.jit
    def length_loss(params: nnx.State, target: jax.Array) -> jax.Array:
        loss = nnx.merge(graph, params).loss(Batch(source, target), step=jnp.int32(0), rngs=None)
        return loss.terms["length"].value

    for class_id in range(5):
        bias = 100.0 * (np.arange(5) == class_id)
        model.length_head.bias[...] = jnp.asarray(bias, jnp.float32)
        graph, params = nnx.split(model, nnx.Param)
        for target_length, said in [(2, 0), (3, 1), (4, 2), (5, 3), (6, 4), (1, 0), (9, 4)]:
            target = sentences(1, [target_length + 1], 10)
            assert (float(length_loss(params, target)) < 1.0) == (class_id == said)


def test_one_pass_tokens_by_hand() -> None:
    """The best word of each place inside the length; no special token, however probable."""
    logits = np.zeros((1, 3, 8), np.float32)
    logits[0, :, EOS] = 9.0
    logits[0, 0, 7] = logits[0, 1, UNK] = logits[0, 2, 6] = 5.0
    tokens, score = length_nat.one_pass_tokens(jnp.asarray(logits), jnp.array([2]))
    np.testing.assert_array_equal(tokens, [[7, UNK, PAD]])
    one = 5.0 - np.log(np.exp(9.0) + np.exp(5.0) + 6.0)  # log p of each word, over all 8 tokens
    assert float(score[0]) == pytest.approx(one, rel=1e-5)


def test_the_width_ladder_equals_decoding_at_full_width(
    model: LengthNatModel, teacher: AutoregressiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, decoding = sentences(2, LENGTHS, 3), DECODINGS["three"]
    by_ladder = decode(model, teacher, source, decoding)
    assert lengths_of(by_ladder.tokens).max() <= 8 < ROOM  # the narrowest width was enough
    monkeypatch.setattr(limits, "width_ladder", lambda max_length: (max_length,))
    in_full = decode(model, teacher, source, decoding, ROOM + 1)  # nothing compiled for it yet
    np.testing.assert_array_equal(by_ladder.tokens, in_full.tokens[..., :ROOM])
    np.testing.assert_allclose(by_ladder.scores, in_full.scores, atol=1e-5)
    np.testing.assert_array_equal(by_ladder.steps, in_full.steps)


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
        steps = np.concatenate([part.steps for part in parts])
        np.testing.assert_array_equal(steps, together.steps, err_msg=name)
    assert len(np.unique(lengths_of(together.tokens))) > 2  # or the test says little
    assert (np.diff(together.scores, axis=1) <= 0).all()
    np.testing.assert_array_equal(together.steps, 2 if decoding.rescore else 1)


def test_a_length_beam_tries_different_lengths_within_the_limit(
    model: LengthNatModel, teacher: AutoregressiveModel
) -> None:
    """Offsets of -5 ... 5 to sources of 0 to 2 words: those below one word are no candidates."""
    source = sentences(2, LENGTHS, 3)
    lengths = lengths_of(decode(model, teacher, source, DECODINGS["three"]).tokens)
    for row, of_source in zip(lengths, LENGTHS, strict=True):
        assert len(set(row.tolist())) == 3
        assert 1 <= row.min() <= row.max() <= limits.length_limit(of_source)


def test_lengths_that_the_limit_forbids_are_not_chosen(teacher: AutoregressiveModel) -> None:
    """The head says offset 64 always; a source of n tokens may become 2 n + 10 long."""
    model = SOFT.build(SIZES, rngs=nnx.Rngs(0))
    model.length_head.kernel[...] = jnp.zeros((32, 129))
    model.length_head.bias[...] = jnp.asarray(np.arange(129), jnp.float32)
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
        np.testing.assert_array_equal(found.steps[1::2], 0)
        assert np.isfinite(found.scores).all()


@pytest.mark.parametrize(("size", "n_best"), [(0, 1), (2, 0), (2, 3)])
def test_impossible_settings_are_refused(size: int, n_best: int) -> None:
    with pytest.raises(ConfigError, match=f"got n_best {n_best} and size {size}"):
        LengthBeam(size=size, n_best=n_best)


def test_eight_pairs_are_learned_by_heart(teacher: AutoregressiveModel) -> None:
    model = SOFT.build(SIZES, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    batch = Batch(
        sentences(5, [5, 4, 6, 3, 6, 5, 4, 6], 6), sentences(6, [2, 3, 4, 5, 6, 7, 8, 8], 8)
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 100))

    @jax.jit
    def train(params: nnx.State) -> tuple[nnx.State, jax.Array]:
        def objective(params: nnx.State) -> jax.Array:
            return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None).objective

        def update(state: tuple, _: None) -> tuple[tuple, jax.Array]:
            params, moments = state
            loss, gradients = jax.value_and_grad(objective)(params)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        (params, _), history = jax.lax.scan(update, (params, optimizer.init(params)), length=100)
        return params, history

    params, history = train(params)
    assert history[0] > 2.0
    assert history[-1] < 0.1
    found = decode(nnx.merge(graph, params), teacher, batch.source, LengthBeam(1), 22)
    expected = np.where(batch.target == EOS, PAD, batch.target)
    np.testing.assert_array_equal(found.tokens[:, 0, :8], expected)
    assert not found.tokens[:, 0, 8:].any()
