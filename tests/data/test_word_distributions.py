"""What a teacher thought of each place comes back at that place, beside the target's own word."""

from pathlib import Path

import numpy as np
import pytest

from nat_ar.data import loader, word_distributions
from nat_ar.data.batching import RowBatch
from nat_ar.data.loader import Pairs
from nat_ar.data.ragged import Ragged
from nat_ar.data.word_distributions import WordDistributions
from nat_ar.special_tokens import EOS, PAD

TARGET = Ragged.from_rows([[20], [21, 22, 23], []])
# Places 0 and 1 are those of 20 and its EOS, 2 to 5 of the second row, 6 of the EOS of the empty one.
LIKELY = np.array([[20, 7], [EOS, 8], [21, 9], [22, 10], [24, 23], [EOS, 11], [EOS, 12]])
NATS = np.log(np.array([[0.6, 0.2]] * 5 + [[0.9, 0.1], [0.5, 0.5]]))


@pytest.fixture
def kept(tmp_path: Path) -> WordDistributions:
    written = word_distributions.create(tmp_path, TARGET, 2, np.dtype(np.uint16))
    written.tokens[:], written.nats[:] = LIKELY, NATS
    for array in written:
        array.flush()  # type: ignore[attr-defined]
    found = WordDistributions.load(tmp_path)
    assert found is not None
    return found


def test_places_follow_each_other() -> None:
    assert [word_distributions.places_of(TARGET, row) for row in range(3)] == [
        (0, 2),
        (2, 6),
        (6, 7),
    ]


def test_a_split_without_them_has_none(tmp_path: Path) -> None:
    assert WordDistributions.load(tmp_path) is None


def test_a_share_goes_to_the_likely_words_and_the_rest_to_the_targets_own(
    kept: WordDistributions,
) -> None:
    rows = np.array([1, -1, 0])
    padded = loader.pad_rows(TARGET, rows, 5, end=EOS)
    soft = kept.soft_targets(TARGET, rows, padded, share=0.4)
    # The two likely words share 0.4 as 0.6 and 0.2 do; EOS of the second row is likelier.
    third = [0.6, 0.3, 0.1]
    np.testing.assert_allclose(
        soft.weights[0], [third, third, third, [0.6, 0.36, 0.04], [0.0] * 3], atol=1e-4
    )
    np.testing.assert_array_equal(
        soft.tokens[0],
        [[21, 21, 9], [22, 22, 10], [23, 24, 23], [EOS, EOS, 11], [PAD, 0, 0]],
    )
    assert not soft.weights[1].any()
    np.testing.assert_allclose(soft.weights[2][:2], [third, third], atol=1e-4)
    assert not soft.weights[2][2:].any()


def test_batches_have_them_where_training_asks_for_them(kept: WordDistributions) -> None:
    source = Ragged.from_rows([[5], [6], [7]])
    batch = RowBatch(np.array([0, 1]), 4)
    assert Pairs(source, TARGET, None).padded(batch).soft is None
    soft = Pairs(source, TARGET, None, kept, 1.0).padded(batch).soft
    assert soft is not None
    assert not soft.weights[..., 0].any()
    np.testing.assert_allclose(soft.weights.sum(axis=-1), [[1, 1, 0, 0], [1, 1, 1, 1]], atol=1e-6)
