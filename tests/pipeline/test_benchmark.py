import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import nat_ar.__main__ as command_line
from nat_ar.config_json import ConfigError
from nat_ar.data import prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.evaluation.speed import machine, profiling, report
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.experiment.run import Run
from nat_ar.pipeline import benchmark
from nat_ar.pipeline.benchmark import System
from nat_ar.search.greedy import Greedy

pytestmark = pytest.mark.slow

QUICK = SpeedConfig(sentences=6, repetitions=3, batch_sizes=(1, 4), throughput_sentences=8)
PEAKS = Peaks(matmul={"float32": 1e9}, bandwidth={8: 1e9})
BEAM = "Beam(size=4)"
ONE_LENGTH = "LengthBeam(size=1)"


def test_a_run_alone_is_its_default_decoding_and_an_autoregressive_one_both_searches(
    tiny_runs,
) -> None:
    ar, nat = tiny_runs.autoregressive, tiny_runs.length_nat
    assert benchmark.systems_of(str(ar.directory)) == [System(ar, BEAM), System(ar, "Greedy()")]
    (alone,) = benchmark.systems_of(str(nat.directory))
    assert alone == System(nat, ONE_LENGTH)
    (named,) = benchmark.systems_of(f"{nat.directory}:LengthBeam(size=3)")
    assert named == System(nat, "LengthBeam(size=3)")
    assert benchmark.systems_of(f"{ar.directory}:Greedy") == [System(ar, "Greedy()")]
    assert benchmark.systems_of(f"{ar.directory}:Greedy int8") == [System(ar, "Greedy() int8")]


def test_wrong_systems_are_named_before_any_work(tiny_runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"decoding of LengthNat: LengthBeam\(.*got 'Beam\(\)'"):
        benchmark.systems_of(f"{tiny_runs.length_nat.directory}:Beam()")
    with pytest.raises(ConfigError, match=r"nowhere is no run"):
        benchmark.systems_of(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="expected runs to benchmark"):
        benchmark.benchmark([], QUICK)
    with pytest.raises(ValueError, match="no split 'law'"):
        benchmark.benchmark(tiny_runs.length_nat.directory, QUICK, split="law")
    with pytest.raises(ConfigError, match="at least 3 repetitions, got 2"):
        SpeedConfig(repetitions=2)
    with pytest.raises(ConfigError, match=r"powers of two, got \(1, 3\)"):
        SpeedConfig(batch_sizes=(1, 3))


@pytest.fixture(scope="module")
def rows(tiny_runs, tmp_path_factory: pytest.TempPathFactory) -> list[results.Row]:
    """AR greedy and the NAT, which is named twice, traced as well."""
    nat = tiny_runs.length_nat
    systems = [
        nat.directory,
        System(tiny_runs.autoregressive, Greedy()),
        System(nat, "LengthBeam()"),
    ]
    traces = tmp_path_factory.mktemp("traces")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(machine, "measure", lambda: PEAKS)
        timings = benchmark.benchmark(systems, QUICK, profile_directory=traces, is_quiet=True)
    assert repr(timings).startswith("Timings(nat LengthBeam(size=1) ")
    assert str(timings) == report.render(timings.rows)
    return [*timings.rows[::-1]]


def test_rows_are_complete_and_say_what_was_measured(rows, tiny_runs) -> None:
    assert [row["name"] for row in rows] == ["ar", "nat"]
    assert [row["decoding"] for row in rows] == ["Greedy()", ONE_LENGTH]
    for row in rows:
        assert {*results.SPEED_KEYS, *results.LATER_SPEED_KEYS} <= set(row)
        assert row["latency_ms"].keys() == {"mean", "p50", "p95", "p99", "low", "high"}
        assert row["split_ms"].keys() == {"tokenizer", "encoder", "decoder", "detokenizer"}
        assert (row["sentences"], row["repetitions"], row["throughput_sentences"]) == (6, 3, 8)
        assert row["recompilations"] == 0
        assert row["throughput_curve"].keys() == {"1", "4"}
        assert row["throughput_curve"]["1"] == pytest.approx(1000 / row["latency_ms"]["mean"])
        assert row["throughput"] == row["throughput_curve"][str(row["throughput_batch"])]
        assert row["throughput"] == max(row["throughput_curve"].values())
        assert row["compile_seconds"] > 0
        assert row["versions"].keys() == {"python", "jax", "jaxlib", "flax", "products"}
        assert row["threads"] >= 1
        assert row["cores"] is None
        assert row["peaks"] == {"matmul": {"float32": 1e9}, "bandwidth": {"8": 1e9}}
        floor = row["floor"]
        assert max(floor["arithmetic_ms"], floor["memory_ms"]) <= floor["floor_ms"]
        assert floor["arithmetic_ms"] == pytest.approx(floor["flops"] / 1e6)
        assert floor["ratio"] == pytest.approx(row["latency_ms"]["mean"] / floor["floor_ms"])
        assert sum(found["sentences"] for found in row["latency_by_length"]) == 6
    greedy, one_pass = rows
    assert one_pass["steps"] == 1
    assert greedy["steps"] > 2
    written = results.read(tiny_runs.length_nat.directory)
    assert [row["decoding"] for row in written if row["kind"] == "speed"][:1] == [ONE_LENGTH]


