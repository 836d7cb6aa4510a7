"""The directory of a run: found again, loaded, and refused where something does not fit."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data import vocabulary
from nat_ar.data.arrays import PreparedData
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment import provenance
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.runtime import files
from nat_ar.search.one_pass import LengthBeam
from nat_ar.training.config import TrainingConfig
from nat_ar.training.optimizer import OptimizerConfig
from nat_ar.translation.model import abstract_model


def copy_of(run: Run, directory: Path) -> Run:
    shutil.copytree(run.directory, directory)
    return Run(directory)


def change(path: Path, **fields: object) -> None:
    """Rewrites some fields of a run's config or facts, which then say so nowhere."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")
    facts_path = path.with_name("facts.json")
    facts = json.loads(facts_path.read_text("utf-8"))
    facts = {k: v for k, v in facts.items() if k not in ("checksum", "config_hash", "places")}
    facts_path.write_text(json.dumps(facts), "utf-8")


def test_a_run_remembers_its_config(tiny_runs) -> None:
    config = tiny_runs.length_nat.config()
    assert config == dataclasses.replace(
        config, name="nat", teacher=str(tiny_runs.autoregressive.directory)
    )
    text = tiny_runs.length_nat.config_path.read_text("utf-8")
    assert text == config_json.dumps(config)


def test_a_run_is_found_again_by_the_same_config_and_data(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    files = {path: path.read_bytes() for path in run.directory.glob("*.json")}
    run.start(run.config(), PreparedData.load(tiny_runs.data))
    assert files == {path: path.read_bytes() for path in run.directory.glob("*.json")}


def test_another_config_is_refused_by_the_name_of_its_field(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    data = PreparedData.load(tiny_runs.data)
    other = dataclasses.replace(run.config(), training=TrainingConfig(seed=5))
    with pytest.raises(ConfigError, match=r"another experiment: training\.seed: 1 -> 5\. "):
        run.start(other, data)
    other = dataclasses.replace(run.config(), method=Autoregressive())
    with pytest.raises(ConfigError, match=r'method\.type: "LengthNat" -> "Autoregressive"'):
        run.start(other, data)
    assert run.config() == tiny_runs.length_nat.config()


def test_other_data_are_refused(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    data = PreparedData.load(tiny_runs.data)
    changed = dataclasses.replace(data, manifest={**data.manifest, "data_hash": "0" * 64})
    with pytest.raises(ConfigError, match=r'another experiment: data_hash: "[0-9a-f]+" -> "000'):
        run.start(run.config(), changed)


def test_a_start_that_was_interrupted_is_done_again(tiny_runs, tmp_path: Path) -> None:
    """config.json is written last: without it there is no run yet."""
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    config = run.config()
    run.config_path.unlink()
    change(run.directory / "facts.json", data_hash="of an earlier attempt")
    data = PreparedData.load(tiny_runs.data)
    run.start(config, data)
    assert run.config() == config
    assert run.facts()["data_hash"] == data.hash


def test_a_directory_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no run: it has no config\.json; train one first"):
        Run(tmp_path).config()


def test_a_damaged_config_names_its_file(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.config_path, nmae="nat")
    with pytest.raises(ConfigError, match=r"config\.json: .* no field 'nmae'; .*'name'"):
        run.config()
    run.config_path.write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"config\.json cannot be used: .*; restore it, or train"):
        run.config()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", '"num_heads": 2', '"num_heads": 1'),
        ("facts.json", '"training_data": "raw"', '"training_data": "ram"'),
    ],
)
def test_a_config_and_facts_that_changed_are_refused(
    tiny_runs, tmp_path: Path, name: str, old: str, new: str
) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    path = run.directory / name
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=f"{name}.* has changed since"):
        run.load()


def test_a_run_of_another_format_is_refused(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.directory / "facts.json", format=99)
    with pytest.raises(ConfigError, match="has format 99, this version reads 1"):
        run.load()


def test_another_vocabulary_than_the_trained_one_is_refused(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.directory / "facts.json", vocabulary_hash="f" * 64)
    with pytest.raises(ConfigError, match="trained with ffffffffffff; restore the files"):
        run.load()


def test_a_run_loads_without_its_data(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.config_path, teacher=None)
    loaded = run.load("latest")
    assert loaded.step == 0
    _, shapes = abstract_model(loaded.config.method, loaded.vocabulary)
    expected = [leaf.shape for leaf in jax.tree.leaves(shapes)]
    assert [leaf.shape for leaf in jax.tree.leaves(loaded.model.params)] == expected
    assert loaded.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    with pytest.raises(ValueError, match="best, latest or one of 0; got '7'"):
        run.load("7")


