"""A checksum of arrays that is the same however they are spread over devices and processes.

Every value is mixed with its place in the whole array, and what comes out is added up modulo 2^64: sums have no order,
so that each process adds up what its own devices hold, and only the sums travel. A single value that has changed
always changes the sum, since the mixing is one to one; of several, some 1 in 2^64 changes go unseen. It finds damage
and tells models apart; it is no signature: whoever wants to can make two arrays with one checksum."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Shaped, UInt, UInt64

from nat_ar.runtime import distributed

GOLDEN, FIRST, SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""of SplitMix64 (Steele et al. 2014, Fast splittable pseudorandom number generators, figure 17)"""
CHUNK = 2**15
"""values that are mixed together, so that they stay in a cache"""


def sums(arrays: Mapping[str, jax.Array]) -> str:
    """64 hexadecimal digits: SHA-256 over the names, types, shapes and sums of the arrays.

    Of arrays of which other processes hold a part all processes must ask, and get the same."""
    names = sorted(arrays)
    found = {name: _sum_of_own(arrays[name]) for name in names}
    spread = [name for name in names if not arrays[name].is_fully_addressable]
    if spread:
        found |= zip(spread, distributed.total([found[name] for name in spread]), strict=True)
    digest = hashlib.sha256()
    for name in names:
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape} {found[name] % 2**64:016x}\n".encode())
    return digest.hexdigest()


def sha256(arrays: Mapping[str, jax.Array]) -> str:
    """SHA-256 over names, types, shapes and bytes. An array that is spread over processes is gathered, one at a time:
    all must ask."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        is_here = array.is_fully_addressable or array.is_fully_replicated
        whole = np.asarray(array if is_here else distributed.gathered(array))
        digest.update(f"{name} {whole.dtype} {whole.shape}\n".encode())
        digest.update(np.ascontiguousarray(whole).view(np.uint8).data)
    return digest.hexdigest()


SUMS = "sums"
KINDS: dict[str, Callable[[Mapping[str, jax.Array]], str]] = {"sha256": sha256, SUMS: sums}
"""What a checkpoint calls the checksums of its arrays -> how they are computed. Early versions wrote the first."""


def _sum_of_own(array: jax.Array) -> int:
    """Over the values that this process holds; of those that several devices hold, by one of them."""
    return sum(
        sum_of_block(np.asarray(shard.data), [part.start or 0 for part in shard.index], array.shape)
        for shard in array.addressable_shards
        if shard.replica_id == 0
    )


def sum_of_block(
    block: Shaped[np.ndarray, "*axes"], begins: Sequence[int], shape: Sequence[int]
) -> int:
    """Over the values of a block that begins there in an array of that shape; modulo 2^64 once all are added."""
    bits = np.ascontiguousarray(block).reshape(-1).view(f"u{block.dtype.itemsize}")
    total = 0
    spare = np.empty(CHUNK, np.uint64)
    for values, places in _chunks(bits, block.shape, begins, shape):
        mixed = places * GOLDEN
        mixed += values
        shifted = spare[: mixed.size].reshape(mixed.shape)
        for shift, factor in ((30, FIRST), (27, SECOND)):
            mixed ^= np.right_shift(mixed, np.uint64(shift), out=shifted)
            mixed *= factor
        mixed ^= np.right_shift(mixed, np.uint64(31), out=shifted)
        total += int(mixed.sum())
    return total


def _chunks(
    bits: UInt[np.ndarray, "values"],
    own: Sequence[int],
    begins: Sequence[int],
    shape: Sequence[int],
) -> Iterator[tuple[UInt[np.ndarray, "runs length"], UInt64[np.ndarray, "runs length"]]]:
    """The values of a block of shape `own`, some CHUNK at a time, and where each is in the whole array."""
    if not bits.size:
        return
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # From this axis on the block is contiguous in the whole array: a run.
    split = max((axis for axis in range(len(shape)) if own[axis] < shape[axis]), default=0)
    runs = np.full((1,), sum(b * s for b, s in zip(begins, strides, strict=True)), np.uint64)
    for number, stride in zip(own[:split], strides[:split], strict=True):
        steps = np.arange(number, dtype=np.uint64) * np.uint64(stride)
        runs = (runs[:, None] + steps).reshape(-1)
    table = bits.reshape(len(runs), -1)
    length = table.shape[1]
    width = min(length, CHUNK)
    height = CHUNK // width
    within = np.arange(width, dtype=np.uint64)
    for top in range(0, len(runs), height):
        for left in range(0, length, width):
            values = table[top : top + height, left : left + width]
            first = runs[top : top + height, None] + np.uint64(left)
            yield values, first + within[: values.shape[1]]
