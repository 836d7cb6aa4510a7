"""Searches that verify drafts, over a table of logits instead of a model: the words of greedy search and of sampling,
whatever the drafts are, and how many passes they take."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.search import verification
from nat_ar.search.blockwise import Blockwise
from nat_ar.search.greedy import Greedy
from nat_ar.search.jacobi import Jacobi
from nat_ar.search.sampling import Sampling
from nat_ar.search.speculative import Speculative, realigned
from nat_ar.search.step_function import Blocks, Cache
from nat_ar.search.verification import DraftedDecoding, Verified
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Hypotheses

VOCABULARY, MAX_LENGTH, BATCH = 10, 9, 5
SOURCE = jnp.array([[6, EOS], [EOS, PAD], [PAD, PAD], [7, EOS], [8, EOS]])
A, B, C, D, E, X = range(6, 12)


def fixed(*words: int, block: int) -> DraftedDecoding:
    """Drafts the same words again and again, right or wrong. No dataclass, so no decoding that a run could name."""

    class Fixed(DraftedDecoding):
        def guess(self, draft: jax.Array | None, batch: int, max_length: int) -> jax.Array:
            row = np.full(max_length, PAD, np.int32)
            row[: len(words)] = words[:max_length]
            return jnp.broadcast_to(jnp.asarray(row), (batch, max_length))

        def redraft(self, verified: Verified) -> jax.Array:
            batch, places = verified.inputs.shape
            return jnp.pad(self.guess(None, batch, places - 1), ((0, 0), (1, 0)))

    return Fixed(block=block)


def table(seed: int, *, sharpness: float = 2.0) -> jax.Array:
    """Logits [row, position, last token, next token]; forbidden tokens are the most tempting."""
    logits = np.random.default_rng(seed).normal(
        0.0, sharpness, (BATCH, MAX_LENGTH + 1, VOCABULARY, VOCABULARY)
    )
    logits[..., [PAD, BOS, MASK, BLANK]] += 9.0
    logits[..., EOS] -= 0.5
    return jnp.asarray(logits, jnp.float32)


def blocks_over(logits: jax.Array) -> Blocks:
    rows = jnp.arange(logits.shape[0])[:, None]

    def extend(tokens: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        here = position[:, None] + jnp.arange(tokens.shape[1])
        return logits[rows, here, tokens], cache

    return Blocks(extend, jnp.zeros(logits.shape[0]), is_exact=False)


@functools.partial(jax.jit, static_argnames="decoding")
def one_by_one(logits: jax.Array, decoding: Greedy | Sampling) -> Hypotheses:
    def step(last: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        return logits[cache, position, last], cache

    rows = jnp.arange(BATCH)[:, None]
    return decoding.search(step, lambda beam: rows, SOURCE, max_length=MAX_LENGTH)


@functools.partial(jax.jit, static_argnames="decoding")
def by_drafts(
    logits: jax.Array, decoding: DraftedDecoding, draft: jax.Array | None = None
) -> Hypotheses:
    return decoding.search(blocks_over(logits), SOURCE, max_length=MAX_LENGTH, draft=draft)


def words_of(logits: jax.Array) -> np.ndarray:
    return np.asarray(one_by_one(logits, Greedy()).tokens[:, 0])


def chain(words: list[int]) -> jax.Array:
    """A table for every row that says these words and EOS, each only after the one before it."""
    logits = np.zeros((1, MAX_LENGTH + 1, 12, 12), np.float32)
    for position, (last, word) in enumerate(itertools.pairwise([BOS, *words, EOS])):
        logits[:, position, :, X] = 1.0  # a wrong past is answered by X
        logits[:, position, last, word] = 2.0
    return jnp.asarray(logits)


def passes_of(words: list[int], decoding: DraftedDecoding) -> int:
    found = decoding.search(
        blocks_over(chain(words)), jnp.array([[6, 7, EOS]]), max_length=MAX_LENGTH
    )
    assert found.tokens[0, 0, : len(words)].tolist() == words
    assert not found.tokens[0, 0, len(words) :].any()
    return int(found.passes[0])


@pytest.mark.parametrize("block", [1, 2, 3, 6, MAX_LENGTH, 40])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_words_and_scores_are_those_one_by_one_for_every_row(
    block: int, temperature: float
) -> None:
    """Rows of other limits, one without a sentence; drafts of random words, half right, of nothing, and too long."""
    options = {"block": block, "temperature": temperature, "seed": 3 if temperature else 0}
    random = np.random.default_rng(block)
    for seed in range(5):
        logits = table(seed)
        noise = random.integers(6, VOCABULARY, (BATCH, MAX_LENGTH))
        right = words_of(logits)
        drafts = [noise, np.where(noise < 8, right, noise), right, 0 * noise]
        plain = Speculative(**options).plain
        expected = one_by_one(logits, plain)
        found = [by_drafts(logits, Jacobi(**options))] + [
            by_drafts(logits, Speculative(**options), jnp.asarray(draft, jnp.int32))
            for draft in drafts
        ]
        for hypotheses in found:
            np.testing.assert_array_equal(hypotheses.tokens, expected.tokens)
            np.testing.assert_array_equal(hypotheses.scores, expected.scores)
            assert (hypotheses.passes <= expected.passes).all()
            np.testing.assert_array_equal(hypotheses.passes > 0, [1, 1, 0, 1, 1])
            if block == 1:
                np.testing.assert_array_equal(hypotheses.passes, expected.passes)


def test_a_draft_is_right_up_to_its_first_wrong_word_and_one_more_is_for_free() -> None:
    """Draft a b c d where the model says a b x d e: a b x in one pass; all right: five; first wrong: one."""

    def first_pass(words: list[int]) -> int:
        """Words until the second pass, whose draft is all wrong and which adds one."""
        draft = fixed(A, B, C, D, block=5)
        return len(words) + 1 - (passes_of(words, draft) - 1)

    assert passes_of([A, B, C, D], fixed(A, B, C, D, block=5)) == 1  # EOS is the fifth
    assert first_pass([X, X, X, X, X]) == 1
    assert first_pass([A, B, X, E, E]) == 3
    assert first_pass([A, B, C, D, E]) == 5


@pytest.mark.parametrize("block", range(1, 8))
def test_passes_of_drafts_that_are_all_wrong_and_all_right(block: int) -> None:
    words = [A, B, C, D, E, A]
    assert passes_of(words, fixed(*(X,) * 6, block=block)) == 7  # a word each, and EOS
    assert passes_of(words, fixed(*words, EOS, block=block)) == math.ceil(7 / block)


@pytest.mark.parametrize("block", [1, 2, 3, 6, 40])
def test_a_model_that_goes_on_from_the_final_words_drafts_them(block: int) -> None:
    """The words are those of greedy search whatever it says. Where it is the model itself all its words are right;
    where it is another one, a pass ends behind the first word that it would not have said after the words before."""

    @functools.partial(jax.jit, static_argnames="decoding")
    def decode(verifier: jax.Array, drafter: jax.Array, decoding: DraftedDecoding) -> Hypotheses:
        blocks = blocks_over(verifier)
        draft = blocks_over(drafter)
        return decoding.search(blocks, SOURCE, max_length=MAX_LENGTH, draft=draft)

    for seed in range(3):
        logits = table(seed)
        other = logits + 1.5 * table(seed + 9)
        expected = one_by_one(logits, Greedy())
        for drafter in (logits, other):
            found = decode(logits, drafter, Speculative(block=block))
            np.testing.assert_array_equal(found.tokens, expected.tokens)
            np.testing.assert_array_equal(found.scores, expected.scores)
            passes = [
                passes_behind(np.asarray(drafter[row]), expected, row, block)
                for row in range(BATCH)
            ]
            np.testing.assert_array_equal(found.passes, passes)


def passes_behind(drafter: np.ndarray, expected: Hypotheses, row: int, block: int) -> int:
    """The passes for the words of a row, counted one by one."""
    number = int(expected.passes[row])  # of words, and EOS
    words = [BOS, *np.asarray(expected.tokens[row, 0])[: number - 1].tolist(), EOS]
    allowed = np.delete(np.arange(VOCABULARY), [PAD, BOS, MASK, BLANK])
    position = passes = 0
    while position < number:
        passes += 1
        accepted = 0
        while accepted < block - 1 and position + accepted < number:
            here = position + accepted
            scores = drafter[here, words[here], allowed]
            if allowed[scores.argmax()] != words[here + 1]:
                break
            accepted += 1
        position += accepted + 1
    return passes


def test_jacobi_gains_a_word_a_pass_where_each_word_needs_the_one_before() -> None:
    """next = previous + 1 (mod 5) from BOS = 0, first guess all 9, as 9 + 1 = 10 = 0: one word more each pass."""
    first = 6  # the id of 0
    logits = np.zeros((1, MAX_LENGTH + 1, 16, 16), np.float32)
    logits[:, :, BOS, first + 1] = 1.0
    for number in range(10):
        logits[:, :, first + number, first + (number + 1) % 5] = 1.0
    seen = []

    class Watched(Jacobi):  # no dataclass, as above
        def guess(self, draft: jax.Array | None, batch: int, max_length: int) -> jax.Array:
            return jnp.full((batch, max_length), first + 9)

        def redraft(self, verified: Verified) -> jax.Array:
            if not isinstance(verified.predictions, jax.core.Tracer):
                seen.append((np.asarray(verified.predictions[0, :4]) - first).tolist())
            return super().redraft(verified)

    with jax.disable_jit():
        Watched(block=4).search(blocks_over(jnp.asarray(logits)), SOURCE[:1], max_length=4)
    assert seen[:4] == [[1, 0, 0, 0], [1, 2, 1, 1], [1, 2, 3, 2], [1, 2, 3, 4]]


def test_jacobi_is_done_at_once_where_no_word_needs_the_others_and_sees_it_in_the_next_pass() -> (
    None
):
    logits = np.zeros((1, MAX_LENGTH + 1, VOCABULARY, VOCABULARY), np.float32)
    for position, word in enumerate([A, B, C, EOS]):
        logits[:, position, :, word] = 1.0
    found = Jacobi(block=4).search(blocks_over(jnp.asarray(logits)), SOURCE[:1], max_length=9)
    assert found.tokens[0, 0, :4].tolist() == [A, B, C, PAD]
    assert found.passes.tolist() == [2]


def after_miss(draft: list[int], said: list[int]) -> list[int]:
    """What is drafted behind the words `said`; the draft so far begins with all but the last of them."""
    inputs = jnp.array([[BOS, *draft]])
    predictions = jnp.array([[*said, *draft, PAD][: inputs.shape[1]]])
    return realigned(Verified(inputs, predictions, jnp.array([len(said)])))[
        0, len(said) + 1 :
    ].tolist()


def test_a_draft_goes_on_behind_the_words_that_were_said_last() -> None:
    # All right so far: it goes on.
    assert after_miss([A, B, C, D], [A, B]) == [C, D]
    # The draft says b twice. After "a b c" it has c one place on: d e come next.
    assert after_miss([A, B, B, C, D, E], [A, B, C]) == [D, E, PAD]
    # It has no x: the word that was wrong there, b, comes next.
    assert after_miss([A, B, C, D, E], [A, X]) == [B, C, D]
    # Two places for d; the second one has c before it, too.
    assert after_miss([A, B, D, C, D, E], [A, C, D]) == [E, PAD, PAD]
    # The place is too far away for one word.
    assert after_miss([A, *[B] * 8, X, C], [A, X]) == [B] * 8 + [X]


def test_each_word_whose_rival_is_as_good_is_counted_once() -> None:
    logits = np.array(chain([A, B, C]))
    logits[:, 1, A, D] = 2.0 - 5e-5  # b or d: a near tie
    logits[:, 2, X, E] = 1.0  # a tie after a wrong past does not count
    draft = fixed(A, X, X, block=3)
    source = jnp.array([[6, 7, EOS]])
    found = draft.search(blocks_over(jnp.asarray(logits)), source, max_length=MAX_LENGTH)
    assert found.verification.near_ties.tolist() == [1]
    exact = blocks_over(jnp.asarray(logits))._replace(is_exact=True)
    assert draft.search(exact, source, max_length=9).verification.near_ties is None


def test_draws_that_are_verified_have_the_distribution_of_the_model() -> None:
    """Every sentence of up to two of three words, against frequencies of 20,000 draws; the draft says 6 7."""
    number, room = 20_000, 2
    logits = np.full((room + 1, VOCABULARY, VOCABULARY), -jnp.inf, np.float32)
    allowed = [EOS, A, B, C]
    logits[..., allowed] = np.random.default_rng(0).normal(0, 1, (room + 1, VOCABULARY, 4))
    digits = np.stack(np.unravel_index(np.arange(number), (30, 30, 30)), axis=1) + 6
    source = jnp.asarray(np.pad(digits, ((0, 0), (0, 1)), constant_values=EOS), jnp.int32)

    def extend(tokens: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        here = position[:, None] + jnp.arange(tokens.shape[1])
        return jnp.asarray(logits)[here, tokens], cache

    draft = jnp.broadcast_to(jnp.array([A, B]), (number, 2))
    found = Speculative(block=3, temperature=1.0).search(
        Blocks(extend, jnp.zeros(number), is_exact=True), source, max_length=room, draft=draft
    )
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = {(): p[0, BOS, EOS]}
    for first in (A, B, C):
        expected[first,] = p[0, BOS, first] * p[1, first, EOS]
        for second in (A, B, C):  # where the room ends, EOS is certain
            expected[first, second] = p[0, BOS, first] * p[1, first, second]
    assert sum(expected.values()) == pytest.approx(1.0)
    rows = [tuple(row[row != PAD].tolist()) for row in np.asarray(found.tokens[:, 0])]
    for words, probability in expected.items():
        deviation = math.sqrt(probability * (1 - probability) / number)
        assert rows.count(words) / number == pytest.approx(probability, abs=4.5 * deviation)


def test_settings_that_mean_nothing_are_refused() -> None:
    for make in (
        lambda: Jacobi(block=0),
        lambda: Jacobi(seed=1),
        lambda: Speculative(top_k=3),
        lambda: Jacobi(temperature=-1.0),
    ):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ValueError, match="draft of another model; got none"):
        by_drafts(table(0), Speculative())
    assert Jacobi().plain == Greedy()
    assert Jacobi(temperature=0.5, top_k=2, seed=1).plain == Sampling(0.5, 2, 1)
    assert verification.NEAR == 1e-4


@pytest.mark.parametrize("block", [2, 3, 4])
def test_heads_that_are_right_take_a_pass_for_each_block_after_the_first_word(block: int) -> None:
    words = [A, B, C, D, E, A]
    truth = jnp.array([*words, EOS, *[PAD] * 10])

    def extend(tokens: jax.Array, start: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        logits, _ = blocks_over(chain(words)).extend(tokens, start, position)
        return logits, position

    def propose(start: Cache, index: jax.Array) -> jax.Array:
        """The words after the one that the place `index` of the last block predicts."""
        return truth[(start + index)[:, None] + 1 + jnp.arange(block - 1)]

    blocks = Blocks(extend, jnp.zeros(1, jnp.int32), is_exact=False, propose=propose)
    source = jnp.array([[6, 7, EOS]])
    found = Blockwise(block=block).search(blocks, source, max_length=MAX_LENGTH)
    assert found.tokens[0, 0, :6].tolist() == words
    assert found.passes.tolist() == [1 + math.ceil(6 / block)]
    with pytest.raises(ValueError, match="heads that propose words; got none"):
        Blockwise().search(blocks._replace(propose=None), source, max_length=MAX_LENGTH)
