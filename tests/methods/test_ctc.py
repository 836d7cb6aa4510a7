"""CTC models: what they pay for, what glancing and the latent variable do, and how they decode."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words
from nat_ar.losses import ctc as ctc_losses
from nat_ar.losses.ngram_matching import NgramMatching
from nat_ar.methods import ctc_passes, latent
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.ctc import Ctc, CtcModel
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.latent import Gaussian, Latent
from nat_ar.search import limits
from nat_ar.search.ctc import BestPath, PrefixBeam
from nat_ar.special_tokens import BLANK, EOS, NUM_SPECIAL, PAD, UNK
from nat_ar.types import Batch, Hypotheses, Loss, Mean
from toys import TINY

VOCABULARY = 16
TRANSFORMER = dataclasses.replace(TINY, d_model=32, d_hidden=64)
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
SPLIT = Ctc(TRANSFORMER, upsample_factor=2)
ALL = Ctc(
    dataclasses.replace(TRANSFORMER, dropout_rate=0.2),
    upsample_factor=2,
    upsampling="copy",
    label_smoothing=0.1,
    glancing=Glancing(0.5, 0.5),
    latent=Latent(num_layers=1, free_nats=100.0, anneal_steps=100),
)
A, B, C, D = range(NUM_SPECIAL, NUM_SPECIAL + 4)
# Rows with 8, 6 and 0 frames; words that need 4, 7 (six and a repeat: infeasible) and 0.
BATCH = Batch(
    jnp.array([[A, B, C, EOS, PAD], [D, A, EOS, PAD, PAD], [PAD] * 5]),
    jnp.array([[A, B, B, EOS, PAD, PAD, PAD], [A, B, C, C, D, A, EOS], [PAD] * 7]),
)
STEPS = 100
ROOM = limits.length_limit(5)


@functools.partial(jax.jit, static_argnames="graph")
def loss_jitted(graph: nnx.GraphDef, params: nnx.State, batch: Batch, step: jax.Array) -> Loss:
    return nnx.merge(graph, params).loss(batch, step=step, rngs=None)


def loss_of(model: CtcModel, batch: Batch, *, step: int = 0) -> Loss:
    """Without dropout and samples."""
    return loss_jitted(*nnx.split(model, nnx.Param), batch, jnp.int32(step))


@functools.cache
def built(config: Ctc) -> CtcModel:
    return config.build(SIZES, rngs=nnx.Rngs(0))


sentences = functools.partial(toys.sentences, vocabulary=VOCABULARY)


SOURCE = sentences(2, [1, 2, 5, 4, 3, 5, 2, 3], 5)
DECODINGS = (BestPath(), PrefixBeam(size=3, top_k=3, n_best=2))


def decode(model: CtcModel, source: jax.Array, max_length: int = ROOM) -> list[Hypotheses]:
    """What each of DECODINGS finds."""
    return [toys.decode(model, source, decoding, max_length) for decoding in DECODINGS]


def test_sentences_with_too_few_frames_are_counted_and_have_no_part() -> None:
    """Of two sentences one is infeasible: only the three words of the other count."""
    loss = loss_of(built(ALL), BATCH)
    infeasible = loss.terms["infeasible"]
    assert (float(infeasible.total), float(infeasible.count)) == (1, 2)
    assert float(loss.terms["token"].count) == float(loss.terms["kl"].count) == 3
    assert float(loss.objective) > 0.0


def test_training_counts_the_same_sentences_over_a_corpus() -> None:
    """The two of the batch, without EOS; and what two frames a token are just enough for."""
    feasible = ALL.is_feasible(
        np.array([3, 2, 2, 0, 0, 0]), np.array([3, 6, 6, 2, 2, 3]), np.array([1, 1, 0, 0, 1, 0])
    )
    assert feasible.tolist() == [True, False, True, True, False, False]


def test_padding_and_rows_without_a_part_change_no_loss() -> None:
    """The first row's loss beside an infeasible and an empty one, beside empty ones, in wider arrays;
    without rngs, so that nothing is revealed, and when no nats are free, which would outweigh all else."""
    model, is_first = built(ALL), jnp.arange(3)[:, None] == 0
    expected = loss_of(model, BATCH, step=100)
    assert set(expected.terms) == {"token", "kl", "infeasible"}
    alone = jax.tree.map(lambda ids: jnp.where(is_first, ids, PAD), BATCH)
    wider = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 0), (0, 2))), BATCH)
    for batch in (alone, wider):
        found = float(loss_of(model, batch, step=100).objective)
        assert found == pytest.approx(float(expected.objective), rel=1e-5)


def test_a_batch_of_no_sentences_costs_nothing() -> None:
    """Not even its free nats."""
    nothing = jax.tree.map(jnp.zeros_like, BATCH)
    loss = loss_of(built(ALL), nothing)
    assert float(loss.objective) == 0.0
    assert all(float(mean.count) == 0.0 for mean in loss.terms.values())


def test_ngram_matching_takes_the_place_of_the_likelihood() -> None:
    """Its score is minus the objective, of the one sentence that is feasible, whatever stands beside it; nats are still
    reported, and gradients of the score teach the sentence, but for a repetition perhaps."""
    config = dataclasses.replace(SPLIT, ngram_matching=NgramMatching())
    model, is_first = built(config), jnp.arange(3)[:, None] == 0
    loss = loss_of(model, BATCH)
    match = loss.terms["match"]
    assert (float(match.count), float(loss.objective)) == (1, -float(match.value))
    assert 0.0 < float(match.value) < 0.5
    likelihood = loss_of(built(SPLIT), BATCH)
    np.testing.assert_allclose(loss.terms["token"].total, likelihood.terms["token"].total)
    alone = jax.tree.map(lambda ids: jnp.where(is_first, ids, PAD), BATCH)
    np.testing.assert_allclose(loss_of(model, alone).objective, loss.objective, rtol=1e-5)
    assert config.variant == "CTC + NMLA"

    graph, params = nnx.split(model, nnx.Param)
    optimizer = optax.adam(1e-2)

    def update(state: tuple, _: None) -> tuple[tuple, jax.Array]:
        params, moments = state
        value, gradients = jax.value_and_grad(
            lambda params: loss_jitted(graph, params, BATCH, jnp.int32(0)).objective
        )(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    start = (params, optimizer.init(params))
    _, scores = jax.jit(lambda start: jax.lax.scan(update, start, length=60))(start)
    assert -scores[-1] > 6 / 7 - 1e-3  # of A B B at least A B is said: 3 of its 2-grams, of 3 and 4


@pytest.mark.parametrize("upsampling", ["split", "states", "copy"])
def test_what_each_frame_reads(upsampling: Any) -> None:
    """The decoder answers its inputs: of "split" a part of a projected state, of "copy" its token's embedding, of
    "states" its token's state and the vector of the frame's place within the token."""

    class Answering(CtcModel):
        """Decoder inputs in place of logits."""

        def __init__(self, config: Ctc) -> None:
            super().__init__(config, SIZES, rngs=nnx.Rngs(0))
            self.decoder = lambda inputs, lengths, encoded, **options: inputs
            self.target_embedding.attend = lambda states: states

    model = Answering(dataclasses.replace(SPLIT, upsampling=upsampling, upsample_factor=3))
    encoded = model.encode(BATCH.source)
    inputs = model.logits(model.decoder_inputs(BATCH.source, encoded), encoded)
    assert inputs.shape == (3, 15, 32)
    embeddings, states = model.embed_source(BATCH.source), encoded.states
    for frame in (0, 4, 11):  # of the tokens 0, 1 and 3, the first, second and third of each
        token, place = divmod(frame, 3)
        if upsampling == "split":
            expected = model.splitter(states[:, token])[:, 32 * place :][:, :32]
        elif upsampling == "states":
            expected = states[:, token] + model.frame_embedding(jnp.array(place))
        else:
            expected = embeddings[:, token]
        np.testing.assert_allclose(inputs[:, frame], expected, atol=1e-5)


STATES = dataclasses.replace(ALL, upsampling="states")


def test_padding_changes_no_loss_from_states() -> None:
    expected = loss_of(built(STATES), BATCH, step=100)
    wider = jax.tree.map(lambda ids: jnp.pad(ids, ((0, 1), (0, 2))), BATCH)
    found = float(loss_of(built(STATES), wider, step=100).objective)
    assert found == pytest.approx(float(expected.objective), rel=1e-5)


def test_a_revealed_frame_keeps_its_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every frame revealed the decoder still reads the vectors: they have a gradient."""
    config = dataclasses.replace(STATES, latent=None)

    def all_frames(
        self: Glancing, is_wrong: jax.Array, is_frame: jax.Array, *more: Any
    ) -> jax.Array:
        return is_frame

    monkeypatch.setattr(Glancing, "revealed", all_frames)
    graph, params = nnx.split(built(config), nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(params: nnx.State) -> jax.Array:
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        return nnx.merge(graph, params).loss(BATCH, step=jnp.int32(0), rngs=rngs).objective

    table = gradient(params)["frame_embedding"]["table"][...]
    assert (jnp.abs(table).max(axis=1) > 1e-4).all()


def test_wrong_are_the_frames_that_differ_from_the_best_alignment() -> None:
    """Target A B on six frames of eight, by a model that is all but sure of these labels: nothing is wrong
    with the first two, two labels of the third must change, and three frames cannot say A B C D."""
    labels = jnp.array(
        [
            [A, A, BLANK, B, B, BLANK, C, C],
            [BLANK, A, B, BLANK, BLANK, BLANK, C, C],
            [C, A, BLANK, B, D, BLANK, C, C],
            [A, B, C, D, D, D, D, D],
        ]
    )
    target = jnp.array([[A, B, PAD, PAD]] * 3 + [[A, B, C, D]])
    logits = 20.0 * jax.nn.one_hot(labels, VOCABULARY)

    @jax.jit
    def judged(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = chosen_words.of_logits(logits, ctc_losses.asked(target))
        _, (_, path, is_wrong) = ctc_passes.first_pass(found, (jnp.array([6, 6, 6, 3]), target))
        return path, is_wrong

    path, is_wrong = judged(logits)
    assert is_wrong.sum(axis=1).tolist() == [0, 0, 2, 0]
    assert is_wrong[2].tolist() == [True, False, False, False, True, False, False, False]
    assert path[:2, :6].tolist() == labels[:2, :6].tolist()
    assert path[2, 1:4].tolist() == [A, BLANK, B]
    assert not path[:, 6:].any()
    assert not path[3].any()


def test_both_passes_have_the_same_dropout() -> None:
    """With nothing revealed the second pass repeats the first; another key gives another one."""
    passes: list[jax.Array] = []

    class Recorded(CtcModel):
        def states(self, *args: Any, **kwargs: Any) -> jax.Array:
            passes.append(super().states(*args, **kwargs))
            return passes[-1]

    config = dataclasses.replace(ALL, glancing=Glancing(0.0, 0.0), latent=None)
    model = Recorded(config, SIZES, rngs=nnx.Rngs(0))

    @jax.jit
    def run(seed: int) -> list[jax.Array]:
        passes.clear()
        key = jax.random.key(seed, impl="rbg")
        model.loss(BATCH, step=jnp.int32(0), rngs=nnx.Rngs(dropout=key))
        return passes

    first, second = run(1)
    np.testing.assert_array_equal(first, second)
    assert float(jnp.abs(first - run(2)[0]).max()) > 0.1


def test_the_divergence_by_hand() -> None:
    """A mean one off costs 1/2; a width of 2 instead of 1 costs 3/2 - ln 2."""
    posterior = Gaussian(
        jnp.array([[[1.0, 0.0], [0.0, 0.0]]]), jnp.array([[[1.0, 2.0], [1.0, 1.0]]])
    )
    prior = Gaussian(jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2)))
    nats = latent.divergence(posterior, prior)[0]
    np.testing.assert_allclose(nats, [0.5 + 1.5 - math.log(2.0), 0.0], rtol=1e-6)


