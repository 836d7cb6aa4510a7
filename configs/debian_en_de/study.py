"""Real text in large: English-German out of Debian packages, sized for an evening on two CPU cores.

    python -m nat_ar prepare configs/debian_en_de/study.py    # 420 MB of download, 2 minutes
    python -m nat_ar study configs/debian_en_de/study.py      # in the background; goes on after any stop

110,252 training pairs (software documentation, package descriptions, books), split by document; `ding` (example
sentences of a dictionary) and `wesnoth` (a game's dialogue) are out-of-domain tests and not trained on.
docs/results/debian_en_de took 3.2 hours, most of them beside other work: teacher 62 minutes, distilled data 27,
students 48, translating the three tests 36, benchmark 21."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.debian.corpus import DebianCorpus
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
    d_model=256, d_hidden=1024, num_encoder_layers=3, num_decoder_layers=3, dropout_rate=0.1
)


def training(max_steps: int) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps,
        batching=BatchingConfig(batch_tokens=2048, buckets=(9, 13, 18, 25, 36, 52, 80)),
        optimizer=OptimizerConfig(peak_learning_rate=1.5e-3, warmup_steps=500, schedule="cosine"),
        average_decay=0.999,
        validation=ValidationConfig(every_steps=max_steps // 4, sentences=300),
    )


config = StudyConfig(
    name="Debian English-German",
    directory="studies/debian_en_de",
    data=DataConfig(
        "data/debian_en_de", DebianCorpus(), VocabularyConfig(size=6000), max_tokens=79
    ),
    teacher=Entry(
        "ar",
        Autoregressive(TRANSFORMER),
        training(3600),
        decodings=("Beam(size=4)", "Greedy()"),
    ),
    entries=(
        Entry(
            "length_kd",
            LengthNat(TRANSFORMER),
            training(1500),
            distilled=True,
            encoder_from_teacher=True,
            decodings=("LengthBeam()", "LengthBeam(size=5, rescore=True)"),
        ),
        Entry(
            "fertility_kd",
            FertilityNat(TRANSFORMER),
            training(1500),
            distilled=True,
            encoder_from_teacher=True,
            decodings=("Argmax()", "NoisyParallel(samples=10)"),
        ),
    ),
    distillation="Greedy()",
    tests=("test", "test_ding", "test_wesnoth"),
    speed=SpeedConfig(sentences=100, throughput_sentences=256, max_seconds=40.0),
)
