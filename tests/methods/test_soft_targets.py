"""Every method that can learn from a teacher's distributions does, at the positions that its loss looks at."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from nat_ar.losses.axe import Axe
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.special_tokens import PAD
from nat_ar.types import Batch, SoftTargets
from toys import TINY, sentences

VOCABULARY = 16
SIZES = VocabularySizes(VOCABULARY, VOCABULARY, is_joint=True)
LEARNING = (
    LengthNat(TINY),
    LengthNat(TINY, glancing=Glancing()),
    FertilityNat(TINY),
    FertilityNat(TINY, glancing=Glancing()),
    Cmlm(TINY),
    Joint(TINY),
    Autoregressive(TINY),
    Recurrent(RecurrentConfig(16)),
)


def batch_of() -> Batch:
    source = sentences(0, [6, 3, 0], 8, vocabulary=VOCABULARY)
    target = sentences(1, [6, 3, 0], 8, vocabulary=VOCABULARY)
    fertilities = jnp.array([[1] * 5 + [0] * 3, [1, 1] + [0] * 6, [0] * 8])
    return Batch(source, target, fertilities)


def soft_of(batch: Batch, other: int, weight: float) -> SoftTargets:
    """The target's own words, and with `weight` one and the same other word."""
    tokens = jnp.stack([batch.target, jnp.full_like(batch.target, other)], axis=-1)
    weights = jnp.where((batch.target != PAD)[..., None], jnp.array([1.0 - weight, weight]), 0.0)
    return SoftTargets(tokens, weights)


@pytest.mark.parametrize("method", LEARNING, ids=lambda method: type(method).__name__)
def test_a_loss_is_linear_in_its_soft_targets(method: Method) -> None:
    """Words of weight 1 are the words; half of another word is half way to it. Glancing and masking draw the same."""
    assert method.learns_distributions
    graphdef, params = nnx.split(method.build(SIZES, rngs=nnx.Rngs(0)))

    @jax.jit
    def objective(batch: Batch) -> jax.Array:
        rngs = nnx.Rngs(dropout=jax.random.key(3))
        return nnx.merge(graphdef, params).loss(batch, step=jnp.int32(0), rngs=rngs).objective

    batch = batch_of()
    plain = float(objective(batch))
    none, half, whole = (
        float(objective(dataclasses.replace(batch, soft=soft_of(batch, 9, weight))))
        for weight in (0.0, 0.5, 1.0)
    )
    assert none == pytest.approx(plain, rel=1e-5)
    assert half == pytest.approx((none + whole) / 2, rel=1e-5)
    assert abs(whole - none) > 1e-3


@pytest.mark.parametrize(
    "method",
    [
        LengthNat(TINY, token_loss=Axe()),
        Ctc(TINY),
        DaTransformer(TINY),
        DecoderOnly(TINY),
        IterativeRefinement(TINY),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_method_that_would_not_look_at_them_says_so(method: Method) -> None:
    assert not method.learns_distributions
