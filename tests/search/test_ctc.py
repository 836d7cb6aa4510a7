"""Best path and prefix beam search against collapse in five lines, all labellings, and a plain search."""

import collections
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.config_json import ConfigError
from nat_ar.search import ctc
from nat_ar.search.ctc import BestPath, PrefixBeam
from nat_ar.special_tokens import BLANK, EOS, MASK, NUM_SPECIAL, PAD
from nat_ar.types import Hypotheses

A, B, C = WORDS = range(NUM_SPECIAL, NUM_SPECIAL + 3)
VOCABULARY = NUM_SPECIAL + 3
ROOM = 6

collapse_jitted = jax.jit(ctc.collapse, static_argnames="max_length")
search_best_path = jax.jit(ctc.search_best_path, static_argnames="max_length")
search_prefixes = jax.jit(ctc.search_prefixes, static_argnames=("settings", "max_length"))
SMALL = PrefixBeam(8, top_k=3, n_best=2)


def search_both(
    logits: np.ndarray, frame_lengths: np.ndarray, row_limits: np.ndarray, max_length: int = ROOM
) -> tuple[Hypotheses, Hypotheses]:
    """By best path and by a small beam."""
    most = {"length_limits": row_limits, "max_length": max_length}
    best = search_best_path(logits, frame_lengths, **most)
    return jax.device_get((best, search_prefixes(logits, frame_lengths, SMALL, **most)))


def collapse(labels: list[int]) -> list[int]:
    """What CTC means, in five lines."""
    words = []
    for before, label in itertools.pairwise([BLANK, *labels]):
        if label not in (before, BLANK, PAD):
            words.append(label)
    return words


def words_of(tokens: np.ndarray) -> list[int]:
    return tokens[tokens != PAD].tolist()


def random_logits(seed: int, rows: int, frames: int, scale: float = 2.0) -> np.ndarray:
    """Words and BLANK about as probable as all else; UNK, which is a word too, never."""
    logits = np.random.default_rng(seed).normal(0.0, scale, (rows, frames, VOCABULARY))
    logits[..., 3] = -np.inf
    return logits.astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_collapse_by_hand() -> None:
    path = [[A, A, BLANK, A, B, B], [BLANK, BLANK, B, B, PAD, PAD], [PAD] * 6]
    found = ctc.collapse(jnp.array(path), length_limits=jnp.array([9, 9, 9]), max_length=5)
    assert found.tolist() == [[A, A, B, PAD, PAD], [B, PAD, PAD, PAD, PAD], [PAD] * 5]


@settings(max_examples=60, deadline=None)
@given(
    paths=st.lists(st.lists(st.sampled_from([BLANK, A, B]), max_size=9), min_size=3, max_size=3),
    row_limits=st.lists(st.integers(0, ROOM), min_size=3, max_size=3),
)
def test_collapse_is_the_five_lines(paths: list[list[int]], row_limits: list[int]) -> None:
    padded = np.array([path + [PAD] * (9 - len(path)) for path in paths])
    found = collapse_jitted(padded, length_limits=np.array(row_limits), max_length=ROOM)
    for tokens, path, limit in zip(found, paths, row_limits, strict=True):
        words = collapse(path)[:limit]
        assert tokens.tolist() == words + [PAD] * (ROOM - len(words))


def test_the_best_path_has_only_words_and_blanks_and_its_log_p_a_word() -> None:
    logits = random_logits(0, 16, 5)
    logits[:, :, [PAD, EOS, MASK]] += 4.0  # probable, and no label
    frame_lengths = np.arange(16) % 6
    found = search_best_path(
        logits, frame_lengths, length_limits=np.full(16, ROOM), max_length=ROOM
    )
    log_p = log_softmax(logits)
    for row, frames in enumerate(frame_lengths):
        path = [max([BLANK, *WORDS], key=lambda x: log_p[row, t, x]) for t in range(frames)]
        words = collapse(path)
        assert words_of(np.asarray(found.tokens[row, 0])) == words
        total = sum(log_p[row, t, label] for t, label in enumerate(path))
        assert found.scores[row, 0] == pytest.approx(total / max(len(words), 1), rel=1e-5)
    np.testing.assert_array_equal(found.passes, frame_lengths > 0)


