"""How long a translation may become, what it may hold, and the ladder of widths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.search import limits
from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD, UNK
from nat_ar.types import Hypotheses


def test_the_length_limit_by_hand() -> None:
    assert limits.length_limit(0) == 10
    assert limits.length_limit(7) == 24
    np.testing.assert_array_equal(limits.length_limit(jnp.array([0, 7])), [10, 24])


@pytest.mark.parametrize(("may_end", "end"), [(True, [EOS]), (False, [])])
def test_text_logits_leave_words_and_the_end_where_a_model_says_it(
    may_end: bool, end: list[int]
) -> None:
    logits = np.arange(16.0, dtype=np.float32).reshape(2, 8)
    text = np.asarray(limits.text_logits(jnp.asarray(logits), may_end=may_end))
    words = [*end, UNK, 6, 7]
    np.testing.assert_array_equal(text[:, words], logits[:, words])
    forbidden = [i for i in range(8) if i not in words]
    assert set(forbidden) >= {PAD, BOS, MASK, BLANK}
    np.testing.assert_array_equal(text[:, forbidden], -np.inf)


@pytest.mark.parametrize("max_length", [*range(1, 40), 100, 265, 1034])
def test_the_ladder_rises_to_max_length(max_length: int) -> None:
    ladder = limits.width_ladder(max_length)
    assert ladder[-1] == max_length
    assert all(width % 4 == 0 for width in ladder[:-1])
    assert all(low < high for low, high in itertools.pairwise(ladder))
    assert len(ladder) <= 3  # branches compiled for one bucket


def test_the_ladder_by_hand() -> None:
    assert limits.width_ladder(6) == (4, 6)
    assert limits.width_ladder(8) == (4, 8)
    assert limits.width_ladder(60) == (24, 40, 60)


def test_at_width_takes_the_narrowest_that_holds_and_pads_to_the_last() -> None:
    def decode(width: int) -> Hypotheses:
        return Hypotheses(
            jnp.full((2, 1, width), 7), jnp.full((2, 1), float(width)), jnp.ones(2, jnp.int32)
        )

    at_width = jax.jit(lambda widest: limits.at_width(widest, (4, 8, 12), decode))
    for widest, width in [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (9, 12), (12, 12)]:
        found = at_width(jnp.int32(widest))
        assert found.scores[0, 0] == width
        np.testing.assert_array_equal(found.tokens[0, 0], [7] * width + [PAD] * (12 - width))
