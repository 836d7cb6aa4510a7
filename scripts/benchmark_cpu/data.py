"""data: what preparing costs on one core, and what the loader costs a train step.

`prepare` runs on generated text in a process of its own, pinned to one core, for few pairs and for many. The cost of a
million pairs is extrapolated stage by stage: reading, encoding and aligning grow with the number of pairs; learning the
vocabulary with its training sentences, at most VocabularyConfig.max_training_sentences. Memory is assumed to grow
linearly up to that number of pairs.

The loader is timed twice: a train step with the loader's next batch against one with a fixed batch, in turns; and,
because that difference is smaller than the noise, the time to build a batch and to put it on the device, as a share of
a step, without the overlap that the loader's thread provides."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import sentencepiece

from nat_ar.data import loader
from nat_ar.data.arrays import PreparedData
from nat_ar.data.batching import BatchingConfig, BatchPlan
from nat_ar.data.loader import HostBatch, Loader, Pairs, Place
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed import clock, intervals, machine
from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.training import step
from nat_ar.translation.model import vocabulary_sizes
from nat_ar.types import Batch
from scripts.benchmark_cpu import text, timing
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Figure, Row, Section
from scripts.benchmark_cpu.train import DROPOUT

MILLION = 1_000_000
ENCODED = 2000
"""Pairs that SentencePiece alone encodes, for comparison."""
BUCKET = 48
"""All batches have this width, so that one of them represents the others."""
CONFIG = """
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.autoregressive import Autoregressive

config = ExperimentConfig(
    "data",
    DataConfig(
        "{directory}/data",
        TextFiles(("{directory}/train.tsv",), ("{directory}/validation.tsv",)),
        VocabularyConfig(size={vocabulary}),
        AlignerConfig(),
    ),
    Autoregressive(),
)
"""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What one `prepare` took."""

    pairs: int
    stages: dict[str, float]
    """seconds, from the manifest"""
    seconds: float
    """of the whole process"""
    peak_bytes: int
    """of resident memory"""


def run(section: Section, scale: Scale) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = []
        with clock.bar("prepare", sum(scale.pairs), is_quiet=False) as progress:
            for pairs in scale.pairs:
                directory = Path(scratch) / str(pairs)
                directory.mkdir()
                made.append(_prepare(directory, pairs, scale))
                progress.update(pairs)
        data = PreparedData.load(directory / "data")
        _report_preparing(section, made, data)
        _report_loading(section, data, scale)


def _prepare(directory: Path, pairs: int, scale: Scale) -> Preparation:
    text.write(directory / "train.tsv", pairs, seed=0)
    text.write(directory / "validation.tsv", 10, seed=1)
    config = directory / "config.py"
    vocabulary = scale.vocabulary
    config.write_text(CONFIG.format(directory=directory, vocabulary=vocabulary), "utf-8")
    core = min(machine.cores())
    code = f"import os; os.sched_setaffinity(0, [{core}]); from nat_ar.__main__ import main; main()"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "prepare", str(config)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"prepare ended with status {process.returncode}: its output is above")
    manifest = PreparedData.load(directory / "data").manifest
    kept = manifest["splits"]["train"]["sentences"]
    if kept != pairs:
        raise RuntimeError(
            f"expected {pairs} prepared pairs, got {kept}: the rate would be that of another number"
        )
    return Preparation(pairs, manifest["seconds"], seconds, 1024 * usage.ru_maxrss)


def at_a_million(few: Preparation, many: Preparation, *, learns_from: int) -> tuple[float, float]:
    """Seconds and bytes of a million pairs on one core. Constant costs, such as the start of the process, are not
    separated from the seconds."""
    growth = MILLION / many.pairs
    learning = min(MILLION, learns_from) / min(many.pairs, learns_from)
    seconds = sum(
        stage * (learning if name == "vocabulary" else growth)
        for name, stage in many.stages.items()
    )
    slope = (many.peak_bytes - few.peak_bytes) / (many.pairs - few.pairs)
    beyond = max(min(MILLION, learns_from) - many.pairs, 0)
    return seconds, many.peak_bytes + max(slope, 0.0) * beyond


