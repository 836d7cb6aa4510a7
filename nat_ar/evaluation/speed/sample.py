"""How much is timed: sentences evenly out of a split, and repetitions that fit the time."""

from collections.abc import Sequence

from nat_ar.evaluation.speed.config import MIN_REPETITIONS, MIN_SENTENCES, SpeedConfig


def fit(config: SpeedConfig, pass_seconds: float, sentences: int) -> tuple[int, int]:
    """(repetitions, sentences) of the latency that fit into half of max_seconds.

    pass_seconds: of one pass over all `sentences`. One more pass is reserved for the pieces."""
    passes = config.max_seconds / 2 / pass_seconds
    repetitions = min(max(int(passes) - 1, MIN_REPETITIONS), config.repetitions)
    share = min(passes / (repetitions + 1), 1.0)
    return repetitions, min(max(int(share * sentences), MIN_SENTENCES), sentences)


def spread(sentences: Sequence[str], number: int) -> list[str]:
    """`number` sentences, or all, evenly spaced in the order by length, returned in the given order.

    Lengths are in characters, so that every vocabulary gets the same sentences; they are distributed like those
    of the whole."""
    return [sentences[position] for position in spread_positions(sentences, number)]


def spread_positions(sentences: Sequence[str], number: int) -> list[int]:
    """The positions of the sentences of `spread`."""
    if number >= len(sentences):
        return list(range(len(sentences)))
    order = sorted(range(len(sentences)), key=lambda i: (len(sentences[i]), i))
    ranks = ((2 * k + 1) * len(sentences) // (2 * number) for k in range(number))
    return sorted(order[rank] for rank in ranks)
