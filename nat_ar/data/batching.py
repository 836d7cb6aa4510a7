"""Which sentences share a batch, as a pure function of (seed, epoch).

A position in the data is two integers, and a resumed run sees the batches of an uninterrupted one."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError


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

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, all batches took pairs of all lengths, and rows were a multiple of devices times accumulation."""
        return {"short_first_steps": 0, "row_multiple": None, **data}

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


class RowBatch(NamedTuple):
    """Rows of the split that make one batch, padded with -1 to the bucket's fixed number of rows."""

    rows: Int[np.ndarray, "batch"]
    width: int


class BatchPlan:
    """All batches of every epoch over one split.

    Pairs longer than the last bucket are left out; `num_left_out` counts them."""

    def __init__(
        self,
        source_lengths: Int[np.ndarray, "pairs"],
        target_lengths: Int[np.ndarray, "pairs"],
        config: BatchingConfig,
        *,
        seed: int,
    ) -> None:
        """Lengths do not count EOS. A config without a row_multiple means 1."""
        self.config, self.seed = config, seed
        multiple = config.row_multiple or 1
        longest = np.maximum(source_lengths, target_lengths) + 1
        bucket_of = np.searchsorted(config.buckets, longest)
        self.num_left_out = int((bucket_of == len(config.buckets)).sum())
        self.buckets: list[tuple[int, int, Int[np.ndarray, "members"]]] = []
        for index, width in enumerate(config.buckets):
            members = np.flatnonzero(bucket_of == index)
            if len(members):
                rows = max(1, config.batch_tokens // width // multiple) * multiple
                self.buckets.append((width, rows, members))
        if not self.buckets:
            raise ValueError(
                f"no pair of {len(longest)} fits the buckets {config.buckets}; see BatchingConfig"
            )

    def over(
        self, source_lengths: Int[np.ndarray, "pairs"], target_lengths: Int[np.ndarray, "pairs"]
    ) -> "BatchPlan":
        """The plan of pairs of other lengths by the same rules."""
        return BatchPlan(source_lengths, target_lengths, self.config, seed=self.seed)

    def __len__(self) -> int:
        """Batches of a whole epoch, the same number in each."""
        return sum(-(-len(members) // rows) for _, rows, members in self.buckets)

    def epoch(self, epoch: int) -> list[RowBatch]:
        """The batches of one epoch, in order. With `short_first_steps`, epoch 0 is those."""
        generator = np.random.default_rng([self.seed, epoch])
        if epoch == 0 and self.config.short_first_steps:
            return self._short_first(generator)
        batches = []
        for bucket in range(len(self.buckets)):
            batches += self._shuffled(bucket, generator)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _shuffled(self, bucket: int, generator: np.random.Generator) -> list[RowBatch]:
        """Each pair of a bucket once."""
        width, rows, members = self.buckets[bucket]
        shuffled = generator.permutation(members)
        batches = []
        for start in range(0, len(shuffled), rows):
            chosen = shuffled[start : start + rows]
            padded = np.full(rows, -1, np.int64)
            padded[: len(chosen)] = chosen
            batches.append(RowBatch(padded, width))
        return batches

    def _short_first(self, generator: np.random.Generator) -> list[RowBatch]:
        """Each batch comes from the buckets that its place admits, drawn as often as a whole epoch has them."""
        steps = self.config.short_first_steps
        sizes = np.array([len(members) for _, _, members in self.buckets])
        shares = sizes.cumsum() / sizes.sum()
        admitted = np.searchsorted(shares, np.sqrt(np.arange(1, steps + 1) / steps)) + 1
        numbers = np.array([-(-len(members) // rows) for _, rows, members in self.buckets])
        waiting: list[list[RowBatch]] = [[] for _ in self.buckets]
        batches = []
        for known in np.minimum(admitted, len(self.buckets)).tolist():
            bucket = int(generator.choice(known, p=numbers[:known] / numbers[:known].sum()))
            waiting[bucket] = waiting[bucket] or self._shuffled(bucket, generator)
            batches.append(waiting[bucket].pop())
        return batches
