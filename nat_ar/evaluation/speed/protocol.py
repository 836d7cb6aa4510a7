"""How fast translators are, all of them measured together in one process.

What is timed is a user's call: text in, text out, the host's work included.

- Before a clock starts, all shapes are compiled and each is called several times. Compiling while a clock
  runs is an error.
- Systems take turns, A B A B: sentence by sentence for the latency, pass by pass for the throughput, so
  that the machine's noise hits all alike. Each call finds the caches as another system left them.
- Latency (batch 1): of each sentence the median over the repetitions; of these the mean, with a 95 %
  bootstrap interval over sentences, and percentiles.
- Throughput: sentences/s over a whole set of sentences, sorted by length and cut into batches by the
  Translator, at each batch size; median over passes. At batch 1 it is 1 / mean latency.
- A call ends when its text is on the host; a piece that ends on the device, when its arrays are ready.
- The floor of a system is the least time of its matrix products on the same sentences (floor.py) at the peaks
  of the machine (machine.py), which are measured before the first clock and after the last."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nat_ar.evaluation.speed import (
    clock,
    driver,
    floor,
    intervals,
    machine,
    pieces,
    sample,
    throughput,
)
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.evaluation.speed.driver import WARM_UP_CALLS_ALONE
from nat_ar.evaluation.speed.floor import Cost
from nat_ar.evaluation.speed.intervals import Latency, LengthBin
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.evaluation.speed.pieces import LatencyShares
from nat_ar.evaluation.speed.throughput import Limit
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator


@dataclasses.dataclass(frozen=True, eq=False)
class Speed:
    """The measurements of one translator. Nothing was compiled while they were taken."""

    latency: Latency
    pieces: LatencyShares
    throughput: dict[int, float]
    """sentences/s by batch size, without the sizes that make no batch larger"""
    batch_limit: Limit
    """why there is no larger batch size"""
    texts: list[str]
    """the sentences of the latency"""
    seconds: Float[np.ndarray, "sentences"]
    """median over the repetitions"""
    lengths: list[LengthBin]
    """mean latency by length"""
    repetitions: int
    throughput_sentences: int
    steps: float
    """mean decoder passes a sentence"""
    compile_seconds: float
    """of all shapes; short where JAX's persistent compilation cache has them"""
    cost: Cost | None
    """of the mean sentence; None without floors"""
    peaks: Peaks | None

    @property
    def sentences(self) -> int:
        return len(self.texts)

    @property
    def best_batch(self) -> int:
        return max(self.throughput, key=lambda size: self.throughput[size])


def measure(
    translators: Sequence[Translator],
    text: Sequence[str],
    config: SpeedConfig,
    *,
    is_quiet: bool = False,
) -> list[Speed]:
    """One Speed for each translator, in order, on the same sentences of `text`.

    Changes max_rows and batch_tokens of the translators. Raises RecompilationError, LostSentenceError, and
    ValueError if all of the text is empty."""
    pool = [sentence for sentence in text if sentence.strip()]
    if not pool:
        raise ValueError(f"expected sentences to time, got {len(text)} empty lines")
    peaks = machine.measure() if config.floors else None
    sentences, seconds, translations = _time_alone(translators, pool, config, is_quiet)
    alone = np.median(seconds, axis=1)  # [translators, sentences]
    shares = pieces.measure(translators, sentences, is_quiet)
    slowest = float(alone.mean(axis=1).max())
    many, curves, batch_limits = throughput.measure(translators, pool, config, slowest, is_quiet)
    costs: Sequence[Cost | None] = [None] * len(translators)
    if peaks is not None:
        peaks = peaks.best(machine.measure())
        costs = _costs(translators, sentences, peaks, is_quiet)
    return [
        Speed(
            latency=Latency.of(alone[i]),
            pieces=shares[i],
            throughput={1: 1 / float(alone[i].mean()), **curves[i]},
            batch_limit=batch_limits[i],
            texts=sentences,
            seconds=alone[i],
            lengths=intervals.by_length(
                (driver.prepare(translator, text)[1], len(translation.tokens[0]), float(spent))
                for text, (translation,), spent in zip(
                    sentences, translations[i], alone[i], strict=True
                )
            ),
            repetitions=seconds.shape[1],
            throughput_sentences=len(many),
            steps=float(np.mean([translation.passes for (translation,) in translations[i]])),
            compile_seconds=translator.compile_seconds,
            cost=costs[i],
            peaks=peaks,
        )
        for i, translator in enumerate(translators)
    ]


def _time_alone(
    translators: Sequence[Translator], pool: Sequence[str], config: SpeedConfig, is_quiet: bool
) -> tuple[
    list[str], Float[np.ndarray, "translators repetitions sentences"], list[list[list[Translation]]]
]:
    """The sentences that were timed, the seconds of each call at batch 1, and the last translations."""
    sentences = sample.spread(pool, config.sentences)
    for translator in translators:
        driver.set_batch(translator, 1)
    plans = [driver.plan(translator, sentences) for translator in translators]
    one_pass = driver.warm_up(translators, sentences, plans, WARM_UP_CALLS_ALONE, is_quiet)
    repetitions, number = sample.fit(config, one_pass, len(sentences))
    sentences = sample.spread(sentences, number)
    calls = [
        driver.caller(translator, [[sentence] for sentence in sentences])
        for translator in translators
    ]
    with (
        clock.bar("latency", repetitions * len(sentences) * len(calls), is_quiet) as bar,
        clock.no_compilation([translator.compiled for translator in translators]),
    ):
        seconds, translations = clock.interleaved(calls, len(sentences), repetitions, bar.update)
    return sentences, seconds, translations


def _costs(
    translators: Sequence[Translator], sentences: Sequence[str], peaks: Peaks, is_quiet: bool
) -> list[Cost]:
    """The cost of the mean sentence for each translator; every sentence is counted in a run of its own."""
    sources = [
        [driver.prepare(translator, text) for text in sentences] for translator in translators
    ]
    shapes = [(i, bucket) for i, row in enumerate(sources) for bucket in {b for _, b in row}]
    with (
        clock.bar("floors", len(shapes), is_quiet) as bar,
        ThreadPoolExecutor(machine.num_threads()) as pool,
    ):

        def counter(shape: tuple[int, int]) -> floor.CountedProgram:
            translator, bucket = translators[shape[0]], shape[1]
            arguments = translator.arguments(1, bucket)
            program = floor.compile_counter(
                translator.function(bucket), arguments, is_weight=(True, True, False)
            )
            bar.update()
            return program

        counters = dict(zip(shapes, pool.map(counter, shapes), strict=True))
    means = []
    for i, (translator, row) in enumerate(zip(translators, sources, strict=True)):
        costs = []
        for source, bucket in row:
            counted = counters[i, bucket]
            leaves = translator.arguments(1, bucket)[:2]
            costs.append(counted.cost(counted.counts(*leaves, jnp.asarray(source)), peaks))
        means.append(floor.mean(costs))
    return means
