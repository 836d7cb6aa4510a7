"""The shapes of a model, without its numbers."""

import jax

from nat_ar.data.arrays import PreparedData
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.translation.model import abstract_model


def test_an_abstract_model_holds_no_numbers(tiny_runs) -> None:
    words = PreparedData.load(tiny_runs.data).vocabulary
    _, shapes = abstract_model(Autoregressive(), words)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
