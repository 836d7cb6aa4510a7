"""Multi30k English-German (Elliott et al. 2016): 29,000 image captions; the reference study, of every method.

    python -m nat_ar study configs/multi30k_en_de/study.py --only ctc_kd       # from the hub
    python -m nat_ar study configs/multi30k_en_de/study.py --only ctc_kd \
        --corpus-file train.tsv.gz validation.tsv.gz test2016.tsv.gz           # English TAB German

The teacher's hour is saved by `--teacher-from docs/results/multi30k_en_de/teacher`, where it lies.

Transformer-tiny (Wu et al. 2021, "Good for misconceived reasons"), test2016, cased sacreBLEU. The recipe follows
docs/log.md: Muon, decoder inputs from encoder states, students that start with the teacher's encoder, some of them with
a second stage by n-grams. Left-to-right models have 8,000 steps, masked ones 3,000, the others 2,000, after which CTC
of 4,000 is level; students of 1,200 (`NAME_1200_kd`, then `NAME_1200_2grams_kd`) show what 1,500 steps are enough for.
A method enters the table once it is named by `--only`."""

import dataclasses
from pathlib import Path

from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.losses.fuzzy_alignment import FuzzyAlignment
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.training.config import TrainingConfig
from nat_ar.training.optimizer import Muon

