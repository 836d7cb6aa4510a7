"""Which sentences share a batch, as a pure function of (seed, epoch).

A position in the data is two integers, and a resumed run sees the batches of an uninterrupted one."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Float, Int, Integer

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.permutation import Permutation


class RowBatch(NamedTuple):
    """Rows of the split that make one batch, padded with -1 to the bucket's fixed number of rows."""

    rows: Int[np.ndarray, "batch"]
    width: int

    def only(self, own: slice) -> "RowBatch":
        """The same shape, of whose rows all but some are empty."""
        rows = np.full_like(self.rows, -1)
        rows[own] = self.rows[own]
        return self._replace(rows=rows)


class Bucket(NamedTuple):
    """Pairs that are padded to one length."""

    width: int
    rows: int
    """of a batch"""
    members: Integer[np.ndarray, "members"]
    """the rows of its pairs in the split, by length; memory-mapped where the split is"""

    @property
    def num_batches(self) -> int:
        return -(-len(self.members) // self.rows)

    def batch(self, members: Integer[np.ndarray, "members"]) -> RowBatch:
        padded = np.full(self.rows, -1, np.int64)
        padded[: len(members)] = members
        return RowBatch(padded, self.width)


@dataclasses.dataclass(frozen=True)
class Shuffled(config_json.Config):
    """NumPy's shuffle of all pairs of an epoch, in memory: some 17 bytes a pair, and a pause where an epoch begins."""

    def epoch(self, plan: "BatchPlan", number: int) -> Sequence[RowBatch]:
        generator = np.random.default_rng([plan.seed, number])
        if number == 0 and plan.config.short_first_steps:
            return self._short_first(plan, generator)
        batches = []
        for index in range(len(plan.buckets)):
            batches += self._bucket(plan, index, generator)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _bucket(
        self, plan: "BatchPlan", index: int, generator: np.random.Generator
    ) -> list[RowBatch]:
        """Each pair of a bucket once."""
        bucket = plan.buckets[index]
        shuffled = generator.permutation(plan.members_by_row[index])
        starts = range(0, len(shuffled), bucket.rows)
        return [bucket.batch(shuffled[start : start + bucket.rows]) for start in starts]

    def _short_first(self, plan: "BatchPlan", generator: np.random.Generator) -> list[RowBatch]:
        waiting: list[list[RowBatch]] = [[] for _ in plan.buckets]
        batches = []
        for shares in plan.admitted():
            bucket = int(generator.choice(len(shares), p=shares))
            waiting[bucket] = waiting[bucket] or self._bucket(plan, bucket, generator)
            batches.append(waiting[bucket].pop())
        return batches


@dataclasses.dataclass(frozen=True)
class Feistel(config_json.Config):
    """A shuffle that is computed where it is asked for (see permutation.py): it takes no memory and no time, however
    many pairs there are, and training can begin at any place of any epoch at once."""

    block: int = 1
    """so many pairs of a bucket, neighbours by length and place in the split, stay together and are shuffled among
    themselves: fewer places of a disk are read for a batch, which is less random. 1,024 for a corpus that does not fit
    the memory; 1: every pair by itself"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, block=self.block)

    def epoch(self, plan: "BatchPlan", number: int) -> Sequence[RowBatch]:
        if number == 0 and plan.config.short_first_steps:
            return _ShortFirst(plan, self)
        return _Epoch(plan, self, number)

    def batch(self, plan: "BatchPlan", index: int, number: int, *key: int) -> RowBatch:
        """Batch `number` of a bucket, among those that hold each of its pairs once."""
        bucket = plan.buckets[index]
        size = len(bucket.members)
        places = np.arange(number * bucket.rows, min((number + 1) * bucket.rows, size))
        key = (plan.seed, *key, index)
        if self.block == 1:
            return bucket.batch(bucket.members[Permutation(size, *key, 0)(places)])
        blocks, rest = divmod(size, self.block)  # what fills no block comes last
        block, within = np.divmod(places, self.block)
        is_whole = block < blocks
        if is_whole.any():
            block[is_whole] = Permutation(blocks, *key, 0)(block[is_whole])
            shuffled = Permutation(self.block, *key, 1)
            within[is_whole] = shuffled(within[is_whole], within=block[is_whole])
        if not is_whole.all():
            within[~is_whole] = Permutation(rest, *key, 2)(within[~is_whole])
        return bucket.batch(bucket.members[block * self.block + within])


class _Lazy(Sequence[RowBatch]):
    """Batches that are made when they are asked for."""

    def _at(self, position: int) -> RowBatch:
        raise NotImplementedError

    @overload
    def __getitem__(self, position: int) -> RowBatch: ...
    @overload
    def __getitem__(self, position: slice) -> list[RowBatch]: ...
    def __getitem__(self, position: int | slice) -> RowBatch | list[RowBatch]:
        if isinstance(position, slice):
            return [self._at(index) for index in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(f"expected a batch below {len(self)}, got {position}")
        return self._at(position % len(self))


class _Epoch(_Lazy):
    """Every pair once: the batches of all buckets, shuffled."""

    def __init__(self, plan: "BatchPlan", order: Feistel, number: int) -> None:
        self.plan, self.order, self.number = plan, order, number
        self.ends = list(itertools.accumulate(bucket.num_batches for bucket in plan.buckets))
        self.shuffled = Permutation(len(plan), plan.seed, number)

    def __len__(self) -> int:
        return self.ends[-1]

    def _at(self, position: int) -> RowBatch:
        chosen = int(self.shuffled(np.array([position]))[0])
        index = bisect.bisect_right(self.ends, chosen)
        before = self.ends[index - 1] if index else 0
        return self.order.batch(self.plan, index, chosen - before, self.number)


class _ShortFirst(_Lazy):
    """The curriculum: the bucket of each batch is drawn, and gives its next batch."""

    def __init__(self, plan: "BatchPlan", order: Feistel) -> None:
        self.plan, self.order = plan, order
        generator = np.random.default_rng([plan.seed, 0])
        drawn = [int(generator.choice(len(shares), p=shares)) for shares in plan.admitted()]
        seen = [0] * len(plan.buckets)
        self.chosen: list[tuple[int, int]] = []
        for bucket in drawn:
            self.chosen.append((bucket, seen[bucket]))
            seen[bucket] += 1

    def __len__(self) -> int:
        return len(self.chosen)

    def _at(self, position: int) -> RowBatch:
        index, number = self.chosen[position]
        again, number = divmod(number, self.plan.buckets[index].num_batches)
        return self.order.batch(self.plan, index, number, 0, again)


@dataclasses.dataclass(frozen=True)
class BatchingConfig(config_json.Config):
    """Each batch takes its pairs from one length bucket; all batches have about as many padded tokens."""

    batch_tokens: int = 2048
    """target positions of a batch, padding included: rows = batch_tokens / bucket"""
    buckets: tuple[int, ...] = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    """lengths (EOS counted) to which sentences are padded; a pair goes to the smallest that fits its longer side; the
    train step is compiled once for each bucket in use"""
    short_first_steps: int = 0
    """so many batches come before the first whole epoch and take short sentences first: a curriculum (Platanios et al.
    2019, arXiv:1903.09848). The share of the pairs that they may take grows with
    the root of their number, bucket by bucket"""
    row_multiple: int | None = None
    """the rows of a batch are a multiple of this, which devices times training.accumulation must divide: the batches
    are the same on any such number of devices. None: devices times accumulation where the run is begun; the run keeps
    that number wherever it goes on"""
    order: Shuffled | Feistel = Shuffled()
    """how the pairs of an epoch are shuffled; Feistel() for tens of millions of pairs"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, all batches took pairs of all lengths, rows were a multiple of devices times accumulation, and all
        were shuffled in memory."""
        new = {"short_first_steps": 0, "row_multiple": None, "order": {"type": "Shuffled"}}
        return {**new, **data}

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.buckets, self.buckets[1:], strict=False))
        if not self.buckets or self.buckets[0] < 2 or not rising:
            raise ConfigError(f"buckets must rise and start at 2 or more, got {self.buckets}")
        if self.short_first_steps < 0:
            raise ConfigError(
                f"batching.short_first_steps must be at least 0, got {self.short_first_steps}"
            )
        if self.row_multiple is not None and self.row_multiple < 1:
            raise ConfigError(f"batching.row_multiple must be at least 1, got {self.row_multiple}")
        if self.batch_tokens < self.buckets[-1]:
            raise ConfigError(
                f"batch_tokens must hold one sentence of the last bucket: got {self.batch_tokens} "
                f"tokens and a bucket of {self.buckets[-1]}; raise one or drop the other"
            )

    def rows(self, width: int) -> int:
        """Of a batch of a bucket; without a row_multiple, that is 1."""
        multiple = self.row_multiple or 1
        return max(1, self.batch_tokens // width // multiple) * multiple


class BatchPlan:
    """All batches of every epoch over one split.

    Pairs longer than the last bucket are left out; `num_left_out` counts them."""

    def __init__(self, order: LengthOrder, config: BatchingConfig, *, seed: int) -> None:
        """A config without a row_multiple means 1. Raises ValueError where no pair fits a bucket."""
        self.order, self.config, self.seed = order, config, seed
        self.buckets: list[Bucket] = []
        start = 0
        for width in config.buckets:
            end = order.up_to(width - 1)  # and EOS
            if end > start:
                self.buckets.append(Bucket(width, config.rows(width), order.rows[start:end]))
            start = end
        self.num_left_out = len(order.rows) - start
        if not self.buckets:
            raise ValueError(
                f"no pair of {len(order.rows)} fits the buckets {config.buckets}; see BatchingConfig"
            )

    def over(self, order: LengthOrder) -> "BatchPlan":
        """The plan of pairs of other lengths by the same rules."""
        return BatchPlan(order, self.config, seed=self.seed)

    def with_row_multiple(self, number: int) -> "BatchPlan":
        """The plan of the same pairs in batches whose rows are a multiple of `number`."""
        config = dataclasses.replace(self.config, row_multiple=number)
        return BatchPlan(self.order, config, seed=self.seed)

    @functools.cached_property
    def members_by_row(self) -> list[Int[np.ndarray, "members"]]:
        """Of each bucket, in memory and in the order of the split: what an epoch in memory shuffles."""
        return [np.sort(bucket.members).astype(np.int64) for bucket in self.buckets]

    def __len__(self) -> int:
        """Batches of a whole epoch, the same number in each."""
        return sum(bucket.num_batches for bucket in self.buckets)

    def epoch(self, number: int) -> Sequence[RowBatch]:
        """The batches of one epoch, in order. With `short_first_steps`, epoch 0 is those."""
        return self.config.order.epoch(self, number)

    def admitted(self) -> Iterator[Float[np.ndarray, "buckets"]]:
        """For each batch of the curriculum, how probable each of the buckets is that it may come from: as a whole
        epoch has them."""
        steps = self.config.short_first_steps
        sizes = np.array([len(bucket.members) for bucket in self.buckets])
        shares = sizes.cumsum() / sizes.sum()
        known = np.searchsorted(shares, np.sqrt(np.arange(1, steps + 1) / steps)) + 1
        numbers = np.array([bucket.num_batches for bucket in self.buckets])
        for number in np.minimum(known, len(self.buckets)).tolist():
            yield numbers[:number] / numbers[:number].sum()
