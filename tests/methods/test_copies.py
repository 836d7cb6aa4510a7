"""The methods whose decoders read copies of the source, with every choice of nn/decoder_inputs.py."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import toys
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.decoder_inputs import Copies
from nat_ar.search.fertility import NoisyParallel
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.refinement import MaskPredict, Refine
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Batch
from toys import TINY, SmallIds, one_width

SIZES = VocabularySizes(16, 16, is_joint=True)
EVENLY = Copies(
    of="states",
    source_positions=True,
    told_apart_by="vector",
    copies_eos=False,
    learned_temperature=True,
)
BY_FERTILITY = Copies(of="states", source_positions=True, told_apart_by="map", places=2)
METHODS: dict[str, tuple[Method, Any]] = {
    "length": (
        LengthNat(TINY, copy="squared", inputs=EVENLY, max_length_offset=5),
        LengthBeam(2, n_best=2),
    ),
    "fertility": (
        FertilityNat(TINY, inputs=BY_FERTILITY, max_fertility=5),
        NoisyParallel(2, rescore=False, n_best=2),
    ),
    "cmlm": (
        Cmlm(TINY, copy="soft", inputs=EVENLY, max_length_offset=5),
        MaskPredict(2, length_beam=2, n_best=2),
    ),
    "refinement": (
        IterativeRefinement(TINY, copy="soft", inputs=EVENLY, max_length_offset=5),
        Refine(2, length_beam=2, n_best=2),
    ),
}
BATCH = Batch(
    jnp.array([[6, 7, 8, EOS], [9, 6, EOS, PAD], [PAD] * 4]),
    jnp.array([[9, 9, 7, 6, 8, EOS], [6, 7, EOS, PAD, PAD, PAD], [PAD] * 6]),
    jnp.array([[2, 0, 3, 0], [1, 1, 0, 0], [0] * 4]),
)


def sentences(lengths: list[int], width: int) -> jax.Array:
    return toys.sentences(3, lengths, width, vocabulary=16)


@pytest.mark.parametrize("name", METHODS)
def test_everything_new_has_a_gradient(name: str) -> None:
    graph, params = nnx.split(METHODS[name][0].build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(params: nnx.State) -> jax.Array:
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        return nnx.merge(graph, params).loss(BATCH, step=jnp.int32(0), rngs=rngs).objective

    leaves = jax.tree.leaves(gradient(params)["copier"])
    assert len(leaves) == 2
    assert all(float(jnp.abs(leaf).max()) > 1e-6 for leaf in leaves)


@pytest.mark.parametrize(
    "name", ["length", *(pytest.param(n, marks=pytest.mark.slow) for n in list(METHODS)[1:])]
)
def test_company_and_padding_change_no_translation(name: str) -> None:
    method, decoding = METHODS[name]
    model = method.build(SIZES, rngs=nnx.Rngs(0))
    source, room = sentences([4, 2, 3], 4), 12

    def decode(source: jax.Array) -> Any:
        return toys.decode(model, source, decoding, room, scorer=SmallIds(), widths=one_width)

    together = decode(source)
    wider = jnp.pad(source, ((0, 0), (0, 3)))
    for row in range(3):
        alone = decode(wider[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


def test_shown_words_keep_the_marks_of_their_copies() -> None:
    """Of the length NAT, whose glancing shows one word: there it reads the word, and as before what is added."""
    method = dataclasses.replace(METHODS["length"][0], inputs=Copies(told_apart_by="vector"))
    model = method.build(SIZES, rngs=nnx.Rngs(0))
    encoded, lengths = model.encode(BATCH.source), jnp.array([5, 2, 0])
    plain = model.decoder_inputs(BATCH.source, encoded, lengths, 5)
    shown = jnp.zeros((3, 5), jnp.int32).at[0, 3].set(9)
    read = model.decoder_inputs(BATCH.source, encoded, lengths, 5, shown)
    assert (np.abs(read - plain).max(axis=2) > 0).tolist() == (shown == 9).tolist()
    # Four source tokens, EOS counted, on five positions: round(3 * 4 / 5) = 2, which position 2 copies as well.
    vector = model.copier.vectors(jnp.array(1))
    np.testing.assert_allclose(read[0, 3], model.target_embedding(jnp.array(9)) + vector, atol=1e-5)


NEW_FIELDS = {
    LengthNat: ("inputs", "deep_supervision_reads", "length_prior"),
    Joint: ("inputs", "deep_supervision_reads", "length_prior"),
    FertilityNat: ("inputs", "glancing"),
    Cmlm: ("copy", "soft_copy_temperature", "inputs", "length_prior"),
    IterativeRefinement: ("inputs", "length_prior"),
}


@pytest.mark.parametrize("method", NEW_FIELDS)
def test_configs_of_earlier_runs_are_those_of_today(method: type[Method]) -> None:
    config = method(transformer=TINY)  # type: ignore[call-arg]
    data = config_json.to_json(config)
    for field in NEW_FIELDS[method]:
        del data[field]
    assert config_json.from_json(method, data) == config


LEVERS = dataclasses.replace(TINY, decoder_positions="every_layer", decoder_memory="same_layer")


@pytest.mark.parametrize(
    "student",
    [
        LengthNat(LEVERS, copy="squared", inputs=EVENLY, positional_attention=True),
        FertilityNat(LEVERS, inputs=BY_FERTILITY, glancing=Glancing()),
        Ctc(LEVERS, upsampling="states"),
    ],
)
def test_a_plain_teachers_encoder_fits_every_choice(student: Method) -> None:
    """What is new is the decoder's: the teacher has none of it."""
    teacher = Autoregressive(TINY).build(SIZES, rngs=nnx.Rngs(1))
    model = student.build(SIZES, rngs=nnx.Rngs(0))
    base.start_encoder(model, teacher)
    expected = teacher.encode(BATCH.source).states
    np.testing.assert_array_equal(model.encode(BATCH.source).states, expected)
    rngs = nnx.Rngs(dropout=jax.random.key(0))
    assert np.isfinite(model.loss(BATCH, step=jnp.int32(0), rngs=rngs).objective)


def test_copies_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match="but copy is 'none'"):
        Cmlm(TINY, inputs=EVENLY)
