"""start: how long a user waits for the first translation, and for --help.

A run of the sizes and decoding of configs/debian_en_de/study.py is trained for one step on generated text. Processes
then take turns: `python -c "import jax"` (the lower bound), --help, and `translate` of one sentence with a warm and
with an empty compilation cache. The packages' files are in the page cache, as after the first use of a day."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tqdm

from nat_ar.evaluation.speed import clock, intervals
from nat_ar.runtime import compilation
from scripts.benchmark_cpu import models, text
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Figure, Row, Section

ROUNDS, COLD_ROUNDS = 5, 2
CONFIG = """
import dataclasses

from nat_ar.data.text_files import TextFiles
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.training.config import ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

study = load_file("configs/debian_en_de/study.py")
words = study.data.vocabulary if {is_full} else VocabularyConfig(size=600)
config = ExperimentConfig(
    "start",
    DataConfig(
        "{directory}/data",
        TextFiles(("{directory}/train.tsv",), ("{directory}/validation.tsv",)),
        words,
        aligner=None,
        remove_overlap=False,
    ),
    study.teacher.method,
    dataclasses.replace(
        study.teacher.training, max_steps=1, validation=ValidationConfig(every_steps=1, sentences=1)
    ),
)
"""


def run(section: Section, scale: Scale) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        trained = _train(directory, is_full=scale is models.FULL)
        sentence = next(source for source, _ in text.pairs(1, seed=3)).encode() + b"\n"
        waits: dict[str, Callable[[], float]] = {
            "import jax": lambda: _seconds(["-c", "import jax"]),
            "--help": lambda: _seconds(["-m", "nat_ar", "--help"]),
            "translate --help": lambda: _seconds(["-m", "nat_ar", "translate", "--help"]),
            "translate, warm": lambda: _translate(trained, sentence, directory / "warm"),
        }
        waits["translate, warm"]()  # fills its cache
        times: dict[str, list[float]] = {name: [] for name in (*waits, "translate, cold")}
        with clock.bar("start", ROUNDS, is_quiet=False) as progress:
            for round_ in range(ROUNDS):
                for name, wait in waits.items():
                    times[name].append(wait())
                if round_ < COLD_ROUNDS:
                    empty = directory / f"cold_{round_}"
                    times["translate, cold"].append(_translate(trained, sentence, empty))
                progress.update()
    bars = {"--help": 1.0, "translate, warm": 5.0, "translate, cold": 20.0}
    rows: list[Row] = []
    for name, seconds in times.items():
        rows.append({"command": name, "seconds": intervals.median(seconds)})
        if name in bars:
            waited = intervals.median(seconds)
            section.figures.append(
                Figure(f"start/{name}", waited, unit="s", bar=bars[name], at_most=True)
            )
            imported = np.asarray(times["import jax"])[: len(seconds)]
            over = intervals.median_ratio(imported, seconds)
            section.figures.append(Figure(f"start/import jax over {name}", over))
    section.tables["From the start of the process to its end"] = rows


def _train(directory: Path, *, is_full: bool) -> Path:
    """Trains a run for one step and returns its directory."""
    text.write(directory / "train.tsv", 10_000 if is_full else 1000, seed=0)
    text.write(directory / "validation.tsv", 10, seed=1)
    config, trained = directory / "config.py", directory / "run"
    config.write_text(CONFIG.format(directory=directory, is_full=is_full), "utf-8")
    verbs = (["prepare", str(config)], ["train", str(config), "--run", str(trained)])
    for words in tqdm.tqdm(verbs, desc="make a run", leave=False, disable=None):
        _seconds(["-m", "nat_ar", *words], cache=directory / "training")
    return trained


def _translate(trained: Path, sentence: bytes, cache: Path) -> float:
    return _seconds(["-m", "nat_ar", "translate", str(trained)], sentence, cache)


def _seconds(words: list[str], given: bytes = b"", cache: Path | None = None) -> float:
    """Of a whole Python process. Raises RuntimeError with its stderr if it fails."""
    environment = dict(os.environ)
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)  # for programs and the C++ library
        environment.pop(compilation.CACHE, None)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], input=given, capture_output=True, env=environment
    )
    seconds = time.perf_counter() - start
    lines = done.stdout.count(b"\n")
    if done.returncode or (given and lines != given.count(b"\n")):
        raise RuntimeError(
            f"{' '.join(words)}: status {done.returncode}, {lines} lines; its stderr: "
            f"{done.stderr.decode(errors='replace')[-2000:]}"
        )
    return seconds
