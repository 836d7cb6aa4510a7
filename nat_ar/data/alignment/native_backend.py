"""The loops over all token pairs in C++ (alignment.cc), built at first use."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nat_ar.data.alignment import model
from nat_ar.data.alignment.model import SMALLEST_PROBABILITY, Aligner, AlignerConfig, ExpectedCounts
from nat_ar.data.ragged import Ragged, token_type
from nat_ar.runtime import native_library


def library() -> ctypes.CDLL | None:
    return native_library.load(
        Path(__file__).with_name("alignment.cc"),
        without="word alignment takes twenty times as long",
    )


class _Corpus(ctypes.Structure):
    """The struct Corpus of alignment.cc."""

    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("token_bytes", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("source_size", ctypes.c_int64),
        ("target_size", ctypes.c_int64),
        ("occurrences", ctypes.c_void_p),
        ("spans", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("length", ctypes.c_void_p),
        ("width", ctypes.c_void_p),
        ("source_positions", ctypes.c_int64),
    )


AHEAD, LANES = 12, 4
"""Occurrences and target tokens that alignment.cc may read past the end."""
KEYS_AT_ONCE = 1 << 20


class NativeBackend:
    """Iterates over the occurrences of each source type in turn; alignment.cc explains why."""

    def __init__(
        self,
        library: ctypes.CDLL,
        source: Ragged,
        target: Ragged,
        source_size: int,
        target_size: int,
    ) -> None:
        self.library = library
        self.positions = model.list_positions(source, target)
        sides = model.list_positions(target, source)  # the other way round: m is its source_length
        token = token_type(max(source_size, target_size))
        tokens = np.zeros(len(target.values) + LANES, token)
        tokens[: len(target.values)] = target.values
        occurrences = np.empty((len(source.values) + AHEAD, 2), np.uint32)
        occurrences[len(source.values) :] = 0
        self.sums = np.empty(len(tokens))  # scratch, by target token
        self.tokens = len(target.values)
        self.arrays = {
            "tokens": tokens,
            "offsets": _array(target.offsets, np.int64),
            "first": _array(self.positions.first, np.int64),
            "occurrences": occurrences,
            "spans": np.empty(source_size + 1, np.int64),
            "position": _array(sides.position, np.int64),
            "length": _array(sides.source_length, np.int64),
            "width": _array(sides.target_length, np.int64),
        }
        self.corpus = _Corpus(
            token_bytes=tokens.itemsize,
            rows=len(target),
            source_size=source_size,
            target_size=target_size,
            source_positions=len(sides.position),
            **{name: array.ctypes.data for name, array in self.arrays.items()},
        )
        self._call(
            "NatArListOccurrences",
            _array(source.values, token),
            _array(source.offsets, np.int64),
            _array(sides.first, np.int64),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the library on the corpus; arrays are passed by address."""
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64
        return function(ctypes.byref(self.corpus), *map(argument, arguments))

    def cooccurring_types(self) -> Int[np.ndarray, "entries"]:
        room = np.empty(max(self.corpus.target_size, KEYS_AT_ONCE), np.int64)
        runs, filled, source_type = [np.zeros(0, np.int64)], ctypes.c_int64(), 0
        while source_type < self.corpus.source_size:
            source_type = self._call(
                "NatArListTypes", source_type, len(room), room, ctypes.byref(filled)
            )
            runs.append(room[: filled.value].copy())
        return np.concatenate(runs)

    def expected_counts(self, aligner: Aligner) -> ExpectedCounts:
        p0 = aligner.config.null_probability
        normaliser, _ = model.diagonal_prior(aligner.tension, self.positions)
        counts = np.empty(len(aligner.keys), np.float32)
        null_counts = np.zeros(aligner.target_size)
        mass = np.zeros(len(self.positions.position))
        totals = np.zeros(2)
        self._call(
            "NatArExpectation",
            *_table(aligner),
            aligner.tension,
            p0,
            (1 - p0) / normaliser,
            _array(aligner.null_probability, np.float64),
            self.sums,
            counts,
            null_counts,
            mass,
            totals,
        )
        return ExpectedCounts(counts, null_counts, float(totals[0]), mass, float(totals[1]))

    def normalise(
        self,
        counts: Float[np.ndarray, "entries"],
        edges: Int[np.ndarray, "rows"],
        config: AlignerConfig,
    ) -> Float[np.ndarray, "entries"]:
        concentration = config.concentration if config.variational_bayes else 0.0
        smallest = float(SMALLEST_PROBABILITY)
        self._call("NatArNormalise", counts, edges, concentration, smallest)
        return counts

    def links(self, aligner: Aligner) -> Int[np.ndarray, "target_tokens"]:
        links = np.empty(self.tokens, np.int32)
        unmet = float(SMALLEST_PROBABILITY)
        self._call("NatArLinks", *_table(aligner), aligner.tension, unmet, self.sums, links)
        return links


def _table(aligner: Aligner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys, probability = _array(aligner.keys, np.int64), _array(aligner.probability, np.float32)
    return keys, model.edges(aligner), probability


def _array(values: np.ndarray, dtype: Any) -> np.ndarray:
    """A contiguous array of that type; copies only if it must."""
    return np.ascontiguousarray(values, dtype)


def argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.ctypes.data_as(ctypes.c_void_p)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_double(value) if isinstance(value, float) else value
