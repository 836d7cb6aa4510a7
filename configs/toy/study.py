"""The quickstart: teacher, distilled data, Gu's NAT and CTC on the built-in toy language.

    python -m nat_ar study configs/toy/study.py

Two CPU cores, 9 to 14 minutes (measured, beside other work), no download. Two layers of width 128 are small, and the
training is as short as the clock allows: configs/toy/longer_study.py takes more time and adds the deep-encoder,
shallow-decoder baseline."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=128, d_hidden=512, num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.05
)


def training(max_steps: int) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps,
        batching=BatchingConfig(batch_tokens=1024, buckets=(16, 26)),
        optimizer=OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=200, schedule="cosine"),
        validation=ValidationConfig(every_steps=max_steps // 2, sentences=200),
    )


NAT = FertilityNat(TRANSFORMER, label_smoothing=0.0)

config = StudyConfig(
    name="Toy language",
    directory="studies/toy",
    data=DataConfig(
        "data/toy",
        ToyCorpus(num_train=16_000),
        VocabularyConfig(size=1000, kind="bpe", byte_fallback=False),
    ),
    teacher=Entry(
        "ar",
        Autoregressive(TRANSFORMER),
        training(1000),
        decodings=("Beam(size=4)", "Greedy()", "Speculative(block=6, drafter='ctc_kd')"),
    ),
    entries=(
        Entry(
            "length",
            LengthNat(TRANSFORMER, label_smoothing=0.0),
            training(600),
            encoder_from_teacher=True,
        ),
        Entry("fertility", NAT, training(600), encoder_from_teacher=True),
        Entry(
            "fertility_kd",
            NAT,
            training(600),
            distilled=True,
            encoder_from_teacher=True,
            decodings=("Argmax()", "NoisyParallel(samples=5)"),
        ),
        Entry(
            "ctc_kd",
            Ctc(TRANSFORMER, upsample_factor=2),
            training(600),
            distilled=True,
            encoder_from_teacher=True,
        ),
    ),
    distillation="Beam(size=2)",
    # Larger batches are more programs to compile: configs/toy/longer_study.py has them.
    # So are the counters behind the floors, one for each system and length.
    speed=SpeedConfig(sentences=50, batch_sizes=(1,), max_seconds=5.0, floors=False),
    # Without papers' percentages, which are of real languages: 80 columns hold the rest.
    columns=(
        *("system", "data", "bleu", "passes", "accepted", "ms", "beam", "greedy"),
        *("teacher", "valid"),
    ),
)
