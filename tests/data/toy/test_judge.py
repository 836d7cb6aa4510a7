"""The toy language: what it translates to what, that parsing undoes writing, and that judging is exact."""

import collections
import math
import random
import time
from collections.abc import Sequence
from typing import TypeVar

import pytest

from nat_ar.data.corpus import Verdict
from nat_ar.data.toy import corpus, grammar, judge, parser

T = TypeVar("T")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        # gender, number and case; the endings of the adjective depend on the article
        ("The old man sees the old woman.", "Der alte Mann sieht die alte Frau."),
        ("The old woman sees the old man.", "Die alte Frau sieht den alten Mann."),
        ("A small child buys a small picture.", "Ein kleines Kind kauft ein kleines Bild."),
        ("An old man buys a red chair.", "Ein alter Mann kauft einen roten Stuhl."),
        ("My old uncles buy my new books.", "Meine alten Onkel kaufen meine neuen Bücher."),
        ("The children help the young men.", "Die Kinder helfen den jungen Männern."),
        # a separable verb parts in a main clause, and joins at the end
        ("Anna calls up the men.", "Anna ruft die Männer an."),
        ("Anna wants to call up the men.", "Anna will die Männer anrufen."),
        ("Paul says that Anna calls up the men.", "Paul sagt, dass Anna die Männer anruft."),
        # verb-final subordinate clauses, in front and behind
        ("If Anna arrives, Paul sleeps.", "Falls Anna ankommt, schläft Paul."),
        (
            "Paul sleeps although the child must buy a car.",
            "Paul schläft, obwohl das Kind ein Auto kaufen muss.",
        ),
        # fertility 0: does, do; below 1: front door; 3: remembers
        ("Does the man see the front door?", "Sieht der Mann die Haustür?"),
        ("Do the men not arrive?", "Kommen die Männer nicht an?"),
        ("Does Anna want to sleep at school?", "Will Anna in der Schule schlafen?"),
        ("Can Anna buy the lamp?", "Kann Anna die Lampe kaufen?"),
        ("The man remembers the letter.", "Der Mann erinnert sich an den Brief."),
    ],
)
def test_what_is_determined_has_one_translation(source: str, target: str) -> None:
    assert judge.translations(source) == (target,)


def test_a_phrase_with_three_translations() -> None:
    assert judge.translations("Thank you, Anna sees Paul.") == (
        "Danke schön, Anna sieht Paul.",
        "Danke sehr, Anna sieht Paul.",
        "Vielen Dank, Anna sieht Paul.",
    )


def test_a_fronted_time_swaps_subject_and_verb() -> None:
    assert judge.translations("The man calls up Anna tonight.") == (
        "Der Mann ruft Anna heute Abend an.",
        "Der Mann ruft heute Abend Anna an.",
        "Heute Abend ruft der Mann Anna an.",
    )


def test_a_conjunction_may_move_the_verb() -> None:
    assert judge.translations("Anna sleeps because Paul buys the car.") == (
        "Anna schläft, da Paul das Auto kauft.",
        "Anna schläft, denn Paul kauft das Auto.",
        "Anna schläft, weil Paul das Auto kauft.",
    )


def test_a_verb_may_be_said_in_several_ways() -> None:
    assert judge.translations("Does Anna take care of the car?") == (
        "Kümmert Anna sich um das Auto?",
        "Sorgt Anna gut für das Auto?",
        "Sorgt Anna stets für das Auto?",
    )


def test_modes_multiply() -> None:
    # opener 3, verb 3, place 2, time 3
    source = "By the way, Anna likes the car at home today."
    assert len(judge.translations(source)) == 3 * 3 * 2 * 3
    assert grammar.mode_sizes(parser.parse(source)) == [3, 3, 3, 2]


