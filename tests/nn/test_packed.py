"""A packed network computes what the network does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.nn import attention, layers, packed
from nat_ar.runtime import cpu_kernels

pytestmark = pytest.mark.skipif(
    not cpu_kernels.are_available(), reason="no CPU, or no C++ compiler, or NAT_AR_NATIVE=0"
)


def test_panels_are_columns_16_at_a_time_and_zeros_fill_up_the_last() -> None:
    weight = np.arange(2 * 18, dtype=np.float32).reshape(2, 18)
    panels = packed.panels_of(weight)
    assert panels.shape == (2, 2, 16)
    np.testing.assert_array_equal(panels[0], weight[:, :16])
    np.testing.assert_array_equal(panels[1, :, :2], weight[:, 16:])
    assert not panels[1, :, 2:].any()


def test_panels_of_integers_hold_four_neighbours_of_a_column_together() -> None:
    weight = np.arange(6 * 17, dtype=np.int8).reshape(6, 17)
    panels, sums = packed.int8_panels_of(weight)
    assert panels.shape == (2, 2, 16, 4)
    np.testing.assert_array_equal(panels[0, 0, 3], weight[:4, 3])
    np.testing.assert_array_equal(panels[0, 1, 3], [weight[4, 3], weight[5, 3], 0, 0])
    np.testing.assert_array_equal(panels[1, 0, 0], weight[:4, 16])
    np.testing.assert_array_equal(sums.ravel()[:17], weight.sum(axis=0))
    assert not sums[1, 1:].any()


class Network(nnx.Module):
    """One table in two places, maps in a list, one of them rectified, a norm, and one map of another type, perhaps."""

    def __init__(self, dtype: str = "float32") -> None:
        rngs = nnx.Rngs(0)
        self.source = layers.Embedding(30, 12, rngs=rngs)
        self.target = self.source
        self.maps = nnx.List(
            [layers.Linear(12, 12, is_rectified=i == 0, rngs=rngs) for i in range(2)]
        )
        self.norm = layers.LayerNorm(12)
        self.coarse = layers.Linear(12, 12, dtype=dtype, rngs=rngs)
        for linear in (*self.maps, self.coarse):
            linear.bias[...] = jnp.arange(12) / 12

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        x = self.source(token_ids)
        for linear in (*self.maps, self.coarse):
            x = linear(self.norm(x))
        return self.target.attend(x.astype(jnp.float32))


@pytest.mark.parametrize(("weights", "tolerance"), [("float32", 1e-4), ("int8", 0.1)])
def test_a_packed_network_computes_the_same_and_leaves_the_other_as_it_was(
    weights: packed.Weights, tolerance: float
) -> None:
    """A map that was trained in bfloat16 computes in float32, as its weights are."""
    network = Network("bfloat16")
    before = nnx.state(network, nnx.Param)
    token_ids = jnp.arange(14).reshape(2, 7)
    expected = Network()(token_ids)
    graphdef, params = nnx.split(network, nnx.Param)
    twin = nnx.merge(graphdef, params)
    packed.pack(twin, weights)
    assert twin.source is twin.target
    assert [type(linear) for linear in twin.maps] == [packed.PackedLinear] * 2
    assert type(twin.coarse) is packed.PackedLinear
    assert type(twin.norm) is packed.FusedLayerNorm
    found = jax.jit(twin.__call__)(token_ids)
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    jax.tree.map(np.testing.assert_array_equal, nnx.state(network, nnx.Param), before)


def test_a_packed_attention_is_that_of_the_network() -> None:
    """Two sentences of 5 and 3 tokens; and a decoder's rows, three for each."""
    rngs = nnx.Rngs(0)
    own, cross = (
        attention.SelfAttention(24, 2, rngs=rngs),
        attention.CrossAttention(24, 2, rngs=rngs),
    )
    pair = nnx.List([own, cross])
    states = jax.random.normal(jax.random.key(1), (2, 5, 24))
    queries = jax.random.normal(jax.random.key(2), (6, 4, 24))
    lengths = jnp.array([5, 3])

    def run(pair: nnx.List) -> tuple[jax.Array, jax.Array]:
        own, cross = pair
        encoded = jnp.where(
            jnp.arange(5)[:, None] < lengths[:, None, None], own(states, lengths), 0
        )
        return encoded, cross(queries, cross.memory(encoded), lengths)

    expected = run(pair)
    packed.pack(pair)
    assert own.implementation == cross.implementation == "kernel"
    for found, known in zip(run(pair), expected, strict=True):
        np.testing.assert_allclose(found, known, atol=1e-5)
