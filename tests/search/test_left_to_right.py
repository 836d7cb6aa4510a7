"""One function for every search that goes from left to right: each setting gets its own search, cache and
limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.sampling import Sampling
from nat_ar.search.step_function import Cache
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Hypotheses

A, B, C = 6, 7, 8
VOCABULARY, ROOM = 9, 14
SOURCE = jnp.array([[EOS, PAD], [A, EOS], [PAD, PAD]])  # one token, two, and no sentence


def table() -> np.ndarray:
    """Logits of each row and position: the first row says A for ever, the second B C and then EOS."""
    logits = np.zeros((3, ROOM + 1, VOCABULARY), np.float32)
    logits[..., EOS] = -20.0
    logits[0, :, A] = 20.0
    logits[1, 0, B] = logits[1, 1, C] = 20.0
    logits[1, 2:, EOS] = 40.0
    return logits


@pytest.mark.parametrize("decoding", [Greedy(), Beam(3), Sampling(top_k=1)], ids=repr)
@pytest.mark.parametrize("room", [ROOM, 5])
def test_each_search_writes_what_is_certain_within_the_limit_of_each_source(
    room: int, decoding: LeftToRightDecoding
) -> None:
    """A source of one token may become 12, one of two 14; who has room for 5 gets no more."""
    asked = []

    def empty_cache(beam: int) -> Cache:
        asked.append(beam)
        return jnp.repeat(jnp.asarray(table())[:, None], beam, axis=1)

    def step(last: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        return jax.lax.dynamic_index_in_dim(cache, position, axis=2, keepdims=False), cache

    @jax.jit
    def search(source: jax.Array) -> Hypotheses:
        return decoding.search(step, empty_cache, source, max_length=room)

    found = jax.device_get(search(SOURCE))
    assert asked == [3 if isinstance(decoding, Beam) else 1]
    expected = np.full((3, room), PAD)
    expected[0, :12] = A
    expected[1, :2] = B, C
    np.testing.assert_array_equal(found.tokens[:, 0], expected)
    np.testing.assert_array_equal(found.passes, [min(12, room) + 1, 3, 0])
