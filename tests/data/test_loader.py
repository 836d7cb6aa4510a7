"""Padded arrays, the place in the data at which a run goes on, and the thread that works ahead."""

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nat_ar.data import loader
from nat_ar.data.batching import BatchingConfig, BatchPlan, RowBatch
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.loader import HostBatch, Loader, Pairs, Place
from nat_ar.data.ragged import Ragged
from nat_ar.special_tokens import EOS, PAD

SOURCE = Ragged.from_rows([[7, 8, 9], [10], [11, 12]])
TARGET = Ragged.from_rows([[20], [21, 22, 23], [24, 25]])
FERTILITIES = Ragged.from_rows([[0, 1, 0], [3], [1, 1]])


def loader_of(fertilities: Ragged | None = FERTILITIES, *, rows: int = 1) -> Loader:
    """Three pairs in batches of so many rows."""
    config = BatchingConfig(batch_tokens=4 * rows, buckets=(4,))
    plan = BatchPlan(LengthOrder.of_lengths(SOURCE.lengths, TARGET.lengths), config, seed=1)
    return Loader(Pairs(SOURCE, TARGET, fertilities), plan)


def test_rows_end_with_eos_and_are_padded_on_the_right() -> None:
    batch = loader_of().pairs.padded(RowBatch(np.array([1, -1, 0]), 5))
    nothing = [PAD] * 5
    np.testing.assert_array_equal(
        batch.source, [[10, EOS, PAD, PAD, PAD], nothing, [7, 8, 9, EOS, PAD]]
    )
    np.testing.assert_array_equal(
        batch.target, [[21, 22, 23, EOS, PAD], nothing, [20, EOS, PAD, PAD, PAD]]
    )
    # Each count stands at its source token; EOS and padding have none.
    np.testing.assert_array_equal(
        batch.fertilities, [[3, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    )
    assert {array.dtype for array in batch if array is not None} == {np.dtype(np.int32)}


def test_a_row_that_fills_the_width_has_its_eos_last() -> None:
    batch = loader_of().pairs.padded(RowBatch(np.array([0]), 4))
    np.testing.assert_array_equal(batch.source, [[7, 8, 9, EOS]])


def test_no_fertilities_in_none_out() -> None:
    assert loader_of(None).pairs.padded(RowBatch(np.array([0]), 4)).fertilities is None


def places(batches: Iterator[tuple[Place, HostBatch]], number: int) -> list:
    return [(*place, batch.source.tolist()) for place, batch in itertools.islice(batches, number)]


def test_batches_go_on_exactly_where_they_stopped() -> None:
    whole = places(loader_of().batches(0, 0), 10)
    assert [place[:3] for place in whole[:4]] == [
        (0, 0, False),
        (0, 1, False),
        (0, 2, True),
        (1, 0, False),
    ]
    for start in range(1, 9):
        epoch, position, *_ = whole[start]
        assert places(loader_of().batches(epoch, position), 10 - start) == whole[start:]


def test_the_shares_of_a_batch_are_the_batch() -> None:
    """Each process reads the rows of its own devices; how many words a batch has all of them know."""
    rows = RowBatch(np.array([1, 0, -1, 2]), 5)
    pairs = loader_of().pairs
    whole, shares = pairs.padded(rows), [slice(0, 1), slice(1, 3), slice(3, 4)]
    for own in shares:
        part = pairs.padded(rows.only(own))
        np.testing.assert_array_equal(part.source[own], whole.source[own])
        np.testing.assert_array_equal(part.target[own], whole.target[own])
        others = np.delete(part.target, own, axis=0)
        assert part.source.shape == whole.source.shape
        assert not others.any()
    assert pairs.num_target_tokens(rows) == (whole.target != PAD).sum()
    assert pairs.num_target_tokens(RowBatch(np.array([1, -1, 0]), 5)) == 6  # 21 22 23 EOS, 20 EOS


def test_a_process_gets_the_batches_of_all_with_its_own_rows() -> None:
    own, asked = slice(1, 2), []

    def own_rows(number: int) -> slice:
        asked.append(number)
        return own

    wholes, parts = (
        [*itertools.islice(loader_of(rows=2).batches(0, 0, needed), 4)]
        for needed in (None, own_rows)
    )
    assert [place for place, _ in parts] == [place for place, _ in wholes]
    assert any(whole.source[own].any() for _, whole in wholes)
    assert set(asked) == {2}
    for (_, whole), (_, part) in zip(wholes, parts, strict=True):
        np.testing.assert_array_equal(part.source[own], whole.source[own])
        assert not np.delete(part.source, own, axis=0).any()


def has_ended(threads: list[threading.Thread]) -> bool:
    deadline = time.monotonic() + 10
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_keeps_the_order_and_ends(depth: int) -> None:
    before = set(threading.enumerate())
    squares = loader.prefetch(iter(range(50)), lambda n: n * n, depth=depth)
    assert list(squares) == [n * n for n in range(50)]
    assert has_ended(new_threads(before))


def test_prefetch_works_ahead_but_not_far() -> None:
    made = []
    items = loader.prefetch(itertools.count(), made.append, depth=2)
    next(items)
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # One was taken, two wait, and a fourth is made but finds no room.
    assert made == [0, 1, 2, 3]
    items.close()


def test_an_error_of_the_producer_reaches_the_consumer_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the disk is gone")

    taken = []
    with pytest.raises(OSError, match="the disk is gone"):
        taken.extend(iter(loader.prefetch(numbers(), float)))
    items = loader.prefetch(numbers(), float)
    assert [next(items), next(items)] == [1.0, 2.0]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_a_consumer_that_stops_ends_the_thread() -> None:
    before = set(threading.enumerate())
    items = loader.prefetch(itertools.count(), float)
    assert next(items) == 0.0
    producers = new_threads(before)
    assert len(producers) == 1
    items.close()
    assert not producers[0].is_alive()  # at once: nothing uses a device behind the consumer's back
