"""Multi30k English-German (Elliott et al. 2016): 29,000 image captions, from the hub.

    python -m nat_ar study configs/multi30k_en_de/study.py

Minutes on any GPU, an evening on two CPU cores. Published: a small Transformer reaches about 41 BLEU on the 2016
test (recalled, not checked); no non-autoregressive number is known to us. Not yet run by us: no hub here."""

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
    d_model=256, d_hidden=1024, num_encoder_layers=4, num_decoder_layers=4, dropout_rate=0.3
)
TRAINING = TrainingConfig(
    max_steps=8000,
    batching=BatchingConfig(batch_tokens=4096, buckets=(16, 24, 32, 48, 64)),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3, warmup_steps=1000),
    average_decay=0.999,
    validation=ValidationConfig(every_steps=1000, sentences=1014, patience=5),
)

config = StudyConfig(
    name="Multi30k English-German",
    directory="studies/multi30k_en_de",
    data=DataConfig(
        "data/multi30k_en_de",
        HuggingFace("bentrevett/multi30k", source="en", target="de"),
        VocabularyConfig(size=6000),
    ),
    teacher=Entry(
        "ar", Autoregressive(TRANSFORMER), TRAINING, decodings=("Beam(size=4)", "Greedy()")
    ),
    entries=(
        Entry("length_kd", LengthNat(TRANSFORMER), TRAINING, distilled=True),
        Entry(
            "fertility_kd",
            FertilityNat(TRANSFORMER),
            TRAINING,
            distilled=True,
            encoder_from_teacher=True,
            decodings=("Argmax()", "NoisyParallel(samples=10)"),
        ),
    ),
)
