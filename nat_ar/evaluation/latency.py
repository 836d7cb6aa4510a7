"""How far a translation lags behind a source that goes on, and how much of what it showed it takes back.

The formulas are those of SimulEval (Ma et al. 2020, arXiv:2007.16121), which its latency_scorer computes; the papers of
the measures stand with them. Target units are words of detokenised text, or characters where a language has no
spaces. The delay of a unit is what had been read of the source when it was written, in source units; where computing
counts, the time at which it was there, in the time that a source unit takes. Numbers in, numbers out."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

Number = float | int


def average_lagging(
    delays: Sequence[Number], source_length: Number, reference_length: Number
) -> Number:
    """AL (Ma et al. 2019, arXiv:1810.08398, section 4.2): how far the output is behind one that says as many units as
    the reference at a constant pace.

    (1 / tau) sum_{i <= tau} (d_i - (i - 1) |X| / |Y|); tau is the first unit that saw the whole source. More units than
    the reference has make it small, down to below 0: see `length_adaptive_average_lagging`."""
    _check(delays, source_length, reference_length)
    return _lagging(delays, source_length, reference_length)


def length_adaptive_average_lagging(
    delays: Sequence[Number], source_length: Number, reference_length: Number
) -> Number:
    """LAAL (Papi et al. 2022, arXiv:2206.05807): AL with the longer of output and reference for |Y|."""
    _check(delays, source_length, reference_length)
    return _lagging(delays, source_length, max(len(delays), reference_length))


def _lagging(delays: Sequence[Number], source_length: Number, target_length: Number) -> Number:
    if delays[0] > source_length:
        return delays[0]
    pace = source_length / target_length
    until = next((i for i, delay in enumerate(delays, 1) if delay >= source_length), len(delays))
    return sum(delay - i * pace for i, delay in enumerate(delays[:until])) / until


def differentiable_average_lagging(
    delays: Sequence[Number], source_length: Number, reference_length: Number
) -> float:
    """DAL (Cherry & Foster 2019, arXiv:1906.00048): AL over all units, each of which takes its share of the source's
    time to say, so that units written at once are not free. |Y| is always the output's length."""
    _check(delays, source_length, reference_length)
    pace = source_length / len(delays)
    total = last = 0.0
    for i, delay in enumerate(delays):
        last = max(delay, last + pace) if i else delay
        total += last - i * pace
    return total / len(delays)


def average_proportion(
    delays: Sequence[Number], source_length: Number, reference_length: Number
) -> float:
    """AP (Cho & Esipova 2016, arXiv:1606.02012): sum d_i / (|X| |Y|) with the reference's length, so that it may pass
    1."""
    _check(delays, source_length, reference_length)
    return sum(delays) / (source_length * reference_length)


def _check(delays: Sequence[Number], source_length: Number, reference_length: Number) -> None:
    if not delays or source_length <= 0 or reference_length <= 0:
        raise ValueError(
            f"a lag needs an output, a source and a reference, got {len(delays)} units of output, "
            f"{source_length} of the source and {reference_length} of the reference; leave empty ones out"
        )


Measure = Callable[[Sequence[Number], Number, Number], Number]
"""(delays, source length, reference length) -> the measure of one sentence."""


@dataclasses.dataclass(frozen=True)
class Lag:
    """A measure of lag: its key in a row, its name in tables."""

    name: str
    title: str
    compute: Measure


LAGS = (
    Lag("laal", "LAAL", length_adaptive_average_lagging),
    Lag("dal", "DAL", differentiable_average_lagging),
    Lag("al", "AL", average_lagging),
    Lag("ap", "AP", average_proportion),
)
"""What an evaluation computes, in the order of the columns."""


def common_prefix(one: Sequence[str], other: Sequence[str]) -> int:
    """The units with which both begin."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def erased(before: Sequence[str], now: Sequence[str]) -> int:
    """Units that were shown before and must go for the new text: all from the first that differs (Arivazhagan et al.
    2020, arXiv:1912.03393)."""
    return len(before) - common_prefix(before, now)


def erasure(shown: Sequence[Sequence[str]]) -> int:
    """The units erased from the first text to the last of a caption."""
    return sum(erased(before, now) for before, now in itertools.pairwise(shown))


def normalised_erasure(captions: Sequence[Sequence[Sequence[str]]]) -> float:
    """NE (Arivazhagan et al. 2020, arXiv:2004.03643): units erased on the way for each unit of the last texts, over all
    captions, each of which has the texts that it showed, in order. 0: nothing was ever taken back."""
    final = sum(len(shown[-1]) for shown in captions)
    if not final:
        raise ValueError(
            "no caption shows anything at its end; normalised erasure has nothing to divide by"
        )
    return sum(erasure(shown) for shown in captions) / final


def settled(shown: Sequence[Sequence[str]]) -> list[int]:
    """For each unit of the last text the index of the first text from which on it, and all before it, stayed as they
    are: never falls along the text."""
    last = shown[-1]
    kept = [common_prefix(text, last) for text in shown]
    stable = list(itertools.accumulate(reversed(kept), min))[::-1]
    return [next(j for j, length in enumerate(stable) if length > i) for i in range(len(last))]


def finished(arrivals: Sequence[Number], seconds: Sequence[Number]) -> list[Number]:
    """When each update is done, of one that takes so many seconds, and begins when its word is there and the update
    before it done. No update is left out, however late."""
    done: list[Number] = []
    last: Number = 0
    for arrival, duration in zip(arrivals, seconds, strict=True):
        last = max(arrival, last) + duration
        done.append(last)
    return done
