"""What a model shows of its way to a translation is what the translation was made of."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.search.beam import Beam
from nat_ar.search.ctc import collapse
from nat_ar.search.dag import Lookahead
from nat_ar.search.fertility import NoisyParallel
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.refinement import MaskPredict, Refine
from nat_ar.special_tokens import EOS, PAD
from toys import TINY

SIZES, ROOM = VocabularySizes(20, 20, True), 24
SOURCE = jnp.array([[7, 8, 9, 10, EOS], [12, 13, EOS, PAD, PAD], [PAD] * 5], jnp.int32)
LENGTHS = [5, 3, 0]


def shown(method: Method, decoding: Any) -> tuple[list[list[int]], dict[str, Any], Any]:
    """The best translations, and the internals of a random model with large parameters; arrays of each sentence come
    without padding."""
    model = method.build(SIZES, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    params = jax.tree.map(lambda x: 2.0 * x, params)

    @jax.jit
    def run(params: Any) -> Any:
        model = nnx.merge(graph, params)
        options = {"decoding": decoding, "max_length": ROOM}
        return model.decode(SOURCE, **options), model.internals(SOURCE, **options)

    hypotheses, internals = jax.device_get(run(params))
    real: dict[str, Any] = {}
    for name, internal in internals.items():
        real[name] = []
        for row in range(len(SOURCE)):
            inside = [slice(None)] * (internal.values.ndim - 1)
            for axis, lengths in internal.lengths.items():
                inside[axis - 1] = slice(int(lengths[row]))
            real[name].append(internal.values[row][tuple(inside)])
    tokens = [row[0][row[0] != PAD].tolist() for row in hypotheses.tokens]
    return tokens, real, hypotheses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "decoding"),
    [(Autoregressive(TINY), Beam(2)), (Joint(TINY), Greedy())],
    ids=["autoregressive", "joint"],
)
def test_an_autoregressive_translation_with_its_attention(method: Method, decoding: Any) -> None:
    """log p of the tokens adds up to the score; each token's weights over the source add up to 1."""
    translations, found, hypotheses = shown(method, decoding)
    for row, length in enumerate(LENGTHS[:2]):
        tokens, log_p = found["tokens"][row], found["log_probabilities"][row]
        assert tokens.tolist() == [*translations[row], EOS]
        penalty = len(tokens) if isinstance(decoding, Beam) else 1
        assert log_p.sum() / penalty == pytest.approx(hypotheses.scores[row, 0], rel=1e-4)
        weights = found["cross_attention"][row]
        layers, heads = TINY.num_decoder_layers, TINY.num_heads
        assert weights.shape == (layers, heads, len(tokens), length)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    assert found["cross_attention"][2].size == found["tokens"][2].size == 0


@pytest.mark.slow
def test_fertilities_add_up_to_the_length() -> None:
    method = FertilityNat(TINY, max_fertility=6)
    translations, found, _ = shown(method, NoisyParallel(4, rescore=False))
    for row in range(3):
        fertilities = found["fertilities"][row]
        assert len(fertilities) == LENGTHS[row]
        assert fertilities.sum() == found["length"][row] == len(translations[row])
        assert found["tokens"][row].tolist() == translations[row]
        copies = np.bincount(found["fertile_positions"][row], minlength=LENGTHS[row])
        assert copies.tolist() == fertilities.tolist()
        np.testing.assert_allclose(found["fertility_probabilities"][row].sum(axis=-1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [LengthNat(TINY, max_length_offset=4), Joint(TINY, max_length_offset=4)]
)
def test_the_chosen_length_is_one_of_those_tried(method: Method) -> None:
    translations, found, _ = shown(method, LengthBeam(3))
    for row in range(2):
        length = found["length"][row]
        assert length in found["lengths"][row]
        assert found["labels"][row].tolist() == translations[row]
        assert len(translations[row]) == length
        assert found["length_probabilities"][row].sum() == pytest.approx(1.0, abs=1e-5)
        assert found["class_lengths"][row].tolist() == list(
            range(LENGTHS[row] - 5, LENGTHS[row] + 4)
        )
    assert found["length"][2] == 0


def test_the_labels_of_the_frames_collapse_to_the_translation() -> None:
    method = Ctc(TINY, upsample_factor=2)
    translations, found, _ = shown(method, method.decoding)
    for row in range(3):
        labels = found["labels"][row]
        assert len(labels) == 2 * LENGTHS[row] == len(found["log_probabilities"][row])
        if len(labels):
            limit = jnp.array([ROOM])
            words = collapse(jnp.asarray(labels)[None], length_limits=limit, max_length=ROOM)[0]
            assert words[words != PAD].tolist() == translations[row]


def test_the_path_goes_from_the_first_vertex_to_the_last() -> None:
    translations, found, hypotheses = shown(DaTransformer(TINY, upsample_factor=3), Lookahead())
    for row in range(2):
        path, vertices = found["path"][row], 3 * LENGTHS[row]
        assert (path[0], path[-1]) == (0, vertices - 1)
        assert (np.diff(path) > 0).all()
        assert found["path_tokens"][row].tolist() == [*translations[row], EOS]
        moves, gains = (found[f"{of}_log_probabilities"][row] for of in ("move", "token"))
        expected = np.log(found["transitions"][row][path[:-1], path[1:]])
        np.testing.assert_allclose(moves, expected, rtol=1e-4, atol=1e-5)
        # No path of these tokens is better than the one that the search took.
        assert moves.sum() + gains.sum() >= hypotheses.scores[row, 0] - 1e-4
        visits = found["visits"][row]
        assert (visits[0], visits[-1]) == (1.0, pytest.approx(1.0, abs=1e-4))
    assert found["path"][2].size == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "decoding"),
    [
        (Cmlm(TINY, max_length_offset=4), MaskPredict(3, 2)),
        (IterativeRefinement(TINY, max_length_offset=4), Refine(3, length_beam=2)),
    ],
)
def test_the_last_row_of_a_trace_is_the_translation(method: Method, decoding: Any) -> None:
    translations, found, hypotheses = shown(method, decoding)
    once, _, _ = shown(method, dataclasses.replace(decoding, iterations=1, length_beam=1))
    for row in range(3):
        trace, log_p = found["tokens"][row], found["log_probabilities"][row]
        assert trace.shape == log_p.shape == (3, len(translations[row]))
        assert trace[-1].tolist() == translations[row]
        if translations[row]:
            assert log_p[-1].mean() == pytest.approx(hypotheses.scores[row, 0], rel=1e-4)
            if len(once[row]) == found["length"][row]:
                assert trace[0].tolist() == once[row]
