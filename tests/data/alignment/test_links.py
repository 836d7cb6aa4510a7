"""Fertilities are counts of links."""

import numpy as np

from nat_ar.data.alignment import links
from nat_ar.data.ragged import Ragged


def test_fertilities_are_as_long_as_the_source() -> None:
    # methods.md 1a: a list that ends with the last aligned source token is too short.
    source, target = Ragged.from_rows([[7, 8, 9, 9, 9], [7, 8]]), Ragged.from_rows([[1, 2, 3], [4]])
    counts = links.fertilities(np.array([1, 1, 0, 0]), source, target)
    assert [counts[row].tolist() for row in range(len(counts))] == [[1, 2, 0, 0, 0], [1, 0]]
    assert (
        list(map(sum, [counts[row].tolist() for row in range(len(counts))]))
        == target.lengths.tolist()
    )
