"""Where the latency of a sentence goes, each piece timed by itself."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nat_ar.data import loader
from nat_ar.data.ragged import Ragged
from nat_ar.evaluation.speed import clock, driver
from nat_ar.evaluation.speed.driver import WARM_UP_CALLS_ALONE
from nat_ar.runtime import compilation
from nat_ar.special_tokens import EOS
from nat_ar.translation.translator import BUCKETS, Translator, bucket_of
from nat_ar.types import Encoded


@dataclasses.dataclass(frozen=True)
class LatencyShares:
    """Mean milliseconds a sentence of each piece. Planning and padding on the host belong to none."""

    tokenizer: float
    encoder: float
    """the encoder compiled as a program of its own"""
    decoder: float
    """the whole device program minus the encoder: decoder, search and a rescoring teacher"""
    detokenizer: float
    """from arrays on the device to text"""


def measure(
    translators: Sequence[Translator], sentences: Sequence[str], is_quiet: bool
) -> list[LatencyShares]:
    """Times one pass over the sentences at batch 1, piece by piece. The translators must be warm."""
    timers = [_PieceTimer(translator) for translator in translators]
    for timer in timers:
        examples = {timer.bucket(sentence): sentence for sentence in sentences}
        for bucket, sentence in examples.items():
            timer.compile(bucket)
            for _ in range(WARM_UP_CALLS_ALONE):
                timer.seconds(sentence)
    calls = [lambda i, timer=timer: timer.seconds(sentences[i]) for timer in timers]
    with (
        clock.bar("pieces", len(sentences) * len(calls), is_quiet) as bar,
        clock.no_compilation([translator.compiled for translator in translators]),
    ):
        _, seconds = clock.interleaved(calls, len(sentences), 1, bar.update)
    means = 1000 * np.mean(seconds, axis=1)  # [translators, pieces]
    return [LatencyShares(*(float(value) for value in row)) for row in means]


class _PieceTimer:
    """Times the pieces of one translator one after the other, at batch 1."""

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        self.encoders: dict[int, Any] = {}

    def compile(self, bucket: int) -> None:
        """Compiles the encoder alone, for one bucket."""
        model = self.translator.ready_model

        def encode(leaves: list[jax.Array], source: jax.Array) -> Encoded:
            return model.merge(leaves).encode(source)

        source = jax.ShapeDtypeStruct((1, bucket), jnp.int32)
        self.encoders[bucket] = compilation.compile_ahead(encode, model.leaves, source)

    def bucket(self, sentence: str) -> int:
        return driver.plan(self.translator, [sentence])[0][2]

    def seconds(self, sentence: str) -> tuple[float, float, float, float]:
        """In the order of LatencyShares."""
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
