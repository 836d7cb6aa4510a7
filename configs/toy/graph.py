"""What the DA-Transformer needs to keep apart, on raw data, the ways to say a sentence: one lever at a time.

    python -m nat_ar study configs/toy/graph.py

Two CPU cores, about three hours (teacher and data 10 minutes, each entry of 1,000 steps 17 to 25, fuzzy 7 to 11).
Sizes, teacher and batches are those of configs/toy/family.py, but 1,000 steps, 8 vertices a source token as in the
paper, and as many more pairs that none is seen more than twice. Wanted: valid % of at least 90 without distillation,
where the teacher has 98; version 0.1 had 54 to 58 at best. Found, lookahead: aligned 46, fuzzy 84, fuzzy_600 88, with
4-grams 80, 2-grams and then 6-grams 90. docs/results/toy.md says more, docs/log.md which entries have been run."""

import dataclasses
from pathlib import Path
from typing import Any

from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.graph import TransitionSmoothing

family: StudyConfig = load_file(Path(__file__).with_name("family.py"))
(base,) = (entry for entry in family.entries if entry.name == "da_transformer")
STEPS = 1000
ALIGNED = DaTransformer(
    recipes.transformer_of(base),
    upsample_factor=8,
    glancing=Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=STEPS, count="round"),
)


def entry(name: str, steps: int = STEPS, **changes: Any) -> Entry:
    validation = dataclasses.replace(base.training.validation, every_steps=steps // 6)
    training = dataclasses.replace(base.training, max_steps=steps, validation=validation)
    method = dataclasses.replace(ALIGNED, **changes)
    return dataclasses.replace(base, name=name, method=method, training=training)


def fuzzy(name: str, steps: int, *, ngram: int = 2, after: str = "aligned") -> Entry:
    """From the best step of another entry, at a third of its rate and the glancing of the paper's second stage."""
    start = entry(name, steps)
    training = recipes.second_stage(start.training, steps)
    method = recipes.fuzzy(ALIGNED, ngram=ngram)
    return dataclasses.replace(
        start, method=method, training=training, encoder_from_teacher=False, start_from=after
    )


config = dataclasses.replace(
    family,
    name="Toy language, the DA-Transformer",
    directory="studies/toy_graph",
    teacher=dataclasses.replace(family.teacher, decodings=("Beam(size=4)", "Greedy()")),
    data=dataclasses.replace(
        family.data, directory="data/toy_graph", corpus=ToyCorpus(num_train=100_000)
    ),
    entries=(
        entry("aligned"),
        entry("glanced", glancing=Glancing(start_ratio=0.5, end_ratio=0.5)),
        entry("uniform", glancing=Glancing(count="uniform")),
        entry("smoothed", transition_smoothing=TransitionSmoothing(0.2, anneal_steps=STEPS)),
        entry("learned", inputs="positions", vertex_embeddings=False, learned_positions=256),
        fuzzy("fuzzy", 200),
        fuzzy("fuzzy_600", 600),
        fuzzy("fuzzy_1200", 600, after="fuzzy_600"),
        fuzzy("fuzzy_600_4grams", 600, ngram=4),
        fuzzy("fuzzy_400", 400),
        fuzzy("fuzzy_400_then_4grams", 250, ngram=4, after="fuzzy_400"),
        fuzzy("fuzzy_400_then_6grams", 250, ngram=6, after="fuzzy_400"),
    ),
)
