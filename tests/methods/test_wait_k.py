"""wait-k: what is written of a source that goes on stays, and is what training saw."""

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
from nat_ar.methods import autoregressive, base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.joint import Joint
from nat_ar.nn import packed, waiting
from nat_ar.runtime import cpu_kernels
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.wait_k import WaitK, go_on, nothing
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Batch, Hypotheses, append_eos
from toys import TINY, sentences

VOCABULARY, WIDTH, MAX_LENGTH = 24, 6, 14
SIZES = base.VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
CAUSAL = dataclasses.replace(TINY, encoder_attention="causal")
METHOD = Autoregressive(transformer=CAUSAL, wait_k=(1, 2, 3))
SOURCE = sentences(0, [6, 4, 0, 5, 1, 3, 6], WIDTH, vocabulary=VOCABULARY)
KERNELS = [
    False,
    pytest.param(
        True, marks=pytest.mark.skipif(not cpu_kernels.are_available(), reason="no kernels")
    ),
]


@functools.cache
def model_of(is_packed: bool = False) -> nnx.Module:
    """Random parameters, made larger so that words depend on the source."""
    model = METHOD.build(SIZES, rngs=nnx.Rngs(1))
    nnx.update(model, jax.tree.map(lambda leaf: 2.0 * leaf, nnx.state(model, nnx.Param)))
    if is_packed:
        packed.pack(model)
    return model


def decode(source: jax.Array, decoding: object, is_packed: bool = False) -> Hypotheses:
    model_of(is_packed)  # before it is traced
    return _decode(source, decoding, is_packed)


@functools.partial(jax.jit, static_argnames=("decoding", "is_packed"))
def _decode(source: jax.Array, decoding: object, is_packed: bool) -> Hypotheses:
    with cpu_kernels.in_use(is_packed):
        return model_of(is_packed).decode(source, decoding=decoding, max_length=MAX_LENGTH)


def words(found: Hypotheses) -> np.ndarray:
    return np.asarray(found.tokens[:, 0])


@pytest.mark.parametrize("is_packed", KERNELS)
def test_who_waits_for_all_is_greedy(is_packed: bool) -> None:
    whole, waiting = (decode(SOURCE, d, is_packed) for d in (Greedy(), WaitK(k=WIDTH)))
    np.testing.assert_array_equal(words(whole), words(waiting))
    np.testing.assert_allclose(whole.scores, waiting.scores, rtol=1e-5)
    np.testing.assert_array_equal(whole.passes, waiting.passes)
    assert (words(decode(SOURCE, WaitK(k=1), is_packed)) != words(whole)).any()


@pytest.mark.parametrize("is_packed", KERNELS)
def test_a_sentence_alone_is_what_it_is_in_company(is_packed: bool) -> None:
    together = words(decode(SOURCE, WaitK(k=2), is_packed))
    for row in range(SOURCE.shape[0]):
        alone = words(decode(SOURCE[row : row + 1], WaitK(k=2), is_packed))
        np.testing.assert_array_equal(together[row], alone[0])
    assert (together[2] == PAD).all()  # no sentence


