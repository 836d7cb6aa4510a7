"""The kernels against NumPy in float64."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.nn import cache, packed
from nat_ar.runtime import cpu_kernels

pytestmark = pytest.mark.skipif(
    not cpu_kernels.are_available(), reason="no CPU, or no C++ compiler, or NAT_AR_NATIVE=0"
)
product = jax.jit(cpu_kernels.product, static_argnames=("width", "is_rectified"))
normalise = jax.jit(functools.partial(cpu_kernels.normalise, epsilon=1e-6))
attend = jax.jit(cpu_kernels.attend)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40), depth=st.integers(1, 70), width=st.integers(1, 70), bias=st.booleans()
)
def test_the_product_is_that_of_the_weight(rows: int, depth: int, width: int, bias: bool) -> None:
    states, weight = normal(0, rows, depth), normal(1, depth, width)
    offset = normal(2, width) if bias else None
    expected = states.astype(np.float64) @ weight + (0.0 if offset is None else offset)
    found = product(states, packed.panels_of(weight), offset, width=width)
    np.testing.assert_allclose(found, expected, atol=1e-4)


# Products of 8 bits


def random_integers(seed: int, *shape: int) -> np.ndarray:
    """From -127 to 127, and 127 in the first place of each row."""
    found = np.random.default_rng(seed).integers(-127, 128, shape)
    found[..., 0] = 127
    return found


def int8_product(
    states: np.ndarray, integers: np.ndarray, scale: np.ndarray, level: str | None = None
) -> np.ndarray:
    panels, sums = packed.int8_panels_of(integers.astype(np.int8))
    width = integers.shape[1]
    call = functools.partial(cpu_kernels.product_int8, width=width, level=level)
    return np.asarray(jax.jit(call)(states.astype(np.float32), panels, sums, scale, None))


@pytest.mark.parametrize("level", cpu_kernels.int8_levels())
def test_sums_of_products_are_exact_by_every_level(level: str) -> None:
    """States that are integers up to 127 are their own rounding, with scale 1."""
    for rows, depth, width in ((1, 1, 1), (2, 3, 16), (3, 4, 17), (4, 5, 40), (9, 1000, 33)):
        states, weight = random_integers(depth, rows, depth), random_integers(width, depth, width)
        found = int8_product(states, weight, np.ones(width, np.float32), level)
        np.testing.assert_array_equal(found, states @ weight)  # below 2^24, as 1,000 x 127 x 127 is


@pytest.mark.parametrize("level", cpu_kernels.int8_levels())
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_products_do_not_saturate(level: str, sign: int) -> None:
    """127 x 127 twice is 32,258, and with a state of 255, as unsigned bytes have, two would not fit into 16 bits."""
    states, weight = np.full((5, 64), 127), np.full((64, 16), sign * 127)
    found = int8_product(states, weight, np.ones(16, np.float32), level)
    np.testing.assert_array_equal(found, np.full((5, 16), sign * 64 * 127 * 127))


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 9), depth=st.integers(1, 70), width=st.integers(1, 40))
def test_an_int8_product_is_that_of_rounded_states_and_weights(
    rows: int, depth: int, width: int
) -> None:
    states, weight = normal(0, rows, depth), normal(1, depth, width)
    integers, scale = packed.quantised(weight)
    assert np.abs(integers).max(axis=0).tolist() == [127] * width
    assert np.abs(integers * scale - weight).max() <= scale.max() / 2 + 1e-6
    largest = np.abs(states).max(axis=1, keepdims=True)
    rounded = np.rint(states * (np.float32(127) / largest))
    assert np.abs(rounded).max(axis=1).tolist() == [127] * rows
    expected = (rounded @ integers.astype(np.float64)) * (largest / np.float32(127)) * scale
    found = int8_product(states, integers, scale)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for level in cpu_kernels.int8_levels():
        np.testing.assert_array_equal(int8_product(states, integers, scale, level), found)
    np.testing.assert_array_equal(int8_product(states[:1], integers, scale), found[:1])


def test_a_row_of_zeros_gives_zeros_and_one_that_is_not_finite_gives_nan_alone() -> None:
    states = normal(0, 4, 8)
    states[0], states[1, 3], states[2, 7] = 0.0, np.inf, np.nan
    integers, scale = packed.quantised(normal(1, 8, 16))
    found = int8_product(states, integers, scale)
    assert not found[0].any()
    assert np.isnan(found[1:3]).all()
    np.testing.assert_array_equal(found[3:], int8_product(states[3:], integers, scale))


def test_integers_that_do_not_fit_are_an_error() -> None:
    states, panels, sums = (
        jnp.ones((2, 9)),
        jnp.ones((1, 2, 16, 4), jnp.int8),
        jnp.ones((1, 16), int),
    )
    with pytest.raises(Exception, match=r"panels \[width / 16, depth / 4, 16, 4\]"):
        jax.block_until_ready(
            cpu_kernels.product_int8(states, panels, sums, jnp.ones(16), None, 16)
        )


def test_a_column_of_zeros_stays_one() -> None:
    integers, scale = packed.quantised(np.array([[0.0, -2.54], [0.0, 1.27]], np.float32))
    np.testing.assert_array_equal(integers, [[0, -127], [0, 64]])
    np.testing.assert_allclose(scale, [1.0, 0.02])


@pytest.mark.parametrize("width", [1000, 1024])
def test_a_row_does_not_depend_on_the_rows_beside_it_nor_on_the_threads(width: int) -> None:
    """1,024 x 1,024 weights are shared out among threads, one row of 256 x 16 is not."""
    states, weight, bias = normal(0, 33, 1024), normal(1, 1024, width), normal(2, width)
    whole = np.asarray(product(states, packed.panels_of(weight), bias, width=width))
    for rows in (1, 2, 3, 4, 5, 7, 12, 32):
        few = product(states[:rows], packed.panels_of(weight), bias, width=width)
        np.testing.assert_array_equal(few, whole[:rows])
    alone = product(states, packed.panels_of(weight[:, :16]), bias[:16], width=16)
    np.testing.assert_array_equal(alone, whole[:, :16])


def test_callers_at_the_same_time_get_the_results_of_one_alone() -> None:
    """Threads that have helped one call wait for the next, for 100 microseconds: it may come at once, from another
    caller, or too late."""
    cases = [
        (normal(seed, 8, 256), packed.panels_of(normal(seed + 9, 256, width)), width)
        for seed, width in enumerate((640, 1024, 2048, 4096))
    ]

    def found(case: tuple[np.ndarray, np.ndarray, int]) -> np.ndarray:
        states, panels, width = case
        return np.asarray(product(states, panels, None, width=width))

    def differ(number: int) -> int:
        """Of 200 results of a caller."""
        wrong = 0
        for turn in range(200):
            index = (number + turn) % len(cases)
            wrong += not np.array_equal(found(cases[index]), alone[index])
            time.sleep((turn % 3) * 1e-4)
        return wrong

    alone = [found(case) for case in cases]
    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(differ, range(4))) == [0] * 4


@pytest.mark.parametrize(
    ("panels", "bias", "width"),
    [((1, 9, 16), 0, 16), ((1, 8, 8), 0, 8), ((2, 8, 16), 0, 16), ((1, 8, 16), 3, 16)],
)
def test_arrays_that_do_not_fit_are_an_error(
    panels: tuple[int, ...], bias: int, width: int
) -> None:
    call = jax.ffi.ffi_call(cpu_kernels.PRODUCT, jax.ShapeDtypeStruct((2, width), jnp.float32))
    arrays = [jnp.ones((2, 8)), jnp.ones(panels), jnp.ones(bias)]
    with pytest.raises(Exception, match=r"expected states \[rows, depth\]"):
        jax.block_until_ready(
            jax.jit(functools.partial(call, is_rectified=np.bool_(False)))(*arrays)
        )


def test_a_rectified_product_is_nowhere_below_zero() -> None:
    states, weight, bias = normal(0, 7, 30), normal(1, 30, 50), normal(2, 50)
    plain = np.asarray(product(states, packed.panels_of(weight), bias, width=50))
    assert (plain < 0).any()
    found = product(states, packed.panels_of(weight), bias, width=50, is_rectified=True)
    np.testing.assert_array_equal(found, np.maximum(plain, 0.0))


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(1, 70))
def test_rows_are_normalised_each_by_itself(rows: int, width: int) -> None:
    x, scale, bias = 10.0 + 3.0 * normal(0, rows, width), normal(1, width), normal(2, width)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt(wide.var(axis=1, keepdims=True) + 1e-6) * scale + bias
    found = normalise(x, scale, bias)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(normalise(x[:1], scale, bias), found[:1])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 100),
    never=st.sets(st.integers(0, 99), max_size=6),
    levels=st.sampled_from([3, 10_000]),
)
def test_the_likeliest_is_the_first_of_the_largest_that_may_be_taken(
    rows: int, width: int, never: set[int], levels: int
) -> None:
    """With three levels most values are equal to others."""
    never = {place for place in never if place < width - 1}
    logits = np.random.default_rng(width).integers(-levels, levels, (rows, width)) * (20 / levels)
    logits = logits.astype(np.float32)
    allowed = logits.copy()
    allowed[:, sorted(never)] = -np.inf
    find = jax.jit(functools.partial(cpu_kernels.likeliest, never=sorted(never)))
    places, values, normalisers = find(logits)
    np.testing.assert_array_equal(places, allowed.argmax(axis=1))
    np.testing.assert_array_equal(values, allowed.max(axis=1))
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(normalisers, np.log(np.exp(wide).sum(axis=1)), atol=1e-5)


def test_places_that_are_out_of_range_or_order_are_an_error() -> None:
    for never in ([5], [2, 2], [-1]):
        with pytest.raises(Exception, match="never ascending"):
            jax.block_until_ready(cpu_kernels.likeliest(jnp.ones((2, 5)), never))


def attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, counts: list[int], origin: np.ndarray
) -> np.ndarray:
    """Query by query, over the places that it reads."""
    found = np.zeros(query.shape)
    slots = key.shape[-1] // origin.shape[-1]
    for b, q, h in np.ndindex(query.shape[:3]):
        places = [t * slots + origin[b, q, t] for t in range(counts[b])]
        scores = key[b, h].astype(np.float64).T[places] @ query[b, q, h] / query.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max(initial=-np.inf))
        if places:
            found[b, q, h] = weights / weights.sum() @ value[b, h][places]
    return found


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    spare=st.integers(1, 9),
    queries=st.integers(1, 9),
    slots=st.integers(1, 4),
    head_dim=st.sampled_from([4, 8, 20, 64, 72]),
)
def test_attention_reads_each_querys_own_places_up_to_the_count(
    counts: list[int], spare: int, queries: int, slots: int, head_dim: int
) -> None:
    """What stands behind the count is not a number, and is not read."""
    batch, heads, positions = len(counts), 2, max(counts) + spare
    query = 3 * normal(0, batch, queries, heads, head_dim)
    key = normal(1, batch, heads, head_dim, positions * slots)
    value = normal(2, batch, heads, positions * slots, head_dim)
    for b, count in enumerate(counts):
        key[b, :, :, count * slots :] = value[b, :, count * slots :] = np.nan
    origin = np.random.default_rng(3).integers(0, slots, (batch, queries, positions), np.int32)
    expected = attention(query, key, value, counts, origin)
    found = attend(query, key, value, np.array(counts, np.int32), origin)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if slots == 1:
        same = attend(query, key, value, np.array(counts, np.int32))
        np.testing.assert_array_equal(same, found)


@pytest.mark.parametrize("positions", [9, 40])
def test_each_query_may_have_a_count_of_its_own_and_the_bits_of_that_query_alone(
    positions: int,
) -> None:
    """Six queries of two sentences see 1, 2, ... positions, as in a causal pass that starts behind a prefix."""
    query, key = normal(0, 2, 6, 2, 8), normal(1, 2, 2, 8, positions)
    value = normal(2, 2, 2, positions, 8)
    counts = np.array([[1, 2, 3, 4, 5, 6], [4, 5, 6, 7, 8, 9]], np.int32)
    found = attend(query, key, value, counts)
    for i in range(6):
        alone = attend(query[:, i : i + 1], key, value, counts[:, i])
        np.testing.assert_array_equal(found[:, i], alone[:, 0])
    origin = np.zeros((2, 1, positions), np.int32)
    expected = attention(query[:, :1], key, value, counts[:, 0].tolist(), origin)
    np.testing.assert_allclose(found[:, :1], expected, atol=2e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_weights_are_right_however_large_the_scores(size: float) -> None:
    """Scores of 0 to 9 times the size: from all alike to a single one that counts."""
    query = np.ones((1, 1, 1, 1), np.float32)
    key = np.float32(size) * np.arange(10, dtype=np.float32)[None, None, None]
    value = np.linspace(-1, 1, 10, dtype=np.float32)[None, None, :, None]
    expected = attention(query, key, value, [10], np.zeros((1, 1, 10), np.int32))
    found = attend(query, key, value, np.array([10], np.int32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_decoders_step_attends_as_by_xla() -> None:
    """Three hypotheses that went on from each other, at position 4 of 6."""
    query = jnp.asarray(normal(0, 2, 3, 2, 16))
    slots = cache.Slots(jnp.asarray(normal(1, 2, 2, 16, 18)), jnp.asarray(normal(2, 2, 2, 18, 16)))
    origin = jnp.asarray(np.random.default_rng(3).integers(0, 3, (2, 3, 6)), jnp.int32)
    expected = cache.attend(query, slots, origin, jnp.int32(4))
    found = cache.attend(query, slots, origin, jnp.int32(4), implementation="kernel")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_keys_that_do_not_fit_are_an_error() -> None:
    """Six places have keys, and five have values."""
    shapes = ((1, 1, 2, 4), (1, 2, 4, 6), (1, 2, 5, 4))
    arrays = [*map(jnp.ones, shapes), *[jnp.ones(1, jnp.int32)] * 2]
    call = jax.ffi.ffi_call(cpu_kernels.ATTEND, jax.ShapeDtypeStruct((1, 1, 2, 4), jnp.float32))
    with pytest.raises(Exception, match=r"expected query \[batch, queries, heads, depth\]"):
        jax.block_until_ready(jax.jit(call)(*arrays))
