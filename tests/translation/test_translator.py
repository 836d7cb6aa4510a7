"""Sentences in, translations out: in order, one for each, the same in every company."""

import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.config_json import ConfigError
from nat_ar.data import vocabulary
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.translators import open_translator
from nat_ar.runtime import cpu_kernels, out_of_memory
from nat_ar.search import limits
from nat_ar.special_tokens import PAD
from nat_ar.translation import decodings, translator
from nat_ar.translation.model import Model
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import BUCKETS, ROWS, Translator
from nat_ar.types import Hypotheses, Internal
from toys import LETTERS


@pytest.fixture(scope="module")
def greedy(tiny_runs) -> Translator:
    """An autoregressive model of random parameters, large enough to say different things."""
    return excited(open_translator(tiny_runs.autoregressive, "Greedy()")[1])


@pytest.fixture(scope="module")
def one_pass(tiny_runs) -> Translator:
    opened = open_translator(tiny_runs.length_nat, "LengthBeam(size=2, n_best=2)")
    return excited(opened[1])


def excited(model: Translator) -> Translator:
    params = jax.tree.map(lambda leaf: 3 * leaf, model.model.params)
    model.use(Model(model.model.graphdef, params))
    return model


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """65 words of one to six letters, which are two to seven tokens."""
    draw = random.Random(1)
    return ["".join(draw.choices(LETTERS, k=1 + i % 6)) for i in range(65)]


def tokens_of(found: list[Translation]) -> list[list[list[int]]]:
    return [translation.tokens for translation in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["greedy", "one_pass"])
def test_a_sentence_does_not_depend_on_its_company(
    name: str, sentences: list[str], request: pytest.FixtureRequest
) -> None:
    """Alone, by sevens, by 64 and 65, in any order: the same tokens, in the order of the sentences."""
    model: Translator = request.getfixturevalue(name)
    together = tokens_of(model.translate(sentences))
    assert len(together) == 65
    assert tokens_of(model.translate(sentences[:64])) == together[:64]
    sevens = [sentences[start : start + 7] for start in range(0, 63, 7)]
    assert [row for seven in sevens for row in tokens_of(model.translate(seven))] == together[:63]
    for place in (0, 5, 64):
        assert tokens_of(model.translate([sentences[place]])) == [together[place]]
    order = random.Random(2).sample(range(65), 65)
    shuffled = tokens_of(model.translate([sentences[place] for place in order]))
    assert shuffled == [together[place] for place in order]
    assert len({str(rows) for rows in together}) > 20  # they do differ


def test_few_shapes_are_compiled(greedy: Translator, sentences: list[str]) -> None:
    """Of 1 to 65 sentences: 1, 4, 16 and 64 rows; of one that is longer: 1 row of its bucket."""
    for number in (1, 2, 3, 5, 7, 64, 65):
        greedy.translate(sentences[:number])
    mixed = greedy.translate([*sentences[:2], "abcdefghab", *sentences[2:]])
    assert set(greedy.compiled) == {(1, 8), (4, 8), (16, 8), (64, 8), (1, 16)}
    seconds, shapes = greedy.compile_seconds, dict(greedy.compiled)
    assert tokens_of(mixed[:2] + mixed[3:]) == tokens_of(greedy.translate(sentences))
    assert tokens_of(mixed[2:3]) == tokens_of(greedy.translate(["abcdefghab"]))
    assert (greedy.compile_seconds, greedy.compiled) == (seconds, shapes)


def encode(model: Translator, sentences: list[str]) -> list[list[int]]:
    return [list(row) for row in model.vocabulary.encode_source(sentences)]


def test_every_line_has_its_translation(one_pass: Translator) -> None:
    """Blank lines are not decoded."""
    lines = ["", "a b", "   ", "", "c"]
    found = one_pass.translate(lines)
    assert [translation.passes for translation in found] == [0, 1, 0, 0, 1]
    empty = Translation([""], [0.0], [[]], 0, is_blank=True)
    assert found[0] == found[2] == found[3] == empty
    assert all(len(found[place].texts) == 2 for place in (1, 4))
    assert one_pass.translate([]) == []
    assert one_pass.translate([""]) == [empty]


