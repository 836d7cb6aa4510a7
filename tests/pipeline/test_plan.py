"""What a training would take, beside what its step takes here."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest
from flax import nnx

from nat_ar import __main__ as command_line
from nat_ar.commands.plan import Plan as Command
from nat_ar.config_json import ConfigError
from nat_ar.data.batching import BatchingConfig
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation.speed import training_cost
from nat_ar.evaluation.speed.collectives import Exchange
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.pipeline import plan
from nat_ar.pipeline.plan import Plan, Rates
from nat_ar.training.config import TrainingConfig

# Linear maps are most of it, and one of them is large enough to be sharded.
TRANSFORMER = TransformerConfig(
    d_model=128, d_hidden=1024, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
)
CONFIG = ExperimentConfig(
    "small",
    DataConfig("nowhere", TextFiles(("train.tsv",)), VocabularyConfig(size=400)),
    Autoregressive(TRANSFORMER),
    TrainingConfig(
        max_steps=3600,
        batching=BatchingConfig(batch_tokens=1024, buckets=(8, 16)),
        accumulation=2,
        average_decay=0.9,
    ),
)
SIZES = VocabularySizes(400, 400, is_joint=True)
RATES = Rates(peak=2e9, bandwidth=1e6, network=1e3, efficiency=0.5)
PLAN = Plan(
    mesh="data=2,fsdp=2",
    devices=4,
    parameters=10,
    rows=8,
    width=16,
    steps=3600,
    state_bytes=2**20,
    temporary_bytes=3 * 2**20,
    flops=8e9,
    exchanges=(
        Exchange("all-reduce", 2, True, 1000),
        Exchange("all-gather", 2, False, 2_000_000),
    ),
)


def test_a_step_computes_and_then_exchanges() -> None:
    assert PLAN.arithmetic_seconds(RATES) == 2.0  # 2e9 FLOPs a device, at half of 2e9 a second
    assert PLAN.exchange_seconds(RATES) == 1.0 + 1.0  # 1,000 bytes by the network, 1 MB within
    same = dataclasses.replace(RATES, network=None)
    assert PLAN.exchange_seconds(same) == pytest.approx(1.001)
    assert PLAN.step_seconds(RATES) == 4.0
    assert PLAN.sent_bytes("all-reduce") == 1000


def test_the_table_has_times_where_there_are_rates() -> None:
    titles, _, line = plan.markdown([PLAN], RATES).splitlines()
    cells = dict(zip(titles.split(" | "), line.split(" | "), strict=True))
    assert cells["step ms"] == "4,000.0"
    assert cells["hours"] == "4.0"
    assert cells["device hours |"] == "16.0 |"
    assert cells["GFLOPs a device"] == "2"
    assert "step ms" not in plan.markdown([PLAN], None)


@pytest.mark.slow
def test_a_plan_knows_the_state_the_flops_and_what_is_exchanged() -> None:
    one = plan.plan(CONFIG, "data=1", length=10)
    assert (one.rows, one.width, one.devices, one.exchanges) == (64, 16, 1, ())
    shapes = nnx.state(
        nnx.eval_shape(lambda: CONFIG.method.build(SIZES, rngs=nnx.Rngs(0))), nnx.Param
    )
    leaves = jax.tree.leaves(shapes)
    assert one.parameters == sum(leaf.size for leaf in leaves)
    # Parameters, two moments and the average; source and target; some numbers: steps and a key.
    kept = 4 * 4 * one.parameters + 2 * 4 * 64 * 16
    assert kept <= one.state_bytes < kept + 100
    batch = training_cost.random_batch(64, 16, SIZES)
    step = training_cost.TrainStep(CONFIG.method, SIZES, batch)
    peaks = Peaks({"float32": 1.0}, {1: 1.0})
    assert one.flops == step.product_cost(batch, peaks).flops
    assert one.flops == pytest.approx(6 * one.parameters * 64 * 16, rel=0.1)

    spread = plan.plan(CONFIG, "data=2,fsdp=4", length=10, devices_per_machine=4)
    assert spread.flops == one.flops
    sharded = sum(leaf.size for leaf in leaves if leaf.size >= 2**16)
    assert 0 < sharded < one.parameters
    kept = 4 * 4 * (one.parameters - sharded + sharded / 4) + 2 * 4 * 64 * 16 / 8
    assert kept <= spread.state_bytes < kept + 100
    gathered = [x for x in spread.exchanges if x.kind == "all-gather"]
    assert [(x.members, x.crosses, x.num_bytes) for x in gathered] == [(4, False, 4 * sharded)]
    # Each of two parts adds up at least every gradient.
    reduced = sum(x.num_bytes for x in spread.exchanges if x.kind == "all-reduce")
    assert reduced > 2 * 4 * one.parameters
    assert spread.temporary_bytes < one.temporary_bytes


def test_what_cannot_be_planned_is_said() -> None:
    for mesh, message in [
        ("data=-1", "say --mesh data=N,fsdp=M in numbers, got 'data=-1'"),
        ("model=2", "--mesh is data=N,fsdp=M"),
    ]:
        with pytest.raises(ConfigError, match=message):
            plan.plan(CONFIG, mesh)
    batching = dataclasses.replace(CONFIG.training.batching, row_multiple=8)
    training = dataclasses.replace(CONFIG.training, batching=batching)
    with pytest.raises(ConfigError, match=r"multiple of 8 .* got 16 devices and accumulation 2"):
        plan.plan(dataclasses.replace(CONFIG, training=training), "fsdp=16")
    cudnn = dataclasses.replace(TRANSFORMER, implementation="cudnn", dtype="bfloat16")
    with pytest.raises(ConfigError, match="plan compiles for CPUs"):
        plan.plan(dataclasses.replace(CONFIG, method=Autoregressive(cudnn)), "data=1")
    with pytest.raises(ConfigError, match="peak must be above 0"):
        Rates(peak=0.0, bandwidth=1.0)


def test_of_a_study_the_teacher_or_an_entry_is_planned() -> None:
    study = str(Path(__file__).parents[2] / "configs" / "wmt14_en_de" / "family.py")
    words = [study, "--mesh", "data=8", "data=8,fsdp=8", "--training.max-steps", "5"]
    teacher: Command = command_line.parse("plan", words)
    assert (teacher.config.name, teacher.mesh) == ("ar", ("data=8", "data=8,fsdp=8"))
    assert teacher.config.training.max_steps == 5
    entry: Command = command_line.parse("plan", [*words, "--entry", "ctc"])
    assert entry.config.name == "ctc"
    with pytest.raises(ConfigError, match=r"--entry: .* has ar, .*got 'nat'"):
        command_line.parse("plan", [*words, "--entry", "nat"])


def test_what_a_config_says_reaches_the_process_that_compiles() -> None:
    """As JSON, which keeps all of it."""
    request = json.loads(json.dumps({"config": plan.config_json.to_json(CONFIG)}))
    assert plan.config_json.from_json(ExperimentConfig, request["config"]) == CONFIG
