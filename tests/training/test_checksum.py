"""A checksum that does not depend on who holds which part of an array, and on everything else."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import many_devices
from nat_ar.training import checksum

EVERYWHERE = """
import contextlib, dataclasses, pathlib, sys, tempfile
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from nat_ar.nn import layers
from nat_ar.training import checkpoint, checksum, step
from nat_ar.training.checkpoint import Checkpoints, DamagedCheckpointError
from nat_ar.training.loop import Progress

step.LARGE = 64
params = nnx.state(layers.Linear(24, 40, rngs=nnx.Rngs(0)), nnx.Param)
def state_on(data, fsdp, at=0, seed=0):
    state = step.initial_state(params, optax.adam(0.1), seed=seed, has_average=True)
    state = dataclasses.replace(state, params=jax.tree.map(lambda x: x + at, state.params), step=jnp.int32(at))
    return step.place(step.data_mesh(data * fsdp, fsdp), state, is_batch=False)
def arrays(state):
    return [np.asarray(x) for x in jax.tree.leaves(dataclasses.replace(state, key=jax.random.key_data(state.key)))]
def flat(state):
    return {str(at): x for at, x in enumerate(jax.tree.leaves((state.params, state.opt_state, state.average)))}

meshes = [(1, 1), (8, 1), (2, 4), (1, 8), (3, 2), (1, 5)]
states = [state_on(*mesh, at=5, seed=3) for mesh in meshes]
assert len({checksum.sums(flat(state)) for state in states}) == 1
kernels = [state.params["kernel"][...] for state in states]
assert [x.addressable_data(0).shape for x in kernels] == [(24, 40), (24, 40), (24, 10), (24, 5), (24, 20), (24, 8)]
# Over the other axis, and over both.
for axes in (("fsdp",), (("data", "fsdp"), None), ("data", "fsdp")):
    sharding = jax.NamedSharding(step.data_mesh(8, 4), jax.P(*axes))
    assert checksum.sums({"x": jax.device_put(kernels[0], sharding)}) == checksum.sums({"x": kernels[0]})

progress = dataclasses.asdict(Progress())
directory = pathlib.Path(tempfile.mkdtemp()) / "checkpoints"
checkpoints = Checkpoints(directory)
checkpoints.save(states[2], progress, score=None)
checkpoints.close()
for mesh in meshes:
    like = state_on(*mesh)
    checkpoints = Checkpoints(directory)
    restored, _ = checkpoints.restore(like)
    checkpoints.close()
    for found, expected in zip(arrays(restored), arrays(states[2]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, like))

# What translating needs is read whole, on one device, with the same hash.
reader = Checkpoints(directory, is_read_only=True)
loaded, digest = reader.translating((5,), jax.eval_shape(lambda: params))
assert digest == checksum.sums(checkpoint._by_path(loaded)) == reader.hashes(5)["params"]
reader.close()

# A bit that flips in any shard is found on any mesh.
found = 0
for path in [path for path in directory.rglob("*") if path.is_file() and path.parent.name == "d"]:
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    reader = Checkpoints(directory, is_read_only=True)
    with contextlib.suppress(DamagedCheckpointError):
        restored, _ = reader.restore(state_on(1, 8))
        for one, other in zip(arrays(restored), arrays(states[2]), strict=True):
            np.testing.assert_array_equal(one, other)
        found -= 1
    found += 1
    reader.close()
    path.write_bytes(content)
assert found > 0
print("done")
"""


def mixed(bits: int, place: int) -> int:
    """SplitMix64 of the value and its place, in whole numbers of Python."""
    z = (place * 0x9E3779B97F4A7C15 + bits) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("chunk", [4, checksum.CHUNK])
def test_blocks_add_up_to_the_sum_of_all_values(
    dtype: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "CHUNK", chunk)
    whole = np.asarray(jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 10)), dtype))
    bits = whole.reshape(-1).view(f"u{whole.dtype.itemsize}").tolist()
    expected = sum(mixed(value, place) for place, value in enumerate(bits)) % 2**64
    for cuts in [(1, 1, 1), (3, 1, 1), (1, 2, 1), (1, 1, 5), (2, 2, 2)]:
        sizes = [size // number for size, number in zip(whole.shape, cuts, strict=True)]
        total = 0
        for at in itertools.product(*map(range, cuts)):
            begins = [index * size for index, size in zip(at, sizes, strict=True)]
            where = tuple(slice(b, b + size) for b, size in zip(begins, sizes, strict=True))
            total += checksum.sum_of_block(whole[where], begins, whole.shape)
        assert total % 2**64 == expected, cuts


def test_whatever_changes_changes_the_checksum() -> None:
    x = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
    others = {
        "one": {"x": x},
        "another name": {"y": x},
        "another shape": {"x": x.reshape(4, 3)},
        "another type": {"x": x.view(jnp.int32)},
        "two values change places": {"x": x.at[0, 0].set(1.0).at[0, 1].set(0.0)},
        "a last bit": {"x": (x.view(jnp.int32).at[2, 3].add(1)).view(jnp.float32)},
        "the sign of zero": {"x": x.at[0, 0].set(-0.0)},
        "one more": {"x": x, "y": jnp.zeros(())},
        "one more of nothing": {"x": x, "y": jnp.zeros((0, 3))},
        "none": {},
    }
    assert len({checksum.sums(arrays) for arrays in others.values()}) == len(others)
    assert checksum.sums({"y": x, "x": x + 1}) == checksum.sums({"x": x + 1, "y": x})


def test_the_checksum_of_tomorrow_is_that_of_today() -> None:
    arrays = {"kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "step": jnp.int32(7)}
    assert (
        checksum.sums(arrays) == "c511c763128791bb8d3b53411b849f828c4b07a593c26a4c16ec2e28f3f188d1"
    )
    # What was written by 0.1.0, from the SHA-256 of bytes.
    assert (
        checksum.sha256(arrays)
        == "3d3dce2c3ad4328dffb9e1f9d907e7dc7643309a12634eb852276b770bcb69ad"
    )


@pytest.mark.slow
def test_a_checkpoint_of_one_mesh_is_read_on_every_other() -> None:
    assert many_devices.run(EVERYWHERE) == "done\n"
