"""Every file of configs/ loads, says how it is run, and describes models that can be built."""

import ast
import dataclasses
import functools
import re
import shlex
import typing
from pathlib import Path

import jax
import pytest
from flax import nnx

from nat_ar import __main__ as command_line
from nat_ar.commands import prepare
from nat_ar.config_json import ConfigError
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment import recipes
from nat_ar.experiment.config import ExperimentConfig, load_experiment, load_file
from nat_ar.experiment.study import Entry, StudyConfig, load_study
from nat_ar.losses.fuzzy_alignment import FuzzyAlignment
from nat_ar.losses.ngram_matching import BagOfNgrams, NgramMatching
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.latent import Latent
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig
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
    read = load_study if isinstance(config, StudyConfig) else load_experiment
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
        command_line.parse(verb, words)  # raises or exits where it would be refused


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
            config.experiment(entry)


@pytest.mark.slow
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


def test_a_config_loads_from_any_directory(
    path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_file(ROOT / path) == config


# The lists that several studies share: nat_ar/experiment/recipes.py

STUDENTS = [
    *("lstm", "decoder_only", "joint", "length", "fertility", "glat", "axe", "oaxe"),
    *("deep_supervision", "ctc", "ctc_glat", "ctc_vae", "da_transformer", "cmlm", "refinement"),
]
CTC = {"ctc", "ctc_glat", "ctc_vae"}
MASKED = {"axe", "oaxe", "cmlm"}
"""Trained as the masked language models of their papers."""


def entries_of(folder: str, file: str = "family") -> dict[str, Entry]:
    config = load_file(ROOT / "configs" / folder / f"{file}.py")
    return {entry.name: entry for entry in config.entries}


def raw_students(folder: str) -> dict[str, Entry]:
    return {name: entry for name, entry in entries_of(folder).items() if not entry.distilled}


@pytest.mark.parametrize(
    ("folder", "shallow"),
    [("debian_en_de", "ar_5_1"), ("iwslt14_de_en", "ar_12_1"), ("wmt14_en_de", "ar_12_1")],
)
def test_a_family_is_every_method_raw_and_distilled(folder: str, shallow: str) -> None:
    entries = entries_of(folder)
    names = [shallow, *STUDENTS]
    assert list(entries) == ["ar_kd", *names, *(f"{name}_kd" for name in names)]
    for name in names:
        twin = dataclasses.replace(entries[name], name=f"{name}_kd", distilled=True)
        assert twin == entries[f"{name}_kd"]
    methods = {type(entry.method) for entry in entries.values()}
    assert methods == set(typing.get_args(AnyMethod))


def test_a_family_may_go_on_by_fuzzy_alignment() -> None:
    """Each from its own first stage, at a third of the rate for a tenth of the steps."""
    training = TrainingConfig(max_steps=1000)
    stage = recipes.second_stage(recipes.with_clipping(training, 0.1), 100)
    (*plain, raw, distilled) = recipes.family(
        TransformerConfig(),
        training,
        shallow=TransformerConfig(num_decoder_layers=1),
        recurrent=RecurrentConfig(),
        encoder_from_teacher=True,
        fuzzy_training=stage,
    )
    assert [entry.start_from for entry in plain] == [None] * 33
    assert (stage.max_steps, stage.optimizer.warmup_steps, stage.optimizer.clip_norm) == (
        100,
        10,
        0.1,
    )
    assert stage.optimizer.peak_learning_rate == training.optimizer.peak_learning_rate / 3
    for entry, suffix in ((raw, ""), (distilled, "_kd")):
        (first,) = (entry for entry in plain if entry.name == f"da_transformer{suffix}")
        assert (entry.name, entry.start_from) == (f"da_transformer_fuzzy{suffix}", first.name)
        assert (entry.distilled, entry.decodings) == (first.distilled, first.decodings)
        assert entry.training == stage
        assert not entry.encoder_from_teacher
        likelihood = dataclasses.replace(
            entry.method, fuzzy_alignment=None, glancing=first.method.glancing
        )
        assert likelihood == first.method
        assert entry.method.fuzzy_alignment == FuzzyAlignment(2)


def test_the_stage_of_ngrams_reveals_nothing_and_weighs_lengths_less() -> None:
    glancing = Glancing(0.5, 0.0, 10)
    ctc = recipes.matching(Ctc(label_smoothing=0.1, glancing=glancing), ngram=3)
    assert ctc == Ctc(ngram_matching=NgramMatching(3))
    latent = recipes.matching(Ctc(latent=Latent(size=4, anneal_steps=10)))
    assert isinstance(latent, Ctc)
    assert latent.latent == Latent(size=4, anneal_steps=10, free_nats=0.0)
    length = recipes.matching(LengthNat(glancing=glancing))
    plain = {"label_smoothing": 0.0, "token_loss": BagOfNgrams(2)}
    assert length == LengthNat(**plain, length_loss_weight=LengthNat().length_loss_weight / 10)
    weight = FertilityNat().fertility_loss_weight
    fertility = recipes.matching(FertilityNat())
    assert fertility == FertilityNat(**plain, fertility_loss_weight=weight / 10)
    with pytest.raises(ConfigError, match=r"by Ctc, LengthNat and FertilityNat .*, got Autoregr"):
        recipes.matching(Autoregressive())


@pytest.mark.parametrize("folder", ["debian_en_de", "iwslt14_de_en", "wmt14_en_de"])
def test_gradients_are_clipped_and_glancing_ends_as_papers_have_it(folder: str) -> None:
    for name, entry in raw_students(folder).items():
        norms = {2.4: CTC, 0.1: {"da_transformer"}}
        expected = next((norm for norm, names in norms.items() if name in names), 1.0)
        assert entry.training.optimizer.clip_norm == expected, name
    students = raw_students(folder)
    steps = students["length"].training.max_steps
    assert students["glat"].method.glancing == Glancing(0.5, 0.3, steps)
    assert students["oaxe"].method.token_loss == Oaxe(anneal_steps=steps // 3)
    assert students["ctc_vae"].method.latent.anneal_steps == steps
    assert students["da_transformer"].method.glancing == Glancing(0.5, 0.1, 2 * steps // 3)


def test_wmt14_trains_masked_models_on_more_tokens_and_with_more_dropout() -> None:
    for name, entry in raw_students("wmt14_en_de").items():
        tokens = 131_072 if name in MASKED else 65_536
        assert entry.training.batching.batch_tokens == tokens, name
        accumulation = {"da_transformer": 8}.get(name, 4 if name in MASKED else 2)
        assert entry.training.accumulation == accumulation, name
        dropout = 0.3 if name in MASKED | CTC else {"ar_12_1": 0.2}.get(name, 0.1)
        if name != "lstm":  # it has no Transformer
            assert entry.method.network.dropout_rate == dropout, name
        assert not entry.encoder_from_teacher
    teacher = load_file(ROOT / "configs/wmt14_en_de/study.py").teacher
    assert (teacher.method.network.dropout_rate, teacher.training.max_steps) == (0.1, 300_000)


def test_debian_students_start_with_the_teachers_encoder_where_they_have_one() -> None:
    """Joint, of family "AR+NAT", has the encoder of an autoregressive model."""
    without = {n for n, e in raw_students("debian_en_de").items() if not e.encoder_from_teacher}
    assert without == {"ar_5_1", "lstm", "decoder_only"}
    assert raw_students("debian_en_de")["da_transformer"].method.upsample_factor == 4


def test_iwslt_searches_with_a_beam_of_5_on_graphs_of_short_sentences() -> None:
    students = raw_students("iwslt14_de_en")
    assert students["lstm"].decodings == ("Beam(size=5)", "Greedy()")
    assert students["da_transformer"].training.batching.buckets[-1] == 128
    assert students["length"].training.batching.buckets[-1] > 128


@pytest.mark.parametrize(
    ("folder", "steps", "dropout"), [("wmt14_en_de", 300_000, 0.1), ("wmt16_en_ro", 100_000, 0.3)]
)
def test_wmt_studies_are_gu_2018_with_its_baselines(
    folder: str, steps: int, dropout: float
) -> None:
    entries = entries_of(folder, "study")
    names = ["ar_12_1_kd", "length", "length_kd", "fertility_kd", "fertility_kd_ft"]
    assert list(entries) == names
    shallow = entries["ar_12_1_kd"].method.network
    assert (shallow.num_encoder_layers, shallow.num_decoder_layers) == (12, 1)
    assert {entry.method.network.dropout_rate for entry in entries.values()} == {dropout}
    tuned = entries["fertility_kd_ft"]
    assert (tuned.start_from, tuned.training.max_steps) == ("fertility_kd", 30_000)
    assert tuned.method.fine_tuning is not None
    assert {e.training.max_steps for e in entries.values() if e is not tuned} == {steps}


def test_sizes_are_a_transformers_or_an_error() -> None:
    lstm = Entry("lstm", Recurrent(), TrainingConfig())
    with pytest.raises(ConfigError, match="expected a Transformer, got RecurrentConf"):
        recipes.transformer_of(lstm)
    tiny = TransformerConfig(d_model=16, num_heads=2)
    entry = recipes.changed(Entry("ar", Autoregressive(), TrainingConfig()), transformer=tiny)
    assert recipes.transformer_of(entry) == tiny
