from nat_ar.evaluation.speed import sample
from nat_ar.evaluation.speed.config import SpeedConfig


def test_sentences_are_spread_over_the_lengths_and_stay_in_order() -> None:
    sentences = [length * "x" for length in (9, 1, 8, 2, 7, 3, 6, 4, 5, 10)]
    # Ranks 1, 3, 5, 7, 9 of 0 to 9, by length: 2, 4, 6, 8, 10.
    assert [len(sentence) for sentence in sample.spread(sentences, 5)] == [8, 2, 6, 4, 10]
    assert [len(sentence) for sentence in sample.spread(sentences, 1)] == [6]
    assert sample.spread(sentences, 10) == sentences
    assert sample.spread(sentences, 99) == sentences


def test_repetitions_are_cut_first_and_then_sentences() -> None:
    config = SpeedConfig(sentences=100, repetitions=5, max_seconds=60.0)  # 30 for the latency
    assert sample.fit(config, 1.0, 100) == (5, 100)
    assert sample.fit(config, 6.0, 100) == (4, 100)  # 4 passes and one for the pieces
    assert sample.fit(config, 15.0, 100) == (3, 50)  # 3 + 1 passes over a half
    assert sample.fit(config, 600.0, 100) == (3, 10)
    assert sample.fit(config, 600.0, 6) == (3, 6)
