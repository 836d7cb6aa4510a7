"""Multi30k English-German (Elliott et al. 2016): 29,000 image captions; the reference study.

    python -m nat_ar study configs/multi30k_en_de/study.py                     # from the hub
    python -m nat_ar study configs/multi30k_en_de/study.py \
        --corpus-file train.tsv.gz validation.tsv.gz test2016.tsv.gz           # English TAB German

Transformer-tiny (Wu et al. 2021, "Good for misconceived reasons"), test2016, cased sacreBLEU. The recipe follows
docs/log.md: Muon, decoder inputs from encoder states, students that start with the teacher's encoder.

Run on 2026-11-29, all but `fertility_kd`, `length_curriculum_kd` and `ctc_kd`, on two cores beside other work: 30
minutes for the teacher, 16 to 37 for a student; docs/results/multi30k_en_de."""

import dataclasses
from pathlib import Path

from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.glancing import Glancing
from nat_ar.training.config import TrainingConfig
from nat_ar.training.optimizer import Muon

levers: StudyConfig = load_file(Path(__file__).with_name("levers.py"))
LEVERS = {entry.name: entry for entry in levers.entries}
STEPS = 1000
GLANCING = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=STEPS)


def with_muon(training: TrainingConfig, max_steps: int) -> TrainingConfig:
    optimizer = dataclasses.replace(training.optimizer, muon=Muon())
    return dataclasses.replace(training, max_steps=max_steps, optimizer=optimizer)


def student(name: str, lever: str, *decodings: str, **changes: object) -> Entry:
    """An entry of levers.py by Muon, with other values of some fields of its method."""
    entry = LEVERS[lever]
    return dataclasses.replace(
        entry,
        name=name,
        method=dataclasses.replace(entry.method, **changes),
        training=with_muon(entry.training, STEPS),
        decodings=decodings,
    )


TRANSFORMER = LEVERS["length_states"].method.transformer
ONE_LENGTH = ("LengthBeam()", "LengthBeam(remove_repeats=True)", "LengthBeam(size=5, rescore=True)")

config = dataclasses.replace(
    levers,
    name="Multi30k English-German",
    directory="studies/multi30k_en_de",
    data=dataclasses.replace(levers.data, directory="data/multi30k_en_de"),
    teacher=dataclasses.replace(
        levers.teacher,
        training=with_muon(levers.teacher.training, levers.teacher.training.max_steps),
        decodings=(
            *levers.teacher.decodings,
            "Jacobi(block=6)",
            "Speculative(block=6, drafter='ctc_kd', drafting='BestPath()')",
            "Speculative(block=6, drafter='length_kd', drafting='LengthBeam()')",
        ),
    ),
    entries=(
        student("length_kd", "length_states", *ONE_LENGTH),
        student("length_curriculum_kd", "length_curriculum", *ONE_LENGTH),
        student("fertility_kd", "fertility_states", "Argmax()", "NoisyParallel(samples=10)"),
        student(
            "glat_kd",
            "length_states",
            *ONE_LENGTH,
            transformer=dataclasses.replace(TRANSFORMER, decoder_positions="every_layer"),
            positional_attention=True,
            glancing=GLANCING,
        ),
        student("ctc_kd", "ctc_split", "BestPath()", "PrefixBeam(size=20)"),
        student("ctc_glat_kd", "ctc_split", "BestPath()", "PrefixBeam(size=20)", glancing=GLANCING),
    ),
    columns=(
        *("system", "data", "bleu", "bleu_lc", "passes", "accepted", "ms", "beam", "greedy"),
        *("teacher", "published", "length", "repeat"),
    ),
)
