"""CTC models whose frames wait: what they say of a source that goes on stays, and is what training saw."""

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
from nat_ar.losses.expected_lag import ExpectedLag
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.ctc import Ctc, CtcModel
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.latent import Latent
from nat_ar.nn import packed, waiting
from nat_ar.runtime import cpu_kernels
from nat_ar.search.ctc import BestPath, ChunkWaitK, PrefixBeam
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Batch, Hypotheses, Loss
from toys import TINY, sentences

VOCABULARY, WIDTH, FACTOR, MAX_LENGTH = 16, 6, 2, 16
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
CAUSAL = dataclasses.replace(TINY, encoder_attention="causal", num_decoder_layers=2)
SPLIT = Ctc(CAUSAL, upsample_factor=FACTOR, wait_k=(1, 2, 3))
METHODS = {
    "split": SPLIT,
    "states": dataclasses.replace(SPLIT, upsampling="states", latent=Latent(num_layers=1)),
    "copy": dataclasses.replace(
        SPLIT,
        upsampling="copy",
        transformer=dataclasses.replace(CAUSAL, norm="post", decoder_memory="same_layer"),
    ),
}
SOURCE = sentences(0, [6, 4, 0, 5, 1, 3, 6], WIDTH, vocabulary=VOCABULARY)
TARGET = sentences(5, [5, 3, 0, 6, 2, 4, 6], WIDTH, vocabulary=VOCABULARY)
NEEDS_KERNELS = pytest.mark.skipif(not cpu_kernels.are_available(), reason="no kernels")
KERNELS = [False, pytest.param(True, marks=NEEDS_KERNELS)]
NARROW = 4


@functools.cache
def model_of(method: Ctc, is_packed: bool) -> CtcModel:
    """Random parameters, made larger so that labels depend on the source."""
    model = method.build(SIZES, rngs=nnx.Rngs(1))
    nnx.update(model, jax.tree.map(lambda leaf: 2.0 * leaf, nnx.state(model, nnx.Param)))
    if is_packed:
        packed.pack(model)
    return model


def decode(source: jax.Array, decoding: Any, is_packed: bool = False) -> Hypotheses:
    model_of(SPLIT, is_packed)  # before it is traced
    return _decode(source, decoding, is_packed)


@functools.partial(jax.jit, static_argnames=("decoding", "is_packed"))
def _decode(source: jax.Array, decoding: Any, is_packed: bool) -> Hypotheses:
    with cpu_kernels.in_use(is_packed):
        return model_of(SPLIT, is_packed).decode(source, decoding=decoding, max_length=MAX_LENGTH)


def words(found: Hypotheses) -> np.ndarray:
    return np.asarray(found.tokens[:, 0])