def test_a_translation_ends_at_its_limit() -> None:
    """A word in every one of 6 frames, and at most 0, 2 or 6 words."""
    path = np.array([A, B, C, A, B, C])
    logits = np.tile(20.0 * np.eye(VOCABULARY, dtype=np.float32)[path], (4, 1, 1))
    row_limits = np.array([0, 2, 4, 6])
    best, beam = search_both(logits, np.full(4, 6), row_limits)
    for found in (best, beam):
        assert [(tokens[0] != PAD).sum() for tokens in found.tokens] == row_limits.tolist()
        assert words_of(found.tokens[3, 0]) == path.tolist()
    for tokens, limit in zip(best.tokens, row_limits, strict=True):
        assert words_of(tokens[0]) == path[:limit].tolist()


def translations(logits: np.ndarray, frames: int) -> dict[tuple[int, ...], float]:
    """log p of every translation, summed over all labellings of the frames."""
    log_p, found = log_softmax(logits), collections.defaultdict(list)
    for labels in itertools.product([BLANK, *WORDS], repeat=frames):
        total = sum(log_p[t, label] for t, label in enumerate(labels))
        found[tuple(collapse(list(labels)))].append(total)
    return {words: float(np.logaddexp.reduce(totals)) for words, totals in found.items()}


@pytest.mark.parametrize("limit", [ROOM, 2])
def test_a_wide_beam_finds_every_translation_and_its_probability(limit: int) -> None:
    """Up to four frames and three words, and a row without frames."""
    logits, frame_lengths = random_logits(1, 5, 4), np.arange(5)
    everything = PrefixBeam(size=128, top_k=20, n_best=128)  # more words than there are
    found = search_prefixes(
        logits, frame_lengths, everything, length_limits=np.full(5, limit), max_length=ROOM
    )
    found = jax.device_get(found)
    for row, frames in enumerate(frame_lengths):
        expected = {
            words: log_p
            for words, log_p in translations(logits[row], frames).items()
            if len(words) <= limit
        }
        number = len(expected)
        assert number == int(np.isfinite(found.scores[row]).sum())
        got = [tuple(words_of(tokens)) for tokens in found.tokens[row, :number]]
        assert sorted(got) == sorted(expected)
        np.testing.assert_allclose(
            found.scores[row, :number], [expected[words] for words in got], rtol=1e-4, atol=1e-5
        )
        assert (np.diff(found.scores[row, :number]) <= 0).all()
        assert not found.tokens[row, number:].any()
    assert found.passes.tolist() == [0, 1, 1, 1, 1]


def plain_search(
    logits: np.ndarray, frames: int, settings: PrefixBeam, limit: int
) -> tuple[list[tuple[tuple[int, ...], float]], int]:
    """Prefix beam search with dictionaries, and how often a prefix came back whose child had stayed."""
    log_p, returned = log_softmax(logits), 0
    beam = {(): (0.0, -math.inf)}  # prefix -> log p of labellings that end in BLANK, in its word
    for frame in log_p[:frames]:
        best_words = sorted(WORDS, key=lambda word: -frame[word])[: settings.top_k]
        new = collections.defaultdict(lambda: (-math.inf, -math.inf))

        def add(prefix: tuple[int, ...], blank: float, word: float, new: dict = new) -> None:
            old = new[prefix]
            new[prefix] = (np.logaddexp(old[0], blank), np.logaddexp(old[1], word))

        for prefix, (blank, word) in beam.items():
            total = np.logaddexp(blank, word)
            again = word + frame[prefix[-1]] if prefix else -math.inf
            add(prefix, total + frame[BLANK], again)
            for added in WORDS:
                child = (*prefix, added)
                if child in beam or (added in best_words and len(prefix) < limit):
                    opened = blank if prefix and prefix[-1] == added else total
                    add(child, -math.inf, opened + frame[added])
        kept = sorted(new, key=lambda prefix: -np.logaddexp(*new[prefix]))[: settings.size]
        kept = [prefix for prefix in kept if np.logaddexp(*new[prefix]) > -math.inf]
        returned += sum(
            prefix not in beam and any(other[:-1] == prefix for other in beam) for prefix in kept
        )
        beam = {prefix: new[prefix] for prefix in kept}
    scores = {
        prefix: np.logaddexp(*pair) / max(len(prefix), 1) ** settings.length_penalty
        for prefix, pair in beam.items()
    }
    return sorted(scores.items(), key=lambda item: -item[1])[: settings.n_best], returned


NARROW = PrefixBeam(size=8, top_k=2, length_penalty=0.5, n_best=3)
ROWS, LONG = 128, 10
LIMITS = np.random.default_rng(7).integers(1, ROOM + 1, ROWS)
LENGTHS = np.random.default_rng(8).integers(0, LONG + 1, ROWS)