def test_free_nats_fall_to_none() -> None:
    latent = Latent(free_nats=2.0, anneal_steps=100)
    found = [float(latent.free(jnp.int32(step))) for step in (0, 50, 100, 1000)]
    assert found == pytest.approx([2.0, 1.0, 0.0, 0.0])


def test_the_divergence_is_paid_beyond_the_free_nats() -> None:
    """The posterior's mean is one off in all 8 dimensions of the first sentence's four source tokens, for
    three words. In the end that is paid; at first, with 100 nats free, 100 a source token."""
    model = ALL.build(SIZES, rngs=nnx.Rngs(0))
    assert float(loss_of(model, BATCH).terms["kl"].value) == pytest.approx(0.0, abs=1e-6)
    model.latent.posterior_head.linear.bias[...] = jnp.repeat(jnp.array([1.0, 0.0]), 8)
    first, last = (loss_of(model, BATCH, step=step) for step in (0, 100))
    deviation = math.log(2.0) + 1e-3
    expected = 4 * 8 * 0.5 / deviation**2 / 3
    assert float(last.terms["kl"].value) == pytest.approx(expected, rel=1e-4)
    saved = float(first.objective) - float(last.objective)
    assert saved == pytest.approx(100.0 * 4 / 3 - expected, rel=1e-4)


