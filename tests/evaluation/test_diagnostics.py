"""Diagnostics on numbers that a reader can check by hand."""

import math

import numpy as np
import pytest

from nat_ar.data.ragged import Ragged
from nat_ar.evaluation import diagnostics


def lexicon_of(*pairs: tuple[int, int]) -> diagnostics.Lexicon:
    """One sentence of one token for each (source type, target type)."""
    return diagnostics.lexicon(
        np.zeros(len(pairs), np.int32),
        Ragged.from_rows([[source] for source, _ in pairs]),
        Ragged.from_rows([[target] for _, target in pairs]),
    )


def test_lexicon_counts_links_and_nothing_else() -> None:
    source, target = Ragged.from_rows([[5, 6], [6, 7]]), Ragged.from_rows([[1, 2, 1], [2]])
    lexicon = diagnostics.lexicon(np.array([0, 1, 0, 0]), source, target)
    assert lexicon.source.tolist() == [5, 6]  # nothing links to 7
    assert lexicon.target.tolist() == [1, 2]
    assert lexicon.count.tolist() == [2, 2]


def test_complexity_is_the_mean_entropy_over_source_types() -> None:
    # Type 0 has two equally frequent translations: log 2. Type 1 has one: 0. Frequency is no weight.
    assert diagnostics.complexity(
        lexicon_of((0, 8), (0, 9), (1, 7), (1, 7), (1, 7))
    ) == pytest.approx(math.log(2) / 2)
    assert diagnostics.complexity(lexicon_of((0, 8), (1, 7))) == 0
    quarter = lexicon_of((0, 1), (0, 1), (0, 1), (0, 2))
    assert diagnostics.complexity(quarter) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )


def test_faithfulness_is_zero_for_equal_lexicons_and_bounded() -> None:
    real = lexicon_of((0, 8), (0, 9), (1, 7))
    assert diagnostics.faithfulness(real, real) == pytest.approx(0)
    assert diagnostics.faithfulness(real, lexicon_of((2, 8))) == pytest.approx(math.log(100))
    assert diagnostics.faithfulness(real, lexicon_of()) == pytest.approx(math.log(100))


def test_faithfulness_is_the_divergence_where_nothing_is_missing() -> None:
    # p_real(.|0) = (3/4, 1/4), p_distilled(.|0) = (1/4, 3/4): KL = 1/2 log 3.
    real = lexicon_of((0, 1), (0, 1), (0, 1), (0, 2))
    distilled = lexicon_of((0, 1), (0, 2), (0, 2), (0, 2))
    assert diagnostics.faithfulness(real, distilled, skew=1e-9) == pytest.approx(math.log(3) / 2)


def test_faithfulness_counts_lost_translations_and_lost_source_types() -> None:
    # Type 0 keeps translation 8 of 8 and 9; type 1 loses its only one to 6.
    real = lexicon_of((0, 8), (0, 9), (1, 7))
    distilled = lexicon_of((0, 8), (1, 6))
    of_0 = 0.5 * math.log(0.5 / (0.99 + 0.01 * 0.5)) + 0.5 * math.log(0.5 / (0.01 * 0.5))
    of_1 = math.log(1 / 0.01)
    assert diagnostics.faithfulness(real, distilled) == pytest.approx((of_0 + of_1) / 2)


def test_empty_lexicons_and_skews_out_of_range_are_errors() -> None:
    real = lexicon_of((0, 8))
    with pytest.raises(ValueError, match="empty"):
        diagnostics.complexity(lexicon_of())
    with pytest.raises(ValueError, match="empty"):
        diagnostics.faithfulness(lexicon_of(), real)
    with pytest.raises(ValueError, match="skew"):
        diagnostics.faithfulness(real, real, skew=0.0)


def test_repetition_counts_tokens_equal_to_the_one_before() -> None:
    found = diagnostics.repetition(
        [["danke", "danke", "danke", "schön"], ["ja", "nein", "ja"], [], ["a"]]
    )
    assert found.tokens == pytest.approx(100 * 2 / 8)
    assert found.sentences == pytest.approx(100 * 1 / 4)
    assert diagnostics.repetition([[3, 3], [3, 4]]) == (25.0, 50.0)
    assert diagnostics.repetition([]) == (0.0, 0.0)


def test_length_ratio_is_of_the_sums_in_words() -> None:
    hypotheses, references = [["a", "b", "c"], []], [["a", "b"], ["c", "d", "e", "f"]]
    assert diagnostics.length_ratio(hypotheses, references) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="each of 1 references, got 2"):
        diagnostics.length_ratio([["a"], ["b"]], [["a"]])
    with pytest.raises(ValueError, match="none"):
        diagnostics.length_ratio([["a"]], [[]])


def test_reordering_is_the_share_of_crossing_links() -> None:
    source = Ragged.from_rows([[0] * 4] * 5)
    target = Ragged.from_rows([[0] * 4, [0] * 4, [0] * 3, [0], []])
    links = np.array([0, 1, 1, 3, *[3, 2, 1, 0], *[1, 2, 0], *[2]])
    # monotone 0; reversed 1; (1, 2, 0): two of three pairs cross; one token 0; no token, no part
    assert diagnostics.reordering(links, source, target) == pytest.approx((0 + 1 + 2 / 3 + 0) / 4)
    with pytest.raises(ValueError, match="none"):
        diagnostics.reordering(
            np.zeros(0, np.int32), Ragged.from_rows([[1]]), Ragged.from_rows([[]])
        )


def test_warnings_follow_the_bands() -> None:
    assert diagnostics.warnings(length_ratio=1.0, repetition=0.04) == []
    assert diagnostics.warnings(length_ratio=0.79, repetition=0.0) == [
        "length ratio 0.79 is outside 0.8-1.25"
    ]
    assert diagnostics.warnings(length_ratio=1.26, repetition=0.0) == [
        "length ratio 1.26 is outside 0.8-1.25"
    ]
    assert diagnostics.warnings(length_ratio=1.0, repetition=4.1, reference_repetition=0.2) == [
        "4.1 % of the tokens repeat the one before (references 0.2 %)"
    ]
    assert diagnostics.warnings(length_ratio=1.0, repetition=4.1, reference_repetition=4.0) == []
    assert diagnostics.warnings(length_ratio=1.0, repetition=0.0, empty=3, sentences=100) == [
        "3 of 100 translations are empty"
    ]
