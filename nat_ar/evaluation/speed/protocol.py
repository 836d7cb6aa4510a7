"""How fast translators are, all of them measured together in one process.

What is timed is a user's call: text in, text out, the host's work included.

- Ahead of every clock all shapes are compiled and each is called several times. A compilation while a
  clock runs is an error.
- Systems take turns, A B A B: sentence by sentence for the latency, pass by pass for the throughput, so
  that the machine's noise hits all alike. Each call finds the caches as another system left them.
- Latency (batch 1): of each sentence the median over the repetitions; of these the mean, with a 95 %
  bootstrap interval over sentences, and percentiles.
- Throughput: sentences/s over a whole set of sentences, sorted by length and cut into batches by the
  Translator, at each batch size; median over passes. At batch 1 it is 1 / mean latency.
- A call is over when the text is on the host; where a piece ends on the device, its arrays are waited
  for.
- The floor of a system is what its matrix products must cost on the same sentences (floor.py) at the peaks
  of the machine (machine.py), which are measured before the first clock and after the last."""

import contextlib
import dataclasses
import gc
import itertools
import operator
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.data import loader
from nat_ar.data.ragged import Ragged
from nat_ar.evaluation.speed import floor, intervals, machine
from nat_ar.evaluation.speed.floor import Cost
from nat_ar.evaluation.speed.intervals import Latency, LengthBin
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.runtime import compilation, out_of_memory
from nat_ar.special_tokens import EOS
from nat_ar.translation.translator import BUCKETS, Translation, Translator, bucket_of
from nat_ar.types import Encoded