def _report_preparing(section: Section, made: list[Preparation], data: PreparedData) -> None:
    few, many = made
    seconds, num_bytes = at_a_million(
        few, many, learns_from=VocabularyConfig().max_training_sentences
    )
    rows: list[Row] = []
    for one in made:
        rows.append(
            {
                "pairs": one.pairs,
                **{f"{name} s": value for name, value in one.stages.items()},
                "process s": one.seconds,
                "peak MiB": one.peak_bytes / 2**20,
            }
        )
    section.tables["prepare, 1 core"] = rows
    alignment = many.stages["align"] * MILLION / many.pairs
    rate, bare = MILLION / seconds, MILLION / (seconds - alignment)
    growing = many.pairs / (many.stages["read"] + many.stages["encode"])
    gigabytes = num_bytes / 1e9
    section.figures += [
        _figure("data/pairs a second, of a million", rate, unit="pairs/s", bar=20_000),
        _figure("data/the same without aligner", bare, unit="pairs/s", bar=20_000),
        _figure("data/reading and encoding alone", growing, unit="pairs/s"),
        _figure("data/peak memory, of a million", gigabytes, unit="GB", bar=2.0, at_most=True),
    ]
    encoding = _encoding_rate(data)
    per_pair = many.stages["read"] + many.stages["encode"] + many.stages["align"]
    share = many.pairs / per_pair / encoding
    section.figures.append(_figure("data/reading, encoding, aligning over encoding", share))
    section.notes.append(
        f"SentencePiece alone encodes {encoding:,.0f} of these pairs/s on one core. A million pairs are "
        f"extrapolated from the stages of {many.pairs:,}; memory grows up to "
        f"{VocabularyConfig().max_training_sentences:,} pairs."
    )


def _figure(
    name: str, value: float, *, unit: str = "", bar: float | None = None, at_most: bool = False
) -> Figure:
    """A figure of a number that was measured once."""
    return Figure(name, Interval(value, value, value), unit, bar, at_most)


def _encoding_rate(data: PreparedData) -> float:
    """Pairs/s of SentencePiece alone, in one thread."""
    split = data.split("train")
    sides = [split.source_text[:ENCODED], split.target_text[:ENCODED]]
    model = (data.directory / "vocabulary" / "joint.model").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode() -> None:
        for side in sides:
            processor.encode(side, num_threads=1)

    (seconds,) = timing.take_turns("encode", [timing.timed(encode)], seconds=1.0)
    return len(sides[0]) / float(np.median(seconds))


def _report_loading(section: Section, data: PreparedData, scale: Scale) -> None:
    transformer = dataclasses.replace(scale.transformer, dropout_rate=DROPOUT)
    mesh = step.data_mesh(1)
    split = data.split("train")
    batching = BatchingConfig(scale.train_sentences * (scale.positions + 1), (BUCKET,))
    plan = BatchPlan(split.length_order, batching, seed=0)
    batches = Loader(Pairs(split.source, split.target, split.fertilities), plan)

    def put(item: tuple[Place, HostBatch]) -> Batch:
        return Batch(*step.place(mesh, tuple(item[1]), is_batch=True))

    fixed = put(next(batches.batches(0, 0)))
    sizes = vocabulary_sizes(data.vocabulary)
    train = TrainStep(Autoregressive(transformer), sizes, fixed)
    alone = batches.batches(1, 0)
    stream = loader.prefetch(batches.batches(0, 1), put)
    calls = [
        timing.timed(lambda: train(fixed)),
        timing.timed(lambda: train(next(stream))),
        timing.timed(lambda: jax.block_until_ready(put(next(alone)))),
    ]
    try:
        seconds = timing.take_turns("loader", calls, seconds=1.5 * scale.seconds)
    finally:
        stream.close()
    names = ("step with a fixed batch", "step with the real loader", "building a batch alone")
    rows: list[Row] = [
        {"what": name, "ms": intervals.median(1e3 * mine)}
        for name, mine in zip(names, seconds, strict=True)
    ]
    section.tables[f"The loader, {seconds.shape[1]} rounds"] = rows
    kept = intervals.median_ratio(seconds[0], seconds[1])
    share = intervals.median_ratio(100 * seconds[2], seconds[0])
    section.figures += [
        Figure("data/fixed batch over real loader", kept, bar=0.98),
        Figure("data/building a batch", share, unit="% of a step", bar=2.0, at_most=True),
    ]