@pytest.mark.parametrize("k", [1, 2, 3])
def test_cached_steps_are_the_full_pass(k: int) -> None:
    """log p of what was written, by the steps and by all positions at once under the mask."""
    found = decode(SOURCE, WaitK(k=k))
    model = model_of()
    target = append_eos(found.tokens[:, 0])
    encoded = model.encode(SOURCE)
    states = autoregressive.causal_states(
        model.target_embedding, model.decoder, encoded, target, wait_k=k
    )
    log_p = jax.nn.log_softmax(model.target_embedding.attend(states))
    of_words = jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
    total = jnp.where(target != PAD, of_words, 0.0).sum(axis=1)
    is_sentence = np.arange(7) != 2
    np.testing.assert_allclose(found.scores[is_sentence, 0], total[is_sentence], rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_a_word_does_not_know_what_has_not_been_read(k: int) -> None:
    """Logits of token t are the bits of another source that agrees in the first k + t tokens."""
    source = SOURCE[:1]
    target = sentences(3, [5], WIDTH, vocabulary=VOCABULARY)
    model = model_of()

    def logits(source: jax.Array) -> np.ndarray:
        encoded = model.encode(source)
        states = autoregressive.causal_states(
            model.target_embedding, model.decoder, encoded, target, wait_k=k
        )
        return np.asarray(model.target_embedding.attend(states)[0])

    before = logits(source)
    for changed in range(WIDTH - 1):
        other = source.at[0, changed:-1].set(7 + (source[0, changed:-1] - 7 + 1) % 17)
        blind = max(changed - k + 1, 0)  # tokens with k + t <= changed
        np.testing.assert_array_equal(logits(other)[:blind], before[:blind])
        assert not np.array_equal(logits(other)[blind], before[blind])


def test_a_source_that_goes_on_leaves_what_is_written() -> None:
    """Written as tokens arrive, each prefix with an EOS that no word may see yet."""
    k, model = 2, model_of()
    source = SOURCE[:1]
    limit = jnp.asarray([MAX_LENGTH])

    @jax.jit
    def update(prefix: jax.Array, written, until: jax.Array):
        step, _ = model.waiting_stepper(prefix, k, MAX_LENGTH)
        return go_on(
            step, written, until=until, length_limits=limit, is_sentence=jnp.asarray([True])
        )

    written = nothing(model.decoder.empty_cache(1, 1, MAX_LENGTH + 1), 1, MAX_LENGTH)
    counts = []
    for read in range(1, WIDTH):
        prefix = jnp.where(jnp.arange(WIDTH) < read, source, PAD).at[0, read].set(EOS)
        is_last = read == WIDTH - 1
        until = jnp.asarray([MAX_LENGTH + 1 if is_last else max(read - k + 1, 0)])
        before = written.tokens
        written = update(prefix, written, until)
        kept = np.asarray(before[0] != PAD)
        np.testing.assert_array_equal(written.tokens[0][kept], before[0][kept])
        counts.append(int(written.position[0]))
    assert counts[:4] == [0, 1, 2, 3]
    whole = decode(source, WaitK(k=k))
    np.testing.assert_array_equal(written.tokens, whole.tokens[:, 0])
    np.testing.assert_allclose(written.log_probability, whole.scores[:, 0], rtol=1e-5)


def test_mask_by_hand() -> None:
    """wait-2, 4 source tokens: g = 2 3 4 4."""
    mask = waiting.source_mask(2, 1, 4, 4)
    assert mask[0].sum(axis=1).tolist() == [2, 3, 4, 4]


def test_a_model_learns_for_several_k() -> None:
    """Each draw is one of them; without draws the largest."""
    model, step = model_of(), jnp.int32(0)
    batch = Batch(SOURCE, sentences(5, [5, 3, 0, 6, 2, 4, 6], WIDTH, vocabulary=VOCABULARY))

    def loss_of(*ks: int, rngs: nnx.Rngs | None = None) -> float:
        model.config = dataclasses.replace(METHOD, wait_k=ks)
        try:
            return float(model.loss(batch, step=step, rngs=rngs).objective)
        finally:
            model.config = METHOD

    single = {k: loss_of(k) for k in (1, 2, 5)}
    assert len(set(single.values())) == 3
    drawn = {loss_of(1, 2, rngs=nnx.Rngs(seed)) for seed in range(8)}
    assert drawn == {single[1], single[2]}
    assert loss_of(1, 2) == single[2]
    assert loss_of(1, WIDTH) == pytest.approx(loss_of(), rel=1e-6)


def test_eight_sources_are_copied_as_they_come(learn: Callable[..., Any]) -> None:
    """Token t of a copy may see the first t + 1 of its source, and no more is needed: k = 1 suffices."""
    method = dataclasses.replace(METHOD, wait_k=(1,), label_smoothing=0.0)
    graph, params = nnx.split(method.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    source = sentences(7, [5, 4, 6, 3, 6, 5, 4, 6], WIDTH, vocabulary=VOCABULARY)
    batch = Batch(source, source)

    def objective(params: nnx.State, step: jax.Array) -> jax.Array:
        return nnx.merge(graph, params).loss(batch, step=jnp.int32(0), rngs=None).objective

    params, history = learn(objective, params, jnp.arange(100))
    assert history[0] > 2.0
    assert history[-1] < 0.05
    found = toys.decode(nnx.merge(graph, params), source, WaitK(k=1), MAX_LENGTH)
    expected = np.where(source == EOS, PAD, source)
    np.testing.assert_array_equal(found.tokens[:, 0, :WIDTH], expected)


def test_it_needs_an_encoder_that_does_not_look_ahead() -> None:
    for options in ({"wait_k": (3,)}, {"decoding": WaitK()}):
        with pytest.raises(ConfigError, match="encoder_attention to 'causal'"):
            Autoregressive(transformer=TINY, **options)
    with pytest.raises(ConfigError, match="at least 1"):
        Autoregressive(transformer=CAUSAL, wait_k=(0,))
    with pytest.raises(ConfigError, match="at least 1"):
        WaitK(k=0)
    other = Autoregressive(transformer=TINY).build(SIZES, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="encoder_attention to 'causal'"):
        other.decode(SOURCE, decoding=WaitK(), max_length=MAX_LENGTH)
    joint = Joint(transformer=CAUSAL).build(SIZES, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="writes before the source has ended"):
        joint.decode(SOURCE, decoding=WaitK(), max_length=MAX_LENGTH)


def test_runs_of_before_saw_the_whole_source() -> None:
    data = config_json.to_json(Autoregressive(transformer=TINY, decoding=Beam()))
    del data["wait_k"]
    assert config_json.from_json(Autoregressive, data).wait_k == ()