levers: StudyConfig = load_file(Path(__file__).with_name("levers.py"))
TEACHER = recipes.transformer_of(levers.teacher)
STUDENT = dataclasses.replace(TEACHER, dropout_rate=0.2)
STEPS = 2000
SHORTER_STEPS = 1200
GLANCING = Glancing(start_ratio=0.5, end_ratio=0.0, anneal_steps=2 * STEPS // 3)


def with_muon(training: TrainingConfig, max_steps: int) -> TrainingConfig:
    optimizer = dataclasses.replace(training.optimizer, muon=Muon())
    return dataclasses.replace(training, max_steps=max_steps, optimizer=optimizer)


LEFT_TO_RIGHT = with_muon(levers.teacher.training, 8000)
ONE_PASS = with_muon(levers.entries[0].training, STEPS)


def second_stage(max_steps: int) -> TrainingConfig:
    """How a trained student goes on by n-grams."""
    stage = recipes.second_stage(ONE_PASS, max_steps)
    validation = dataclasses.replace(stage.validation, every_steps=100)
    return dataclasses.replace(stage, validation=validation)


def tuned(entry: Entry) -> Entry:
    """An entry of the family with what docs/log.md found for its method on this corpus."""
    method = recipes.from_states(entry.method)
    if method.family == "AR":
        return dataclasses.replace(entry, training=LEFT_TO_RIGHT)
    decodings = entry.decodings
    if isinstance(method, LengthNat):
        if method.glancing is not None:
            method = dataclasses.replace(method, glancing=GLANCING)
        decodings = (*recipes.LENGTH_WITHOUT_REPEATS, *decodings)
    if isinstance(method, FertilityNat):
        decodings = (recipes.FERTILITY_WITHOUT_REPEATS, *decodings)
    return dataclasses.replace(entry, method=method, decodings=decodings)


FAMILY = {
    entry.name: tuned(entry)
    for entry in recipes.family(
        STUDENT,
        ONE_PASS,
        shallow=dataclasses.replace(TEACHER, num_encoder_layers=8, num_decoder_layers=1),
        recurrent=RecurrentConfig(d_model=128),
        masked_training=with_muon(levers.entries[0].training, 3000),
        ctc_training=ONE_PASS,
        ctc_glancing=GLANCING,
        fuzzy_training=second_stage(300),
        vertices=4,
        encoder_from_teacher=True,
    )
}


def from_decoder(name: str, **changes: object) -> Entry:
    """An entry that starts with the teacher's decoder, too."""
    entry = recipes.changed(FAMILY[name], transformer=STUDENT, **changes)
    name = f"{name.removesuffix('_kd')}_decoder_kd"
    return dataclasses.replace(entry, name=name, decoder_from_teacher=True)


def with_glancing(name: str) -> Entry:
    """An entry whose training shows some of the words."""
    entry = recipes.changed(FAMILY[name], glancing=GLANCING)
    return dataclasses.replace(entry, name=f"{name.removesuffix('_kd')}_glat_kd")


def from_distributions(name: str) -> Entry:
    """An entry that learns half of each word from the teacher's distribution at its place."""
    entry = FAMILY[name]
    training = dataclasses.replace(entry.training, word_distributions=0.5)
    return dataclasses.replace(entry, name=f"{name.removesuffix('_kd')}_soft_kd", training=training)


def shorter(entry: Entry) -> Entry:
    """An entry of so few steps that 1,500 are enough for a stage of n-grams, too."""
    if getattr(entry.method, "glancing", None) is not None:
        glancing = dataclasses.replace(GLANCING, anneal_steps=2 * SHORTER_STEPS // 3)
        entry = recipes.changed(entry, glancing=glancing)
    name = f"{entry.name.removesuffix('_kd')}_{SHORTER_STEPS}_kd"
    training = dataclasses.replace(entry.training, max_steps=SHORTER_STEPS)
    return dataclasses.replace(entry, name=name, training=training)


def matched(entry: Entry, *, ngram: int = 2, steps: int = 300) -> Entry:
    """An entry that goes on from another, by the n-grams that are expected of it."""
    longer = "" if steps == 300 else f"_{steps}"
    return dataclasses.replace(
        entry,
        name=f"{entry.name.removesuffix('_kd')}_{ngram}grams{longer}_kd",
        method=recipes.matching(entry.method, ngram=ngram),
        training=second_stage(steps),
        encoder_from_teacher=False,
        start_from=entry.name,
    )


def matched_on_references(entry: Entry) -> Entry:
    """An entry trained on the teacher's translations that goes on by the n-grams of the references themselves."""
    return dataclasses.replace(matched(entry), name=f"{entry.name}_then_2grams", distilled=False)


def longer_ngrams(name: str) -> Entry:
    """A graph that learned its 2-grams goes on by 6-grams."""
    entry = recipes.changed(FAMILY[name], fuzzy_alignment=FuzzyAlignment(ngram=6))
    return dataclasses.replace(entry, name=f"{name}_then_6grams", start_from=name)


def drafter(name: str, method: Method, *decodings: str, starts_decoder: bool = False) -> Entry:
    """One that learns a decoder, and nothing else: embeddings and encoder stay the teacher's in every bit (encoder_rate
    0), so that what both encode is encoded once, and drafting costs one shallow decoder (docs/faster.md)."""
    training = with_muon(FAMILY["length_kd"].training, 1000)
    optimizer = dataclasses.replace(training.optimizer, encoder_rate=0.0)
    return Entry(
        name,
        method,
        dataclasses.replace(training, optimizer=optimizer),
        distilled=True,
        encoder_from_teacher=True,
        decoder_from_teacher=starts_decoder,
        decodings=decodings,
    )


FERTILITY_GLAT = with_glancing("fertility_kd")
ONE_PASS_BEST = (
    *(FAMILY[name] for name in ("length_kd", "glat_kd")),
    FERTILITY_GLAT,
    *(FAMILY[name] for name in ("ctc_kd", "ctc_glat_kd")),
)
"""Distilled students of one pass that a stage of n-grams improves."""
ONE_LAYER = dataclasses.replace(TEACHER, num_decoder_layers=1, dropout_rate=0.1)
TWO_LAYERS = dataclasses.replace(ONE_LAYER, num_decoder_layers=2)
DRAFTERS = (
    drafter("ar_1_kd", Autoregressive(ONE_LAYER), "Greedy()", starts_decoder=True),
    drafter("ar_2_kd", Autoregressive(TWO_LAYERS), "Greedy()", starts_decoder=True),
    drafter("ctc_1_kd", Ctc(ONE_LAYER, upsample_factor=2), "BestPath()"),
    drafter(
        "length_1_kd",
        LengthNat(ONE_LAYER, copy="uniform", inputs=recipes.SPLIT),
        "LengthBeam()",
    ),
)


config = dataclasses.replace(
    levers,
    name="Multi30k English-German",
    directory="studies/multi30k_en_de",
    data=dataclasses.replace(levers.data, directory="data/multi30k_en_de"),
    teacher=dataclasses.replace(
        levers.teacher,
        training=LEFT_TO_RIGHT,
        decodings=(
            *levers.teacher.decodings,
            "Jacobi(block=6)",
            "Speculative(block=4, drafter='ar_1_kd', drafting='Greedy() int8')",
            "Speculative(block=6, drafter='ctc_kd', drafting='BestPath()')",
            "Speculative(block=6, drafter='length_kd', drafting='LengthBeam()')",
        ),
    ),
    entries=(
        *FAMILY.values(),
        from_decoder("length_kd", curriculum=Curriculum(steps=300)),
        from_decoder("fertility_kd"),
        from_decoder("ctc_kd"),
        FERTILITY_GLAT,
        from_distributions("fertility_kd"),
        *map(matched, ONE_PASS_BEST),
        *map(shorter, ONE_PASS_BEST),
        *(matched(shorter(entry)) for entry in ONE_PASS_BEST),
        matched(FAMILY["glat_kd"], steps=1000),
        matched(FAMILY["ctc_kd"], ngram=3),
        matched(FAMILY["ctc_vae_kd"]),
        matched_on_references(FAMILY["ctc_kd"]),
        longer_ngrams("da_transformer_fuzzy"),
        *DRAFTERS,
    ),
    word_distributions=8,
    columns=(
        *("system", "data", "bleu", "bleu_lc", "passes", "accepted", "ms", "beam", "greedy"),
        *("teacher", "published", "length", "repeat"),
    ),
)
