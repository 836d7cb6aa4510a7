"""Captions of a tiny run, and their numbers."""

import dataclasses
import itertools
import math
from typing import Any

import pytest

import nat_ar
from nat_ar.config_json import ConfigError
from nat_ar.data.units import text_of as text
from nat_ar.data.units import unit_of, units_of
from nat_ar.evaluation import latency
from nat_ar.streaming.caption import Caption
from nat_ar.streaming.captioner import Captioner
from nat_ar.translation.translation import Translation

SOURCE = "a b d c"


@pytest.fixture(scope="module")
def opened(tiny_runs) -> dict[str, Captioner]:
    return {
        "ar": nat_ar.caption(tiny_runs.autoregressive.directory, decoding="Greedy()"),
        "nat": nat_ar.caption(tiny_runs.length_nat.directory),
    }


@pytest.mark.parametrize("name", ["ar", "nat"])
def test_each_prefix_is_translated_as_if_it_were_all(opened, name: str) -> None:
    captioner = opened[name]
    caption = captioner.replay(SOURCE)
    prefixes = ["a", "a b", "a b d", "a b d c"]
    assert [" ".join(update.source) for update in caption.updates] == prefixes
    expected = captioner.translator.translate(prefixes, is_quiet=True)
    assert [" ".join(update.shown) for update in caption.updates] == [
        " ".join(found.texts[0].split()) for found in expected
    ]
    assert [update.passes for update in caption.updates] == [found.passes for found in expected]
    assert [update.is_final for update in caption.updates] == [False, False, False, True]
    assert all(update.seconds > 0 for update in caption.updates)


@pytest.mark.parametrize("name", ["ar", "nat"])
@pytest.mark.parametrize("policy", ["Retranslate(mask_k=1)", "AppendOnly(mask_k=1)"])
def test_prefixes_in_batches_are_the_same_captions(tiny_runs, name: str, policy: str) -> None:
    """All but their times; and where a text begins as another one, their beginnings are translated once."""
    run = tiny_runs.autoregressive if name == "ar" else tiny_runs.length_nat
    captioner = nat_ar.caption(run, policy, decoding="Greedy()" if name == "ar" else None)
    assert captioner.is_independent == (name == "nat" or policy.startswith("Retranslate"))
    if not captioner.is_independent:
        return
    texts = ["a b d c", "", "a b", "a b d e"]
    translated: list[str] = []
    translate = captioner.translator.translate

    def counted(sentences: list[str], **options: Any) -> list[Translation]:
        translated.extend(sentences)
        return translate(sentences, **options)

    alone = [captioner.replay(text) for text in texts]
    captioner.translator.translate = counted
    together = captioner.replay_together(texts)
    assert sorted(translated) == ["", "a", "a b", "a b d", "a b d c", "a b d e"]
    nothing = {"seconds": 0.0, "processor_seconds": 0.0}
    for one, other in zip(alone, together, strict=True):
        assert all(math.isnan(update.seconds) for update in other.updates)
        assert [dataclasses.replace(update, **nothing) for update in one.updates] == [
            dataclasses.replace(update, **nothing) for update in other.updates
        ]


@pytest.mark.parametrize("name", ["ar", "nat"])
def test_every_policy_ends_with_the_whole_output(opened, tiny_runs, name: str) -> None:
    plain = opened[name].replay(SOURCE)
    run = tiny_runs.autoregressive if name == "ar" else tiny_runs.length_nat
    decoding = opened[name].translator.decoding
    masked = nat_ar.caption(run, "Retranslate(mask_k=1)", decoding=decoding).replay(SOURCE)
    assert masked.final == plain.final
    for update, hidden in zip(plain.updates, masked.updates, strict=True):
        whole = len(hidden.shown) if hidden.is_final else len(hidden.output) - 1
        assert hidden.shown == update.shown[: max(whole, 0)]
    for policy in ("AppendOnly(mask_k=1)", "LocalAgreement()"):
        growing = nat_ar.caption(run, policy, decoding=decoding).replay(SOURCE)
        assert latency.erasure(growing.shown) == 0
        assert len(growing.final) >= len(growing.updates[-1].output)


def test_a_caption_counts_what_stays_and_what_goes(opened) -> None:
    for captioner in opened.values():
        before: tuple[str, ...] = ()
        for update in captioner.replay(SOURCE).updates:
            assert update.shown[: update.kept] == before[: update.kept]
            assert update.erased == latency.erased(before, update.shown)
            before = update.shown


def test_word_by_word_is_a_replay(opened) -> None:
    captioner = opened["ar"]
    replayed = captioner.replay("a b")
    read = [captioner.read("a"), captioner.read("b", is_last=True)]
    assert [update.shown for update in read] == replayed.shown
    late = [captioner.read("a"), captioner.read("b"), captioner.end()]
    assert [len(update.source) for update in late] == [1, 2, 2]
    assert late[2].shown == read[1].shown
    assert captioner.read("c").source == ("c",)  # the next text


