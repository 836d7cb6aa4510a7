"""Prepares translators for the clock: plans their batches, compiles and warms up every shape, checks every output."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int

from nat_ar.data import loader
from nat_ar.data.ragged import Ragged
from nat_ar.evaluation.speed import clock, machine
from nat_ar.runtime import out_of_memory
from nat_ar.special_tokens import EOS
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import BUCKETS, Translator, bucket_of

Shape = tuple[int, int]
"""Rows and bucket of a padded batch of sources."""
Plan = list[tuple[list[int], int, int]]
"""Batches as the Translator plans them: indices of the sentences, rows, bucket."""
WARM_UP_CALLS = 3
WARM_UP_CALLS_ALONE = 6
"""Calls of each shape before its clock starts: batches, and single sentences."""


class LostSentenceError(RuntimeError):
    """A sentence was not decoded, so the times are void."""


def set_batch(translator: Translator, size: int) -> None:
    """Makes the translator decode batches of up to `size` sentences of any length. It forgets the programs of other
    sizes: those of thirty systems and every size need more mappings than Linux gives a process."""
    translator.max_rows, translator.batch_tokens = size, size * BUCKETS[-1]
    translator.compiled.clear()


def plan(translator: Translator, sentences: Sequence[str]) -> Plan:
    """The batches in which the translator will decode the sentences."""
    rows = translator.vocabulary.encode_source(sentences)
    return translator.plan([min(len(row), BUCKETS[-1] - 1) for row in rows])


def prepare(translator: Translator, sentence: str) -> tuple[Int[np.ndarray, "1 bucket"], int]:
    """The batch of one sentence as the translator decodes it, and its bucket."""
    (row,) = translator.vocabulary.encode_source([sentence])
    row = row[: BUCKETS[-1] - 1]
    bucket = bucket_of(len(row) + 1)
    return loader.pad_rows(Ragged.from_rows([row]), np.zeros(1, np.int64), bucket, end=EOS), bucket


def caller(
    translator: Translator, inputs: Sequence[Sequence[str]]
) -> Callable[[int], list[Translation]]:
    """call(i) translates inputs[i]. Raises LostSentenceError unless every sentence was decoded."""

    def call(item: int) -> list[Translation]:
        translations = translator.translate(inputs[item], is_quiet=True)
        decoded = sum(translation.passes > 0 for translation in translations)
        if decoded != len(inputs[item]):
            raise LostSentenceError(
                f"{translator.decoding}: {len(inputs[item])} sentences went in, {decoded} were decoded"
            )
        return translations

    return call


def warm_up(
    translators: Sequence[Translator],
    sentences: Sequence[str],
    plans: Sequence[Plan],
    num_calls: int,
    is_quiet: bool,
) -> float:
    """Compiles every shape of the plans and calls it `num_calls` times. Returns an estimate of the seconds that
    the slowest translator takes for all sentences."""
    compile_shapes(translators, [{batch[1:] for batch in batches} for batches in plans], is_quiet)
    passes = []
    for translator, batches in zip(translators, plans, strict=True):
        examples: dict[Shape, list[list[int]]] = {}
        for members, rows, bucket in batches:
            examples.setdefault((rows, bucket), []).append(members)
        seconds = 0.0
        for groups in examples.values():
            call = caller(translator, [[sentences[i] for i in groups[0]]])
            times, _ = clock.interleaved([call], 1, num_calls)
            seconds += len(groups) * float(np.median(times))
        passes.append(seconds)
    return max(passes)


def compile_shapes(
    translators: Sequence[Translator], shapes: Sequence[set[Shape]], is_quiet: bool
) -> None:
    """Compiles the shapes that are not compiled yet: one thread a translator, at most one a core at a time."""
    new = [
        sorted(wanted - translator.compiled.keys())
        for translator, wanted in zip(translators, shapes, strict=True)
    ]
    with (
        clock.bar("compile", sum(map(len, new)), is_quiet) as bar,
        ThreadPoolExecutor(machine.num_threads()) as pool,
    ):

        def compile_all(translator: Translator, wanted: Sequence[Shape]) -> None:
            for rows, bucket in wanted:
                translator.compile(rows, bucket)
                out_of_memory.require_mappings("time fewer systems or batch sizes at once")
                bar.update()

        list(pool.map(compile_all, translators, new))
