"""What makes a NAT learn fast: one lever at a time on Multi30k English-German, Transformer-tiny.

    python -m nat_ar study configs/multi30k_en_de/levers.py --only ctc_split            # from the hub
    python -m nat_ar study configs/multi30k_en_de/levers.py --only ctc_split \
        --corpus-file train.tsv.gz validation.tsv.gz test2016.tsv.gz                    # English TAB German

A teacher of 2,000 steps, and students of at most 1,500 on its translations; the DA-Transformer learns from raw data as
well. Every entry differs from `length`, `fertility`, `ctc` or `da` in what its name says. docs/log.md has what came
out, with date and machine; an entry that it does not mention has not been run. Two cores take some 20 minutes for the
teacher and 8 to 25 for a student, longer for a graph: name the entries that are wanted."""

import dataclasses

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment import recipes
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

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
            peak_learning_rate=peak_learning_rate, warmup_steps=200, schedule="cosine"
        ),
        average_decay=0.99,
        validation=ValidationConfig(every_steps=500, sentences=500),
        log_every=50,
    )


def student(name: str, method: Method, *decodings: str, max_steps: int = 1500) -> Entry:
    return Entry(
        name,
        method,
        training(max_steps, 3e-3),
        distilled=True,
        encoder_from_teacher=True,
        decodings=decodings,
    )


LENGTH = LengthNat(STUDENT)
LENGTH_STATES = LengthNat(STUDENT, copy="uniform", inputs=recipes.SPLIT)
FERTILITY = FertilityNat(STUDENT)
CTC = Ctc(STUDENT, upsample_factor=2)


DA = DaTransformer(
    STUDENT, upsample_factor=4, glancing=Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=1000)
)
DA_STATES = dataclasses.replace(DA, inputs="split")


def glancing(max_steps: int = 1500) -> Glancing:
    return Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=max_steps)


def graph(name: str, method: DaTransformer, *, distilled: bool) -> Entry:
    """Gradients are clipped as in the family of every corpus."""
    entry = student(name, method, "Lookahead()", "GraphBeam()")
    clipped = recipes.with_clipping(entry.training, 0.1)
    return dataclasses.replace(entry, training=clipped, distilled=distilled)


def fuzzy(name: str, max_steps: int, *, after: str) -> Entry:
    """From the best step of another entry."""
    entry = graph(name, recipes.fuzzy(DA_STATES), distilled=False)
    stage = recipes.second_stage(entry.training, max_steps)
    validation = dataclasses.replace(stage.validation, every_steps=max_steps // 3)
    return dataclasses.replace(
        entry,
        training=dataclasses.replace(stage, validation=validation),
        encoder_from_teacher=False,
        start_from=after,
    )


def from_decoder(name: str, method: Method, *decodings: str) -> Entry:
    """From all of the teacher that fits, its decoder too."""
    return dataclasses.replace(student(name, method, *decodings), decoder_from_teacher=True)


ONE_LENGTH = ("LengthBeam()", "LengthBeam(remove_repeats=True)")
FERTILITIES = ("Argmax()", "Argmax(remove_repeats=True)", "NoisyParallel(samples=10)")

config = StudyConfig(
    name="Multi30k English-German, levers",
    directory="studies/multi30k_en_de_levers",
    data=DataConfig(
        "data/multi30k_en_de_levers",
        HuggingFace("bentrevett/multi30k", source="en", target="de"),
        VocabularyConfig(size=6000, kind="bpe"),
    ),
    teacher=Entry(
        "ar", Autoregressive(TINY), training(2000, 5e-3), decodings=("Beam(size=4)", "Greedy()")
    ),
    entries=(
        student("length", LENGTH, *ONE_LENGTH),
        student("length_states", LENGTH_STATES, *ONE_LENGTH),
        from_decoder("length_decoder", LENGTH_STATES, *ONE_LENGTH),
        from_decoder(
            "length_curriculum",
            dataclasses.replace(LENGTH_STATES, curriculum=Curriculum(steps=300)),
            *ONE_LENGTH,
        ),
        student("glat", dataclasses.replace(LENGTH, glancing=glancing()), *ONE_LENGTH),
        student(
            "glat_states", dataclasses.replace(LENGTH_STATES, glancing=glancing()), *ONE_LENGTH
        ),
        student("fertility", FERTILITY, *FERTILITIES),
        student(
            "fertility_states", dataclasses.replace(FERTILITY, inputs=recipes.SPLIT), *FERTILITIES
        ),
        student("ctc_split", CTC, "BestPath()"),
        student("ctc_states", dataclasses.replace(CTC, upsampling="states"), "BestPath()"),
        student("ctc_split_glat", dataclasses.replace(CTC, glancing=glancing()), "BestPath()"),
        graph("da", DA, distilled=False),
        graph("da_states", DA_STATES, distilled=False),
        graph("da_states_kd", DA_STATES, distilled=True),
        fuzzy("da_states_fuzzy", 300, after="da_states"),
    ),
    speed=SpeedConfig(sentences=50, throughput_sentences=128, max_seconds=6.0),
)