T = TypeVar("T")
Shape = tuple[int, int]
"""Rows and bucket of a padded batch of sources."""
Plan = list[tuple[list[int], int, int]]
"""Batches as the Translator plans them: places of the sentences, rows, bucket."""
Limit = Literal["batch_sizes", "sentences", "memory"]
"""Why there is no larger batch: nobody asked for one, no batch was filled, the device is too small."""

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""What JAX reports for every program that it compiles or takes from its persistent cache."""
MIN_REPETITIONS = 3
"""A median over fewer says little."""
MIN_SENTENCES = 10
"""An interval over fewer says little: as many are timed however slow a system is."""
WARM_UP_CALLS = 3
WARM_UP_CALLS_ALONE = 6
"""Calls of each shape before its clock starts: of several sentences, and of one."""
MEMORY_SHARE = 0.9
"""Of the free memory that a program may plan for: arrays are not laid end to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """On how much text and for how long systems are timed."""

    sentences: int = 100
    """sentences of the latency: evenly out of the split sorted by length; empty lines never"""
    repetitions: int = 5
    """times that each sentence is translated, at least 3; passes of the throughput, at most"""
    batch_sizes: tuple[int, ...] = (1, 8, 64)
    """sentences of a batch, powers of two; each size costs one or two compilations for each bucket of
    lengths, so the ladder is wide"""
    grow_batches: bool = False
    """after the largest of batch_sizes go on doubling, each system as long as its batches get larger:
    until its program does not fit the device, or throughput_sentences fill no larger one. These are then
    never cut for time"""
    throughput_sentences: int = 256
    """sentences of the throughput, chosen like those of the latency"""
    floors: bool = True
    """count the FLOPs of every sentence and measure the machine's peaks; costs a further compilation for
    each shape at batch 1"""
    max_seconds: float = 60.0
    """time for each system besides compiling and warming up: half for the latency, half for the
    throughput. What does not fit is cut for all systems alike: first repetitions (to 3; passes of the
    throughput to 1), then sentences (to 10; those of the throughput to the largest batch). Rows say how
    many there were"""

    def __post_init__(self) -> None:
        if self.repetitions < MIN_REPETITIONS:
            raise ConfigError(
                f"expected at least {MIN_REPETITIONS} repetitions, got {self.repetitions}"
            )
        for name in ("sentences", "throughput_sentences", "max_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if any(size < 1 or size & (size - 1) for size in self.batch_sizes):
            raise ConfigError(f"batch_sizes must be powers of two, got {self.batch_sizes}")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Where the latency goes: mean milliseconds a sentence, each piece timed by itself.

    Planning and padding on the host are in none of them."""

    tokenizer: float
    encoder: float
    """the encoder compiled as a program of its own"""
    decoder: float
    """the whole program on the device less the encoder: decoder, search and a rescoring teacher"""
    detokenizer: float
    """from arrays on the device to text"""


@dataclasses.dataclass(frozen=True, eq=False)
class Speed:
    """The measurements of one translator. Nothing was compiled while they were taken."""

    latency: Latency
    pieces: Pieces
    throughput: dict[int, float]
    """sentences/s for each batch size; sizes that make no batch larger are left out"""
    batch_limit: Limit
    """why the throughput ends at its largest size"""
    texts: list[str]
    """the sentences of the latency"""
    seconds: Float[np.ndarray, "sentences"]
    """of each, the median over the repetitions"""
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


class RecompilationError(RuntimeError):
    """Something was compiled while the clock ran: the times are void."""


class LostSentenceError(RuntimeError):
    """A sentence went in and was not decoded: the times are void."""


def measure(
    translators: Sequence[Translator],
    text: Sequence[str],
    config: SpeedConfig,
    *,
    is_quiet: bool = False,
) -> list[Speed]:
    """One Speed for each translator, in order, on the same sentences of `text`.

    Leaves the translators with other max_rows and batch_tokens. Raises RecompilationError,
    LostSentenceError, and ValueError where all of the text is empty."""
    pool = [sentence for sentence in text if sentence.strip()]
    if not pool:
        raise ValueError(f"expected sentences to time, got {len(text)} empty lines")
    peaks = machine.measure() if config.floors else None
    sentences, seconds, found = _time_alone(translators, pool, config, is_quiet)
    alone = np.median(seconds, axis=1)  # [translators, sentences]
    pieces = _time_pieces(translators, sentences, is_quiet)
    slowest = float(alone.mean(axis=1).max())
    many, curves, batch_limits = _time_batches(translators, pool, config, slowest, is_quiet)
    costs: Sequence[Cost | None] = [None] * len(translators)
    if peaks is not None:
        peaks = peaks.best(machine.measure())
        costs = _costs(translators, sentences, peaks, is_quiet)
    return [
        Speed(
            latency=Latency.of(alone[i]),
            pieces=pieces[i],
            throughput={1: 1 / float(alone[i].mean()), **curves[i]},
            batch_limit=batch_limits[i],
            texts=sentences,
            seconds=alone[i],
            lengths=intervals.by_length(
                (prepare(translator, text)[1], len(translation.tokens[0]), float(spent))
                for text, (translation,), spent in zip(sentences, found[i], alone[i], strict=True)
            ),
            repetitions=seconds.shape[1],
            throughput_sentences=len(many),
            steps=float(np.mean([translation.steps for (translation,) in found[i]])),
            compile_seconds=translator.compile_seconds,
            cost=costs[i],
            peaks=peaks,
        )
        for i, translator in enumerate(translators)
    ]


# What is timed


def _time_alone(
    translators: Sequence[Translator], pool: Sequence[str], config: SpeedConfig, is_quiet: bool
) -> tuple[
    list[str], Float[np.ndarray, "translators repetitions sentences"], list[list[list[Translation]]]
]:
    """The sentences chosen, the seconds of each call at batch 1, and what the last calls returned."""
    sentences = spread(pool, config.sentences)
    for translator in translators:
        set_batch(translator, 1)
    plans = [plan(translator, sentences) for translator in translators]
    one_pass = _warm_up(translators, sentences, plans, WARM_UP_CALLS_ALONE, is_quiet)
    repetitions, number = fit(config, one_pass, len(sentences))
    sentences = spread(sentences, number)
    calls = [
        _caller(translator, [[sentence] for sentence in sentences]) for translator in translators
    ]
    with (
        _bar("latency", repetitions * len(sentences) * len(calls), is_quiet) as bar,
        no_compilation(translators),
    ):
        seconds, found = interleaved(calls, len(sentences), repetitions, bar.update)
    return sentences, seconds, found


def _time_pieces(
    translators: Sequence[Translator], sentences: Sequence[str], is_quiet: bool
) -> list[Pieces]:
    """One pass over the sentences at batch 1, piece by piece. The translators are warm."""
    takers = [_PieceTaker(translator) for translator in translators]
    for taker in takers:
        examples = {taker.bucket(sentence): sentence for sentence in sentences}
        for bucket, sentence in examples.items():
            taker.compile(bucket)
            for _ in range(WARM_UP_CALLS_ALONE):
                taker.seconds(sentence)
    calls = [lambda i, taker=taker: taker.seconds(sentences[i]) for taker in takers]
    with (
        _bar("pieces", len(sentences) * len(calls), is_quiet) as bar,
        no_compilation(translators),
    ):
        _, found = interleaved(calls, len(sentences), 1, bar.update)
    means = 1000 * np.mean(found, axis=1)  # [translators, pieces]
    return [Pieces(*(float(value) for value in row)) for row in means]


def _time_batches(
    translators: Sequence[Translator],
    pool: Sequence[str],
    config: SpeedConfig,
    slowest: float,
    is_quiet: bool,
) -> tuple[list[str], list[dict[int, float]], list[Limit]]:
    """The sentences chosen, and for each translator its sentences/s at each batch size above 1 and why
    there is no larger one.

    `slowest`: seconds a sentence of the slowest system at batch 1, which bounds the time of a pass."""
    sizes = sorted(set(config.batch_sizes) - {1})
    budget = config.max_seconds / 2 / max(len(sizes), 1)
    number = config.throughput_sentences
    if not config.grow_batches:
        number = min(number, max(int(budget / slowest), MIN_SENTENCES, *config.batch_sizes))
    many = spread(pool, number)
    plans = [plan(translator, many) for translator in translators]  # at batch 1
    curves: list[dict[int, float]] = [{} for _ in translators]
    batch_limits: list[Limit] = ["batch_sizes" for _ in translators]
    doubled = (max(config.batch_sizes) << times for times in itertools.count(1))
    for size in itertools.chain(sizes, doubled if config.grow_batches else ()):
        for translator in translators:
            set_batch(translator, size)
        new = [plan(translator, many) for translator in translators]
        open_ended = [i for i in range(len(plans)) if batch_limits[i] != "memory"]
        is_larger = operator.ne if size in sizes else _is_fuller
        grown = [i for i in open_ended if is_larger(new[i], plans[i])]
        plans = new
        for i in open_ended:
            batch_limits[i] = "batch_sizes" if i in grown else "sentences"
        if size not in sizes:
            for place in _too_large([(translators[i], plans[i]) for i in grown], is_quiet):
                batch_limits[grown[place]] = "memory"
            grown = [i for i in grown if batch_limits[i] != "memory"]
            if not grown:
                break
        if not grown:
            continue
        chosen = [translators[i] for i in grown]
        one_pass = _warm_up(chosen, many, [plans[i] for i in grown], WARM_UP_CALLS, is_quiet)
        passes = max(1, min(config.repetitions, int(budget / one_pass)))
        calls = [_caller(translator, [many]) for translator in chosen]
        with (
            _bar(f"throughput at batch {size}", passes * len(calls), is_quiet) as bar,
            no_compilation(chosen),
        ):
            seconds, _ = interleaved(calls, 1, passes, bar.update)
        for i, row in zip(grown, np.median(seconds[:, :, 0], axis=1), strict=True):
            curves[i][size] = len(many) / float(row)
    return many, curves, batch_limits


def _is_fuller(new: Plan, old: Plan) -> bool:
    """Whether some batch holds more sentences than any did; a plan may differ by padding alone."""
    return max(len(batch[0]) for batch in new) > max(len(batch[0]) for batch in old)


def _too_large(systems: Sequence[tuple[Translator, Plan]], is_quiet: bool) -> list[int]:
    """Places of the systems that have a shape whose program plans for more memory than is free. The
    compiler's account, so that nothing has to fail: on a CPU, Linux would kill the process."""
    translators = [translator for translator, _ in systems]
    shapes = [{batch[1:] for batch in batches} for _, batches in systems]
    _compile(translators, shapes, is_quiet)
    free = MEMORY_SHARE * out_of_memory.free_bytes(jax.local_devices()[0])
    lacking = []
    for place, (translator, wanted) in enumerate(zip(translators, shapes, strict=True)):
        plans = [translator.compiled[shape].memory_analysis() for shape in wanted]
        if max(found.temp_size_in_bytes + found.output_size_in_bytes for found in plans) > free:
            lacking.append(place)
    return lacking


def _costs(
    translators: Sequence[Translator], sentences: Sequence[str], peaks: Peaks, is_quiet: bool
) -> list[Cost]:
    """What the mean sentence costs each translator, every sentence counted in a run of its own."""
    sources = [[prepare(translator, text) for text in sentences] for translator in translators]
    shapes = [(i, bucket) for i, row in enumerate(sources) for bucket in {b for _, b in row}]
    with (
        _bar("floors", len(shapes), is_quiet) as bar,
        ThreadPoolExecutor(machine.num_threads()) as pool,
    ):

        def counter(shape: tuple[int, int]) -> floor.CountedProgram:
            translator, bucket = translators[shape[0]], shape[1]
            arguments = translator.arguments(1, bucket)
            found = floor.compile_counter(
                translator.function(bucket), arguments, is_weight=(True, True, False)
            )
            bar.update()
            return found

        counters = dict(zip(shapes, pool.map(counter, shapes), strict=True))
    found = []
    for i, (translator, row) in enumerate(zip(translators, sources, strict=True)):
        costs = []
        for source, bucket in row:
            counted = counters[i, bucket]
            leaves = translator.arguments(1, bucket)[:2]
            costs.append(counted.cost(counted.counts(*leaves, jnp.asarray(source)), peaks))
        found.append(floor.mean(costs))
    return found


def prepare(translator: Translator, sentence: str) -> tuple[Int[np.ndarray, "1 bucket"], int]:
    """The batch of one sentence as the translator decodes it, and its bucket."""
    (row,) = translator.vocabulary.encode_source([sentence])
    row = row[: BUCKETS[-1] - 1]
    bucket = bucket_of(len(row) + 1)
    return loader.pad_rows(Ragged.from_rows([row]), np.zeros(1, np.int64), bucket, end=EOS), bucket


def _caller(
    translator: Translator, inputs: Sequence[Sequence[str]]
) -> Callable[[int], list[Translation]]:
    """call(i) translates inputs[i]; counts in and out, so that no speed comes from doing nothing."""

    def call(item: int) -> list[Translation]:
        found = translator.translate(inputs[item], is_quiet=True)
        decoded = sum(translation.steps > 0 for translation in found)
        if decoded != len(inputs[item]):
            raise LostSentenceError(
                f"{translator.decoding}: {len(inputs[item])} sentences went in, {decoded} were decoded"
            )
        return found

    return call


class _PieceTaker:
    """Runs the pieces of one translator one after the other, at batch 1."""

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        self.encoders: dict[int, Any] = {}

    def compile(self, bucket: int) -> None:
        """The encoder alone, for one bucket."""
        model = self.translator.ready_model

        def encode(leaves: list[jax.Array], source: jax.Array) -> Encoded:
            return model.merge(leaves).encode(source)

        source = jax.ShapeDtypeStruct((1, bucket), jnp.int32)
        self.encoders[bucket] = compilation.compile_ahead(encode, model.leaves, source)

    def bucket(self, sentence: str) -> int:
        return plan(self.translator, [sentence])[0][2]

    def seconds(self, sentence: str) -> tuple[float, float, float, float]:
        """In the order of Pieces."""
        translator, clock = self.translator, time.perf_counter
        start = clock()
        (row,) = translator.vocabulary.encode_source([sentence])
        tokenizer = clock() - start

        row = row[: BUCKETS[-1] - 1]
        bucket = bucket_of(len(row) + 1)
        source = loader.pad_rows(Ragged.from_rows([row]), np.zeros(1, np.int64), bucket, end=EOS)
        program, leaves = self.encoders[bucket], translator.ready_model.leaves
        start = clock()
        jax.block_until_ready(program(leaves, source))
        encoder = clock() - start

        start = clock()
        hypotheses = jax.block_until_ready(translator.decode(source))
        whole = clock() - start

        start = clock()
        translator.texts(hypotheses)
        return tokenizer, encoder, whole - encoder, clock() - start


# How it is timed


def spread(sentences: Sequence[str], number: int) -> list[str]:
    """`number` sentences (or all) at even ranks of the order by length in characters, which is the same
    for every vocabulary: their lengths are distributed like those of the whole. In the given order."""
    return [sentences[place] for place in spread_places(sentences, number)]


def spread_places(sentences: Sequence[str], number: int) -> list[int]:
    """Where the sentences of `spread` stand."""
    if number >= len(sentences):
        return list(range(len(sentences)))
    order = sorted(range(len(sentences)), key=lambda i: (len(sentences[i]), i))
    ranks = ((2 * k + 1) * len(sentences) // (2 * number) for k in range(number))
    return sorted(order[rank] for rank in ranks)


def fit(config: SpeedConfig, pass_seconds: float, sentences: int) -> tuple[int, int]:
    """Repetitions and sentences of the latency that fit into half of max_seconds, where a pass over all
    sentences takes `pass_seconds`; one further pass goes to the pieces."""
    passes = config.max_seconds / 2 / pass_seconds
    repetitions = min(max(int(passes) - 1, MIN_REPETITIONS), config.repetitions)
    share = min(passes / (repetitions + 1), 1.0)
    return repetitions, min(max(int(share * sentences), MIN_SENTENCES), sentences)


def interleaved(
    calls: Sequence[Callable[[int], T]],
    num_items: int,
    repetitions: int,
    tick: Callable[[], Any] = lambda: None,
) -> tuple[Float[np.ndarray, "calls repetitions items"], list[list[T]]]:
    """Seconds of call(item) for each call, repetition and item, and what the last repetition returned.

    The calls take turns on each item, A B A B; the items follow each other; then all again. `tick` is
    called after each call, outside the clock."""
    seconds = np.zeros((len(calls), repetitions, num_items))
    found: list[list[T]] = [[] for _ in calls]
    for repetition in range(repetitions):
        found = [[] for _ in calls]
        for item in range(num_items):
            for place, call in enumerate(calls):
                start = time.perf_counter()
                result = call(item)
                seconds[place, repetition, item] = time.perf_counter() - start
                found[place].append(result)
                tick()
    return seconds, found


@contextlib.contextmanager
def no_compilation(translators: Sequence[Translator]) -> Iterator[None]:
    """Raises RecompilationError at the end where JAX compiled anything, or a translator met a new
    shape. The garbage collector rests meanwhile, as in `timeit`."""
    compiled: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILE_EVENT:
            compiled.append(duration_secs)

    before = sum(len(translator.compiled) for translator in translators)
    was_collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        if was_collecting:
            gc.enable()
    new = sum(len(translator.compiled) for translator in translators) - before
    if compiled or new:
        raise RecompilationError(
            f"{len(compiled)} programs ({sum(compiled):.2f} s) were compiled and {new} new shapes met "
            "while the clock ran: compile and warm up every shape first"
        )


def _warm_up(
    translators: Sequence[Translator],
    sentences: Sequence[str],
    plans: Sequence[Plan],
    num_calls: int,
    is_quiet: bool,
) -> float:
    """Compiles every shape of the plans and calls it `num_calls` times; returns about how many seconds
    the slowest translator takes for all sentences."""
    _compile(translators, [{batch[1:] for batch in batches} for batches in plans], is_quiet)
    passes = []
    for translator, batches in zip(translators, plans, strict=True):
        examples: dict[Shape, list[list[int]]] = {}
        for members, rows, bucket in batches:
            examples.setdefault((rows, bucket), []).append(members)
        seconds = 0.0
        for groups in examples.values():
            call = _caller(translator, [[sentences[i] for i in groups[0]]])
            times, _ = interleaved([call], 1, num_calls)
            seconds += len(groups) * float(np.median(times))
        passes.append(seconds)
    return max(passes)


def _compile(
    translators: Sequence[Translator], shapes: Sequence[set[Shape]], is_quiet: bool
) -> None:
    """Compiles the shapes of each translator in a thread of its own, as many at a time as there are
    cores."""
    new = [
        sorted(wanted - translator.compiled.keys())
        for translator, wanted in zip(translators, shapes, strict=True)
    ]
    with (
        _bar("compile", sum(map(len, new)), is_quiet) as bar,
        ThreadPoolExecutor(machine.num_threads()) as pool,
    ):

        def compile_all(translator: Translator, wanted: Sequence[Shape]) -> None:
            for rows, bucket in wanted:
                translator.compile(rows, bucket)
                bar.update()

        list(pool.map(compile_all, translators, new))


def set_batch(translator: Translator, size: int) -> None:
    """Batches of up to `size` sentences, whatever their length."""
    translator.max_rows, translator.batch_tokens = size, size * BUCKETS[-1]


def plan(translator: Translator, sentences: Sequence[str]) -> Plan:
    """The batches in which the translator will decode the sentences."""
    rows = translator.vocabulary.encode_source(sentences)
    return translator.plan([min(len(row), BUCKETS[-1] - 1) for row in rows])


def _bar(title: str, total: int, is_quiet: bool) -> tqdm.tqdm:
    return tqdm.tqdm(
        total=total,
        desc=title,
        disable=is_quiet or not sys.stderr.isatty(),
        dynamic_ncols=True,
        mininterval=0.5,
    )