def test_white_space_that_nobody_sees_changes_no_translation(one_pass: Translator) -> None:
    tidy, *others = one_pass.translate(["a b", "a b ", " a\tb", "a  b", "a\u3000b"])
    assert others == [tidy] * 4


def test_a_blank_line_stays_blank_where_white_space_is_kept(
    one_pass: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space is a token there, of which a model makes a sentence; one at the end of a text counts."""
    config = VocabularyConfig(size=24, byte_fallback=False, white_space="keep")
    draw = random.Random(0)
    source = [" ".join(draw.choices(LETTERS, k=1 + i % 3)) for i in range(36)]
    target = [text.upper() for text in source]
    monkeypatch.setattr(one_pass, "vocabulary", vocabulary.train(source, target, tmp_path, config))
    tidy, untidy, space = encode(one_pass, ["a", "a ", " "])
    assert len(untidy) == len(tidy) + 1
    assert space
    found = one_pass.translate(["a ", " ", "\t", "a"])
    assert [translation.is_blank for translation in found] == [False, True, True, False]
    assert found[1] == found[2] == Translation([""], [0.0], [[]], 0, is_blank=True)
    internals = one_pass.internals([" "])
    assert internals == [{"source_pieces": [], "target_pieces": []}]


def test_a_line_too_long_loses_its_end_and_says_so(one_pass: Translator) -> None:
    """255 tokens and EOS fill the last bucket. The first word has two letters, so that the 255th token is no space."""
    lines = ["a" + " ".join("a" * number) for number in (300, 2)]
    assert len(encode(one_pass, lines)[0]) > 255
    long, short = one_pass.translate(lines)
    assert (long.is_shortened, short.is_shortened) == (True, False)
    assert long.texts[0]
    kept = one_pass.vocabulary.decode_target([encode(one_pass, lines)[0][:255]])
    assert one_pass.translate(kept)[0].tokens == long.tokens


def test_too_little_memory_says_what_to_lower(greedy: Translator) -> None:
    """XLA's own error, for an array that no machine has room for; explained once, by the innermost."""

    class Huge(Translator):
        def decode(self, source: np.ndarray) -> Hypotheses:
            jnp.zeros((2**20, 2**20, 2**10)).block_until_ready()
            raise AssertionError("there was room")

    huge = Huge(greedy.model, greedy.vocabulary, decoding=greedy.decoding, batch_tokens=512)
    said = r"^out of memory: .* has .* GiB, .*; let --batch-tokens be fewer than 512 \(translate, .*\), or "
    with pytest.raises(MemoryError, match=said), out_of_memory.explained("another remedy"):
        huge.translate(["a b"])
    huge.batch_tokens = 0
    with pytest.raises(ValueError, match="batch_tokens must be at least 1, got 0"):
        huge.translate(["a b"])


class Parrot(Translator):
    """Gives back a fixed number of tokens for every sentence."""

    length: int

    def decode(self, source: np.ndarray) -> Hypotheses:
        rows = source.shape[0]
        tokens = jnp.full((rows, 1, self.length), 7, jnp.int32)
        return Hypotheses(tokens, jnp.zeros((rows, 1)), jnp.ones(rows, jnp.int32))


@pytest.mark.parametrize(("length", "is_cut"), [(0, False), (15, False), (16, True)])
def test_a_translation_at_its_limit_is_cut(greedy: Translator, length: int, is_cut: bool) -> None:
    """Two tokens and EOS may become 2 * 3 + 10 tokens."""
    assert len(encode(greedy, ["a"])[0]) == 2
    parrot = Parrot(greedy.model, greedy.vocabulary, decoding=greedy.decoding)
    parrot.length = length
    (found,) = parrot.translate(["a"])
    assert len(found.tokens[0]) == length
    assert found.is_cut == is_cut


def test_places_that_a_search_left_empty_are_dropped(greedy: Translator) -> None:
    hypotheses = Hypotheses(
        tokens=jnp.asarray([[[7, 8, 0], [8, 0, 0], [0, 0, 0]], [[0, 0, 0]] * 3], jnp.int32),
        scores=jnp.asarray([[-1.0, -2.5, -jnp.inf], [-jnp.inf] * 3], jnp.float32),
        passes=jnp.asarray([4, 0], jnp.int32),
    )
    first, second = greedy.texts(hypotheses)
    assert first.tokens == [[7, 8], [8]]
    assert first.scores == [-1.0, -2.5]
    assert first.texts == greedy.vocabulary.decode_target([[7, 8], [8]])
    assert first.passes == 4
    assert (second.texts, second.tokens, second.scores) == ([""], [[]], [-np.inf])


@pytest.mark.skipif(not cpu_kernels.are_available(), reason="int8 needs the kernels")
def test_weights_of_8_bits_score_nearly_the_same(greedy: Translator, sentences: list[str]) -> None:
    """The model of random parameters, tripled, says mostly the same, and nine scores of ten are near."""
    rounded = Translator(greedy.model, greedy.vocabulary, decoding=greedy.decoding, weights="int8")
    assert rounded.choice.text == decodings.decoding_text(greedy.decoding) + " int8"
    pairs = zip(greedy.translate(sentences), rounded.translate(sentences), strict=True)
    same = [(a, b) for a, b in pairs if a.tokens == b.tokens]
    assert len(same) > len(sentences) / 2
    near = [abs(a.scores[0] - b.scores[0]) < 0.2 * abs(a.scores[0]) + 0.2 for a, b in same]
    assert sum(near) > 0.9 * len(near)
    assert any(a.scores != b.scores for a, b in same)


def test_int8_without_kernels_is_an_error(
    greedy: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "are_available", lambda: False)
    with pytest.raises(ConfigError, match="int8 weights need a CPU"):
        Translator(greedy.model, greedy.vocabulary, decoding=greedy.decoding, weights="int8")
    plain = Translator(greedy.model, greedy.vocabulary, decoding=greedy.decoding)
    assert plain.ready_model is plain.model


@pytest.fixture(scope="module")
def planner(greedy: Translator) -> Translator:
    """Batches of at most 4 rows and 64 tokens."""
    decoding = greedy.decoding
    return Translator(
        greedy.model, greedy.vocabulary, decoding=decoding, batch_tokens=64, max_rows=4
    )


def test_the_plan_by_hand(planner: Translator) -> None:
    """Tokens without EOS: 7 of them fill the bucket of 8, 8 need that of 16; 64 tokens are four rows
    of 16, two of 32, and no row of 96 is too long."""
    assert planner.plan([3, 0, 20, 7, 30, 25, 8, 1]) == [
        ([4, 5], 2, 32),
        ([2], 1, 24),
        ([6], 1, 16),
        ([3, 0, 7], 4, 8),
    ]
    assert planner.plan([]) == planner.plan([0, 0]) == []
    assert planner.plan([95]) == [([0], 1, 96)]
    assert planner.plan([2] * 6) == [([0, 1, 2, 3], 4, 8), ([4, 5], 4, 8)]


@given(st.lists(st.integers(0, 255), max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_every_sentence_once_in_few_shapes(lengths: list[int]) -> None:
    model = object.__new__(Translator)
    model.batch_tokens, model.max_rows = 1024, 48
    batches = model.plan(lengths)
    places = [place for members, _, _ in batches for place in members]
    assert sorted(places) == [place for place, length in enumerate(lengths) if length]
    assert [bucket for _, _, bucket in batches] == sorted(
        (bucket for _, _, bucket in batches), reverse=True
    )
    for members, rows, bucket in batches:
        most = min(32, 1024 // bucket)
        assert len(members) <= rows <= most
        assert rows in {*ROWS, *(2**power for power in range(6))}
        smaller = max((b for b in BUCKETS if b < bucket), default=0)
        assert all(smaller < lengths[place] + 1 <= bucket for place in members)
    shapes = {(rows, bucket) for _, rows, bucket in batches}
    assert all(sum(b == bucket for _, b in shapes) <= 4 for bucket in BUCKETS)


def test_buckets() -> None:
    assert [translator.bucket_of(length) for length in (1, 8, 9, 256)] == [8, 8, 16, 256]
    assert limits.length_limit(BUCKETS[-1]) == 522


def test_internals_come_without_padding_and_beside_their_pieces(
    one_pass: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here each token's number in its row: 0, 1, 2 up to EOS, however long the sentences beside it are."""

    def numbers(source: jax.Array, *, decoding: object, max_length: int) -> dict[str, Internal]:
        lengths = (source != PAD).sum(axis=1).astype(jnp.int32)
        columns = jnp.broadcast_to(jnp.arange(source.shape[1]), source.shape)
        return {
            "numbers": Internal(columns, {1: lengths}),
            "pairs": Internal(columns[:, :, None] * columns[:, None], {1: lengths, 2: lengths}),
        }

    network = type(one_pass.model.merge(one_pass.model.leaves))
    monkeypatch.setattr(network, "internals", lambda self, *a, **k: numbers(*a, **k))
    sentences = ["a", "", "abc", "cabcabcab"]
    found = one_pass.internals(sentences)
    for sentence, internals in zip(sentences, found, strict=True):
        pieces = internals["source_pieces"]
        assert "".join(pieces).replace("\u2581", "") == (sentence + "</s>" if sentence else "")
        if sentence:
            assert internals["numbers"].tolist() == list(range(len(pieces)))
            assert internals["pairs"].shape == (len(pieces), len(pieces))
    assert set(found[1]) == {"source_pieces", "target_pieces"}
    translations = one_pass.translate(sentences)
    for translation, internals in zip(translations, found, strict=True):
        assert len(internals["target_pieces"]) == len(translation.tokens[0])
    with pytest.raises(ValueError, match="expected at most 255 subwords, got 600"):
        one_pass.internals(["ok", "ab " * 200])


def test_a_translation_introduces_itself_in_a_line() -> None:
    long = Translation(["guten Tag " * 20, "hallo"], [-1.25, -2.0], [[7], [8]], 3)
    assert (
        repr(Translation(["hallo"], [-1.0], [[7]], 2))
        == "Translation('hallo', score -1.00, 2 passes)"
    )
    assert repr(long).endswith(" ...', score -1.25, 3 passes, 2 texts)")
    assert len(repr(long)) < 120


def test_a_given_translation_scores_what_greedy_search_gave_it(
    greedy: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy search scores its translation by log p of tokens and EOS, in nats, one position at a time; `score` does
    the same in one pass. A random model's tokens are no text's subwords, so a number stands for each translation."""
    ended = [t for t in zip(sentences, greedy.translate(sentences), strict=True) if not t[1].is_cut]
    assert len(ended) >= 10
    tokens = [translation.tokens[0] for _, translation in ended]
    monkeypatch.setattr(
        type(greedy.vocabulary), "encode_target", lambda _, texts: [tokens[int(t)] for t in texts]
    )
    sources, numbers = [sentence for sentence, _ in ended], [str(i) for i in range(len(ended))]
    scores = greedy.score(sources, numbers)
    expected = [translation.scores[0] for _, translation in ended]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(greedy.score(sources[:1], ["0"]), scores[:1], rtol=1e-5)


def test_what_cannot_be_scored_is_said(greedy: Translator, one_pass: Translator) -> None:
    with pytest.raises(ValueError, match="only autoregressive and joint models score"):
        one_pass.score(["a"], ["A"])
    with pytest.raises(ValueError, match="expected a target for each source, got 1 sources and 2"):
        greedy.score(["a"], ["A", "B"])
    with pytest.raises(ValueError, match="expected at most 255 subwords"):
        greedy.score(["a"], ["A " * 300])
    assert greedy.score(["", "a"], ["", ""])[0] == 0.0
    assert greedy.score(["a"], [""])[0] < 0.0
