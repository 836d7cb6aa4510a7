"""scripts/benchmark_cpu: what is compared with the record, and that nobody is timed for doing less."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.translation.model import Model
from scripts import speed_of_checkouts
from scripts.benchmark_cpu import __main__ as benchmark
from scripts.benchmark_cpu import contest, data, models, plots, report, text, timing, train
from scripts.benchmark_cpu.contest import Setting, Timed
from scripts.benchmark_cpu.data import Preparation
from scripts.benchmark_cpu.models import Program, Scale
from scripts.benchmark_cpu.report import Figure, Section
from toys import TINY

pytestmark = pytest.mark.slow

SCALE = dataclasses.replace(models.QUICK, transformer=TINY, vocabulary=60, positions=5)


# The record


def test_a_ratio_must_be_better_the_larger_it_is() -> None:
    with pytest.raises(ValueError, match="turn it round"):
        Figure("latency over floor", Interval(2.0, 2.0, 2.0), bar=2.0, at_most=True)


def test_bars() -> None:
    def figure(value: float, **bar: Any) -> Figure:
        return Figure("name", Interval(value, value, value), "s", **bar)

    assert figure(4.0).meets is None
    assert figure(4.0, bar=4.0).meets is True
    assert figure(3.9, bar=4.0).meets is False
    assert figure(3.9, bar=4.0, at_most=True).meets is True


def section(name: str, **ratios: float) -> Section:
    """A section with these ratios, a bar that none meets, and a number with a unit."""
    figures = [Figure(f"{name}/{k}", Interval(v, v, v), bar=100.0) for k, v in ratios.items()]
    figures.append(Figure(f"{name}/wait", Interval(9.0, 8.0, 10.0), "s", 5.0, at_most=True))
    rows: list[report.Row] = [
        {"system": "AR", "ms": Interval(1.0, 0.9, 1.1), "rounds": 5, "x": None}
    ]
    signature = {"device": "cpu: abacus"}
    return Section(name, signature, {"Batch 1": rows}, figures, ["A note."], 1.0)


def test_a_ratio_falls_below_four_fifths_of_its_record() -> None:
    record = {"train/a": 1.0, "train/b": 1.0, "train/wait": 100.0}
    sections = [section("train", a=0.8, b=0.79, new=0.1)]
    (fall,) = report.falls(record, sections)
    assert str(fall) == "train/b: 0.790 is 0.79 of the recorded 1.000, below 0.8"


def test_what_was_not_measured_is_named_and_has_not_fallen() -> None:
    record = {"train/over torch": 1.3, "decode/nat": 4.0}
    sections = [section("train", share=0.7)]
    assert report.falls(record, sections) == []
    assert report.not_measured(record, sections) == ["train/over torch"]  # decode did not run


def test_recording_keeps_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    report.write_record(path, [section("train", share=0.7, over_torch=1.3)])
    report.write_record(path, [section("train", share=0.6)])
    assert report.read_record(path) == {"train/share": 0.6, "train/over_torch": 1.3}
    assert json.loads(path.read_text())["ratios"]["train/share"]["device"] == "cpu: abacus"


def test_lines_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    written = [section("train", share=0.7), section("decode")]
    report.write(path, written)
    assert report.read(path) == written
    newer = [section("decode", nat=4.0), section("start")]
    found = report.merged(written, newer, ("train", "decode", "start"))
    assert found == [written[0], *newer]


def test_markdown() -> None:
    found = report.markdown(section("train", share=0.7), {"train/share": 0.75})
    assert "| AR | 1.00 [0.900, 1.10] | 5 |  |" in found
    assert "| train/share | 0.700 [0.700, 0.700] | at least 100 | no | 0.750 |" in found
    assert "| train/wait, s | 9.00 [8.00, 10.0] | at most 5 s | no |  |" in found


@pytest.mark.parametrize(
    ("share", "words", "status"),
    [(0.7, [], 0), (0.5, [], 1), (0.5, ["--record"], 0), (None, [], 1)],
    ids=["bar missed", "fell", "recorded anew", "failed"],
)
def test_exit_status(
    share: float | None,
    words: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark.processor, "kind", lambda: "Abacus (model 1), beads")
    record = tmp_path / "recorded" / "abacus_model_1_beads_2_threads" / "record.json"
    record.parent.mkdir(parents=True)
    report.write_record(record, [section("train", share=0.7)])
    monkeypatch.setattr(benchmark, "RECORDED", tmp_path / "recorded")
    monkeypatch.setattr(benchmark.machine, "pin", lambda threads: None)
    measured = None if share is None else section("train", share=share)
    monkeypatch.setattr(benchmark, "run_section", lambda name, arguments: measured)
    words = ["benchmark_cpu", "--only", "train", "--output", str(tmp_path / "new"), *words]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == status
    expected = share if "--record" in words else 0.7
    assert report.read_record(record) == {"train/share": expected}


def test_another_kind_of_processor_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has half of what the abacus had, and nothing has fallen; recorded, it has a folder of its own."""
    abacus = report.folder(tmp_path, "Abacus, 2 threads") / report.RECORD
    report.write_record(abacus, [section("train", share=0.7)])
    monkeypatch.setattr(benchmark, "RECORDED", tmp_path)
    monkeypatch.setattr(benchmark.machine, "pin", lambda threads: None)
    monkeypatch.setattr(benchmark.processor, "kind", lambda: "Slide rule")
    measured = section("train", share=0.35)
    monkeypatch.setattr(benchmark, "run_section", lambda name, arguments: measured)
    for words in (["--output", str(tmp_path / "new")], ["--record"]):
        monkeypatch.setattr(sys, "argv", ["benchmark_cpu", "--only", "train", *words])
        with pytest.raises(SystemExit) as stop:
            benchmark.main()
        assert stop.value.code == 0
        assert "no record of this kind of processor" in capsys.readouterr().out
    assert report.read_record(abacus) == {"train/share": 0.7}
    slide_rule = tmp_path / "slide_rule_2_threads" / report.RECORD
    assert report.read_record(slide_rule) == {"train/share": 0.35}


