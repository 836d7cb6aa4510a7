"""Debian English-German: every method, raw and distilled, sized for two CPU cores.

    python -m nat_ar study configs/debian_en_de/family.py --only ctc_glat_kd da_transformer
    python -m nat_ar study configs/debian_en_de/family.py

Sizes, batches, steps and teacher are those of configs/debian_en_de/study.py, and the students start with the
teacher's encoder: about half an hour a training on two cores, the graph of the DA-Transformer several times that,
so choose with `--only` (the teacher and the named entries are trained) or take days.
configs/debian_en_de/family_base.py is the same on a GPU. What a method alone sets (ratios, clipping, smoothing) follows
its paper; annealing ends with the training. Not run by us; no published numbers on this corpus."""

import dataclasses
from pathlib import Path

from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import StudyConfig
from nat_ar.nn.recurrent import RecurrentConfig

plain: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = recipes.transformer_of(plain.teacher)

config = dataclasses.replace(
    plain,
    name="Debian English-German, the family",
    directory="studies/debian_en_de_family",
    entries=recipes.family(
        TRANSFORMER,
        plain.entries[0].training,
        shallow=dataclasses.replace(TRANSFORMER, num_encoder_layers=5, num_decoder_layers=1),
        recurrent=RecurrentConfig(d_model=256),
        vertices=4,
        encoder_from_teacher=True,
    ),
)
