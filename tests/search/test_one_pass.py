"""Translations of one pass: repeats are removed where the decoding says so, before anything is scored again."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import toys
from nat_ar import config_json
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.length_nat import LengthNat
from nat_ar.search import one_pass
from nat_ar.search.fertility import Argmax, Average, NoisyParallel
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.refinement import MaskPredict, Refine
from nat_ar.special_tokens import BLANK, PAD
from toys import TINY, SmallIds, one_width


def test_repeats_are_removed_by_hand() -> None:
    rows = jnp.array([[7, 7, 8, 7, 7, 7], [9, 9, 9, PAD, PAD, PAD], [PAD] * 6, [6, 7, 8, 9, 8, 8]])
    expected = [[7, 8, 7, 0, 0, 0], [9, 0, 0, 0, 0, 0], [0] * 6, [6, 7, 8, 9, 8, 0]]
    np.testing.assert_array_equal(jax.jit(one_pass.remove_repeats)(rows), expected)


def test_a_length_beam_removes_repeats_and_keeps_its_scores() -> None:
    """Positions say 7 7 6 6 BLANK 6: of two lengths, 5 and 6, with blanks dropped first."""
    said = np.array([7, 7, 6, 6, BLANK, 6])
    logits = jnp.broadcast_to(5.0 * (said[:, None] == np.arange(8)), (1, 2, 6, 8))
    lengths = jnp.array([[5, 6]])
    stay, gone = (
        LengthBeam(2, remove_repeats=removes).search(logits, lengths, may_be_blank=True)
        for removes in (False, True)
    )
    np.testing.assert_array_equal(stay[0][0], [[7, 7, 6, 6, 0, 0], [7, 7, 6, 6, 6, 0]])
    np.testing.assert_array_equal(gone[0][0], [[7, 6, 0, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(gone[1], stay[1])


DECODINGS: list[tuple[Method, Any]] = [
    (LengthNat(TINY), LengthBeam(3, n_best=3)),
    (FertilityNat(TINY, max_fertility=9), NoisyParallel(3, rescore=False, n_best=3)),
    (Cmlm(TINY), MaskPredict(1, length_beam=3, n_best=3)),
]


@pytest.mark.parametrize(("method", "decoding"), DECODINGS)
def test_a_scorer_sees_what_is_returned(method: Method, decoding: Any) -> None:
    """A model that says the same word everywhere: one word is left of each candidate. SmallIds scores -id a word."""
    model = method.build(VocabularySizes(16, 16, is_joint=True), rngs=nnx.Rngs(0))
    model.decoder.final_norm.scale[...] *= 0
    model.decoder.final_norm.bias[...] += model.target_embedding.table[...][9]
    model.target_embedding.table[...] = model.target_embedding.table[...].at[9].multiply(3.0)
    source = toys.sentences(0, [3, 4], 4, vocabulary=16)

    def decode(**changes: Any) -> Any:
        changed = dataclasses.replace(decoding, **changes)
        return toys.decode(model, source, changed, 18, scorer=SmallIds(), widths=one_width)

    plain, cleaned = decode(), decode(remove_repeats=True)
    assert set(np.unique(plain.tokens)) == {PAD, 9}
    assert (plain.tokens != PAD).sum() > (cleaned.tokens != PAD).sum() == 6
    np.testing.assert_allclose(cleaned.scores, plain.scores, rtol=1e-6)
    rescored = decode(remove_repeats=True, rescore=True)
    np.testing.assert_array_equal(rescored.tokens[..., 0], 9)
    assert not rescored.tokens[..., 1:].any()
    np.testing.assert_array_equal(rescored.scores, -9.0)


@pytest.mark.parametrize(
    "decoding",
    [
        LengthBeam(),
        Argmax(),
        Average(),
        NoisyParallel(),
        MaskPredict(),
        Refine(remove_repeats=True),
    ],
)
def test_decodings_of_earlier_runs_keep_repeats(decoding: Any) -> None:
    data = config_json.to_json(decoding)
    assert config_json.from_json(type(decoding), data) == decoding
    del data["remove_repeats"]
    assert not config_json.from_json(type(decoding), data).remove_repeats
