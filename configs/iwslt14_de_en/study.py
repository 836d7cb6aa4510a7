"""IWSLT14 German-English: 160,000 sentence pairs of TED talks, from the hub.

    python -m nat_ar study configs/iwslt14_de_en/study.py

Hours on one modern GPU. Published, test set: autoregressive 34.7 raw and 35.1 distilled, GLAT distilled 29.1, CMLM
with 10 passes 32.9 (tokenised, lower-cased, as DEER's table gives them); 33.8 (sacreBLEU) autoregressive. Sizes
follow transformer_iwslt_de_en. Not yet run by us: no hub here."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=512,
    d_hidden=1024,
    num_heads=4,
    num_encoder_layers=6,
    num_decoder_layers=6,
    dropout_rate=0.3,
)
TRAINING = TrainingConfig(
    max_steps=60_000,
    batching=BatchingConfig(batch_tokens=8192),
    optimizer=OptimizerConfig(peak_learning_rate=5e-4, warmup_steps=4000, weight_decay=1e-4),
    average_decay=0.9999,
    validation=ValidationConfig(every_steps=2000, sentences=1000),
)

config = StudyConfig(
    name="IWSLT14 German-English",
    directory="studies/iwslt14_de_en",
    data=DataConfig(
        "data/iwslt14_de_en",
        HuggingFace(
            "bbaaaa/iwslt14-de-en",
            source="translation.de",
            target="translation.en",
        ),
        VocabularyConfig(size=10_000),
    ),
    teacher=Entry(
        "ar", Autoregressive(TRANSFORMER), TRAINING, decodings=("Beam(size=5)", "Greedy()")
    ),
    entries=(
        Entry("length_kd", LengthNat(TRANSFORMER), TRAINING, distilled=True),
        Entry(
            "fertility_kd",
            FertilityNat(TRANSFORMER),
            TRAINING,
            distilled=True,
            encoder_from_teacher=True,
            decodings=("Argmax()", "Average()", "NoisyParallel(samples=10)"),
        ),
    ),
    distillation="Beam(size=5)",
)
