"""A first real study: short everyday sentences, English to German, sized for an hour on two CPU cores (57
minutes measured).

    python -m nat_ar study configs/tatoeba_en_de/study.py                            # from the hub
    python -m nat_ar study configs/tatoeba_en_de/study.py --corpus-file pairs.tsv.gz # English TAB German

Sentences that share a source or a target with another stay on one side of the split (hold-out by connected
component), since many English sentences have several German ones: du, ihr and Sie are the modes here."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=192, d_hidden=768, num_encoder_layers=3, num_decoder_layers=3, dropout_rate=0.15
)


def training(max_steps: int) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps,
        batching=BatchingConfig(batch_tokens=2048, buckets=(8, 10, 12, 15, 20, 32)),
        optimizer=OptimizerConfig(peak_learning_rate=2e-3, warmup_steps=400, schedule="cosine"),
        average_decay=0.998,
        validation=ValidationConfig(every_steps=max_steps // 4, sentences=500),
    )


config = StudyConfig(
    name="Tatoeba English-German",
    directory="studies/tatoeba_en_de",
    data=DataConfig(
        "data/tatoeba_en_de",
        HuggingFace(
            "sentence-transformers/parallel-sentences-tatoeba",
            source="english",
            target="non_english",
            subset="en-de",
            validation=None,
            test=None,
            hold_out=HoldOut(validation=1000, test=2000, by="component"),
        ),
        VocabularyConfig(size=4000),
    ),
    teacher=Entry(
        "ar",
        Autoregressive(TRANSFORMER),
        training(1200),
        decodings=(
            "Beam(size=4)",
            "Greedy()",
            "Jacobi(block=6)",
            "Speculative(block=6, drafter='length_kd', drafting='LengthBeam()')",
        ),
    ),
    entries=(
        Entry(
            "length_kd",
            LengthNat(TRANSFORMER),
            training(1000),
            distilled=True,
            encoder_from_teacher=True,
            decodings=("LengthBeam()", "LengthBeam(size=5)", "LengthBeam(size=5, rescore=True)"),
        ),
        Entry(
            "fertility_kd",
            FertilityNat(TRANSFORMER),
            training(1000),
            distilled=True,
            encoder_from_teacher=True,
            decodings=("Argmax()", "Average()", "NoisyParallel(samples=10)"),
        ),
    ),
    speed=SpeedConfig(sentences=100, throughput_sentences=256, max_seconds=12.0),
)