def test_rescoring_without_a_teacher_is_refused(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.config_path, teacher=None)
    with pytest.raises(ConfigError, match="was trained without one; choose another decoding"):
        open_translator(run, "LengthBeam(size=2, rescore=True)")


def test_a_teacher_of_another_vocabulary_cannot_rescore(tiny_runs, tmp_path: Path) -> None:
    teacher = copy_of(tiny_runs.autoregressive, tmp_path / "teacher")
    letters = ["a b c d e f g h", "A B C D E F G H"]
    shutil.rmtree(teacher.directory / "vocabulary")
    other = vocabulary.train(
        letters,
        letters,
        teacher.directory / "vocabulary",
        VocabularyConfig(24, byte_fallback=False),
    )
    change(teacher.directory / "facts.json", vocabulary_hash=other.hash)
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.config_path, teacher=str(teacher.directory))
    with pytest.raises(ConfigError, match="has another vocabulary than"):
        open_translator(run, "LengthBeam(rescore=True)")


@pytest.mark.parametrize("role", ["teacher", "start_from"])
def test_another_model_behind_the_same_path_is_refused_when_a_training_goes_on(
    tiny_runs, tmp_path: Path, train_anew, role: str
) -> None:
    """Same path, same config, same step: only the parameters tell."""
    other, data = (
        copy_of(tiny_runs.autoregressive, tmp_path / "ar"),
        PreparedData.load(tiny_runs.data),
    )
    config = dataclasses.replace(
        tiny_runs.length_nat.config(),
        teacher=str(other.directory),
        encoder_from_teacher=role == "teacher",
        start_from=str(other.directory),
    )
    run, model = Run(tmp_path / "run"), other.load()
    run.start(config, data, **{role: model})
    assert run.facts()[role] == {"checkpoint_step": 0, "parameters_hash": model.parameters_hash}
    run.start(config, data, **{role: model})
    train_anew(other)
    said = (
        rf"{role} .*/ar is another model than the one that .*/run began with: step 0, parameters "
    )
    with pytest.raises(ConfigError, match=said + model.parameters_hash[:12]):
        run.start(config, data, **{role: other.load()})
    if role == "teacher":  # what training takes nothing from may change
        loose = dataclasses.replace(config, encoder_from_teacher=False)
        Run(tmp_path / "loose").start(loose, data, teacher=model)
        Run(tmp_path / "loose").start(loose, data, teacher=other.load())


