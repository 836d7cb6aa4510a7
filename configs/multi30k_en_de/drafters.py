"""Drafters for the teacher of study.py: small decoders over the teacher's own encoder, trained on its translations.

    python -m nat_ar study configs/multi30k_en_de/study.py --only ar             # the teacher
    python -m nat_ar study configs/multi30k_en_de/drafters.py --only ar_1_kd
    python -m nat_ar evaluate studies/multi30k_en_de/runs/ar \
        --decoding "Speculative(block=6, drafter='ar_1_kd', drafting='Greedy() int8')"

Embeddings and encoder stay the teacher's in every bit (encoder_rate 0), so that drafting costs one shallow decoder:
what both encode is encoded once. docs/faster.md has what came out."""

import dataclasses
from pathlib import Path

from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.length_nat import LengthNat

study: StudyConfig = load_file(Path(__file__).with_name("study.py"))
STUDENT = {entry.name: entry for entry in study.entries}["length_kd"]
TRAINING = dataclasses.replace(STUDENT.training, max_steps=1000)
SHALLOW = dataclasses.replace(study.teacher.method.network, num_decoder_layers=1, dropout_rate=0.1)


def drafter(name: str, method: Method, *decodings: str, starts_decoder: bool = False) -> Entry:
    """One that learns a decoder, and nothing else."""
    optimizer = dataclasses.replace(TRAINING.optimizer, encoder_rate=0.0)
    return Entry(
        name,
        method,
        dataclasses.replace(TRAINING, optimizer=optimizer),
        distilled=True,
        encoder_from_teacher=True,
        decoder_from_teacher=starts_decoder,
        decodings=decodings,
    )


config = dataclasses.replace(
    study,
    name="Multi30k English-German, drafters",
    teacher=dataclasses.replace(study.teacher, decodings=("Beam(size=4)", "Greedy()")),
    entries=(
        drafter("ar_1_kd", Autoregressive(SHALLOW), "Greedy()", starts_decoder=True),
        drafter(
            "ar_2_kd",
            Autoregressive(dataclasses.replace(SHALLOW, num_decoder_layers=2)),
            "Greedy()",
            starts_decoder=True,
        ),
        drafter("ctc_1_kd", Ctc(SHALLOW, upsample_factor=2), "BestPath()"),
        drafter(
            "length_1_kd", LengthNat(SHALLOW, copy="uniform", inputs=recipes.SPLIT), "LengthBeam()"
        ),
    ),
)
