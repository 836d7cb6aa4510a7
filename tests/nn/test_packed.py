"""A packed network computes what the network does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar.nn import layers, packed

pytestmark = pytest.mark.skipif(
    not packed.is_available(), reason="no CPU, or no C++ compiler, or NAT_AR_NATIVE=0"
)
product = jax.jit(packed.product, static_argnames="width")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_panels_are_columns_16_at_a_time_and_zeros_fill_up_the_last() -> None:
    weight = np.arange(2 * 18, dtype=np.float32).reshape(2, 18)
    panels = packed.panels_of(weight)
    assert panels.shape == (2, 2, 16)
    np.testing.assert_array_equal(panels[0], weight[:, :16])
    np.testing.assert_array_equal(panels[1, :, :2], weight[:, 16:])
    assert not panels[1, :, 2:].any()


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


@pytest.mark.parametrize("width", [1000, 1024])
def test_a_row_does_not_depend_on_the_rows_beside_it_nor_on_the_threads(width: int) -> None:
    """1,024 x 1,024 weights are shared out among threads, one row of 256 x 16 is not."""
    states, weight, bias = normal(0, 33, 1024), normal(1, 1024, width), normal(2, width)
    whole = np.asarray(product(states, packed.panels_of(weight), bias, width=width))
    for rows in (1, 2, 5, 7, 12, 32):
        few = product(states[:rows], packed.panels_of(weight), bias, width=width)
        np.testing.assert_array_equal(few, whole[:rows])
    alone = product(states, packed.panels_of(weight[:, :16]), bias[:16], width=16)
    np.testing.assert_array_equal(alone, whole[:, :16])


@pytest.mark.parametrize(
    ("panels", "bias", "width"),
    [((1, 9, 16), 0, 16), ((1, 8, 8), 0, 8), ((2, 8, 16), 0, 16), ((1, 8, 16), 3, 16)],
)
def test_arrays_that_do_not_fit_are_an_error(
    panels: tuple[int, ...], bias: int, width: int
) -> None:
    call = jax.ffi.ffi_call(packed.TARGET, jax.ShapeDtypeStruct((2, width), jnp.float32))
    with pytest.raises(Exception, match=r"expected states \[rows, depth\]"):
        jax.block_until_ready(jax.jit(call)(jnp.ones((2, 8)), jnp.ones(panels), jnp.ones(bias)))


class Network(nnx.Module):
    """One table in two places, maps in a list, and one map in bfloat16."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.source = layers.Embedding(30, 12, rngs=rngs)
        self.target = self.source
        self.maps = nnx.List([layers.Linear(12, 12, rngs=rngs) for _ in range(2)])
        self.coarse = layers.Linear(12, 12, dtype="bfloat16", rngs=rngs)
        for linear in (*self.maps, self.coarse):
            linear.bias[...] = jnp.arange(12) / 12

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        x = self.source(token_ids)
        for linear in (*self.maps, self.coarse):
            x = jax.nn.relu(linear(x))
        return self.target.attend(x.astype(jnp.float32))


def test_a_packed_network_computes_the_same_and_leaves_the_other_as_it_was() -> None:
    network = Network()
    before = nnx.state(network, nnx.Param)
    token_ids = jnp.arange(14).reshape(2, 7)
    expected = network(token_ids)
    graphdef, params = nnx.split(network, nnx.Param)
    twin = nnx.merge(graphdef, params)
    packed.pack(twin)
    assert twin.source is twin.target
    assert [type(linear) for linear in twin.maps] == [packed.PackedLinear] * 2
    assert type(twin.coarse) is layers.Linear
    np.testing.assert_allclose(jax.jit(twin.__call__)(token_ids), expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(network, nnx.Param), before)
