"""Multi30k English-German by models of the benchmark's base size: 6 + 6 layers, d_model 256.

    python -m nat_ar study configs/multi30k_en_de/base.py --only ctc_1_kd    # the teacher and its drafter
    python -m nat_ar study configs/multi30k_en_de/base.py --only ctc_1_kd ctc_kd \
        --corpus-file train.tsv.gz validation.tsv.gz test2016.tsv.gz         # English TAB German

Data and recipe are those of study.py, with 1,200 steps for the teacher, at a lower peak rate, and its greedy search
distilled: what a larger model learns from 29,000 captions, and what drafts are worth where a pass costs arithmetic and
not calls (docs/faster.md). Where a CPU multiplies bfloat16 itself (docs/speed.md), `--method.transformer.dtype
bfloat16` saves a third of the time."""

import dataclasses
from pathlib import Path

from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.ctc import Ctc

study: StudyConfig = load_file(Path(__file__).with_name("study.py"))
STEPS = 1200
RATE = 3e-3


def enlarged(entry: Entry, layers: int) -> Entry:
    """The entry with base-size layers, `layers` of them in its decoder."""
    method = entry.method
    assert isinstance(method, Autoregressive | Ctc)
    transformer = dataclasses.replace(
        method.transformer,
        d_model=256,
        d_hidden=1024,
        num_encoder_layers=6,
        num_decoder_layers=layers,
    )
    return dataclasses.replace(entry, method=dataclasses.replace(method, transformer=transformer))


teacher = enlarged(study.teacher, 6)
optimizer = dataclasses.replace(teacher.training.optimizer, peak_learning_rate=RATE)
entries = {entry.name: entry for entry in study.entries}
config = dataclasses.replace(
    study,
    name="Multi30k English-German, base size",
    directory="studies/multi30k_en_de_base",
    distillation="Greedy()",
    teacher=dataclasses.replace(
        teacher,
        training=dataclasses.replace(teacher.training, max_steps=STEPS, optimizer=optimizer),
        decodings=(
            "Beam(size=4)",
            "Greedy()",
            "Jacobi(block=6)",
            "Speculative(block=4, drafter='ar_1_kd', drafting='Greedy() int8')",
            "Speculative(block=6, drafter='ctc_1_kd', drafting='BestPath() int8')",
        ),
    ),
    entries=(
        enlarged(entries["ctc_kd"], 6),
        enlarged(entries["ar_1_kd"], 1),
        enlarged(entries["ctc_1_kd"], 1),
    ),
)
