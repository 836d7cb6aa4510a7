"""Real text in large: English-German out of Debian packages, sized for an evening on two CPU cores.

    python -m nat_ar prepare configs/debian_en_de/study.py    # 420 MB of download, 2 minutes
    python -m nat_ar study configs/debian_en_de/study.py      # in the background; goes on after any stop

Some 110,000 training pairs (software documentation, package descriptions, books), split by document; `ding` (example
sentences of a dictionary) and `wesnoth` (a game's dialogue) are out-of-domain tests and not trained on. The recipe
follows docs/log.md: Muon, decoder inputs from encoder states, students that start with the teacher's encoder. The
DA-Transformer alone learns from the pairs themselves, all others from the teacher's translations."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment import recipes
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.glancing import Glancing
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import Muon, OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=256, d_hidden=1024, num_encoder_layers=3, num_decoder_layers=3, dropout_rate=0.15
)
TEACHER_STEPS, STEPS = 5000, 1500


def training(max_steps: int) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps,
        batching=BatchingConfig(batch_tokens=4096, buckets=(9, 13, 18, 25, 36, 52, 80)),
        optimizer=OptimizerConfig(
            peak_learning_rate=2e-3, warmup_steps=300, schedule="cosine", muon=Muon()
        ),
        average_decay=0.99,
        validation=ValidationConfig(every_steps=500, sentences=500),
        log_every=50,
    )


STUDENT = training(STEPS)


config = StudyConfig(
    name="Debian English-German",
    directory="studies/debian_en_de",
    data=DataConfig(
        "data/debian_en_de", DebianCorpus(), VocabularyConfig(size=8000), max_tokens=79
    ),
    teacher=Entry(
        "ar",
        Autoregressive(TRANSFORMER),
        training(TEACHER_STEPS),
        decodings=("Beam(size=4)", "Greedy()"),
    ),
    entries=(
        *recipes.students(
            TRANSFORMER,
            STUDENT,
            ctc_glancing=Glancing(0.5, 0.0, anneal_steps=2 * STEPS // 3),
        ),
        recipes.student(
            "cmlm_kd",
            Cmlm(TRANSFORMER),
            STUDENT,
            *(f"MaskPredict(iterations={number})" for number in (1, 4, 10)),
        ),
    ),
    distillation="Greedy()",
    tests=("test", "test_ding", "test_wesnoth"),
    speed=SpeedConfig(sentences=100, throughput_sentences=256, max_seconds=12.0),
)
