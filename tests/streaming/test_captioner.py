"""Captions of a tiny run, and their numbers."""

import pytest

import nat_ar
from nat_ar.evaluation import latency
from nat_ar.streaming.caption import Caption, unit_of, units_of
from nat_ar.streaming.caption import text_of as text
from nat_ar.streaming.captioner import Captioner

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
