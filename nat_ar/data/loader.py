"""Batches as padded arrays, made ahead of time in a thread."""

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from nat_ar.data.batching import BatchPlan, RowBatch
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.ragged import Ragged
from nat_ar.data.subword_regularisation import SampledPieces
from nat_ar.data.word_distributions import HostSoftTargets, WordDistributions
from nat_ar.special_tokens import EOS, PAD

T = TypeVar("T")
U = TypeVar("U")


class HostBatch(NamedTuple):
    """The fields of types.Batch in the host's memory."""

    source: Int[np.ndarray, "batch width"]
    target: Int[np.ndarray, "batch width"]
    fertilities: Int[np.ndarray, "batch width"] | None
    soft: HostSoftTargets | None = None


def pad_rows(
    ragged: Ragged, rows: Int[np.ndarray, "batch"], width: int, *, end: int | None
) -> Int[np.ndarray, "batch width"]:
    """The given rows (-1: an empty row), each followed by `end` unless that is None, padded on the right."""
    padded = np.full((len(rows), width), PAD, np.int32)
    for index, row in enumerate(rows):
        if row >= 0:
            values = ragged[int(row)]
            padded[index, : len(values)] = values
            if end is not None:
                padded[index, len(values)] = end
    return padded


class Pairs(NamedTuple):
    """All training pairs of an epoch, in the order of the split."""

    source: Ragged
    target: Ragged
    fertilities: Ragged | None
    distributions: WordDistributions | None = None
    distribution_share: float = 0.0
    """of a word's weight that goes to what the distributions say; the rest is the target's own"""

    def num_target_tokens(self, batch: RowBatch) -> int:
        """Real target tokens, EOS counted; of all its rows the places alone are read, and no text."""
        rows, offsets = batch.rows[batch.rows >= 0], self.target.offsets
        return int((offsets[rows + 1] - offsets[rows]).sum()) + len(rows)

    def padded(self, batch: RowBatch) -> HostBatch:
        rows, width = batch
        fertilities, distributions = self.fertilities, self.distributions
        target = pad_rows(self.target, rows, width, end=EOS)
        return HostBatch(
            pad_rows(self.source, rows, width, end=EOS),
            target,
            None if fertilities is None else pad_rows(fertilities, rows, width, end=None),
            None
            if distributions is None
            else distributions.soft_targets(
                self.target, rows, target, share=self.distribution_share
            ),
        )


class Place(NamedTuple):
    """Where a batch stands in the data, and how much it is."""

    epoch: int
    position: int
    """the number of batches before it in its epoch"""
    ends_epoch: bool
    num_target_tokens: int
    """of all its rows, EOS counted"""


class Loader:
    """The training batches of one prepared split."""

    def __init__(self, pairs: Pairs, plan: BatchPlan, sampled: SampledPieces | None = None) -> None:
        """With `sampled`, the pieces of each epoch come from there, without fertilities, and share batches by their
        lengths in that epoch; `plan` is that of the prepared pieces."""
        self.pairs, self.plan, self.sampled = pairs, plan, sampled

    def with_row_multiple(self, number: int) -> "Loader":
        """The batches of the same pairs whose rows are a multiple of `number`."""
        return Loader(self.pairs, self.plan.with_row_multiple(number), self.sampled)

    def epoch(self, number: int) -> tuple[int, Pairs, Sequence[RowBatch]]:
        """The epoch's number, pairs and batches: a function of the seeds and the number."""
        if self.sampled is None:
            return number, self.pairs, self.plan.epoch(number)
        source, target = self.sampled.epoch(number)
        plan = self.plan.over(LengthOrder.of_lengths(source.lengths, target.lengths))
        pairs = self.pairs._replace(source=source, target=target, fertilities=None)
        return number, pairs, plan.epoch(number)

    def batches(
        self, epoch: int, position: int, own_rows: Callable[[int], slice] | None = None
    ) -> Iterator[tuple[Place, HostBatch]]:
        """Endless from the given position on. `own_rows`: of a batch with so many rows, those that this process needs;
        the others are not read, and left empty."""
        # Sampling takes a second or so: the next epoch is made while this one is read.
        numbers = itertools.count(epoch)
        epochs = (
            map(self.epoch, numbers)
            if self.sampled is None
            else prefetch(numbers, self.epoch, depth=1)
        )
        for number, pairs, plan in epochs:
            for index in range(position, len(plan)):
                batch, is_last = plan[index], index + 1 == len(plan)
                place = Place(number, index, is_last, pairs.num_target_tokens(batch))
                needed = batch if own_rows is None else batch.only(own_rows(len(batch.rows)))
                yield place, pairs.padded(needed)
            position = 0


def prefetch(
    items: Iterator[T], transform: Callable[[T], U], *, depth: int = 2
) -> Generator[U, None, None]:
    """transform(item) for each item, `depth` of them ahead of the consumer, in a thread.

    An error in the thread is raised in the consumer. A consumer that stops ends the thread and waits for its end,
    because devices must not be used while the interpreter exits."""
    ready: queue.Queue[tuple[U | None, BaseException | None, bool]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[U | None, BaseException | None, bool]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((transform(item), None, False)):
                    return
            put((None, None, True))
        except BaseException as error:  # raised again in the consumer
            put((None, error, False))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            value, error, is_end = ready.get()
            if error is not None:
                raise error
            if is_end:
                return
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(timeout=1.0)  # a stuck transform must not hold up the end
