"""Which experiments are possible, and how a config file is read."""

import dataclasses
from pathlib import Path

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.batching import BatchingConfig
from nat_ar.data.prepare import DataConfig
from nat_ar.data.subword_regularisation import SubwordRegularisation
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.fertility_prediction import FineTuning
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.one_pass import LengthBeam
from nat_ar.training.config import TrainingConfig

DATA = DataConfig("data", ToyCorpus())


def test_the_longest_bucket_fits_the_positions() -> None:
    batching = BatchingConfig(batch_tokens=4096, buckets=(8, 1025))
    with pytest.raises(ConfigError, match=r"buckets ends at 1025, .*max_length is 1024"):
        ExperimentConfig("x", DATA, LengthNat(), TrainingConfig(batching=batching))


def test_fertilities_need_alignments() -> None:
    without = dataclasses.replace(DATA, aligner=None)
    ExperimentConfig("x", without, LengthNat())
    ExperimentConfig("x", dataclasses.replace(without, alignments="links.txt"), FertilityNat())
    with pytest.raises(ConfigError, match=r"FertilityNat learns fertilities .* set data.aligner"):
        ExperimentConfig("x", without, FertilityNat())


def test_fine_tuning_needs_a_teacher() -> None:
    tuned = FertilityNat(fine_tuning=FineTuning())
    ExperimentConfig("x", DATA, tuned, teacher="runs/ar")
    with pytest.raises(ConfigError, match="autoregressive teacher: name its run in `teacher`"):
        ExperimentConfig("x", DATA, tuned)


def test_the_longest_translation_fits_the_positions() -> None:
    """Of a source of 256 tokens: 2 * 256 + 10, and EOS."""
    ExperimentConfig("x", DATA, LengthNat(TransformerConfig(max_length=523)))
    with pytest.raises(ConfigError, match=r"may become 523, .*max_length is 522"):
        ExperimentConfig("x", DATA, LengthNat(TransformerConfig(max_length=522)))


def test_positions_are_counted_in_tokens_not_in_frames() -> None:
    """A CTC decoder with eight frames a token knows eight times max_length places."""
    ExperimentConfig("x", DATA, Ctc(TransformerConfig(max_length=523), upsample_factor=8))
    with pytest.raises(ConfigError, match=r"may become 523, .*max_length is 522"):
        ExperimentConfig("x", DATA, Ctc(TransformerConfig(max_length=522), upsample_factor=8))


def test_rescoring_and_starting_from_a_teacher_need_one() -> None:
    rescoring = LengthNat(decoding=LengthBeam(rescore=True))
    with pytest.raises(ConfigError, match="rescores with a teacher: name its run in `teacher`"):
        ExperimentConfig("x", DATA, rescoring)
    with pytest.raises(ConfigError, match="encoder_from_teacher needs a teacher"):
        ExperimentConfig("x", DATA, LengthNat(), encoder_from_teacher=True)
    with pytest.raises(ConfigError, match="decoder_from_teacher needs a teacher"):
        ExperimentConfig("x", DATA, LengthNat(), decoder_from_teacher=True)
    ExperimentConfig("x", DATA, rescoring, teacher="runs/ar", encoder_from_teacher=True)


def test_a_model_that_rescores_itself_needs_no_teacher() -> None:
    own = Joint()
    assert own.decoding.rescore
    ExperimentConfig("x", DATA, own)


@pytest.mark.parametrize("method", [Recurrent(), DecoderOnly()])
def test_a_method_without_the_teachers_encoder_cannot_start_with_it(method: AnyMethod) -> None:
    with pytest.raises(ConfigError, match=f"{type(method).__name__} does not have the Transformer"):
        ExperimentConfig("x", DATA, method, teacher="runs/ar", encoder_from_teacher=True)


def test_word_distributions_are_for_methods_that_look_at_them() -> None:
    training = TrainingConfig(word_distributions=0.5)
    ExperimentConfig("x", DATA, LengthNat(), training)
    with pytest.raises(ConfigError, match=r"training\.word_distributions cannot be: Ctc as config"):
        ExperimentConfig("x", DATA, Ctc(), training)


def test_word_distributions_are_those_of_the_prepared_target() -> None:
    TrainingConfig(
        word_distributions=0.5, subword_regularisation=SubwordRegularisation(0.1, target_alpha=0.0)
    )
    with pytest.raises(
        ConfigError, match=r"set subword_regularisation\.target_alpha to 0, got 0\.1"
    ):
        TrainingConfig(word_distributions=0.5, subword_regularisation=SubwordRegularisation())
    with pytest.raises(
        ConfigError, match=r"training\.word_distributions must be from 0 to 1, got 2"
    ):
        TrainingConfig(word_distributions=2.0)


def test_a_recurrent_network_knows_sentences_of_any_length() -> None:
    batching = BatchingConfig(batch_tokens=4096, buckets=(8, 2048))
    ExperimentConfig("x", DATA, Recurrent(), TrainingConfig(batching=batching))


def test_an_experiment_trains_on_its_data_unless_told_otherwise() -> None:
    config = ExperimentConfig("x", DATA, LengthNat())
    assert config.training_directory == "data"
    assert dataclasses.replace(config, train_on="distilled").training_directory == "distilled"


def test_a_config_file_may_stand_anywhere_and_compute(tmp_path: Path) -> None:
    path = tmp_path / "with space.py"
    path.write_text(
        "from nat_ar.nn.transformer import TransformerConfig\n"
        "config = TransformerConfig(d_hidden=4 * 64)",
        "utf-8",
    )
    assert load_file(path) == TransformerConfig(d_hidden=256)


def test_a_config_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    with pytest.raises(ConfigError, match=r"config\.py, which does not exist"):
        load_file(path)
    path.write_text("settings = 3", "utf-8")
    with pytest.raises(ConfigError, match="must assign its dataclass to the name `config`"):
        load_file(path)
    path.write_text(
        "from nat_ar.methods.length_nat import LengthNat\nconfig = LengthNat()\n"
        "object.__setattr__(config, 'copy', 'hard')",
        "utf-8",
    )
    with pytest.raises(
        ConfigError, match=r"config\.py\.copy: expected one of .*'soft', 'squared', got 'hard'"
    ):
        load_file(path)
