"""The toy language without the clock: what each choice is worth when every model has had time to learn.

    python -m nat_ar study configs/toy/longer_study.py

Two CPU cores, 62 minutes (measured, beside other work). Results: docs/results/toy_longer.
Adds to configs/toy/study.py the fair baselines, an autoregressive model with one
decoder layer, raw and distilled (Kasai et al. 2020), the distilled length NAT, and the fine-tuning stage of
Gu et al. 2018 (section 4.3: reverse KL to the teacher and REINFORCE on the fertilities)."""

import dataclasses
from pathlib import Path

from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.fertility_prediction import FineTuning
from nat_ar.methods.length_nat import LengthNat
from nat_ar.training.config import TrainingConfig

short: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = recipes.transformer_of(short.teacher)
SHALLOW = dataclasses.replace(TRANSFORMER, num_encoder_layers=3, num_decoder_layers=1)
NAT = FertilityNat(TRANSFORMER, label_smoothing=0.0)
LENGTH = LengthNat(TRANSFORMER, label_smoothing=0.0)
BOTH = ("Beam(size=4)", "Greedy()")
CANDIDATES = ("Argmax()", "Average()", "NoisyParallel(samples=10)")


def training(max_steps: int, peak_learning_rate: float = 3e-3) -> TrainingConfig:
    base = short.teacher.training
    return dataclasses.replace(
        base,
        max_steps=max_steps,
        optimizer=dataclasses.replace(base.optimizer, peak_learning_rate=peak_learning_rate),
        validation=dataclasses.replace(base.validation, every_steps=max_steps // 4),
    )


config = dataclasses.replace(
    short,
    name="Toy language, longer training",
    directory="studies/toy_longer",
    data=dataclasses.replace(short.data, corpus=ToyCorpus()),
    teacher=dataclasses.replace(
        short.teacher,
        training=training(4000),
        decodings=(*BOTH, "Speculative(block=6, drafter='length_kd', drafting='LengthBeam()')"),
    ),
    distillation="Beam(size=4)",
    speed=SpeedConfig(sentences=50, throughput_sentences=128, batch_sizes=(1, 64), max_seconds=6.0),
    entries=(
        Entry("ar_3_1", Autoregressive(SHALLOW), training(2000), decodings=BOTH),
        Entry("ar_3_1_kd", Autoregressive(SHALLOW), training(2000), distilled=True, decodings=BOTH),
        Entry("length", LENGTH, training(2000), encoder_from_teacher=True),
        Entry("length_kd", LENGTH, training(2000), distilled=True, encoder_from_teacher=True),
        Entry("fertility", NAT, training(2000), encoder_from_teacher=True),
        Entry(
            "fertility_kd",
            NAT,
            training(2000),
            distilled=True,
            encoder_from_teacher=True,
            decodings=CANDIDATES,
        ),
        Entry(
            "fertility_kd_ft",
            dataclasses.replace(NAT, fine_tuning=FineTuning()),
            training(300, peak_learning_rate=3e-4),
            distilled=True,
            start_from="fertility_kd",
            decodings=CANDIDATES,
        ),
    ),
)
