"""What an experiment may be, and the directory of a run."""

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
from nat_ar.data.batching import BatchingConfig
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.experiment.run import Run, open_translator
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat, FineTuning
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.beam import Beam
from nat_ar.search.ctc import BestPath
from nat_ar.search.fertility import Argmax, Average, NoisyParallel
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.sampling import Sampling
from nat_ar.training.config import TrainingConfig
from nat_ar.translation import decodings
from nat_ar.translation.decodings import Int8
from nat_ar.translation.model import abstract_model

DATA = DataConfig("data", ToyCorpus())


def copy_of(run: Run, directory: Path) -> Run:
    shutil.copytree(run.directory, directory)
    return Run(directory)


def change(path: Path, **fields: object) -> None:
    """Rewrites some fields of a run's config or facts, which then say so nowhere."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")
    facts_path = path.with_name("facts.json")
    facts = json.loads(facts_path.read_text("utf-8"))
    facts = {k: v for k, v in facts.items() if k not in ("checksum", "config_hash")}
    facts_path.write_text(json.dumps(facts), "utf-8")


@pytest.mark.parametrize(
    ("method", "text", "decoding"),
    [
        (Autoregressive(), None, Beam()),
        (Autoregressive(decoding=Greedy()), None, Greedy()),
        (Autoregressive(), "Greedy", Greedy()),
        (Autoregressive(), " Beam( size = 3 , length_penalty=0.6 )", Beam(3, length_penalty=0.6)),
        (LengthNat(), "LengthBeam(size=5, rescore=True)", LengthBeam(5, rescore=True)),
        (FertilityNat(), "Average()", Average()),
        (FertilityNat(), "NoisyParallel(temperature=0.5)", NoisyParallel(temperature=0.5)),
        (Autoregressive(), "Beam(size=3) int8", Int8(Beam(3))),
        (Autoregressive(), "Sampled(seed=1)", Sampling(seed=1)),  # as earlier versions called it
        (Ctc(), "Collapse()", BestPath()),
    ],
)
def test_a_decoding_is_written_as_in_python(
    method: AnyMethod, text: str | None, decoding: object
) -> None:
    assert decodings.parse_decoding(method, text) == decoding


def test_a_decoding_written_out_is_read_back() -> None:
    for method in (Autoregressive(), LengthNat(), FertilityNat()):
        for cls in decodings.decodings_of(type(method)):
            assert decodings.parse_decoding(method, decodings.decoding_text(cls())) == cls()


def test_a_decoding_is_read_by_its_earlier_name() -> None:
    for method, old in ((Autoregressive(decoding=Sampling()), "Sampled"), (Ctc(), "Collapse")):
        data = config_json.to_json(method)
        data["decoding"]["type"] = old
        assert config_json.from_json(type(method), data) == method


@pytest.mark.parametrize(
    ("decoding", "text"),
    [
        (Greedy(), "Greedy()"),
        (Beam(), "Beam(size=4)"),  # the first field always: it says how much is searched
        (LengthBeam(5, rescore=True), "LengthBeam(size=5, rescore=True)"),
        (NoisyParallel(2, seed=1, n_best=2), "NoisyParallel(samples=2, seed=1, n_best=2)"),
        (Int8(Beam()), "Beam(size=4) int8"),
    ],
)
def test_a_written_decoding_leaves_out_the_defaults(decoding: object, text: str) -> None:
    assert decodings.decoding_text(decoding) == text


def test_each_method_knows_its_decodings() -> None:
    assert decodings.decodings_of(Autoregressive) == (Greedy, Beam, Sampling)
    assert decodings.decodings_of(LengthNat) == (LengthBeam,)
    assert decodings.decodings_of(FertilityNat) == (Argmax, Average, NoisyParallel)


@pytest.mark.parametrize(
    "text",
    [
        "Beam()",  # of another method
        "Argmax(size=2)",  # no such field
        "NoisyParallel(3)",  # fields have names
        "NoisyParallel(**{'samples': 3})",
        "NoisyParallel(samples='many')",
        "NoisyParallel(samples=None)",
        "argmax()",
        "",
        "Argmax(",
        "Argmax() and Average()",
        "Argmax()()",
        "Argmax\0()",
        "__import__('os')",
        "__import__('os').system('false')",
        "NoisyParallel(samples=__import__('os').getpid())",
        "NoisyParallel(samples=[1 for _ in 'a'][0])",
        "(lambda: Argmax())()",
    ],
)
def test_anything_else_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        decodings.parse_decoding(FertilityNat(), text)
    message = str(refusal.value)
    for part in ("FertilityNat", "Argmax()", "Average()", "NoisyParallel(samples=10", repr(text)):
        assert part in message
    assert "\n" not in message


def test_a_decoding_that_cannot_be_says_why() -> None:
    with pytest.raises(ConfigError, match="1 <= n_best <= samples, got n_best 3 and samples 2"):
        decodings.parse_decoding(FertilityNat(), "NoisyParallel(samples=2, n_best=3)")


def test_the_longest_bucket_fits_the_positions() -> None:
    batching = BatchingConfig(batch_tokens=4096, buckets=(8, 1025))
    with pytest.raises(ConfigError, match=r"buckets ends at 1025, .*max_length is 1024"):
        ExperimentConfig("x", DATA, LengthNat(), TrainingConfig(batching=batching))


def test_fertilities_need_alignments() -> None:
    without = dataclasses.replace(DATA, aligner=None)
    ExperimentConfig("x", without, LengthNat())
    ExperimentConfig("x", dataclasses.replace(without, alignments="links.txt"), FertilityNat())
    with pytest.raises(ConfigError, match=r"FertilityNat learns fertilities .* set data.aligner"):
        ExperimentConfig("x", without, FertilityNat())


def test_fine_tuning_needs_a_teacher() -> None:
    tuned = FertilityNat(fine_tuning=FineTuning())
    ExperimentConfig("x", DATA, tuned, teacher="runs/ar")
    with pytest.raises(ConfigError, match="autoregressive teacher: name its run in `teacher`"):
        ExperimentConfig("x", DATA, tuned)


def test_the_longest_translation_fits_the_positions() -> None:
    """Of a source of 256 tokens: 2 * 256 + 10, and EOS."""
    ExperimentConfig("x", DATA, LengthNat(TransformerConfig(max_length=523)))
    with pytest.raises(ConfigError, match=r"may become 523, .*max_length is 522"):
        ExperimentConfig("x", DATA, LengthNat(TransformerConfig(max_length=522)))


def test_positions_are_counted_in_tokens_not_in_frames() -> None:
    """A CTC decoder with eight frames a token knows eight times max_length places."""
    ExperimentConfig("x", DATA, Ctc(TransformerConfig(max_length=523), upsample_factor=8))
    with pytest.raises(ConfigError, match=r"may become 523, .*max_length is 522"):
        ExperimentConfig("x", DATA, Ctc(TransformerConfig(max_length=522), upsample_factor=8))


def test_rescoring_and_starting_from_a_teacher_need_one() -> None:
    rescoring = LengthNat(decoding=LengthBeam(rescore=True))
    with pytest.raises(ConfigError, match="rescores with a teacher: name its run in `teacher`"):
        ExperimentConfig("x", DATA, rescoring)
    with pytest.raises(ConfigError, match="encoder_from_teacher needs a teacher"):
        ExperimentConfig("x", DATA, LengthNat(), encoder_from_teacher=True)
    ExperimentConfig("x", DATA, rescoring, teacher="runs/ar", encoder_from_teacher=True)


def test_a_model_that_rescores_itself_needs_no_teacher() -> None:
    own, rescoring = Joint(), LengthBeam(2, rescore=True)
    assert own.decoding.rescore
    ExperimentConfig("x", DATA, own)
    assert not decodings.needs_scorer(own, rescoring)
    assert decodings.needs_scorer(LengthNat(), rescoring)
    assert not decodings.needs_scorer(LengthNat(), LengthBeam(2))
    assert not decodings.needs_scorer(Autoregressive(), Greedy())


@pytest.mark.parametrize("method", [Recurrent(), DecoderOnly()])
def test_a_method_without_the_teachers_encoder_cannot_start_with_it(method: AnyMethod) -> None:
    with pytest.raises(ConfigError, match=f"{type(method).__name__} does not have the Transformer"):
        ExperimentConfig("x", DATA, method, teacher="runs/ar", encoder_from_teacher=True)


def test_a_recurrent_network_knows_sentences_of_any_length() -> None:
    batching = BatchingConfig(batch_tokens=4096, buckets=(8, 2048))
    ExperimentConfig("x", DATA, Recurrent(), TrainingConfig(batching=batching))


def test_an_experiment_trains_on_its_data_unless_told_otherwise() -> None:
    config = ExperimentConfig("x", DATA, LengthNat())
    assert config.training_directory == "data"
    assert dataclasses.replace(config, train_on="distilled").training_directory == "distilled"


def test_a_config_file_may_stand_anywhere_and_compute(tmp_path: Path) -> None:
    path = tmp_path / "with space.py"
    path.write_text(
        "from nat_ar.nn.transformer import TransformerConfig\n"
        "config = TransformerConfig(d_hidden=4 * 64)",
        "utf-8",
    )
    assert load_file(path) == TransformerConfig(d_hidden=256)


def test_a_config_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    with pytest.raises(ConfigError, match=r"config\.py, which does not exist"):
        load_file(path)
    path.write_text("settings = 3", "utf-8")
    with pytest.raises(ConfigError, match="must assign its dataclass to the name `config`"):
        load_file(path)
    path.write_text(
        "from nat_ar.methods.length_nat import LengthNat\nconfig = LengthNat()\n"
        "object.__setattr__(config, 'copy', 'hard')",
        "utf-8",
    )
    with pytest.raises(
        ConfigError, match=r"config\.py\.copy: expected one of .*'soft', got 'hard'"
    ):
        load_file(path)


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


def test_an_abstract_model_holds_no_numbers(tiny_runs) -> None:
    words = PreparedData.load(tiny_runs.data).vocabulary
    _, shapes = abstract_model(Autoregressive(), words)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


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


def test_the_teacher_is_opened_only_where_it_rescores(tiny_runs) -> None:
    _, plain = open_translator(tiny_runs.length_nat)
    assert plain.scorer is None
    _, rescoring = open_translator(tiny_runs.length_nat, "LengthBeam(rescore=True)")
    assert rescoring.scorer is not None
    assert rescoring.decoding == LengthBeam(rescore=True)