# Everyone at their best


def timed(system: str, kind: str, threads: int, *seconds: float) -> Timed:
    return Timed(Setting(system, kind, threads), np.array(seconds))


def test_thread_counts() -> None:
    assert [contest.thread_counts(cores) for cores in (1, 2, 6, 8)] == [
        (1,),
        (1, 2),
        (1, 2, 4, 6),
        (1, 2, 4, 8),
    ]


def test_the_fastest_number_of_threads_counts_kind_by_kind() -> None:
    """The peer's threads fight: with one it takes 3 seconds, with two 30."""
    everyone = [
        timed("ours", "float32", 1, 4.0, 4.0),
        timed("ours", "float32", 2, 2.0, 2.0),
        timed("ours", "int8", 2, 2.0, 2.0),
        timed("peer", "float32", 1, 3.0, 3.0),
        timed("peer", "float32", 2, 30.0, 30.0),
        timed("peer", "int8", 1, 1.0, 1.0),
    ]
    assert contest.best(everyone, "peer", "float32").setting.threads == 1
    assert contest.best(everyone, "peer").setting.kind == "int8"
    assert contest.speed_over(everyone, "ours", "peer", "float32").value == 1.5
    assert contest.speed_over(everyone, "ours", "peer", "int8").value == 0.5
    rows = contest.rows(everyone, "ours", sentences=2)
    assert [row["counts"] for row in rows] == ["", "yes", "yes", "yes", "", "yes"]
    assert rows[4]["ms/sentence"] == Interval(15e3, 15e3, 15e3)


def test_plots(tmp_path: Path) -> None:
    decode = section("decode")
    decode.tables["Throughput against batch"] = [
        {
            "system": name,
            "unit": "sentences/s",
            "batch 1": Interval(1.0, 1.0, 1.0),
            "batch 8": Interval(4.0, 3.0, 5.0),
        }
        for name in ("AR 6-6, greedy", "CTC")
    ]
    assert [path.name for path in plots.save([decode], tmp_path)] == [
        "throughput.png",
        "throughput.svg",
    ]
    drawn = (tmp_path / "throughput.svg").read_text("utf-8")
    for part in ("CTC", "95 % interval"):  # the bands are explained
        assert part in drawn


# Turns


def test_all_calls_take_their_turns() -> None:
    order = []

    def call(name: str) -> timing.Call:
        def record() -> float:
            order.append(name)
            return 0.5

        return record

    seconds = timing.take_turns("test", [call("a"), call("b")], seconds=6.0)
    assert seconds.shape == (2, 6)  # 6 seconds of 2 x 0.5 a round
    assert order == ["a", "b"] * 8  # two rounds were not counted