def test_masks_by_hand() -> None:
    """Wait-2, three tokens with two frames each: they see 2, 3 and 3 tokens, and 2, 4 and 6 frames."""
    source = waiting.source_mask_of_frames(2, 1, 3, 2)
    assert source[0].sum(axis=1).tolist() == [2, 2, 3, 3, 3, 3]
    frames = waiting.mask_among_frames(3, 2)
    assert frames[0].sum(axis=1).tolist() == [2, 2, 4, 4, 6, 6]
    read = waiting.read_at_frames(2, jnp.asarray([3, 2]), 3, 2)
    assert read.tolist() == [[2, 2, 3, 3, 3, 3], [2, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize(
    ("name", "k", "is_packed"),
    [
        ("split", 1, False),
        ("states", 3, False),
        ("copy", 1, False),
        pytest.param("split", 3, True, marks=NEEDS_KERNELS),
    ],
)
def test_a_frame_does_not_know_what_has_not_been_read(name: str, k: int, is_packed: bool) -> None:
    """The logits of token i's frames are the bits of another source that agrees in the first k + i tokens, and at once
    others when it does not; of a source that ends there, in a narrower array, they differ by rounding."""
    model_of(METHODS[name], is_packed)

    @jax.jit
    def logits(source: jax.Array) -> jax.Array:
        model = model_of(METHODS[name], is_packed)
        with cpu_kernels.in_use(is_packed):
            return model.frame_logits(source, model.encode(source), ChunkWaitK(k=k))[0]

    source = SOURCE[:1]
    before = np.asarray(logits(source))
    for changed in range(WIDTH - 1):
        other = source.at[0, changed:-1].set(7 + (source[0, changed:-1] - 7 + 1) % 9)
        blind = FACTOR * max(changed - k + 1, 0)  # frames of tokens with k + i <= changed
        found = np.asarray(logits(other))
        np.testing.assert_array_equal(found[:blind], before[:blind])
        assert not np.array_equal(found[blind], before[blind])
        if changed < NARROW:
            is_read = jnp.arange(NARROW) < changed
            ended = jnp.where(is_read, source[:, :NARROW], PAD).at[0, changed].set(EOS)
            found = np.asarray(logits(ended))
            np.testing.assert_allclose(found[:blind], before[:blind], atol=1e-5)


@pytest.mark.parametrize("is_packed", KERNELS)
def test_who_waits_for_all_is_the_best_path(is_packed: bool) -> None:
    whole, waited = (decode(SOURCE, d, is_packed) for d in (BestPath(), ChunkWaitK(k=WIDTH)))
    np.testing.assert_array_equal(words(whole), words(waited))
    np.testing.assert_allclose(whole.scores, waited.scores, rtol=1e-5)
    assert (words(decode(SOURCE, ChunkWaitK(k=1), is_packed)) != words(whole)).any()


@pytest.mark.parametrize("is_packed", KERNELS)
def test_a_sentence_alone_is_what_it_is_in_company(is_packed: bool) -> None:
    together = words(decode(SOURCE, ChunkWaitK(k=2), is_packed))
    for row in range(SOURCE.shape[0]):
        alone = words(decode(SOURCE[row : row + 1], ChunkWaitK(k=2), is_packed))
        np.testing.assert_array_equal(together[row], alone[0])
    assert (together[2] == PAD).all()  # no sentence


@pytest.mark.parametrize("k", [1, 2])
def test_what_is_said_of_a_beginning_begins_the_whole(k: int) -> None:
    """Each prefix with an EOS that no settled frame sees, and at the end with its own."""
    decoding, source = ChunkWaitK(k=k), SOURCE[:1]
    whole = words(decode(source, decoding))[0]
    whole = whole[whole != PAD]

    @jax.jit
    def beginning(prefix: jax.Array, settled: jax.Array) -> Hypotheses:
        return model_of(SPLIT, False).decode_beginning(
            prefix, settled, decoding=decoding, max_length=MAX_LENGTH
        )

    counts = []
    for read in range(1, WIDTH):
        prefix = jnp.where(jnp.arange(WIDTH) < read, source, PAD).at[0, read].set(EOS)
        said = words(beginning(prefix, jnp.asarray([max(read - k + 1, 0)])))[0]
        said = said[said != PAD]
        np.testing.assert_array_equal(said, whole[: len(said)])
        counts.append(len(said))
    assert counts == sorted(counts)
    assert counts[0] == 0 if k > 1 else counts[0] <= FACTOR
    assert counts[-1] > 0
    np.testing.assert_array_equal(
        words(beginning(source, jnp.asarray([WIDTH])))[0][: len(whole)], whole
    )


@functools.partial(jax.jit, static_argnames=("method", "has_rngs"))
def _loss(method: Ctc, batch: Batch, seed: jax.Array, has_rngs: bool) -> Loss:
    model = nnx.merge(*nnx.split(model_of(SPLIT, False)))
    model.config = method
    rngs = nnx.Rngs(dropout=jax.random.key(seed)) if has_rngs else None
    return model.loss(batch, step=jnp.int32(0), rngs=rngs)


def loss_of(method: Ctc, *, seed: int | None = None) -> Loss:
    """By the parameters of SPLIT, whatever the config says of waiting."""
    model_of(SPLIT, False)
    return _loss(method, Batch(SOURCE, TARGET), jnp.int32(seed or 0), seed is not None)


def test_a_model_learns_for_several_k() -> None:
    """Each draw is one of them, the same in both passes of glancing, of which the second repeats the first here."""

    def with_k(*ks: int, **options: Any) -> Ctc:
        return dataclasses.replace(SPLIT, wait_k=ks, **options)

    single = [float(loss_of(with_k(k)).objective) for k in (1, 2)]
    assert abs(single[0] - single[1]) > 1e-2
    several = with_k(1, 2, glancing=Glancing(0.0, 0.0))
    found = [loss_of(several, seed=seed) for seed in range(8)]
    chosen = {int(np.argmin([abs(float(loss.objective) - x) for x in single])) for loss in found}
    assert chosen == {0, 1}
    for loss in found:
        glanced, token = (float(loss.terms[name].value) for name in ("glanced", "token"))
        assert glanced == pytest.approx(token, rel=1e-5)
        assert min(abs(float(loss.objective) - x) for x in single) < 1e-4


def test_without_draws_the_largest_k_counts() -> None:
    assert waiting.drawn((1, 3, 2), None) == 3
    assert waiting.drawn((), nnx.Rngs(0)) is None


def test_a_price_is_paid_for_the_lag() -> None:
    """Twice the mean of the sentences with enough frames; the third row is none."""
    plain = loss_of(SPLIT)
    priced = loss_of(dataclasses.replace(SPLIT, expected_lag=ExpectedLag(2.0)))
    lag = priced.terms["lag"]
    assert 0.0 < float(lag.value) < WIDTH
    assert float(lag.count) == 6 - float(plain.terms["infeasible"].total)
    assert "lag" not in plain.terms
    paid = float(priced.objective) - float(plain.objective)
    assert paid == pytest.approx(2.0 * float(lag.value), rel=1e-3)


BY_HEART = sentences(7, [5, 4, 6, 3, 6, 5, 4, 6], WIDTH, vocabulary=VOCABULARY)


def learned(learn: Callable[..., Any], price: ExpectedLag) -> tuple[CtcModel, Loss]:
    """A model that has learned to copy eight sources with k = 1, and its loss."""
    method = Ctc(
        dataclasses.replace(TINY, encoder_attention="causal"),
        upsample_factor=FACTOR,
        wait_k=(1,),
        expected_lag=price,
    )
    graph, params = nnx.split(method.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    batch = Batch(BY_HEART, BY_HEART)

    def loss(params: nnx.State) -> Loss:
        return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None)

    params, history = learn(lambda params, _: loss(params).objective, params, jnp.arange(120))
    assert history[0] > 2.0
    return nnx.merge(graph, params), jax.jit(loss)(params)


@pytest.fixture(scope="module")
def plain(learn: Callable[..., Any]) -> tuple[CtcModel, Loss]:
    return learned(learn, ExpectedLag(weight=0.0))


@pytest.mark.slow
def test_eight_sources_are_copied_as_they_come(plain: tuple[CtcModel, Loss]) -> None:
    """The frames of token i see the first i + 1 of its source, and no more is needed: k = 1 suffices."""
    model, loss = plain
    assert float(loss.terms["token"].value) < 0.1
    found = toys.decode(model, BY_HEART, ChunkWaitK(k=1), MAX_LENGTH)
    expected = np.where(BY_HEART == EOS, PAD, BY_HEART)
    np.testing.assert_array_equal(found.tokens[:, 0, :WIDTH], expected)


@pytest.mark.slow
def test_a_price_brings_words_sooner(
    learn: Callable[..., Any], plain: tuple[CtcModel, Loss]
) -> None:
    """And what is said stays right."""
    _, priced = learned(learn, ExpectedLag(0.3))
    assert float(priced.terms["token"].value) < 0.1
    assert float(priced.terms["lag"].value) < float(plain[1].terms["lag"].value) - 0.02


def test_it_needs_an_encoder_that_does_not_look_ahead() -> None:
    with pytest.raises(ConfigError, match="encoder_attention to 'causal'"):
        Ctc(TINY, wait_k=(3,))
    with pytest.raises(ConfigError, match="at least 1"):
        Ctc(CAUSAL, wait_k=(0,))
    with pytest.raises(ConfigError, match="at least 1"):
        ChunkWaitK(k=0)
    with pytest.raises(ConfigError, match=r"expected_lag needs frames that wait: set wait_k"):
        Ctc(CAUSAL, expected_lag=ExpectedLag())
    with pytest.raises(ConfigError, match="expected a Ctc run with wait_k"):
        Ctc(CAUSAL, decoding=ChunkWaitK())
    other = Ctc(TINY).build(SIZES, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="expected a Ctc run with wait_k"):
        other.decode(SOURCE, decoding=ChunkWaitK(), max_length=MAX_LENGTH)


def test_runs_of_before_saw_the_whole_source() -> None:
    data = config_json.to_json(Ctc(TINY, decoding=PrefixBeam()))
    del data["wait_k"], data["expected_lag"]
    assert config_json.from_json(Ctc, data) == Ctc(TINY, decoding=PrefixBeam())
