"""A loaded model and sentences -> translations, in order.

Sentences are cut into subwords, sorted by length, padded to a short ladder of bucket shapes, translated
and put back in place. Each (rows, bucket) shape is compiled once a device, ahead of time; what a sentence
becomes does not depend on the sentences beside it, nor on the number of devices."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from nat_ar.data import loader
from nat_ar.data.ragged import Ragged
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.nn import packed
from nat_ar.runtime import bars, compilation, distributed, files, out_of_memory, shares
from nat_ar.search import limits
from nat_ar.search.candidates import Scorer
from nat_ar.search.step_function import Blocks
from nat_ar.special_tokens import EOS, PAD
from nat_ar.translation.copies import Copies
from nat_ar.translation.decodings import Choice
from nat_ar.translation.model import Drafter, Model
from nat_ar.translation.translation import Translation
from nat_ar.types import Encoded, Hypotheses, Internal

BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""source lengths (EOS counted) to which sentences are padded"""
ROWS = (1, 4, 16, 64, 256)
"""sentences to which batches are padded, besides the largest batch allowed"""
BATCH_TOKENS = 4096
"""default padded source tokens per batch"""
TOKENIZER, DETOKENIZER = "nat_ar.tokenizer", "nat_ar.detokenizer"
"""what a profiler's trace calls them"""
PlannedBatch = tuple[list[int], int, int]
"""Indices of sentences, rows of the padded batch, bucket."""