def test_a_worker_answers_and_its_end_is_an_error() -> None:
    code = "import json\nprint('{}', flush=True)\nprint(json.dumps({'got': json.loads(input())}))"
    with timing.Worker([sys.executable, "-c", code], {}) as worker:
        assert worker.ask("step") == {"got": "step"}
        with pytest.raises(RuntimeError, match="ended with status 0"):
            worker.answer()


# The systems


def test_a_run_of_fewer_steps_or_words_is_refused() -> None:
    full, short = np.full(3, 25), np.array([25, 2, 25])
    models.require_full("AR", full, full, expected_passes=25, expected_words=25)
    with pytest.raises(models.TooShortError, match=r"AR: expected 25 decoder passes .* \[2, 25\]"):
        models.require_full("AR", short, full, expected_passes=25, expected_words=25)
    with pytest.raises(models.TooShortError, match=r"AR: expected 25 words .* \[2, 25\]"):
        models.require_full("AR", full, short, expected_passes=25, expected_words=25)


def program(name: str, model: Model | None = None) -> Program:
    system = models.systems(TINY)[name]
    if model is None:
        model = models.build(system.method, SCALE.vocabulary)
    return Program(system, model, rows=2, positions=SCALE.positions, vocabulary=SCALE.vocabulary)


@pytest.mark.parametrize("name", ["greedy", "fertility_nat", "ctc", "da", "cmlm_4"])
def test_random_weights_translate_at_full_length(name: str) -> None:
    program(name).check()


def test_a_predictor_of_shorter_lengths_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(method: AnyMethod, vocabulary: int) -> Model:
        model = models.build(method, vocabulary)
        bias = model.params["length_predictor"]["head"]["bias"]
        bias[...] = jnp.roll(bias[...], -2)  # two words fewer than the source
        return model

    short = build(models.systems(TINY)["length_nat"].method, SCALE.vocabulary)
    with pytest.raises(models.TooShortError, match=r"length NAT, one pass, batch 2: .* 5 words"):
        program("length_nat", short).check()


# Counting


def test_flops_of_a_train_step() -> None:
    scale = Scale(
        TransformerConfig(2, 3, 1, 1, 1),
        vocabulary=10,
        positions=4,
        batches=(1,),
        large=1,
        lengths=(4,),
        train_sentences=7,
        pairs=(1, 2),
        seconds=1.0,
    )
    # 2 x 2 matrices: 4 of the encoder's attention, 8 of the decoder's two; 2 x 3: two each; output 10 x 2.
    weights = 4 * 4 + 2 * 6 + 8 * 4 + 2 * 6 + 20
    # Three attentions, 2 FLOP for each of 5 x 5 x 2 multiplications, in two products, forward and twice back.
    attention = 3 * (2 * 5 * 5 * 2) * 2 * 3
    assert train.step_flops(scale) == 6 * weights * 7 * 5 + attention * 7


def test_a_million_pairs() -> None:
    few = Preparation(10_000, {}, 0.0, 100_000_000)
    stages = {"read": 1.0, "vocabulary": 10.0, "encode": 2.0, "align": 3.0}
    many = Preparation(20_000, stages, 17.0, 200_000_000)
    # 50 times as many pairs; the vocabulary learns from 10 times as many, and there the memory stops to grow.
    assert data.at_a_million(few, many, learns_from=200_000) == (400.0, 2_000_000_000)


def test_text_is_the_same_every_time_and_words_have_translations() -> None:
    found = list(text.pairs(5))
    assert found == list(text.pairs(5)) != list(text.pairs(5, seed=1))
    assert all(len(source.split()) == len(target.split()) for source, target in found)


def test_a_checkout_has_a_speed_beside_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Here beside itself: whole decodes in two processes, by the modules of the directory that each works in."""
    words = [str(speed_of_checkouts.HERE), "decode", "--size", "toy", "--systems", "greedy"]
    speed_of_checkouts.main([*words, "--rounds", "3"])
    row = capsys.readouterr().out.splitlines()[2].split("|")[1:-1]
    assert row[0].strip() == "toy greedy"
    ours, theirs, ratio = (float(cell.split("[")[0]) for cell in row[1:])
    assert min(ours, theirs) > 0.0
    assert 0.1 < ratio < 10.0


def test_what_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed_of_checkouts.main([str(tmp_path), "decode"])
    assert f"expected a checkout of nat_ar, got {tmp_path}" in capsys.readouterr().err
