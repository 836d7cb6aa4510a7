"""Why configs/toy/family.py does not end in the order of the papers: its raw students, three times as long.

    python -m nat_ar study configs/toy/longer_family.py

Two CPU cores, 68 minutes with interruptions and beside other work (measured). Results: docs/results/toy_longer_family.
Everything as in configs/toy/family.py but 1,500 steps instead of 450, and as many more pairs that still none is
seen more than twice."""

import dataclasses
from pathlib import Path

from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.length_nat import LengthNat

family: StudyConfig = load_file(Path(__file__).with_name("family.py"))
STEPS = 1500
NAMES = ("da_transformer", "glat", "ctc_glat", "ctc", "length", "fertility")


def longer(entry: Entry) -> Entry:
    method, training = entry.method, entry.training
    if isinstance(method, LengthNat | Ctc | DaTransformer) and method.glancing is not None:
        glancing = dataclasses.replace(method.glancing, anneal_steps=STEPS)
        method = dataclasses.replace(method, glancing=glancing)
    validation = dataclasses.replace(training.validation, every_steps=STEPS // 4)
    training = dataclasses.replace(training, max_steps=STEPS, validation=validation)
    return dataclasses.replace(entry, method=method, training=training)


students = {entry.name: entry for entry in family.entries}
config = dataclasses.replace(
    family,
    name="Toy language, the family, longer",
    directory="studies/toy_longer_family",
    data=dataclasses.replace(
        family.data, directory="data/toy_longer_family", corpus=ToyCorpus(num_train=50_000)
    ),
    entries=tuple(longer(students[name]) for name in NAMES),
)
