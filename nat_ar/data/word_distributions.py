"""What a teacher thought of each word of a split's targets: its most probable words there, with their probabilities.

    <split>/likely.tokens.npy   [places, number]: most probable first
    <split>/likely.nats.npy     [places, number]: their log p, in half precision

A row of the target has a place for each token and one for EOS; the places of all rows stand one after the other."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

from nat_ar.data.ragged import Ragged

_TOKENS, _NATS = "likely.tokens.npy", "likely.nats.npy"


class HostSoftTargets(NamedTuple):
    """The fields of types.SoftTargets in the host's memory."""

    tokens: Int[np.ndarray, "batch width choices"]
    weights: Float[np.ndarray, "batch width choices"]


@dataclasses.dataclass(frozen=True)
class WordDistributions:
    """The teacher's most probable words at every place of a split's targets."""

    tokens: Integer[np.ndarray, "places number"]
    nats: Float[np.ndarray, "places number"]

    @classmethod
    def load(cls, directory: Path) -> "WordDistributions | None":
        """Memory-mapped; None for a split without."""
        if not (directory / _TOKENS).exists():
            return None
        tokens, nats = (
            np.load(directory / name, mmap_mode="r", allow_pickle=False)
            for name in (_TOKENS, _NATS)
        )
        return cls(tokens, nats)

    def soft_targets(
        self,
        target: Ragged,
        rows: Int[np.ndarray, "batch"],
        padded: Int[np.ndarray, "batch width"],
        *,
        share: float,
    ) -> HostSoftTargets:
        """For rows (-1: an empty one) of the target, `padded` as pad_rows made them: at each place the target's own
        word with weight 1 - share, and the likely ones with their probabilities among each other times `share`."""
        number = self.tokens.shape[1]
        tokens = np.zeros((*padded.shape, number + 1), np.int32)
        weights = np.zeros(tokens.shape, np.float32)
        tokens[..., 0] = padded
        for index, row in enumerate(rows.tolist()):
            if row >= 0:
                begin, end = places_of(target, row)
                likely = np.exp(self.nats[begin:end].astype(np.float32))
                tokens[index, : end - begin, 1:] = self.tokens[begin:end]
                weights[index, : end - begin, 0] = 1.0 - share
                weights[index, : end - begin, 1:] = (
                    share * likely / likely.sum(axis=1, keepdims=True)
                )
        return HostSoftTargets(tokens, weights)


def places_of(target: Ragged, row: int) -> tuple[int, int]:
    """Where the places of a row begin and end."""
    return int(target.offsets[row]) + row, int(target.offsets[row + 1]) + row + 1


class Writer(NamedTuple):
    """The arrays of a split, to be filled place by place."""

    tokens: Integer[np.ndarray, "places number"]
    nats: Float[np.ndarray, "places number"]


def create(directory: Path, target: Ragged, number: int, dtype: np.dtype) -> Writer:
    """The files of a split, of the right shapes."""
    shape = (len(target.values) + len(target), number)
    arrays = (
        np.lib.format.open_memmap(directory / name, "w+", kind, shape)
        for name, kind in ((_TOKENS, dtype), (_NATS, np.dtype(np.float16)))
    )
    return Writer(*arrays)


Annotate = Callable[[Path, Ragged, Ragged], None]
"""Directory, source and target of a split whose arrays are written: writes more about it into the directory."""
