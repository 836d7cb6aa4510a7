"""The cost of train steps: every method on one batch, one after the other in every round."""

import jax
import numpy as np
import pytest

from nat_ar.evaluation.speed import training_cost
from nat_ar.evaluation.speed.training_cost import StepCost
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.special_tokens import EOS, NUM_SPECIAL
from toys import TINY

pytestmark = pytest.mark.slow

SIZES = VocabularySizes(20, 20, True)


def test_a_batch_is_full_and_its_fertilities_add_up() -> None:
    batch = jax.tree.map(np.asarray, training_cost.random_batch(3, 5, SIZES))
    for side in (batch.source, batch.target):
        assert side.shape == (3, 5)
        assert (side[:, -1] == EOS).all()
        assert (side[:, :-1] >= NUM_SPECIAL).all()
    assert (batch.fertilities.sum(axis=1) == 4).all()


def test_methods_take_turns_and_ratios_refer_to_the_first() -> None:
    rounds = []
    methods = {"ar": Autoregressive(TINY), "fertility": FertilityNat(TINY)}
    first, second = training_cost.measure(
        methods, SIZES, batch_tokens=16, length=4, rounds=2, on_round=lambda: rounds.append(1)
    )
    assert (first.name, second.name) == ("ar", "fertility")
    assert len(rounds) == 3  # one of them warms up
    assert len(first.seconds) == len(second.seconds) == 2
    assert first.ratios == (1.0, 1.0)
    expected = np.array(second.seconds) / np.array(first.seconds)
    np.testing.assert_allclose(second.ratios, expected)
    for cost in (first, second):  # parameters and two means of Adam, 4 bytes each, at the least
        assert cost.state_bytes > 12 * cost.parameters
        assert cost.temporary_bytes > 0
    # 20 words and 16 dimensions, tied: less than a thousand; each block some thousands more.
    assert second.parameters > first.parameters > 20 * 16


def test_the_table_shows_medians() -> None:
    cost = StepCost("ar", 1_500_000, 2**21, 3 * 2**20, 4.4, (0.010, 0.030, 0.020), (1.0, 2.0, 9.0))
    row = training_cost.markdown([cost]).splitlines()[2]
    assert row == "| ar | 1.50M | 2 | 3 | 20 | 2.00 [1.50, 5.50] | 4 |"