def test_label_smoothing_mixes_in_the_uniform_loss() -> None:
    """With all parameters 0 every frame is uniform over 16 labels: log 16 nats of it."""
    graph, params = nnx.split(built(ALL), nnx.Param)
    flat = nnx.merge(graph, jax.tree.map(jnp.zeros_like, params))
    loss = loss_of(flat, BATCH, step=100)
    expected = 0.9 * float(loss.terms["token"].value) + 0.1 * math.log(16)
    assert float(loss.objective) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    seed=st.integers(0, 1000),
)
def test_company_padding_and_room_change_no_translation(lengths: list[int], seed: int) -> None:
    """A sentence among seven others, and alone with wider padding and a larger max_length."""
    source = sentences(seed, lengths, 5)
    wider = jnp.pad(source, ((0, 0), (0, 3)), constant_values=PAD)
    together = decode(built(ALL), source)
    alone = [decode(built(ALL), wider[i : i + 1], ROOM + 2) for i in range(8)]
    for index, expected in enumerate(together):
        tokens, scores = (
            np.concatenate([getattr(found[index], name) for found in alone])
            for name in ("tokens", "scores")
        )
        np.testing.assert_array_equal(tokens[..., :ROOM], expected.tokens)
        assert not tokens[..., ROOM:].any()
        np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_translations_hold_words_only_and_differ_in_length() -> None:
    for found in decode(built(ALL), SOURCE):
        assert set(np.unique(found.tokens)) <= {PAD, UNK, *range(NUM_SPECIAL, VOCABULARY)}
        assert len(np.unique((found.tokens != PAD).sum(axis=-1))) > 2
        np.testing.assert_array_equal(found.passes, 1)


