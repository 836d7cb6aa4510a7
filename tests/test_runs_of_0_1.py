"""Runs of version 0.1.0 (commit c8abc97), written under names that classes and fields have no longer.

tests/data/runs_of_0_1 was made there by the study below, interrupted at step 400 of its student; nat_at_step_450.jsonl
is the end of the student's metrics.jsonl after 0.1.0 itself had resumed it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation import results
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.experiment.run import Run
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.pipeline import compare, evaluate, study, train
from nat_ar.runtime import child_process, files
from nat_ar.search.sampling import Sampling
from nat_ar.training.checkpoint import DamagedCheckpointError
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.slow

STORED = Path(__file__).parent / "data" / "runs_of_0_1"
TINY = TransformerConfig(
    d_model=8,
    d_hidden=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
)
TRAINING = TrainingConfig(
    max_steps=400,
    batching=BatchingConfig(batch_tokens=128, buckets=(8, 16)),
    optimizer=OptimizerConfig(peak_learning_rate=0.03, warmup_steps=40),
    validation=ValidationConfig(every_steps=400, sentences=12),
    log_every=50,
)
STUDY = StudyConfig(
    name="capitals",
    directory="study",
    data=DataConfig(
        directory="data",
        corpus=TextFiles(train=("train.tsv",), validation=("validation.tsv",), test=("test.tsv",)),
        vocabulary=VocabularyConfig(size=24, byte_fallback=False),
        aligner=None,
        remove_overlap=False,
    ),
    teacher=Entry(
        "ar",
        Autoregressive(transformer=TINY, decoding=Sampling(seed=5)),
        TRAINING,
        decodings=("Sampled(seed=5)", "Beam(size=2)"),
    ),
    entries=(
        Entry(
            "nat",
            LengthNat(transformer=TINY),
            dataclasses.replace(TRAINING, max_steps=450),
            distilled=True,
            encoder_from_teacher=True,
            decodings=("LengthBeam(size=3)",),
        ),
    ),
    distillation="Sampled(seed=5)",
    speed=SpeedConfig(
        sentences=10, repetitions=3, batch_sizes=(1,), throughput_sentences=10, floors=False
    ),
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy; the working directory is the one to which paths in its configs are relative."""
    shutil.copytree(STORED, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("study/runs")


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_study_goes_on_where_it_was_interrupted(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 400 of 450 of its student. Its teacher is neither trained nor evaluated again, and nothing is
    distilled again; the student ends where 0.1.0 would have ended."""
    teacher, distilled = contents(runs / "ar"), contents(Path("study/distilled"))

    def time(words: list[str]) -> None:
        raise TimeoutError(words[0])  # no row knows how fast the student's new checkpoint is

    monkeypatch.setattr(child_process, "run", time)
    with pytest.raises(TimeoutError, match="benchmark"):
        study.study(STUDY)
    assert contents(Path("study/distilled")) == distilled
    assert {**contents(runs / "ar"), runs / "ar" / "lock": b""} == {
        **teacher,
        runs / "ar" / "lock": b"",
    }
    table = compare.compare([runs / "ar", runs / "nat"], n_bootstrap=100)
    for decoding in ("Sampling(temperature=1.0, seed=5)", "Beam(size=2)", "LengthBeam(size=3)"):
        assert decoding.split("(")[0] in str(table)

    here, there = (
        [json.loads(line) for line in files.read_lines(path)]
        for path in (runs / "nat" / "metrics.jsonl", Path("nat_at_step_450.jsonl"))
    )
    here = [row for row in here if row["step"] == 450]
    assert (
        [row["kind"] for row in here] == [row["kind"] for row in there] == ["train", "validation"]
    )
    for key in ("objective", "token", "length", "gradient_norm", "learning_rate", "epoch"):
        assert here[0][key] == pytest.approx(there[0][key], rel=1e-3), key


@pytest.mark.parametrize(
    ("name", "decoding", "today"),
    [
        ("ar", "Sampled(seed=5)", "Sampling(temperature=1.0, seed=5)"),
        ("ar", "Beam(size=2)", "Beam(size=2)"),
        ("nat", "LengthBeam(size=3)", "LengthBeam(size=3)"),
    ],
)
def test_it_translates_to_the_same_text(runs: Path, name: str, decoding: str, today: str) -> None:
    rows = [row for row in results.read(runs / name) if row["decoding"] == today]
    (old,) = (row for row in rows if row["kind"] == "quality")
    texts = files.read_lines(runs / name / old["hypotheses"])
    new = evaluate.evaluate(runs / name, decoding=decoding)
    assert files.read_lines(runs / name / new["hypotheses"]) == texts
    for key in ("bleu", "config_hash", "test_hash", "checkpoint_step", "method", "decoding"):
        assert new[key] == old[key], key


def test_its_parameters_are_known_and_checked_by_their_sha_256(runs: Path) -> None:
    """As 0.1.0 wrote it, though new checkpoints have another checksum."""
    run = Run(runs / "ar")
    written = "e19f4f7c36c21d132eaeb1b224d123427a782cf914d1fceb485191a93ceec755"
    assert run.parameters_hash() == run.load().parameters_hash == written
    refused = 0
    for path in (runs / "ar" / "checkpoints" / "400" / "params").rglob("d/*"):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        try:
            assert run.load().parameters_hash == written
        except DamagedCheckpointError:
            refused += 1
        path.write_bytes(content)
    assert refused


def test_another_config_is_another_experiment(runs: Path) -> None:
    """Only what differs is listed, not what is called otherwise today."""
    config = Run.of(runs / "nat").config()
    other = dataclasses.replace(config.training, seed=2)
    with pytest.raises(ValueError, match=r"another experiment: training\.seed: 1 -> 2\."):
        train.train(dataclasses.replace(config, training=other), runs / "nat")