def test_a_blank_text_shows_nothing(opened) -> None:
    caption = opened["ar"].replay(" ")
    assert caption.final == ()
    assert len(caption.updates) == 1


def test_what_was_warmed_up_compiles_no_more(tiny_runs) -> None:
    captioner = nat_ar.caption(tiny_runs.length_nat.directory)
    captioner.warm_up(9)
    known = set(captioner.translator.compiled)
    assert known == {(1, 8), (1, 16)}
    captioner.replay(SOURCE)
    assert set(captioner.translator.compiled) == known


def test_delays_are_those_of_words_that_stay(opened) -> None:
    """Three words of a source, whose captions are "A", "A B" and "A C D": C and D wait for the third."""
    (first, *_) = opened["ar"].replay("a").updates
    texts = [("A",), ("A", "B"), ("A", "C", "D")]

    def update(count: int, seconds: float):
        shown = texts[count - 1]
        fields = {"source": tuple("xyz"[:count]), "shown": shown, "output": shown}
        return type(first)(**{**vars(first), **fields, "seconds": seconds})

    caption = Caption(tuple(update(count, 0.0) for count in (1, 2, 3)))
    assert caption.delays() == [1, 3, 3]
    assert caption.computing_delays(2.0) == pytest.approx([1, 3, 3])
    slow = Caption(tuple(update(count, 0.75) for count in (1, 2, 3)))  # a word and a half
    assert slow.computing_delays(2.0) == pytest.approx([2.5, 5.5, 5.5])


def test_units() -> None:
    assert units_of(" Ein  Mann. ", "word") == ("Ein", "Mann.")
    assert units_of("两只 iPad\n", "character") == ("两", "只", " i", "P", "a", "d")
    for unit, sentence in (("word", "Ein Mann."), ("character", "两只 iPad")):
        assert text(units_of(sentence, unit), unit) == sentence
    assert [unit_of(code) for code in ("de", None, "ko", "zh-CN", "ja")] == [
        *["word"] * 3,
        *["character"] * 2,
    ]


@pytest.mark.parametrize("decoding", ["Greedy()", "Sampling(temperature=0.7, seed=3)"])
def test_a_translation_as_draft_of_the_next_changes_no_word(tiny_runs, decoding: str) -> None:
    run = tiny_runs.autoregressive
    plain = nat_ar.caption(run, decoding=decoding).replay(SOURCE)
    drafted = nat_ar.caption(run, "Redraft(block=4)", decoding=decoding).replay(SOURCE)
    assert drafted.shown == plain.shown
    assert drafted.updates[0].passes >= 1
    assert sum(update.passes for update in drafted.updates) < sum(
        update.passes for update in plain.updates
    )


def test_a_draft_that_stays_is_one_pass(tiny_runs) -> None:
    """The same source twice: its translation, of fewer than `block` tokens, is verified at once."""
    captioner = nat_ar.caption(tiny_runs.autoregressive, "Redraft(block=32)", decoding="Greedy()")
    first = captioner.read("a")
    again = captioner.end()
    assert (again.shown, again.passes) == (first.shown, 1)


def test_a_caption_that_only_grows_is_what_the_model_says_behind_what_is_shown(tiny_runs) -> None:
    captioner = nat_ar.caption(
        tiny_runs.autoregressive, "AppendOnly(mask_k=1)", decoding="Greedy()"
    )
    before: tuple[str, ...] = ()
    for update in captioner.replay(SOURCE).updates:
        assert update.output[: len(before)] == before  # not only shown, but said
        before = update.shown


def test_a_strong_bias_hardly_changes_what_was_said(tiny_runs) -> None:
    run = tiny_runs.autoregressive
    plain = nat_ar.caption(run, decoding="Greedy()").replay(SOURCE)
    biased = nat_ar.caption(run, "Biased(bias=0.999)", decoding="Greedy()").replay(SOURCE)
    assert biased.updates[0].shown == plain.updates[0].shown
    texts = ["".join(shown) for shown in biased.shown]  # a tiny run's words grow
    assert all(now.startswith(before) for before, now in itertools.pairwise(texts))


@pytest.mark.parametrize(
    ("name", "policy", "decoding", "message"),
    [
        ("length_nat", "Redraft()", None, "says the words of Greedy"),
        ("autoregressive", "Redraft()", "Beam()", "says the words of Greedy"),
        ("length_nat", "Biased()", None, "guides a search from left to right"),
        ("autoregressive", "Biased()", "Jacobi()", "guides a search from left to right"),
    ],
)
def test_a_policy_that_a_decoding_cannot_follow(tiny_runs, name, policy, decoding, message) -> None:
    with pytest.raises(ConfigError, match=message):
        nat_ar.caption(getattr(tiny_runs, name), policy, decoding=decoding)
