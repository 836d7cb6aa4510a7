"""The shapes of a model, without its numbers, and the type in which it translates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.data.arrays import PreparedData
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.translation.model import Model, abstract_model, dtype_of
from nat_ar.types import Hypotheses

SMALL = TransformerConfig(
    d_model=16, d_hidden=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
)
METHODS = (
    Autoregressive(SMALL),
    LengthNat(SMALL),
    Ctc(SMALL),
    DaTransformer(SMALL),
    Recurrent(RecurrentConfig(d_model=16, num_decoder_layers=1)),
)


def test_an_abstract_model_holds_no_numbers(tiny_runs) -> None:
    words = PreparedData.load(tiny_runs.data).vocabulary
    _, shapes = abstract_model(Autoregressive(), words)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


@pytest.mark.skipif(not cpu_kernels.are_available(), reason="no CPU, or no C++ compiler")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_what_was_trained_in_bfloat16_translates_in_float32_by_kernels(method: Method) -> None:
    """Token by token and bit by bit as the same numbers under a config of float32."""
    name = "network" if isinstance(method, Recurrent) else "transformer"
    short = dataclasses.replace(getattr(method, name), dtype="bfloat16")
    found: list[Hypotheses] = []
    for one in (method, dataclasses.replace(method, **{name: short})):  # type: ignore[type-var]
        network = one.build(VocabularySizes(40, 40, is_joint=True), rngs=nnx.Rngs(0))
        model = Model(*nnx.split(network, nnx.Param)).packed()
        source = jnp.array([[7, 8, 9, 10, 2], [11, 12, 2, 0, 0]], jnp.int32)
        found.append(model.decode(model.leaves, source, decoding=one.decoding, max_length=8))
        assert dtype_of(one) == "float32"
    for expected, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(other, expected)


def test_without_kernels_a_model_translates_in_its_own_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_kernels, "are_available", lambda: False)
    assert dtype_of(LengthNat(dataclasses.replace(SMALL, dtype="bfloat16"))) == "bfloat16"