def test_judge_tells_valid_mixed_and_wrong_apart() -> None:
    source = "Thank you, Anna sees Paul."
    assert judge.judge(source, "Danke schön, Anna sieht Paul.") == (True, False)
    assert judge.judge(source, "  Vielen  Dank, Anna sieht Paul.\n") == (True, False)
    assert judge.judge(source, "Danke Dank, Anna sieht Paul.") == (False, True)
    assert judge.judge(source, "vielen Dank Anna sieht Paul") == (False, True)
    assert judge.judge(source, "Vielen Dank, Anna sieht sieht Paul.") == (False, True)
    assert judge.judge(source, "Vielen Dank, Anna besucht Paul.") == (False, False)
    assert judge.judge(source, "") == (False, False)
    assert judge.judge(source, "?") == (False, False)
    assert corpus.ToyCorpus().judge(source, "Danke sehr, Anna sieht Paul.").valid


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "expected a noun, got 'the end'"),
        ("The cat sleeps.", "expected a noun, got 'cat sleeps .'"),
        ("The man sleep.", "expected a verb, got 'sleep .'"),
        ("the man always sleeps.", "expected 'The man always sleeps.'"),
        ("The man always sleeps", "expected the end"),
        ("A old man always sleeps.", "expected 'An old man always sleeps.'"),
        ("The man buys the child.", "'child' cannot be the object of 'buys'"),
        ("The red man always sleeps.", "'red' does not go with 'man'"),
        ("The car sees the man.", "the subject is not a person"),
        ("Anna always says.", "'says' and 'that' need each other"),
        ("The man sleeps.", "3 words, not 4 to 16"),
    ],
)
def test_what_is_not_in_the_language_is_refused(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        judge.translations(source)
    with pytest.raises(ValueError, match=reason):
        judge.judge(source, "Ja.")


def test_parsing_undoes_writing(sentences: list[grammar.Sentence]) -> None:
    assert all(parser.parse(grammar.english(sentence)) == sentence for sentence in sentences)
    # hence no two meanings share a source
    assert len({grammar.english(sentence) for sentence in sentences}) == len(set(sentences))


def test_the_translations_are_the_product_of_the_modes(sentences: list[grammar.Sentence]) -> None:
    for sentence in sentences:
        found = judge.translations(grammar.english(sentence))
        assert len(found) == math.prod(grammar.mode_sizes(sentence)) <= 243
        assert list(found) == sorted(set(found))


def test_the_translations_are_all_that_can_be_drawn(sentences: list[grammar.Sentence]) -> None:
    generator = random.Random(5)

    def choose(alternatives: Sequence[T]) -> T:
        return alternatives[int(generator.random() * len(alternatives))]

    for sentence in sentences[:100]:
        found = set(judge.translations(grammar.english(sentence)))
        if len(found) <= 9:
            assert {grammar.german(sentence, choose) for _ in range(120)} == found


def test_crossing_two_translations_is_valid_or_mixed(sentences: list[grammar.Sentence]) -> None:
    """The start of one translation and the end of another: what a one-pass model writes."""
    generator = random.Random(6)
    seen: collections.Counter[Verdict] = collections.Counter()
    for sentence in sentences:
        source = grammar.english(sentence)
        found = judge.translations(source)
        one, other = (found[int(generator.random() * len(found))].split() for _ in range(2))
        cut = int(generator.random() * (min(len(one), len(other)) + 1))
        crossed = " ".join(one[:cut] + other[cut:])
        verdict = judge.judge(source, crossed)
        assert verdict == (crossed in found, crossed not in found)
        seen[verdict] += 1
    assert min(seen.values()) > len(sentences) / 10


def test_word_by_word_argmax_of_a_mode_is_no_alternative() -> None:
    """0.44 "vielen Dank", 0.28 "danke schön", 0.28 "danke sehr": the likeliest words are "danke" (0.56)
    and "Dank" (0.44), the likeliest phrase is "vielen Dank"."""
    source = "Thank you, Anna sees Paul."
    generator = random.Random(2)
    sentence = parser.parse(source)
    drawn = [
        grammar.german(sentence, lambda options: corpus.draw_mode(generator, options)).split()
        for _ in range(1_500)
    ]
    likeliest = [
        collections.Counter(column).most_common(1)[0][0] for column in zip(*drawn, strict=True)
    ]
    assert " ".join(likeliest) == "Danke Dank, Anna sieht Paul."
    assert judge.judge(source, " ".join(likeliest)).mixed
    whole = collections.Counter(map(" ".join, drawn))
    assert whole.most_common(1)[0][0] == "Vielen Dank, Anna sieht Paul."
    assert whole["Vielen Dank, Anna sieht Paul."] / 1_500 == pytest.approx(0.44, abs=0.04)


def test_judging_is_quick(sentences: list[grammar.Sentence]) -> None:
    sources = [grammar.english(sentence) for sentence in sentences[:500]]
    started = time.process_time()
    for source in sources:
        judge.judge(source, "Danke Dank.")
    # 0.2 ms each in use; the type checks of the tests cost 20 times more
    assert (time.process_time() - started) / len(sources) < 0.03
