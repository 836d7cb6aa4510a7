"""Expected n-grams of independent labels, against all labellings written out."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.config_json import ConfigError
from nat_ar.losses import ngram_matching
from nat_ar.losses.chosen_words import of_logits
from nat_ar.losses.ctc import asked
from nat_ar.losses.ngram_matching import BagOfNgrams, NgramMatching
from nat_ar.special_tokens import BLANK, PAD
from nat_ar.types import Prediction

A, B, C = 8, 9, 10
VOCABULARY = 11
BOS, EOS = -1, -2
FRAMES, WIDTH = 5, 4


@functools.partial(jax.jit, static_argnames=("ngram", "merges"))
def scores(
    logits: jax.Array, frames: jax.Array, target: jax.Array, *, ngram: int, merges: bool
) -> jax.Array:
    found = of_logits(logits, asked(target))
    return ngram_matching.matching(found, frames, target, ngram=ngram, merges=merges)


def logits_of(p: np.ndarray) -> jax.Array:
    """[..., 4] p of BLANK, A, B and C as logits of the vocabulary."""
    logits = np.full((*p.shape[:-1], VOCABULARY), -1e9, np.float32)
    logits[..., [BLANK, A, B, C]] = np.log(np.maximum(p, 1e-38))
    return jnp.asarray(logits)


def collapsed(labels: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(labels) if label != BLANK]


def ngrams_of(words: list[int], ngram: int) -> collections.Counter[tuple[int, ...]]:
    tokens = [BOS, *words, EOS]
    return collections.Counter(tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1))


def written_out(p: np.ndarray, target: list[int], ngram: int, *, merges: bool) -> float:
    """The score of one sentence by all its labellings; p: [frames, 4]."""
    expected: collections.Counter[tuple[int, ...]] = collections.Counter()
    length = 0.0
    labels = (BLANK, A, B, C)
    for chosen in itertools.product(range(4), repeat=len(p)):
        mass = float(np.prod([p[frame, label] for frame, label in enumerate(chosen)]))
        said = tuple(labels[label] for label in chosen)
        words = collapsed(said) if merges else list(said)
        length += mass * len(words)
        for found, count in ngrams_of(words, ngram).items():
            expected[found] += mass * count
    wanted = ngrams_of(target, ngram)
    shared = sum(min(expected[one], count) for one, count in wanted.items())
    return 2.0 * shared / (max(length + 3 - ngram, 0.0) + sum(wanted.values()))


def padded(target: list[int]) -> jax.Array:
    return jnp.array([[*target, *[PAD] * (WIDTH - len(target))]])


def test_two_grams_of_frames_by_hand() -> None:
    """Target A B, the first frame A, the last B. Whether the middle one is BLANK, A or B, A B is said. If it is BLANK
    or C with 1/2 each, half say A C B: A B is expected 1/2 times, BOS A and B EOS once; 3.5 2-grams are expected."""
    right = np.array([[[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 1, 0]]])
    staying = np.array([[[0, 1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0]]])
    mixed = np.array([[[0, 1, 0, 0], [0.5, 0, 0, 0.5], [0, 0, 1, 0]]])
    for p, expected in ((right, 1.0), (staying, 1.0), (mixed, 2 * 2.5 / (3.5 + 3))):
        found = scores(logits_of(p), jnp.array([3]), padded([A, B]), ngram=2, merges=True)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_repeated_word_needs_a_blank_between_its_frames() -> None:
    """Frames A A say A, frames A BLANK A say A A."""
    certain = {label: np.eye(4)[label] for label in range(4)}
    for labels, said in (((1, 1), [A]), ((1, 0, 1), [A, A])):
        p = np.array([[certain[label] for label in labels]])
        for target in ([A], [A, A]):
            found = scores(
                logits_of(p), jnp.array([len(labels)]), padded(target), ngram=2, merges=True
            )
            shared = sum((ngrams_of(said, 2) & ngrams_of(target, 2)).values())
            np.testing.assert_allclose(found, 2 * shared / (len(said) + len(target) + 2))
    p = np.array([[certain[1], certain[1]]])
    found = scores(logits_of(p), jnp.array([2]), padded([A, A]), ngram=2, merges=False)
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)  # positions are a word each


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("ngram", [2, 3, 4])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_it_is_that_of_all_labellings(ngram: int, merges: bool, data: st.DataObject) -> None:
    """In a batch of ragged sentences. All words that frames may repeat are in the target, or the expected length would
    not be exact: C has no probability where the target lacks it."""
    seed = data.draw(st.integers(0, 2**31))
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, FRAMES + 1, 3)
    targets, rows = [], []
    for frames in lengths:
        size = draw.integers(1, WIDTH + 1) if merges else min(frames, WIDTH)
        words = list(draw.choice([A, B, C], size))
        p = draw.dirichlet(np.full(4, 0.5), frames)
        lacking = [label for label, word in enumerate((A, B, C), 1) if word not in words]
        if merges:
            p[:, lacking] = 0.0
            p[:, 0] += 1e-3
        else:
            p[:, 0] = 0.0
        p /= p.sum(axis=1, keepdims=True)
        targets.append(words)
        rows.append(p)
    if not merges:
        lengths = np.array([len(words) for words in targets])
        rows = [p[:length] for p, length in zip(rows, lengths, strict=True)]
    full = np.full((3, FRAMES, 4), 0.25)
    for place, p in enumerate(rows):
        full[place, : len(p)] = p
    target = jnp.concatenate([padded(words) for words in targets])
    found = scores(logits_of(full), jnp.asarray(lengths), target, ngram=ngram, merges=merges)
    expected = [
        written_out(p, words, ngram, merges=merges) if len(words) + 2 >= ngram else 0.0
        for p, words in zip(rows, targets, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


def test_words_that_the_target_lacks_count_on_each_frame() -> None:
    """Frames C C against the target A: one word C is counted as two, and nothing is shared."""
    p = np.array([[[0, 0, 0, 1.0], [0, 0, 0, 1.0], [0, 1.0, 0, 0]]])
    found = scores(logits_of(p), jnp.array([3]), padded([A]), ngram=2, merges=True)
    np.testing.assert_allclose(found, 2 * 1 / ((3 + 1) + 2), rtol=1e-6)


@pytest.mark.parametrize("merges", [True, False])
def test_its_gradient_is_that_of_finite_differences(merges: bool) -> None:
    draw = np.random.default_rng(3)
    logits = jnp.asarray(draw.normal(size=(2, 4, VOCABULARY)), jnp.float32)
    target = jnp.concatenate([padded([A, B, B]), padded([C, A])])
    frames = jnp.array([4, 3]) if merges else jnp.array([3, 2])
    direction = jnp.asarray(draw.normal(size=logits.shape), jnp.float32)

    def along(size: jax.Array) -> jax.Array:
        return scores(logits + size * direction, frames, target, ngram=3, merges=merges).sum()

    step = 1e-2
    slope = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(along)(0.0), slope, rtol=2e-2, atol=1e-4)


def test_padding_and_empty_sentences_cost_nothing() -> None:
    draw = np.random.default_rng(5)
    states = jnp.asarray(draw.normal(size=(3, WIDTH, 6)), jnp.float32)
    table = jnp.asarray(draw.normal(size=(VOCABULARY, 6)), jnp.float32)
    target = jnp.concatenate([padded([A, C]), padded([]), padded([B])])

    def objective(states: jax.Array) -> jax.Array:
        return BagOfNgrams()(Prediction(states, table), target, step=jnp.int32(0), smoothing=0.1)[0]

    value, gradient = jax.value_and_grad(objective)(states)
    assert np.isfinite(gradient).all()
    is_word = np.asarray(target != PAD)
    assert not np.any(np.asarray(gradient)[~is_word])
    assert (np.abs(np.asarray(gradient)[is_word]).sum(axis=1) > 0).all()
    other = jnp.where(is_word[..., None], states, 7.0)
    np.testing.assert_allclose(objective(other), value, rtol=1e-6)
    _, terms = BagOfNgrams()(Prediction(states, table), target, step=jnp.int32(0), smoothing=0.1)
    np.testing.assert_allclose(-value, terms["match"].value, rtol=1e-6)
    assert terms["token"].count == 3.0


def test_one_grams_are_refused() -> None:
    for make in (NgramMatching, BagOfNgrams):
        with pytest.raises(ConfigError, match=r"ngram must be at least 2, .* got 1"):
            make(1)
