"""How much is timed: sentences evenly out of a split, and repetitions that fit the time."""

from collections.abc import Sequence

from nat_ar.evaluation.speed.config import MIN_REPETITIONS, MIN_SENTENCES, SpeedConfig


def fit(config: SpeedConfig, pass_seconds: float, sentences: int) -> tuple[int, int]:
    """Repetitions and sentences of the latency that fit into half of max_seconds, where a pass over all
    sentences takes `pass_seconds`; one further pass goes to the pieces."""
    passes = config.max_seconds / 2 / pass_seconds
    repetitions = min(max(int(passes) - 1, MIN_REPETITIONS), config.repetitions)
    share = min(passes / (repetitions + 1), 1.0)
    return repetitions, min(max(int(share * sentences), MIN_SENTENCES), sentences)


def spread(sentences: Sequence[str], number: int) -> list[str]:
    """`number` sentences (or all) at even ranks of the order by length in characters, which is the same
    for every vocabulary: their lengths are distributed like those of the whole. In the given order."""
    return [sentences[position] for position in spread_positions(sentences, number)]


def spread_positions(sentences: Sequence[str], number: int) -> list[int]:
    """The positions of the sentences of `spread`."""
    if number >= len(sentences):
        return list(range(len(sentences)))
    order = sorted(range(len(sentences)), key=lambda i: (len(sentences[i]), i))
    ranks = ((2 * k + 1) * len(sentences) // (2 * number) for k in range(number))
    return sorted(order[rank] for rank in ranks)