def test_decoding_takes_the_mean_of_the_prior() -> None:
    """Whatever its deviation is."""
    model = ALL.build(SIZES, rngs=nnx.Rngs(0))
    bias = model.latent.prior.linear.bias  # eight means, eight deviations before their softplus
    before = decode(model, SOURCE)
    bias[...] = jnp.repeat(jnp.array([0.0, 5.0]), 8)
    wider = decode(model, SOURCE)
    bias[...] = jnp.repeat(jnp.array([5.0, 0.0]), 8)
    moved = decode(model, SOURCE)
    for index, expected in enumerate(before):
        np.testing.assert_array_equal(wider[index].tokens, expected.tokens)
        assert (moved[index].tokens != expected.tokens).any()


def test_every_frame_of_the_longest_source_has_a_position() -> None:
    """max_length counts tokens: a factor of 5 makes 40 frames of 8."""
    transformer = dataclasses.replace(TRANSFORMER, max_length=8)
    graph, params = nnx.split(
        Ctc(transformer, upsample_factor=5).build(SIZES, rngs=nnx.Rngs(0)), nnx.Param
    )

    def logits(source: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        encoded = model.encode(source)
        return model.logits(model.decoder_inputs(source, encoded), encoded)

    assert jax.eval_shape(logits, jnp.zeros((2, 8), jnp.int32)).shape == (2, 40, VOCABULARY)
    with pytest.raises(ConfigError, match="length 9 does not fit max_length 8"):
        jax.eval_shape(logits, jnp.zeros((2, 9), jnp.int32))


def test_a_row_without_a_sentence_decodes_to_nothing() -> None:
    source = sentences(4, [3, 0, 2, 0, 5, 0, 0, 0], 5)
    for found in decode(built(ALL), source):
        assert not found.tokens[[1, 3, 5, 6, 7]].any()
        np.testing.assert_array_equal(found.passes, [1, 0, 1, 0, 1, 0, 0, 0])
        assert np.isfinite(found.scores[:, 0]).all()


@pytest.mark.slow
def test_eight_pairs_are_learned_by_heart_beside_what_cannot_be() -> None:
    """By state splitting, with glancing and a latent variable whose posterior decoding does not see. The
    last rows, infeasible, empty, and without a word to say, must do no harm: one NaN in a gradient and nothing
    is learned."""
    config = Ctc(
        TRANSFORMER,
        upsample_factor=2,
        glancing=Glancing(0.5, 0.0, anneal_steps=STEPS),
        latent=Latent(num_layers=1, anneal_steps=STEPS),
    )
    graph, params = nnx.split(config.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    batch = Batch(
        sentences(5, [5, 4, 6, 3, 6, 5, 4, 6, 2, 0, 3], 6),
        sentences(6, [2, 3, 4, 5, 6, 7, 8, 8, 8, 0, 1], 8),
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))

    @jax.jit
    def train(params: nnx.State) -> tuple[nnx.State, dict[str, Mean]]:
        def objective(params: nnx.State, step: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
            key = jax.random.fold_in(jax.random.key(0, impl="rbg"), step)
            loss = nnx.merge(graph, params).loss(batch, step=step, rngs=nnx.Rngs(dropout=key))
            return loss.objective, loss.terms

        def update(state: tuple, step: jax.Array) -> tuple[tuple, dict[str, Mean]]:
            params, moments = state
            gradients, terms = jax.grad(objective, has_aux=True)(params, step)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), terms

        start = (params, optimizer.init(params))
        (params, _), history = jax.lax.scan(update, start, jnp.arange(STEPS))
        return params, history

    params, history = train(params)
    token, glanced, wrong, revealed = (
        history[name] for name in ("token", "glanced", "wrong", "revealed")
    )
    assert token.total[0] / token.count[0] > 2.0
    assert token.total[-1] / token.count[-1] < 0.1
    for term in (token, glanced):
        assert (term.count == 1 + 2 + 3 + 4 + 5 + 6 + 7 + 7).all()
    assert (history["infeasible"].total == 1).all()
    for term in (wrong, revealed):  # of all frames but those of the infeasible
        assert (term.count == 2 * (5 + 4 + 6 + 3 + 6 + 5 + 4 + 6 + 3)).all()
    assert wrong.total[0] / wrong.count[0] > 0.6
    assert abs(revealed.total[0] / wrong.total[0] - 0.5) < 0.1
    assert revealed.total[-1] < 2
    assert (glanced.total[10:30] < token.total[10:30]).mean() > 0.8  # to see some helps
    expected = np.where(batch.target == EOS, PAD, batch.target)
    is_learned = np.arange(len(expected)) != 8
    for found in decode(nnx.merge(graph, params), batch.source, limits.length_limit(6)):
        np.testing.assert_array_equal(found.tokens[is_learned, 0, :8], expected[is_learned])
        assert not found.tokens[is_learned, 0, 8:].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ctc(upsample_factor=0), "upsample_factor must be at least 1, got 0"),
        (lambda: Ctc(label_smoothing=1.0), "must be in .0, 1., got 1.0"),
        (
            lambda: Ctc(label_smoothing=0.1, ngram_matching=NgramMatching()),
            "set them to 0, None and None, got 0.1, None and None",
        ),
        (lambda: Latent(size=0), "at least 1, got 0, 3 and"),
        (lambda: Latent(free_nats=-1.0), "at least 0, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_config_is_the_same_after_json() -> None:
    for config in (SPLIT, dataclasses.replace(ALL, decoding=PrefixBeam(size=7))):
        assert config_json.from_json(Ctc, config_json.to_json(config)) == config
