"""A random order of any number of things that takes no memory: a Feistel network (Luby & Rackoff 1988) over the
smallest power of two that holds them, walked along its cycle until it is back among them (Black & Rogaway 2002)."""

import numpy as np
from jaxtyping import Int, UInt64

ROUNDS = 8
"""rounds in which one half of a number's bits changes by the other half; four make two halves look random"""


class Permutation:
    """Numbers 0 to size - 1 to the same numbers in another order, each by itself.

    A function of `size` and `key` alone, the same on every machine."""

    def __init__(self, size: int, *key: int) -> None:
        """`key`: numbers from 0; other keys are other orders. Raises ValueError where `size` is below 1."""
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._low_bits, self._high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __call__(
        self, places: Int[np.ndarray, "places"], *, within: Int[np.ndarray, "places"] | int = 0
    ) -> Int[np.ndarray, "places"]:
        """What stands at these places. `within`: which of many permutations of this size is meant, for each."""
        tweak = _mixed(np.broadcast_to(within, places.shape).astype(np.uint64))
        found = self._once(places.astype(np.uint64), tweak)
        while (outside := found >= self.size).any():
            found[outside] = self._once(
                found[outside], tweak if tweak.ndim == 0 else tweak[outside]
            )
        return found.astype(np.int64)

    def _once(
        self, numbers: UInt64[np.ndarray, "places"], tweak: UInt64[np.ndarray, "places"]
    ) -> UInt64[np.ndarray, "places"]:
        low, high = numbers & _ones(self._low_bits), numbers >> self._low_bits
        for index, key in enumerate(self._keys):
            if index % 2:
                low = low ^ (_mixed(high ^ key ^ tweak) & _ones(self._low_bits))
            else:
                high = high ^ (_mixed(low ^ key ^ tweak) & _ones(self._high_bits))
        return (high << self._low_bits) | low


def _ones(bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << bits) - np.uint64(1)


def _mixed(numbers: UInt64[np.ndarray, "numbers"]) -> UInt64[np.ndarray, "numbers"]:
    """Every bit of the result depends on every bit: the end of SplitMix64 (Steele et al. 2014, section 4)."""
    with np.errstate(over="ignore"):  # products are meant modulo 2^64
        mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
