"""Every file of configs/ loads, says how it is run, and describes models that can be built."""

import ast
import dataclasses
import functools
import re
import shlex
from pathlib import Path

import jax
import pytest
from flax import nnx

from nat_ar import __main__ as command_line
from nat_ar.commands import prepare, study, train
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.experiment.study import StudyConfig
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py"))
Config = StudyConfig | ExperimentConfig


@pytest.fixture(params=FILES, ids=str)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config, named from the root of the repository, where commands are run."""
    monkeypatch.chdir(ROOT)
    return request.param


@pytest.fixture
def config(path: Path) -> Config:
    return load_file(path)


def parts_of(config: Config) -> list[tuple[AnyMethod, TrainingConfig]]:
    entries = [config.teacher, *config.entries] if isinstance(config, StudyConfig) else [config]
    return [(entry.method, entry.training) for entry in entries]


def test_there_are_configs() -> None:
    folders = {path.parts[1] for path in FILES}
    assert {"toy", "debian_en_de", "tatoeba_en_de", "multi30k_en_de"} <= folders
    assert {"iwslt14_de_en", "wmt14_en_de", "wmt16_en_ro"} <= folders


def test_a_config_is_a_study_or_an_experiment(path: Path, config: Config) -> None:
    read = study.load_config if isinstance(config, StudyConfig) else train.load_config
    assert read(str(path)) == config
    assert prepare.load_config(str(path)) == config.data


def test_its_text_holds_a_command_that_runs_it(path: Path) -> None:
    text = ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8")))
    assert text
    joined = re.sub(r"\\\n\s*", "", text)
    commands = re.findall(r"python -m nat_ar (.*?)(?:  |#|$)", joined, re.MULTILINE)
    assert any(str(path) in command.split() for command in commands), commands
    for command in commands:
        verb, *words = shlex.split(command)
        module = __import__(f"nat_ar.commands.{verb}", fromlist=[verb])
        command_line._parse(verb, module, words)  # raises or exits where it would be refused


def test_directories_agree(path: Path, config: Config) -> None:
    folder = path.parts[1]
    if isinstance(config, StudyConfig):
        assert re.fullmatch(rf"studies/{folder}(_\w+)?", config.directory)
    assert re.fullmatch(rf"data/{folder}(_\w+)?", config.data.directory)


def test_no_two_studies_share_a_directory() -> None:
    configs = [load_file(ROOT / path) for path in FILES]
    directories = [config.directory for config in configs if isinstance(config, StudyConfig)]
    assert len(directories) == len(set(directories))


def test_experiments_of_a_study_are_possible(config: Config) -> None:
    """Their combinations are checked when they are made."""
    if isinstance(config, StudyConfig):
        for entry in (config.teacher, *config.entries):
            study._experiment(entry, config, config.data)


def test_its_models_can_be_built(config: Config) -> None:
    """As shapes only: nothing is computed. One or two blocks of each depth: the others are alike."""
    words: VocabularyConfig = config.data.vocabulary
    sizes = VocabularySizes(words.size, words.size, words.joint)
    for method in {method for method, _ in parts_of(config)}:
        shapes = shapes_of(shallow(method), sizes)
        network = method.network
        assert (words.size, network.d_model) in shapes
        if isinstance(network, TransformerConfig):
            assert (network.d_model, network.d_hidden) in shapes


def shallow(method: AnyMethod) -> AnyMethod:
    network = method.network
    decoder_layers = min(2, network.num_decoder_layers)  # deep supervision has one below the last
    network = dataclasses.replace(network, num_encoder_layers=1, num_decoder_layers=decoder_layers)
    name = "transformer" if isinstance(network, TransformerConfig) else "network"
    return dataclasses.replace(method, **{name: network})


@functools.cache
def shapes_of(method: AnyMethod, sizes: VocabularySizes) -> set[tuple[int, ...]]:
    model = nnx.eval_shape(lambda: method.build(sizes, rngs=nnx.Rngs(0)))
    return {leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))}


def test_training_ends_after_its_warm_up(config: Config) -> None:
    for _, training in parts_of(config):
        assert training.optimizer.warmup_steps < training.max_steps
        assert training.validation.every_steps <= training.max_steps
