"""Two small runs as `train` leaves them, with random parameters.

Compiling is most of what these tests wait for: XLA optimises little here, which halves it."""

import dataclasses
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import optax
import pytest
from flax import nnx

from nat_ar.data import prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.runtime import bars, out_of_memory
from nat_ar.training import step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.loop import Progress
from nat_ar.translation.model import vocabulary_sizes
from toys import LETTERS, TINY

jax.config.update("jax_disable_most_optimizations", True)
bars.SILENCE = math.inf  # what a test hears must not depend on a clock


def pytest_configure(config: pytest.Config) -> None:
    """What one session has compiled the next one finds: half of a session's work. One directory for each worker,
    since JAX does not write an entry in one step."""
    cache = config.pluginmanager.get_plugin("cacheprovider") and config.cache
    if cache and jax.config.values["jax_compilation_cache_dir"] is None:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir(f"jax_{worker}")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


MANY_MAPPINGS = 30_000


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_few() -> Iterator[None]:
    """Linux gives a process 65,530 mappings of memory, XLA takes some for each program, and dies of one too many:
    the whole suite in one process has more."""
    yield
    mappings = out_of_memory.MAPPINGS
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MANY_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def compilation_stays_quick() -> Iterator[None]:
    """A module that leaves the setting changed makes a later test's bits depend on the order of modules."""
    yield
    assert jax.config.values["jax_disable_most_optimizations"]


@dataclasses.dataclass(frozen=True)
class TinyRuns:
    """Read them; append to their results. Both know the same data; the autoregressive run is the
    teacher of the other."""

    data: Path
    """60 pairs such as "b a d" and "B A D", of one to three letters, one bucket of the translator: 36
    for training, 12 for validation, 12 for the test"""
    autoregressive: Run
    """Beam by default; checkpoint at step 0"""
    length_nat: Run


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """For all tests of a session: results.jsonl of the runs starts empty only for the first of them."""
    directory = tmp_path_factory.mktemp("tiny_runs")
    data_config = _prepare(directory)
    data = PreparedData.load(data_config.directory)
    teacher = directory / "ar"
    configs = [
        ExperimentConfig("ar", data_config, Autoregressive(transformer=TINY)),
        ExperimentConfig("nat", data_config, LengthNat(transformer=TINY), teacher=str(teacher)),
    ]
    runs = [_start(Run(directory / config.name), config, data) for config in configs]
    return TinyRuns(data.directory, *runs)


@pytest.fixture(scope="session")
def start_run() -> Callable[[Run, ExperimentConfig, PreparedData], Run]:
    """Makes a run after no training: config, facts, vocabulary, a checkpoint of random parameters."""
    return _start


def _prepare(directory: Path) -> DataConfig:
    generator = random.Random(0)
    rows = [" ".join(generator.choices(LETTERS, k=1 + i % 3)) for i in range(60)]
    parts = {"train": rows[:36], "validation": rows[36:48], "test": rows[48:]}
    paths = {}
    for name, part in parts.items():
        paths[name] = (str(directory / f"{name}.tsv"),)
        Path(paths[name][0]).write_text("".join(f"{row}\t{row.upper()}\n" for row in part), "utf-8")
    config = DataConfig(
        directory=str(directory / "data"),
        corpus=TextFiles(**paths, bleu_tokenizer="13a"),
        vocabulary=VocabularyConfig(size=24, byte_fallback=False),
        aligner=None,
        remove_overlap=False,
    )
    prepare.prepare(config, quiet=True)
    return config


@pytest.fixture(scope="session")
def train_anew() -> Callable[[Run], None]:
    """Puts another model, of the same config and step, where a run's was."""

    def train(run: Run) -> None:
        shutil.rmtree(run.checkpoints_directory)
        _save(run, run.config(), run.vocabulary(), seed=1)

    return train


def _start(run: Run, config: ExperimentConfig, data: PreparedData) -> Run:
    run.start(config, data)
    return _save(run, config, data.vocabulary, seed=0)


def _save(run: Run, config: ExperimentConfig, vocabulary: Vocabulary, *, seed: int) -> Run:
    sizes = vocabulary_sizes(vocabulary)
    params = nnx.state(config.method.build(sizes, rngs=nnx.Rngs(seed)), nnx.Param)
    state = step.initial_state(params, optax.sgd(0.1), seed=0, has_average=False)
    checkpoints = Checkpoints(run.checkpoints_directory)
    checkpoints.save(state, dataclasses.asdict(Progress()), score=1.0)
    checkpoints.close()
    return run