class Translator:
    """Translates with one model and one decoding."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        *,
        decoding: Any,
        weights: packed.Weights = "float32",
        scorer: Model | None = None,
        drafter: Drafter | None = None,
        batch_tokens: int = BATCH_TOKENS,
        max_rows: int = 64,
        is_packed: bool = True,
    ) -> None:
        """A batch has at most `max_rows` sentences and `batch_tokens` padded source tokens. `is_packed` False
        leaves the weights as they are, for programs that other machines run. `weights` "int8" needs a CPU: raises
        ConfigError where there is none."""
        self.is_packed, self.weights = is_packed, weights
        self.drafter = drafter
        self.compiled: dict[tuple[int, int], Any] = {}
        self.use(model)
        self.scorer = scorer
        self.ready_scorer = self._ready(scorer) if scorer is not None else None
        self.vocabulary, self.decoding = vocabulary, decoding
        self.batch_tokens, self.max_rows = batch_tokens, max_rows
        self.compile_seconds = 0.0
        self.copies = Copies()
        self.devices: Sequence[jax.Device] = ()
        """of this process, beside the model's own: `translate` deals its batches round all of them"""
        self.is_shared = False
        """whether all processes that compute together translate the same sentences, each its share of the batches"""

    @property
    def choice(self) -> Choice:
        """The decoding and its weights; its text names the system in tables."""
        return Choice(self.decoding, self.weights)

    def use(self, model: Model) -> None:
        """Takes other parameters of the same model; compiled programs are kept, unless there is a drafter, whose
        encoder may have been the model's."""
        self.model, self.ready_model = model, self._ready(model)
        self.ready_drafter = None if self.drafter is None else self.drafter.beside(model)
        if self.ready_drafter is not None:
            self.compiled.clear()
            if self.is_packed:
                self.ready_drafter = self.ready_drafter.packed(self.weights)

    def _ready(self, model: Model) -> Model:
        """The model for which programs are compiled."""
        return model.packed(self.weights) if self.is_packed else model

    def translate(
        self, sentences: Sequence[str], *, title: str = "translate", is_quiet: bool = False
    ) -> list[Translation]:
        """One Translation for each sentence, in order. A blank sentence is not decoded. Raises
        MemoryError where the device has too little, ValueError for batches of no token.

        Where processes share the work (`is_shared`), the first gets all translations and the others an empty list; what
        one raises ends it in all, and ConfigError is for sentences or a decoding that are not those of the first."""
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        with jax.profiler.TraceAnnotation(TOKENIZER):
            rows = self._source_rows(sentences)
        longest = BUCKETS[-1] - 1
        is_shortened = [len(row) > longest for row in rows]
        rows = [row[:longest] for row in rows]
        plan = self.plan([len(row) for row in rows])
        bar = bars.Bar(total=len(rows), unit="sentence", desc=title, is_quiet=is_quiet)
        with bar:
            bar.update(sum(not row for row in rows))
            if self.is_shared and distributed.count() > 1:
                found = self._shared(rows, plan, bar)
            else:
                found = list(self._translated(rows, plan, bar))
        if found is None:
            return []
        members = itertools.chain.from_iterable(members for members, _, _ in plan)
        by_place = dict(zip(members, itertools.chain.from_iterable(found), strict=True))
        return [
            dataclasses.replace(by_place[place], is_shortened=is_shortened[place])
            if row
            else Translation([""], [0.0], [[]], 0, is_blank=True)
            for place, row in enumerate(rows)
        ]

    def _translated(
        self, rows: Sequence[list[int]], plan: Sequence[PlannedBatch], bar: bars.Bar
    ) -> Iterator[list[Translation]]:
        """The translations of each batch."""
        remedy = (
            f"let --batch-tokens be fewer than {self.batch_tokens:,} (translate, evaluate, distill), or take a "
            "search with fewer candidates"
        )
        batches = (batch for _, _, batch in self._batches(Ragged.from_rows(rows), plan))
        with out_of_memory.explained(remedy):
            decoded = self.copies.decoded(self, self.devices, batches, len(plan))
            for (members, _, _), hypotheses in zip(plan, decoded, strict=True):
                texts = zip(members, self.texts(hypotheses), strict=False)
                most = {place: limits.length_limit(len(rows[place]) + 1) for place in members}
                yield [
                    dataclasses.replace(found, is_cut=len(found.tokens[0]) >= most[place])
                    for place, found in texts
                ]
                bar.update(len(members))

    def _shared(
        self, rows: Sequence[list[int]], plan: Sequence[PlannedBatch], bar: bars.Bar
    ) -> list[list[Translation]] | None:
        """Those of each batch, of all processes, in the first; None in the others."""
        asked = {"sentences": files.json_hash([rows, plan]), "decoding": self.choice.text}
        distributed.require_same(asked, "all processes translate the same sentences")

        def work(some: Sequence[PlannedBatch]) -> list[list[dict[str, Any]]]:
            of_batches = self._translated(rows, some, bar)
            return [[dataclasses.asdict(found) for found in batch] for batch in of_batches]

        every = shares.dealt(plan, work)
        if every is None:
            return None
        return [[Translation(**fields) for fields in batch] for batch in every]

    def _source_rows(self, sentences: Sequence[str]) -> list[list[int]]:
        """Subwords of each sentence; none of a blank one, also where the vocabulary has kept white space."""
        rows = self.vocabulary.encode_source(sentences)
        return [
            row if sentence.strip() else [] for sentence, row in zip(sentences, rows, strict=True)
        ]

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """log p of each target and its EOS given its source, in nats; 0 where both are empty.

        Raises ValueError where the method has no score of given translations, where the lists differ in length, and for
        a text that is longer than the longest bucket."""
        if not isinstance(self.model.merge(self.model.leaves), Scorer):
            raise ValueError(
                "only autoregressive and joint models score given translations; load the run's teacher instead"
            )
        if len(sources) != len(targets):
            raise ValueError(
                f"expected a target for each source, got {len(sources)} sources and {len(targets)} targets"
            )
        source_rows = [list(row) for row in self.vocabulary.encode_source(sources)]
        target_rows = [list(row) for row in self.vocabulary.encode_target(targets)]
        _check_lengths([*sources, *targets], [*source_rows, *target_rows])
        source, target = Ragged.from_rows(source_rows), Ragged.from_rows(target_rows)
        scores = [0.0] * len(sources)
        # `plan` skips empty sources; one whose target has tokens counts as one token, and is its EOS alone.
        lengths = [
            len(row) + (not row and bool(goal))
            for row, goal in zip(source_rows, target_rows, strict=True)
        ]
        for members, padded, batch in self._batches(source, self.plan(lengths)):
            width = bucket_of(max(len(target_rows[member]) for member in members) + 1)
            hypotheses = loader.pad_rows(target, padded, width, end=None)[:, None]
            values = np.asarray(self._score(self.model.leaves, batch, hypotheses))[:, 0]
            for member, value in zip(members, values, strict=False):
                scores[member] = float(value)
        return scores

    @functools.cached_property
    def _score(self) -> Callable[..., jax.Array]:
        def score(leaves: list[jax.Array], source: jax.Array, hypotheses: jax.Array) -> jax.Array:
            return self.model.merge(leaves).score(source, hypotheses, length_penalty=0.0)

        return jax.jit(score)

    def internals(self, sentences: Sequence[str]) -> list[dict[str, np.ndarray | list[str]]]:
        """What the method computes on its way to each translation (TokenEmbeddings.internals): named arrays without
        padding, and the subwords that they belong to, "source_pieces" with EOS and "target_pieces" of the best
        translation. A sentence without any token has no arrays. Raises ValueError for one that is longer than
        the longest bucket."""
        rows = self._source_rows(sentences)
        _check_lengths(sentences, rows)
        source = Ragged.from_rows(rows)
        translations = self.translate(sentences, is_quiet=True)
        results: list[dict[str, np.ndarray | list[str]]] = [
            {
                "source_pieces": self.vocabulary.source_pieces([*row, EOS] if row else []),
                "target_pieces": self.vocabulary.target_pieces(translation.tokens[0]),
            }
            for row, translation in zip(rows, translations, strict=True)
        ]
        for members, _, batch in self._batches(source, self.plan([len(row) for row in rows])):
            most = limits.length_limit(batch.shape[1])
            arrays = self._inspect(self.ready_model.leaves, batch, max_length=most)
            for name, internal in jax.device_get(arrays).items():
                for index, member in enumerate(members):
                    real = [slice(None)] * (internal.values.ndim - 1)
                    for axis, counts in internal.lengths.items():
                        real[axis - 1] = slice(int(counts[index]))
                    results[member][name] = internal.values[index][tuple(real)]
        return results

    @functools.cached_property
    def _inspect(self) -> Callable[..., dict[str, Internal]]:
        internals = functools.partial(self.ready_model.internals, decoding=self.decoding)
        return jax.jit(internals, static_argnames="max_length")

    def _batches(
        self, source: Ragged, plan: Sequence[PlannedBatch]
    ) -> Iterator[tuple[list[int], Int[np.ndarray, "rows"], Int[np.ndarray, "rows bucket"]]]:
        """Of each batch its sentences, the sentence of each row (-1: padding), and the padded sources."""
        for members, num_rows, bucket in plan:
            padded = np.full(num_rows, -1, np.int64)
            padded[: len(members)] = members
            yield members, padded, loader.pad_rows(source, padded, bucket, end=EOS)

    def plan(self, lengths: Sequence[int]) -> list[PlannedBatch]:
        """Batches of sentences of these lengths, longest first, so that a progress bar does not promise too much. Rows
        come from a short ladder too, and the last batch of a bucket has the shape of those before it, so that few
        shapes are compiled."""
        order = sorted(
            (i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i)
        )
        batches: list[PlannedBatch] = []
        start = 0
        while start < len(order):
            bucket = bucket_of(lengths[order[start]] + 1)
            most = max(1, min(self.max_rows, self.batch_tokens // bucket))
            most = 1 << (most.bit_length() - 1)
            members = [
                i for i in order[start : start + most] if bucket_of(lengths[i] + 1) == bucket
            ]
            if batches and batches[-1][2] == bucket:
                rows = most
            else:
                rows = min([most, *(rows for rows in ROWS if rows >= len(members))])
            batches.append((members, rows, bucket))
            start += len(members)
        return batches

    def decode(self, source: Int[np.ndarray, "rows bucket"]) -> Hypotheses:
        """Translations of one padded batch, on the device."""
        program = self.compile(source.shape[0], source.shape[1])
        leaves, other_leaves, _ = self.arguments(*source.shape)
        return program(leaves, other_leaves, source)

    def compile(self, rows: int, bucket: int) -> Any:
        """The program for one shape: from the cache, or compiled now with the seconds counted."""
        if (rows, bucket) not in self.compiled:
            start = time.perf_counter()
            program = compilation.compile_ahead(
                self.function(bucket), *self.arguments(rows, bucket)
            )
            self.compiled[rows, bucket] = program
            self.compile_seconds += time.perf_counter() - start
        return self.compiled[rows, bucket]

    def function(self, bucket: int) -> Callable[..., Hypotheses]:
        """The decode function for one bucket: (leaves, the scorer's or drafter's leaves, source) -> Hypotheses. Pure;
        from source tokens, at most `bucket` a row, to hypotheses."""
        model, scorer, decoding = self.ready_model, self.ready_scorer, self.decoding
        drafter = self.ready_drafter
        max_length = limits.length_limit(bucket)

        def decode(
            leaves: list[jax.Array], other_leaves: list[jax.Array] | None, source: jax.Array
        ) -> Hypotheses:
            rescorer = draft = None
            if other_leaves is not None and scorer is not None:
                rescorer = scorer.merge(other_leaves)
            if other_leaves is not None and drafter is not None:

                def draft(encoded: Encoded | None) -> Hypotheses | Blocks:
                    known = encoded if drafter.shares_encoder else None
                    return drafter.draft(other_leaves, source, max_length=max_length, encoded=known)

            return model.decode(
                leaves,
                source,
                decoding=decoding,
                max_length=max_length,
                scorer=rescorer,
                draft=draft,
            )

        return decode

    def arguments(
        self, rows: int, bucket: int
    ) -> tuple[list[jax.Array], list[jax.Array] | None, jax.ShapeDtypeStruct]:
        """Parameters of the model, those of the scorer or the drafter (no decoding has both), and the shape of a batch
        of sources."""
        other = self.ready_scorer
        if self.ready_drafter is not None:
            other = self.ready_drafter.model
        leaves = self.ready_model.leaves, None if other is None else other.leaves
        return *leaves, jax.ShapeDtypeStruct((rows, bucket), jnp.int32)

    def texts(self, hypotheses: Hypotheses) -> list[Translation]:
        """Detokenised rows of a batch. Entries of the n-best list that the search left empty (score -inf) are
        dropped; where all are, the first stays and `is_missing`."""
        # jax.device_get and, in `decode`, jnp.asarray do no more: together a quarter of a millisecond of a call.
        tokens, scores, passes = (
            np.asarray(x) for x in (hypotheses.tokens, hypotheses.scores, hypotheses.passes)
        )
        rows = [[row[row != PAD].tolist() for row in n_best] for n_best in tokens]
        with jax.profiler.TraceAnnotation(DETOKENIZER):
            flat = iter(self.vocabulary.decode_target([row for n_best in rows for row in n_best]))
        verified, near_ties = _verification(hypotheses)
        found = []
        for row, (n_best, row_scores, row_passes) in enumerate(
            zip(rows, scores, passes, strict=True)
        ):
            texts = [next(flat) for _ in n_best]
            finite = [i for i, score in enumerate(row_scores) if np.isfinite(score)]
            real = finite or [0]
            found.append(
                Translation(
                    [texts[i] for i in real],
                    [float(row_scores[i]) for i in real],
                    [n_best[i] for i in real],
                    int(row_passes),
                    is_missing=not finite,
                    verified_passes=verified[row],
                    near_ties=near_ties[row],
                )
            )
        return found


def _verification(hypotheses: Hypotheses) -> list[list[int] | list[None]]:
    """Of each row, the passes that verified drafts and the near ties."""
    of_batch = hypotheses.verification
    none = [None] * hypotheses.passes.shape[0]
    values = (None, None) if of_batch is None else (of_batch.passes, of_batch.near_ties)
    return [none if value is None else np.asarray(value).tolist() for value in values]


def _check_lengths(texts: Sequence[str], rows: Sequence[list[int]]) -> None:
    for text, row in zip(texts, rows, strict=True):
        if len(row) >= BUCKETS[-1]:
            raise ValueError(
                f"expected at most {BUCKETS[-1] - 1} subwords, got {len(row)} in {text[:40]!r}: shorten it"
            )


def bucket_of(length: int) -> int:
    """The smallest bucket that holds `length` source tokens, EOS counted."""
    return next(bucket for bucket in BUCKETS if length <= bucket)