def test_ratios_refer_to_the_first_autoregressive_system(rows) -> None:
    greedy, one_pass = (row["over_reference"] for row in rows)
    assert {over["decoding"] for over in (greedy, one_pass)} == {"Greedy()"}
    assert one_pass["parameters_hash"] == rows[0]["parameters_hash"] != rows[1]["parameters_hash"]
    assert (greedy["s1"], greedy["s1_low"], greedy["s1_high"], greedy["smax"]) == (1, 1, 1, 1)
    means = [row["latency_ms"]["mean"] for row in rows]
    assert one_pass["s1"] == pytest.approx(means[0] / means[1])
    assert one_pass["s1_low"] <= one_pass["s1"] <= one_pass["s1_high"]
    assert one_pass["smax"] == pytest.approx(rows[1]["throughput"] / rows[0]["throughput"])


def test_the_summary_says_what_ratios_and_floors_refer_to(rows) -> None:
    text = report.render(rows)
    assert "S1, Smax: times faster than ar Greedy() at batch 1" in text
    assert "at 1 GFLOP/s float32" in text
    assert "1.0 GB/s of memory" in text
    greedy = text.splitlines()[1].split()
    assert greedy[:2] == ["ar", "Greedy()"]
    assert greedy[9:12] == ["1.00", "±0.00", "1.00"]  # S1, Smax of the reference to itself


def test_a_profile_says_where_the_latency_goes(rows) -> None:
    for row in rows:
        profile = row["profile"]
        assert profile["sentences"] == 6
        pieces = profile["pieces_ms"]
        assert pieces.keys() == profiling.PIECES.keys()
        assert sum(pieces.values()) == pytest.approx(profile["latency_ms"])
        assert profile["latency_ms"] == pytest.approx(row["latency_ms"]["mean"])
        assert min(pieces[name] for name in pieces if name != profiling.BETWEEN) > 0
    table = profiling.render(rows)
    assert "vocabulary projection" in table
    assert table.splitlines()[0].split()[-3:] == ["Greedy()", "nat", ONE_LENGTH]


def test_the_command_of_a_row_names_all_systems_of_the_measurement(rows, tiny_runs) -> None:
    words = shlex.split(rows[0]["command"])
    assert words[:4] == ["python", "-m", "nat_ar", "benchmark"]
    named = [system for word in words[4:6] for system in benchmark.systems_of(word)]
    assert [system.decoding for system in named] == [ONE_LENGTH, "Greedy()"]
    assert words[words.index("--batch-sizes") :][1:3] == ["1", "4"]
    assert {row["command"] for row in rows} == {rows[0]["command"]}
    # What it writes, the command line reads.
    parsed = command_line.parse("benchmark", words[4:])
    assert parsed.systems == tuple(words[4:6])
    assert parsed.batch_sizes == (1, 4)
    assert parsed.repetitions == 3
    assert (parsed.floors, parsed.grow_batches, parsed.threads) == (True, False, None)
    pinned = shlex.join(benchmark.command([System(tiny_runs.length_nat)], QUICK, threads=1))
    assert "--threads 1 --sentences 6 " in pinned
    assert "--no-grow-batches " in pinned


def test_the_command_pins_times_and_draws_a_rescored_system(tiny_runs, tmp_path: Path) -> None:
    """In a process of its own, which it keeps to one core."""
    system = f"{tiny_runs.length_nat.directory}:LengthBeam(size=2, rescore=True)"
    plots = tmp_path / "plots"
    words = [system, "--sentences", "3", "--repetitions", "3", "--batch-sizes", "1"]
    words += ["--threads", "1", "--no-floors", "--plots", str(plots), "--quiet"]
    run = subprocess.run(
        [sys.executable, "-m", "nat_ar", "benchmark", *words],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert run.returncode == 0, run.stderr
    printed = run.stdout.splitlines()
    assert printed[0].split() == [
        *("name", "decoding", "p50", "ms", "p95", "ms", "p99", "ms", "mean", "ms"),
        *("×", "floor", "S1", "Smax", "best", "batch", "sentences/s"),
    ]
    assert printed[1].startswith("nat   LengthBeam(size=2, rescore=True)")
    assert "3 sentences x 3 repetitions" in printed[2]
    assert "1 threads" in printed[2]
    assert sorted(path.name for path in plots.glob("*.png")) == [
        "latency_by_length.png",
        "throughput.png",
    ]
    row = results.read(tiny_runs.length_nat.directory)[-1]
    assert row["steps"] == 2  # its own pass and the teacher's
    assert row["throughput_curve"].keys() == {"1"}
    assert (row["threads"], len(row["cores"])) == (1, 1)
    assert (row["over_reference"], row["floor"], row["profile"]) == (None, None, None)


def test_systems_of_different_text_are_refused(tiny_runs, start_run, tmp_path: Path) -> None:
    """A run whose config names other data than that of the first."""
    words = tmp_path / "words.tsv"
    words.write_text("a b\tA B\nc d\tC D\n", "utf-8")
    config = tiny_runs.length_nat.config()
    data = dataclasses.replace(
        config.data,
        directory=str(tmp_path / "data"),
        corpus=dataclasses.replace(config.data.corpus, test=(str(words),)),
    )
    prepare.prepare(data, quiet=True)
    other = Run(tmp_path / "other")
    start_run(other, dataclasses.replace(config, data=data), PreparedData.load(tiny_runs.data))
    with pytest.raises(ValueError, match="has other sources than that of"):
        benchmark.benchmark([System(tiny_runs.length_nat), System(other)], QUICK)
