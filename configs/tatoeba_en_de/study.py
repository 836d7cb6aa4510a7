"""A first real study: short everyday sentences, English to German, sized for an hour on two CPU cores.

    python -m nat_ar study configs/tatoeba_en_de/study.py                            # from the hub
    python -m nat_ar study configs/tatoeba_en_de/study.py --corpus-file pairs.tsv.gz # English TAB German

Sentences that share a source or a target with another stay on one side of the split (hold-out by connected
component), since many English sentences have several German ones: du, ihr and Sie are the modes here. The recipe
follows docs/log.md: Muon, decoder inputs from encoder states, students that start with the teacher's encoder. The
DA-Transformer alone learns from the pairs themselves, all others from the teacher's translations."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment import recipes
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.glancing import Glancing
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import Muon, OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=192, d_hidden=768, num_encoder_layers=3, num_decoder_layers=3, dropout_rate=0.15
)
TEACHER_STEPS, STEPS = 1200, 600


def training(max_steps: int) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps,
        batching=BatchingConfig(batch_tokens=2048, buckets=(8, 10, 12, 15, 20, 32)),
        optimizer=OptimizerConfig(
            peak_learning_rate=2e-3,
            warmup_steps=max_steps // 6,
            schedule="cosine",
            muon=Muon(),
        ),
        average_decay=0.99,
        validation=ValidationConfig(every_steps=max_steps // 4, sentences=500),
    )


STUDENT = training(STEPS)


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
        training(TEACHER_STEPS),
        decodings=(
            "Beam(size=4)",
            "Greedy()",
            "Jacobi(block=6)",
            "Speculative(block=6, drafter='ctc_kd', drafting='BestPath()')",
        ),
    ),
    entries=recipes.students(
        TRANSFORMER, STUDENT, ctc_glancing=Glancing(0.5, 0.3, anneal_steps=STEPS)
    ),
    speed=SpeedConfig(sentences=100, throughput_sentences=256, max_seconds=12.0),
)
