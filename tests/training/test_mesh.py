"""How devices share batches and state changes where numbers are, and none of them."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

import many_devices
from nat_ar.config_json import ConfigError
from nat_ar.training import step

STEPS = """
import dataclasses, json
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.training import step
from nat_ar.types import Batch
from toys import TINY, sentences

step.LARGE = 256
METHODS = (Autoregressive, Ctc, Cmlm, DaTransformer)
MESHES = {method: [(1, 1), (2, 4)] for method in METHODS}
MESHES[Autoregressive] += [(8, 1), (1, 8)]

# The gradient is what the optimizer keeps: Adam's first updates hide its scale and blow up its rounding.
keeping = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), lambda gradient, state, params: (gradient, gradient)
)
optimizer = optax.chain(keeping, optax.sgd(0.5))

def leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]

lengths = [8, 1, 3, 2, 5, 4, 2, 7, 6, 1, 2, 3, 4, 5, 6, 0]
batch = Batch(*(sentences(seed, lengths, 8, vocabulary=16) for seed in (0, 1)))
found = {}
for method in METHODS:
    model = method(transformer=dataclasses.replace(TINY, dropout_rate=0.1)).build(
        VocabularySizes(16, 16, is_joint=True), rngs=nnx.Rngs(0)
    )
    graphdef, *arrays = step.split(model)
    params, carried = jax.device_get(arrays)
    def made():
        return step.initial_state(params, optimizer, seed=1, has_average=True, carried=carried)
    for data, fsdp in MESHES[method]:
        mesh = step.data_mesh(data * fsdp, fsdp)
        state = step.make(mesh, made)
        shares = [
            leaf.addressable_data(0).size / leaf.size
            for leaf in jax.tree.leaves((state.params, state.opt_state, state.average)) if leaf.size >= step.LARGE
        ]
        shardings = step.shardings_of(mesh, state)
        update = step.build_train_step(
            graphdef, optimizer, mesh, accumulation=2, average_decay=0.9, shardings=shardings
        )
        after, terms = update(state, step.place(mesh, batch, is_batch=True), None)
        is_placed = jax.tree.map(lambda array, sharding: array.sharding == sharding, after, shardings)
        kept, _ = after.opt_state
        result = [leaves(kept), leaves(terms), leaves(after.average)]
        if data * fsdp == 1:
            first = result
        differences = [
            float(np.linalg.norm([np.linalg.norm(a - b) for a, b in zip(one, other, strict=True)])
                  / np.linalg.norm([np.linalg.norm(b) for b in other]))
            for one, other in zip(result, first, strict=True)
        ]
        found[f"{method.__name__} {data} {fsdp}"] = {
            "differences": differences, "shares": sorted(set(shares)), "arrays": len(shares),
            "is_placed": all(jax.tree.leaves(is_placed)), "gradient": float(terms["gradient_norm"].total),
        }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_gradient_loss_and_average_are_the_same_on_every_mesh() -> None:
    """With dropout, and what methods draw; two parts of the batch one after the other."""
    found = json.loads(many_devices.run(STEPS))
    assert len(found) == 10
    for name, result in found.items():
        assert max(result["differences"]) < 1e-5, name
        assert result["is_placed"], name
        assert result["gradient"] > 0.01, name
        assert result["arrays"] >= 12, name
        assert result["shares"] == [1 / int(name.split()[-1])], name


def test_the_longest_axis_that_fits_is_sharded_of_large_arrays() -> None:
    mesh = AbstractMesh((2, 8), ("data", "fsdp"))

    def spec(*shape: int) -> PartitionSpec:
        return step.sharding_of(mesh, jax.ShapeDtypeStruct(shape, np.float32)).spec

    assert spec(37000, 512) == PartitionSpec("fsdp")
    assert spec(512, 2048) == PartitionSpec(None, "fsdp")
    assert spec(512, 512) == PartitionSpec("fsdp")
    assert spec(37001, 512) == PartitionSpec(None, "fsdp")
    assert spec(999, 999) == PartitionSpec()  # 8 divides neither
    assert spec(256, 256) == PartitionSpec("fsdp")
    assert spec(256, 255) == PartitionSpec()  # a small one
    assert spec(2**16) == PartitionSpec("fsdp")
    assert spec() == PartitionSpec()


def test_a_mesh_is_written_as_its_axes_and_sizes() -> None:
    assert step.sizes_of("data=8", 64) == (8, 1)
    assert step.sizes_of("data=-1", 64) == (64, 1)
    assert step.sizes_of("fsdp=8", 64) == (8, 8)
    assert step.sizes_of("fsdp=-1,data=2", 64) == (2, 32)
    assert step.sizes_of("data=2,fsdp=4", 64) == (2, 4)
    for wrong in ("8", "data", "data=", "data=-2", "data=x", "data=0", "model=2", "fsdp=2,fsdp=2"):
        with pytest.raises(ConfigError, match=f"--mesh is data=N,fsdp=M.*got '{wrong}'"):
            step.sizes_of(wrong, 8)
    for wrong in ("fsdp=3", "data=-1,fsdp=-1", "data=3,fsdp=-1", "fsdp=16"):
        with pytest.raises(
            ConfigError, match=f"--mesh {wrong}: -1 is for what is left of 8 devices"
        ):
            step.sizes_of(wrong, 8)