@functools.cache
def narrow() -> tuple[np.ndarray, Hypotheses]:
    logits = random_logits(2, ROWS, LONG, scale=3.0)
    found = search_prefixes(logits, LENGTHS, NARROW, length_limits=LIMITS, max_length=ROOM)
    return logits, jax.device_get(found)


def test_a_narrow_beam_is_the_plain_search() -> None:
    """128 rows of up to ten frames; prefixes meet, fall out of the beam and come back."""
    logits, found = narrow()
    returned = 0
    for row in range(ROWS):
        expected, times = plain_search(logits[row], LENGTHS[row], NARROW, LIMITS[row])
        returned += times
        for place, (words, score) in enumerate(expected):
            assert found.scores[row, place] == pytest.approx(score, rel=1e-4, abs=1e-5)
            assert tuple(words_of(found.tokens[row, place])) == words
        assert (found.scores[row, len(expected) :] == -np.inf).all()
    assert returned > 5  # or the test says little


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, ROOM)), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_company_padding_and_room_change_nothing(rows: list[tuple[int, int]], seed: int) -> None:
    """Rows of some frames and some limit: beside each other, and alone with loud frames past their own and
    a larger max_length."""
    logits = random_logits(seed, 4, 6)
    frame_lengths, row_limits = np.array(rows, np.int32).T
    together = search_both(logits, frame_lengths, row_limits)
    for row, (frames, limit) in enumerate(rows):
        louder = np.full((1, 9, VOCABULARY), 5.0, np.float32)
        louder[0, :frames] = logits[row, :frames]
        alone = search_both(louder, np.array([frames]), np.array([limit]), ROOM + 2)
        for found, expected in zip(alone, together, strict=True):
            np.testing.assert_array_equal(found.tokens[0, :, :ROOM], expected.tokens[row])
            assert not found.tokens[..., ROOM:].any()
            np.testing.assert_allclose(found.scores[0], expected.scores[row], rtol=1e-5, atol=1e-6)
            assert found.passes[0] == expected.passes[row] == (frames > 0)


@pytest.mark.parametrize(("size", "n_best"), [(0, 1), (2, 0), (2, 3)])
def test_impossible_settings_are_refused(size: int, n_best: int) -> None:
    with pytest.raises(ConfigError, match=f"got n_best {n_best} and size {size}"):
        PrefixBeam(size=size, n_best=n_best)
    with pytest.raises(ConfigError, match="top_k of at least 1, got 0"):
        PrefixBeam(top_k=0)


def test_a_blank_penalty_says_the_word_that_several_words_and_a_blank_share() -> None:
    # One frame: BLANK 0.4, A 0.35, B 0.25. Without BLANK's lead of ln(0.4 / 0.35) = 0.134 nats, A is said.
    p = {BLANK: 0.4, A: 0.35, B: 0.25}
    logits = np.full((1, 1, VOCABULARY), -np.inf, np.float32)
    for label, share in p.items():
        logits[0, 0, label] = math.log(share)
    most = {"length_limits": jnp.array([2]), "max_length": 2}

    def said(decoding: ctc.FrameDecoding) -> tuple[list[int], float]:
        found = decoding.search(jnp.asarray(logits), jnp.array([1]), **most)
        return words_of(np.asarray(found.tokens[0, 0])), float(found.scores[0, 0])

    for decoding in (BestPath(blank_penalty=0.13), PrefixBeam(size=3, blank_penalty=0.13)):
        assert said(decoding)[0] == []
    for decoding in (BestPath(blank_penalty=0.14), PrefixBeam(size=3, blank_penalty=0.14)):
        words, score = said(decoding)
        assert words == [A]
        assert score == pytest.approx(math.log(0.35 / (0.4 * math.exp(-0.14) + 0.6)), abs=1e-5)


@given(st.integers(0, 10**6), st.floats(0.0, 20.0))
@settings(max_examples=20, deadline=None)
def test_best_paths_only_get_more_words_by_a_blank_penalty(seed: int, penalty: float) -> None:
    logits = random_logits(seed, rows=4, frames=6)
    paths = [
        ctc.best_path(ctc.with_blank_penalty(jnp.asarray(logits), p), jnp.full(4, 6))[0]
        for p in (0.0, penalty)
    ]
    assert bool(((paths[0] == BLANK) | (paths[0] == paths[1])).all())
