"""What every method shares: lengths, the embeddings of both kinds of vocabulary, a teacher's encoder and decoder."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.positions import Learned
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import lengths_of
from toys import TINY

JOINT, SEPARATE = VocabularySizes(12, 12, True), VocabularySizes(12, 15, False)
SOURCE = jnp.array([[6, 7, 8, EOS], [9, EOS, PAD, PAD]])


def teacher_and_student(
    sizes: VocabularySizes,
) -> tuple[AutoregressiveModel, LengthNatModel]:
    teacher = Autoregressive(TINY).build(sizes, rngs=nnx.Rngs(0))
    return teacher, LengthNat(TINY).build(sizes, rngs=nnx.Rngs(1))


def leaves(module: nnx.Module | None) -> list[np.ndarray]:
    """Copies of all parameters; none of a module that is not there."""
    if module is None:
        return []
    return [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))]


def test_lengths_count_what_is_not_padding() -> None:
    np.testing.assert_array_equal(lengths_of(SOURCE), [4, 2])
    np.testing.assert_array_equal(lengths_of(jnp.full((2, 3, 4), PAD)), np.zeros((2, 3)))


@pytest.mark.parametrize("sizes", [JOINT, SEPARATE])
def test_a_student_starts_with_the_embeddings_and_encoder_of_its_teacher(
    sizes: VocabularySizes,
) -> None:
    teacher, student = teacher_and_student(sizes)
    decoder = leaves(student.decoder)
    base.start_encoder(student, teacher)
    for name in ("target_embedding", "source_embedding", "encoder"):
        mine, theirs = (leaves(getattr(model, name)) for model in (student, teacher))
        for left, right in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(left, right)
    assert student.target_embedding.table.shape == (sizes.target, 16)
    assert (student.source_embedding is None) == sizes.is_joint
    for before, after in zip(decoder, leaves(student.decoder), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_copy_is_the_students_own() -> None:
    """A train step donates its parameters: the frozen teacher must survive it."""
    teacher, student = teacher_and_student(JOINT)
    base.start_encoder(student, teacher)
    before = leaves(teacher.encoder)
    _, params = nnx.split(student, nnx.Param)
    step = jax.jit(lambda params: jax.tree.map(lambda x: x + 1.0, params), donate_argnums=0)
    step(params)
    for old, new in zip(before, leaves(teacher.encoder), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"d_model": 32}, "target_embedding"),
        ({"d_hidden": 64}, "encoder"),
        ({"num_encoder_layers": 2}, "encoder"),
        ({"norm": "post"}, "encoder"),
        ({"num_heads": 4}, "encoder"),  # the same shapes, another function
    ],
)
def test_a_teacher_of_another_shape_is_refused_and_the_student_left_as_it_was(
    change: dict, name: str
) -> None:
    teacher, _ = teacher_and_student(JOINT)
    config = LengthNat(dataclasses.replace(TINY, **change))
    student = config.build(JOINT, rngs=nnx.Rngs(1))
    before = leaves(student)
    with pytest.raises(ValueError, match=f"teacher's {name} does not fit the student") as error:
        base.start_encoder(student, teacher)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    for old, new in zip(before, leaves(student), strict=True):
        np.testing.assert_array_equal(old, new)


def test_learned_positions_of_another_number_are_refused() -> None:
    learned = dataclasses.replace(TINY, positions=Learned())
    teacher = LengthNat(learned).build(JOINT, rngs=nnx.Rngs(0))
    shorter = LengthNat(dataclasses.replace(learned, max_length=600))
    student = shorter.build(JOINT, rngs=nnx.Rngs(1))
    with pytest.raises(
        ValueError, match=r"expected max_length 600, got 1024; give both transformers the same"
    ):
        base.start_encoder(student, teacher)


def test_only_a_transformer_encoder_is_handed_over() -> None:
    teacher, student = teacher_and_student(JOINT)
    recurrent = Recurrent(RecurrentConfig(16)).build(JOINT, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="a Transformer encoder, got RecurrentModel and LengthNatModel"
    ):
        base.start_encoder(student, recurrent)
    with pytest.raises(ValueError, match="got AutoregressiveModel and RecurrentModel"):
        base.start_encoder(recurrent, teacher)


def named(module: nnx.Module) -> dict[str, np.ndarray]:
    found, _ = jax.tree_util.tree_flatten_with_path(nnx.state(module, nnx.Param))
    return {".".join(base.names_of(path)): np.array(leaf) for path, leaf in found}


def test_a_student_may_start_with_the_decoder_of_its_teacher() -> None:
    teacher, student = teacher_and_student(JOINT)
    encoder = leaves(student.encoder)
    assert base.start_decoder(student, teacher) == []
    for mine, theirs in zip(leaves(student.decoder), leaves(teacher.decoder), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for before, after in zip(encoder, leaves(student.encoder), strict=True):
        np.testing.assert_array_equal(before, after)
    # Copies: a train step donates the student's.
    assert (
        student.decoder.final_norm.scale[...].unsafe_buffer_pointer()
        != teacher.decoder.final_norm.scale[...].unsafe_buffer_pointer()
    )


def test_what_the_teachers_decoder_lacks_starts_anew() -> None:
    """A fertility NAT has positional attention in each block; here it also has a block more, and wider inner layers."""
    teacher, _ = teacher_and_student(JOINT)
    wider = dataclasses.replace(TINY, num_decoder_layers=2, d_hidden=64)
    student = FertilityNat(wider).build(JOINT, rngs=nnx.Rngs(1))
    before = named(student.decoder)
    anew = base.start_decoder(student, teacher)
    assert anew == [
        "blocks.0.around_positional",
        "blocks.0.feed_forward",
        "blocks.0.positional_attention",
        *(f"blocks.1.{name}" for name in sorted(vars_of_block(student))),
    ]
    theirs = named(teacher.decoder)
    for name, value in named(student.decoder).items():
        # Of the inner layers, the bias of the way out has the teacher's shape.
        is_taken = theirs.get(name, np.zeros(0)).shape == value.shape
        np.testing.assert_array_equal(value, theirs[name] if is_taken else before[name])


def vars_of_block(student: Any) -> set[str]:
    state = nnx.state(student.decoder.blocks[1], nnx.Param)
    return {base.names_of(path)[0] for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]}


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            LengthNat(dataclasses.replace(TINY, num_heads=4)),
            "expected num_heads 4, got 2; give both",
        ),
        (
            LengthNat(dataclasses.replace(TINY, norm="post")),
            "expected norm post, got pre; give both",
        ),
        (
            LengthNat(dataclasses.replace(TINY, d_model=32, d_hidden=64)),
            r"nothing of the teacher's decoder fits the student: .* \(32, 64\), got \(16, 32\)",
        ),
        (
            Recurrent(RecurrentConfig(16)),
            "got AutoregressiveModel and RecurrentModel; set decoder_",
        ),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused_before_there_are_models(
    student: AnyMethod, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        base.check_decoder(student, Autoregressive(TINY))
    model = student.build(JOINT, rngs=nnx.Rngs(0))
    before = leaves(model)
    with pytest.raises(ValueError, match=message):
        base.start_decoder(model, teacher_and_student(JOINT)[0])
    for old, new in zip(before, leaves(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_every_one_pass_method_can_take_a_decoder() -> None:
    for cls in (LengthNat, FertilityNat, Ctc, DaTransformer, Cmlm, IterativeRefinement, Joint):
        base.check_decoder(cls(TINY), Autoregressive(TINY))


@pytest.mark.parametrize("cls", typing.get_args(AnyMethod))
def test_a_share_outside_0_to_1_is_refused_by_every_method(cls: type[Method]) -> None:
    for share in (-0.1, 1.0, 1.5):
        with pytest.raises(ConfigError, match=r"label_smoothing must be in \[0, 1\), got"):
            cls(label_smoothing=share)  # type: ignore[call-arg]


@pytest.mark.slow
def test_methods_of_family_ar_are_those_whose_models_score_and_expect() -> None:
    """A rescorer needs `score`, a teacher of fine-tuning `logits` of source and target."""
    for cls in typing.get_args(AnyMethod):
        model = nnx.eval_shape(lambda cls=cls: cls().build(JOINT, rngs=nnx.Rngs(0)))
        assert isinstance(model, base.Scorer) == (cls.family != "NAT"), cls
        if cls.family == "AR":
            width = jax.eval_shape(type(model).logits, model, SOURCE, SOURCE).shape
            assert width == (2, 4, JOINT.target)


def test_a_method_that_reaches_every_target_says_so_of_every_pair() -> None:
    lengths = np.array([0, 3, 500])
    assert LengthNat().is_feasible(lengths, lengths[::-1], lengths).tolist() == [True] * 3


def test_the_network_of_a_method_is_its_transformer_or_its_own() -> None:
    assert LengthNat(TINY).network == TINY
    assert Recurrent(RecurrentConfig(16)).network == RecurrentConfig(16)


def test_a_teacher_of_other_vocabularies_is_refused() -> None:
    teacher, joint_student = teacher_and_student(JOINT)
    larger = LengthNat(TINY).build(VocabularySizes(13, 13, True), rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="teacher's target_embedding does not fit"):
        base.start_encoder(larger, teacher)
    separate = LengthNat(TINY).build(VocabularySizes(12, 12, False), rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="teacher's source_embedding does not fit"):
        base.start_encoder(separate, teacher)
    separate_teacher = Autoregressive(TINY).build(VocabularySizes(12, 12, False), rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="teacher's source_embedding does not fit"):
        base.start_encoder(joint_student, separate_teacher)
