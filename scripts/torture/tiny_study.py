"""The smallest study that has everything: letters to capitals, a teacher, distilled data, two students."""

import random
from pathlib import Path

from scripts.torture import models

STUDY = """
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.batching import BatchingConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.greedy import Greedy
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

TINY = TransformerConfig(16, 32, 2, 1, 1)
TRAINING = TrainingConfig(
    max_steps=150,
    batching=BatchingConfig(64, (8,)),
    optimizer=OptimizerConfig(peak_learning_rate=0.01, warmup_steps=5),
    validation=ValidationConfig(every_steps=50),
    log_every=10,
    max_lost=1.0,  # such a teacher may translate to the limit of the length
)
config = StudyConfig(
    "Letters",
    "study",
    DataConfig(
        "data",
        TextFiles(("train.tsv",), ("validation.tsv",), ("test.tsv",), bleu_tokenizer="13a"),
        VocabularyConfig(size=24, byte_fallback=False),
        AlignerConfig(iterations=1, flat_iterations=1),
        remove_overlap=False,
    ),
    Entry("ar", Autoregressive(TINY, decoding=Greedy()), TRAINING),
    (
        Entry("length", LengthNat(TINY), TRAINING),
        Entry(
            "fertility_kd", FertilityNat(TINY), TRAINING, distilled=True, encoder_from_teacher=True
        ),
    ),
    distillation="Greedy()",
    speed=SpeedConfig(
        sentences=2,
        repetitions=3,
        batch_sizes=(1,),
        throughput_sentences=2,
        max_seconds=0.5,
        floors=False,
    ),
)
"""
RUNS = ("ar", "length", "fertility_kd")
TEACHER = """
import dataclasses
from pathlib import Path

from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.training.config import ValidationConfig

study = load_file(Path(__file__).with_name("study.py"))
config = ExperimentConfig(
    "teacher",
    study.data,
    study.teacher.method,
    dataclasses.replace(
        study.teacher.training,
        max_steps={max_steps},
        average_decay=0.9,
        validation=ValidationConfig(every_steps={every_steps}),
    ),
)
"""
METHOD = """
import dataclasses
from pathlib import Path

from nat_ar.experiment.config import load_file
from scripts.torture import models

teacher = load_file(Path(__file__).with_name("teacher.py"))
config = dataclasses.replace(teacher, name="{name}", method=models.with_options()["{name}"])
"""
TRAINING = """
import dataclasses
from pathlib import Path

from nat_ar.experiment.config import load_file
from scripts.torture import models

teacher = load_file(Path(__file__).with_name("teacher.py"))
training = models.TRAININGS["{name}"](teacher.training)
config = dataclasses.replace(teacher, name="{name}", training=training)
"""


def write(
    directory: Path, *, max_steps: int = 150, every_steps: int = 50, byte_fallback: bool = False
) -> Path:
    """study.py, teacher.py (the teacher alone, with averaging), NAME.py for each of models.with_options (trained
    like the teacher) and of models.TRAININGS (the teacher, trained in other ways), and pairs such as "b a d" and
    "B A D": 60 for training, 4 for validation, 4 for the test."""
    directory.mkdir(parents=True)
    words = "size=24, byte_fallback=False"
    study = STUDY.replace(words, "size=280") if byte_fallback else STUDY
    (directory / "study.py").write_text(study, "utf-8")
    teacher = TEACHER.format(max_steps=max_steps, every_steps=every_steps)
    (directory / "teacher.py").write_text(teacher, "utf-8")
    for name in models.with_options():
        (directory / f"{name}.py").write_text(METHOD.format(name=name), "utf-8")
    for name in models.TRAININGS:
        (directory / f"{name}.py").write_text(TRAINING.format(name=name), "utf-8")
    draw = random.Random(0)
    drawn = (" ".join(draw.choices("abcdefgh", k=1 + i % 3)) for i in range(120))
    rows = list(dict.fromkeys(drawn))
    for split, part in {"validation": rows[:4], "test": rows[4:8], "train": rows[8:68]}.items():
        text = "".join(f"{row}\t{row.upper()}\n" for row in part)
        (directory / f"{split}.tsv").write_text(text, "utf-8")
    return directory
