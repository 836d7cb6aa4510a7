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
    """Where the latency goes: mean milliseconds a sentence, each piece timed by itself.

    Planning and padding on the host are in none of them."""

    tokenizer: float
    encoder: float
    """the encoder compiled as a program of its own"""
    decoder: float
    """the whole program on the device less the encoder: decoder, search and a rescoring teacher"""
    detokenizer: float
    """from arrays on the device to text"""


def measure(
    translators: Sequence[Translator], sentences: Sequence[str], is_quiet: bool
) -> list[LatencyShares]:
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
        clock.bar("pieces", len(sentences) * len(calls), is_quiet) as bar,
        clock.no_compilation([translator.compiled for translator in translators]),
    ):
        _, found = clock.interleaved(calls, len(sentences), 1, bar.update)
    means = 1000 * np.mean(found, axis=1)  # [translators, pieces]
    return [LatencyShares(*(float(value) for value in row)) for row in means]


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