def test_code_outside_the_package_is_known_by_what_it_says(
    tiny_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that defines a class of the config may hold another one tomorrow."""
    monkeypatch.chdir(tmp_path)
    code = "from nat_ar.data.corpus import *\n@dataclasses.dataclass(frozen=True)\nclass Mine(Corpus): pass\n"
    Path("mine.py").write_text(code, "utf-8")
    config = tiny_runs.autoregressive.config()
    corpus = config_json.run_file("mine.py").Mine()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=corpus))
    run = copy_of(tiny_runs.autoregressive, tmp_path / "run")
    for name in ("config.json", "facts.json"):
        (run.directory / name).unlink()
    run.start(config, PreparedData.load(tiny_runs.data))
    run.load()
    assert capsys.readouterr().err == ""
    Path("mine.py").write_text(code + "# better\n", "utf-8")
    run.load()
    assert (
        capsys.readouterr().err
        == f"warning: mine.py has changed since {run.directory} was trained by it\n"
    )


def test_a_run_that_knows_no_parameters_of_its_teacher_goes_on(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    assert "teacher" not in run.facts()
    config, data = run.config(), PreparedData.load(tiny_runs.data)
    run.start(config, data, teacher=tiny_runs.autoregressive.load())


def test_a_model_is_known_by_its_parameters(tiny_runs, tmp_path: Path, train_anew) -> None:
    run = copy_of(tiny_runs.autoregressive, tmp_path / "ar")
    before = run.load()
    assert run.parameters_hash() == before.parameters_hash
    train_anew(run)
    assert run.load().step == before.step
    assert run.parameters_hash() == run.load().parameters_hash != before.parameters_hash


def test_rescoring_by_another_model_than_in_training_is_said(
    tiny_runs, tmp_path: Path, train_anew, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = copy_of(tiny_runs.autoregressive, tmp_path / "ar")
    config = dataclasses.replace(tiny_runs.length_nat.config(), teacher=str(teacher.directory))
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    for name in ("config.json", "facts.json"):
        (run.directory / name).unlink()
    run.start(config, PreparedData.load(tiny_runs.data), teacher=teacher.load())
    loaded, _ = open_translator(run, "LengthBeam(rescore=True)")
    assert capsys.readouterr().err == ""
    before = provenance.identity(run, loaded)
    assert before["rescorer"] == before["teacher"]
    train_anew(teacher)
    loaded, _ = open_translator(run, "LengthBeam(rescore=True)")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: LengthBeam(size=1, rescore=True) rescores with another model than"
    )
    after = provenance.identity(run, loaded)
    assert {key for key in before if before[key] != after[key]} == {"rescorer"}
    assert after["rescorer"]["parameters_hash"] == teacher.parameters_hash()


@pytest.mark.parametrize("version", ["of today", "early"])
def test_a_run_finds_what_its_config_names_from_any_directory(
    tiny_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Paths of a config are relative to the directory in which it was trained."""
    (tmp_path / "work" / "runs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    copy_of(tiny_runs.autoregressive, Path("runs/ar"))
    config = dataclasses.replace(tiny_runs.length_nat.config(), teacher="runs/ar")
    run = copy_of(tiny_runs.length_nat, Path("runs/nat"))
    for name in ("config.json", "facts.json"):
        (run.directory / name).unlink()
    run.start(config, PreparedData.load(tiny_runs.data))
    if version == "early":
        assert run.facts()["places"]["runs/ar"] == "../ar"
        facts = {key: value for key, value in run.facts().items() if key != "places"}
        (run.directory / "facts.json").write_text(json.dumps(facts), "utf-8")
    teacher = run.rescorer(LengthBeam(rescore=True))
    assert teacher == Run(Path("runs/ar"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = Run(Path("../work/runs/nat"))
    assert there.rescorer(LengthBeam(rescore=True)) == Run(tmp_path / "work" / "runs" / "ar")
    assert there.find("runs/gone") == Path("runs/gone")
    assert there.find(config.data.directory) == tiny_runs.data
    if version == "of today":  # the study is moved as a whole, and the place has another name
        (tmp_path / "work" / "runs").rename(tmp_path / "moved")
        moved = Run(tmp_path / "moved" / "nat")
        assert moved.rescorer(LengthBeam(rescore=True)) == Run(tmp_path / "moved" / "ar")


def test_the_teacher_is_opened_only_where_it_rescores(tiny_runs) -> None:
    _, plain = open_translator(tiny_runs.length_nat)
    assert plain.scorer is None
    _, rescoring = open_translator(tiny_runs.length_nat, "LengthBeam(rescore=True)")
    assert rescoring.scorer is not None
    assert rescoring.decoding == LengthBeam(rescore=True)


def with_training(config: ExperimentConfig, **changes: object) -> ExperimentConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


def test_a_run_without_a_checkpoint_may_be_taken_over(tiny_runs, tmp_path: Path) -> None:
    """What failed before its first checkpoint once refused the mended command."""
    run, data = Run(tmp_path / "run"), PreparedData.load(tiny_runs.data)
    config = tiny_runs.length_nat.config()
    run.start(config, data)
    mended = with_training(config, seed=7)
    run.start(mended, data)
    assert run.config() == mended
    assert run.vocabulary().hash == data.vocabulary.hash
    (run.directory / "non_finite").mkdir()  # batches to look at
    with pytest.raises(ConfigError, match=r"another experiment: training\.seed: 7 -> 1\."):
        run.start(config, data)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_error_before_the_first_checkpoint_leaves_nothing_behind(
    tiny_runs, tmp_path: Path, error: type[BaseException]
) -> None:
    data, config = PreparedData.load(tiny_runs.data), tiny_runs.length_nat.config()

    def fail(run: Run, *, step: int | None = None) -> None:
        with run.started(config, data):
            assert run.config() == config
            if step is not None:
                (run.checkpoints_directory / str(step)).mkdir(parents=True)
            raise error

    run = Run(tmp_path / "runs" / "run")
    with pytest.raises(error):
        fail(run)
    assert not run.directory.exists()
    with pytest.raises(error):
        fail(run, step=5)
    assert run.config() == config

    (tmp_path / "mine").mkdir()
    with pytest.raises(error):
        fail(Run(tmp_path / "mine"))
    assert (tmp_path / "mine").exists()  # it was there before


def test_a_run_may_train_for_longer_where_its_rate_does_not_depend_on_it(
    tiny_runs, tmp_path: Path, start_run
) -> None:
    data = PreparedData.load(tiny_runs.data)
    config = with_training(tiny_runs.length_nat.config(), max_steps=5)
    run = start_run(Run(tmp_path / "run"), config, data)
    before = run.config_hash
    longer = with_training(config, max_steps=9)
    run.start(longer, data)
    assert run.config() == longer
    assert run.config_hash != before
    assert "former_config_hash" not in run.facts()
    with pytest.raises(ConfigError, match=r"training\.max_steps: 9 -> 5\. Give the same config"):
        run.start(config, data)
    with pytest.raises(ConfigError, match=r"training\.seed: 1 -> 2\. "):  # the steps are no matter
        run.start(with_training(longer, max_steps=11, seed=2), data)


@pytest.mark.parametrize(
    "optimizer", [OptimizerConfig(schedule="cosine"), OptimizerConfig(cooldown_share=0.1)]
)
def test_a_run_whose_rate_ends_with_it_names_start_from(
    tiny_runs, tmp_path: Path, start_run, optimizer: OptimizerConfig
) -> None:
    data = PreparedData.load(tiny_runs.data)
    config = with_training(tiny_runs.length_nat.config(), max_steps=5, optimizer=optimizer)
    run = start_run(Run(tmp_path / "run"), config, data)
    with pytest.raises(ConfigError, match=rf"max_steps: 5 -> 9\. .*--start-from {run.directory}"):
        run.start(with_training(config, max_steps=9), data)


def test_a_crash_while_max_steps_grow_leaves_a_run(
    tiny_runs, tmp_path: Path, start_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreparedData.load(tiny_runs.data)
    config = with_training(tiny_runs.length_nat.config(), max_steps=5)
    run = start_run(Run(tmp_path / "run"), config, data)
    longer, write = with_training(config, max_steps=9), files.write_text
    for survives in (1, 2):
        left = iter(range(survives))

        def crash(path: Path, text: str, left=left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_text", crash)
            with pytest.raises(KeyboardInterrupt):
                run.start(longer, data)
        assert run.config() in (config, longer)
    run.start(longer, data)
    assert run.config() == longer


def test_a_study_that_was_copied_or_moved_finds_its_own_data_and_teacher(
    tiny_runs, tmp_path: Path
) -> None:
    """Once, a copied run rescored with the teacher of the original, and a moved one was another experiment."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny_runs.data.parent, here)
    config = Run(here / "nat").config()
    assert Run(here / "nat").find(config.teacher) == here / "ar"
    assert Run(here / "nat").find(config.data.directory) == here / "data"
    here.rename(there)
    run, data = Run(there / "nat"), PreparedData.load(there / "data")
    assert run.find(config.teacher) == there / "ar"
    moved = dataclasses.replace(
        config,
        teacher=str(there / "ar"),
        data=dataclasses.replace(config.data, directory=str(there / "data")),
    )
    run.start(moved, data)
    assert run.config_hash == tiny_runs.length_nat.config_hash  # its rows and shards stay its own
    other = dataclasses.replace(moved, teacher=str(there / "nat"))
    with pytest.raises(ConfigError, match="another experiment: teacher: "):
        run.start(other, data)


def test_a_run_whose_data_were_moved_is_told_where_they_are(tiny_runs, tmp_path: Path) -> None:
    shutil.copytree(tiny_runs.data.parent, tmp_path / "study")
    (tmp_path / "study" / "data").rename(tmp_path / "data")
    run = Run(tmp_path / "study" / "ar")
    config = run.config()
    moved = dataclasses.replace(
        config, data=dataclasses.replace(config.data, directory=str(tmp_path / "data"))
    )
    run.start(moved, PreparedData.load(tmp_path / "data"))
    assert run.find(config.data.directory) == tmp_path / "data"


def test_a_teacher_that_cannot_score_is_refused_by_name(tiny_runs, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.length_nat, tmp_path / "run")
    change(run.config_path, teacher=str(tiny_runs.length_nat.directory))
    with pytest.raises(ConfigError, match=r"is LengthNat, of family NAT, .*autoregressive run"):
        open_translator(run, "LengthBeam(rescore=True)")


def test_kernels_for_a_gpu_are_refused_on_a_cpu_before_anything_is_loaded(
    tiny_runs, tmp_path: Path
) -> None:
    config = tiny_runs.length_nat.config()
    transformer = dataclasses.replace(
        config.method.transformer, dtype="bfloat16", implementation="cudnn"
    )
    method = dataclasses.replace(config.method, transformer=transformer, sees_itself=True)
    run = Run(tmp_path / "run")
    run.start(dataclasses.replace(config, method=method), PreparedData.load(tiny_runs.data))
    with pytest.raises(ConfigError, match="'cudnn' needs an NVIDIA GPU, JAX computes on cpu"):
        open_translator(run)
