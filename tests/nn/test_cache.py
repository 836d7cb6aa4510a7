import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.nn import cache, dot_product
from nat_ar.nn.cache import Cache
from nat_ar.runtime import cpu_kernels

BATCH, BEAM, LENGTH, HEADS, HEAD_DIM = 2, 3, 5, 2, 4


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def empty(beam: int, length: int) -> Cache:
    slots = cache.empty_slots(
        BATCH, beam, length, num_heads=HEADS, head_dim=HEAD_DIM, dtype="float32"
    )
    return cache.empty([slots], BATCH, beam, length)


@functools.partial(jax.jit, static_argnames="implementation")
def step(
    old: Cache,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    position: jax.Array,
    *,
    implementation: dot_product.Implementation = "xla",
) -> tuple[jax.Array, Cache]:
    old = old.at(position)
    slots = cache.write(old.blocks[0], key, value, position)
    states = cache.attend(query, slots, old.origin, position, implementation=implementation)
    return states, Cache([slots], old.origin)


def attended(query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
    """One hypothesis with the history of its own: [heads, head_dim] each."""
    memory = dot_product.key_value(*(jnp.asarray(np.stack(x))[None] for x in (keys, values)))
    return np.asarray(dot_product.attend(jnp.asarray(query)[None, None], memory)[0, 0])


@pytest.mark.parametrize("beam", [1, BEAM])
def test_hypotheses_that_go_on_from_others_see_what_those_wrote(beam: int) -> None:
    """Beside lists that are copied, as a reader would write it. What stands in the cache after the
    current position must not be seen."""
    generator = np.random.default_rng(0)
    now = jax.tree.map(lambda leaf: leaf + 50, empty(beam, LENGTH + 2))
    histories: list[list[list[tuple[np.ndarray, np.ndarray]]]] = [
        [[] for _ in range(beam)] for _ in range(BATCH)
    ]
    for position in range(LENGTH):
        query, key, value = (
            normal(10 * position + i, BATCH, beam, HEADS, HEAD_DIM) for i in range(3)
        )
        states, now = step(now, query, key, value, jnp.int32(position))
        for row in range(BATCH):
            for n in range(beam):
                histories[row][n].append((key[row, n], value[row, n]))
                keys, values = map(list, zip(*histories[row][n], strict=True))
                expected = attended(query[row, n], keys, values)
                np.testing.assert_allclose(states[row, n], expected, rtol=1e-4, atol=1e-5)
        beams = generator.integers(0, beam, (BATCH, beam))
        now = now.reordered(jnp.asarray(beams))
        histories = [
            [list(history[parent]) for parent in row]
            for history, row in zip(histories, beams, strict=True)
        ]


@pytest.mark.parametrize("implementation", ["xla", "kernel"])
def test_a_position_a_row_equals_one_for_all_where_they_are_equal(
    implementation: dot_product.Implementation,
) -> None:
    """Bit for bit, on a cache that hypotheses have gone over in any order."""
    if implementation == "kernel" and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    old = jax.tree.map(lambda leaf: jnp.asarray(normal(9, *leaf.shape)), empty(BEAM, LENGTH))
    origin = np.random.default_rng(8).integers(0, BEAM, (BATCH, BEAM, LENGTH))
    old = Cache(old.blocks, jnp.asarray(origin, jnp.int32))
    new = [jnp.asarray(normal(i, BATCH, BEAM, HEADS, HEAD_DIM)) for i in range(3)]
    run = functools.partial(step, implementation=implementation)
    one, many = run(old, *new, jnp.int32(3)), run(old, *new, jnp.full(BATCH, 3))
    jax.tree.map(np.testing.assert_array_equal, one, many)


@pytest.mark.parametrize("implementation", ["xla", "kernel"])
@pytest.mark.parametrize("beam", [1, BEAM])
def test_rows_at_positions_of_their_own_equal_each_row_alone(
    beam: int, implementation: dot_product.Implementation
) -> None:
    """Row 0 goes back to position 1 while row 1 is at 4: what row 0 wrote there before is overwritten, and what
    stands behind its position is not seen."""
    if implementation == "kernel" and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    run = functools.partial(step, implementation=implementation)
    together, alone = empty(beam, LENGTH), [empty(beam, LENGTH) for _ in range(BATCH)]
    alone = [jax.tree.map(lambda leaf: leaf[:1], cache) for cache in alone]
    for time, positions in enumerate([(0, 0), (1, 1), (2, 2), (3, 3), (1, 4), (2, 0)]):
        new = [normal(10 * time + i, BATCH, beam, HEADS, HEAD_DIM) for i in range(3)]
        states, together = run(together, *map(jnp.asarray, new), jnp.array(positions))
        for row, position in enumerate(positions):
            own = [jnp.asarray(x[row : row + 1]) for x in new]
            expected, alone[row] = run(alone[row], *own, jnp.int32(position))
            np.testing.assert_allclose(states[row], expected[0], rtol=1e-5, atol=1e-6)
    for row in range(BATCH):
        for ours, theirs in zip(*map(jax.tree.leaves, (together, alone[row])), strict=True):
            np.testing.assert_array_equal(ours[row], theirs[0])


def test_nobody_s_words_are_copied_when_hypotheses_change_places() -> None:
    """The program that reorders returns its keys and values as they came, and gathers the table of
    origins alone."""
    jaxpr = jax.make_jaxpr(functools.partial(Cache.reordered))(
        empty(BEAM, LENGTH), jnp.zeros((BATCH, BEAM), jnp.int32)
    )
    key, value, _ = jaxpr.jaxpr.outvars
    assert [key, value] == list(jaxpr.jaxpr.invars[:2])


def test_a_word_is_written_into_the_slot_of_its_hypothesis() -> None:
    """Hypotheses 0 and 1 both go on from 1: the past of both is in slot 1, the present in their own."""
    now = empty(2, 3).at(jnp.int32(0)).reordered(jnp.array([[1, 1], [0, 1]])).at(jnp.int32(1))
    np.testing.assert_array_equal(now.origin[0, :, :2], [[1, 0], [1, 1]])
    np.testing.assert_array_equal(now.origin[1, :, :2], [[0, 0], [1, 1]])
