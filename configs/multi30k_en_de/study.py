"""Multi30k English-German (Elliott et al. 2016): 29,000 image captions; the reference study.

    python -m nat_ar study configs/multi30k_en_de/study.py                     # from the hub
    python -m nat_ar study configs/multi30k_en_de/study.py \
        --corpus-file train.tsv.gz validation.tsv.gz test2016.tsv.gz           # English TAB German

Transformer-tiny (Wu et al. 2021, "Good for misconceived reasons"), test2016, cased sacreBLEU. The recipe follows
docs/log.md: Muon, decoder inputs from encoder states, students that start with the teacher's encoder.

Run on 2026-11-29, all but `fertility_kd`, on two cores beside other work: 30 minutes for the teacher, 16 to 37 for a
student; docs/results/multi30k_en_de."""

import dataclasses

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.decoder_inputs import Copies
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import Muon, OptimizerConfig

TINY = TransformerConfig(
    d_model=128,
    d_hidden=256,
    num_heads=4,
    num_encoder_layers=4,
    num_decoder_layers=4,
    dropout_rate=0.3,
)
STUDENT = dataclasses.replace(TINY, dropout_rate=0.1)


def training(max_steps: int, peak_learning_rate: float) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps,
        batching=BatchingConfig(batch_tokens=4096, buckets=(12, 16, 20, 24, 32, 48, 64)),
        optimizer=OptimizerConfig(
            peak_learning_rate=peak_learning_rate,
            warmup_steps=200,
            schedule="cosine",
            muon=Muon(),
        ),
        average_decay=0.99,
        validation=ValidationConfig(every_steps=500, sentences=500),
        log_every=50,
    )


def student(name: str, method: Method, *decodings: str, max_steps: int = 1000) -> Entry:
    return Entry(
        name,
        method,
        training(max_steps, 3e-3),
        distilled=True,
        encoder_from_teacher=True,
        decodings=decodings,
    )


def glancing(max_steps: int = 1000) -> Glancing:
    return Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=max_steps)


STATES = Copies(of="states", told_apart_by="map")
"""encoder states, the first, second, ... copy of each through a linear map of its own"""
LENGTH = LengthNat(STUDENT, copy="uniform", inputs=STATES)
GLAT = LengthNat(
    dataclasses.replace(STUDENT, decoder_positions="every_layer"),
    copy="uniform",
    inputs=STATES,
    positional_attention=True,
    glancing=glancing(),
)
CTC = Ctc(STUDENT, upsample_factor=2)
ONE_LENGTH = ("LengthBeam()", "LengthBeam(remove_repeats=True)", "LengthBeam(size=5, rescore=True)")
FRAMES = ("BestPath()", "PrefixBeam(size=20)")

config = StudyConfig(
    name="Multi30k English-German",
    directory="studies/multi30k_en_de",
    data=DataConfig(
        "data/multi30k_en_de",
        HuggingFace("bentrevett/multi30k", source="en", target="de"),
        VocabularyConfig(size=6000, kind="bpe"),
    ),
    teacher=Entry(
        "ar", Autoregressive(TINY), training(2000, 5e-3), decodings=("Beam(size=4)", "Greedy()")
    ),
    entries=(
        student("length_kd", LENGTH, *ONE_LENGTH),
        student(
            "fertility_kd",
            FertilityNat(STUDENT, inputs=STATES),
            "Argmax()",
            "NoisyParallel(samples=10)",
        ),
        student("glat_kd", GLAT, *ONE_LENGTH),
        student("ctc_glat_kd", dataclasses.replace(CTC, glancing=glancing()), *FRAMES),
    ),
    speed=SpeedConfig(sentences=50, throughput_sentences=128, max_seconds=6.0),
    columns=(
        *("system", "data", "bleu", "bleu_lc", "passes", "ms", "beam", "greedy", "teacher"),
        *("published", "length", "repeat"),
    ),
)
