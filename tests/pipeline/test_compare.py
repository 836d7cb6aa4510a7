import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nat_ar import config_json
from nat_ar.commands import compare as command
from nat_ar.commands.compare import Compare
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import metrics, results
from nat_ar.evaluation.table import formats
from nat_ar.pipeline import compare, evaluate

REFERENCES = ["der Hund schläft im Garten .", "", "wir haben ein altes Buch gelesen ."] * 10
WORSE = ["der Hund schläft Garten Garten .", "", "wir haben ein alte Buch Buch ."] * 10
SHARED: dict[str, Any] = {
    "training_data": "raw",
    "split": "test",
    "data_hash": "d" * 64,
    "config_hash": "c" * 64,
    "checkpoint_step": 10,
    "parameters_hash": "a" * 64,
    "rescorer": None,
    "teacher": None,
    "start_from": None,
    "device": "cpu",
    "dtype": "float32",
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m nat_ar evaluate",
    "sentences": 30,
    "steps": 1.0,
}


def write_run(
    run: Path,
    method: str,
    decoding: str,
    translations: list[str],
    latency: float,
    *,
    references: list[str] = REFERENCES,
    tokenize: Tokenizer = "13a",
    **changes: Any,
) -> None:
    """A run directory with one quality row, one speed row and the files that the first names."""
    run.mkdir(exist_ok=True)
    name = f"{decoding.partition('(')[0]}.txt"
    (run / name).write_text("\n".join(translations) + "\n", encoding="utf-8")
    (run.parent / "references.txt").write_text("\n".join(references) + "\n", encoding="utf-8")
    bleu = vars(metrics.bleu(translations, references, n_bootstrap=100, tokenize=tokenize))
    family = "AR" if method == "Autoregressive" else "NAT"
    system = {**SHARED, "name": run.name, "run": str(run), "method": method, "family": family}
    system |= {"decoding": decoding, **changes}
    quality = dict.fromkeys(results.QUALITY_KEYS) | {
        **system,
        "kind": "quality",
        "test_hash": "e" * 64,
        "parameters": 1000,
        "bleu": bleu,
        "chrf": bleu,
        "length_ratio": 1.0,
        "repetition": 0.0,
        "hypotheses": name,
        "references": "../references.txt",
        "train_seconds": 60.0,
        "train_steps": 10,
        "train_target_tokens": 100,
        "warnings": [],
    }
    speed = dict.fromkeys(results.SPEED_KEYS) | {
        **system,
        "kind": "speed",
        "threads": 2,
        "versions": {"jax": "0.10.2"},
        "latency_ms": {
            "mean": latency,
            "p50": latency,
            "p95": latency,
            "low": latency,
            "high": latency,
        },
        "throughput": 100.0,
        "throughput_batch": 8,
    }
    results.append(run, quality)
    results.append(run, speed)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, ...]:
    write_run(tmp_path / "ar", "Autoregressive", "Beam(size=4)", REFERENCES, 40.0)
    write_run(tmp_path / "ar", "Autoregressive", "Greedy()", REFERENCES, 20.0)
    write_run(tmp_path / "nat", "FertilityNat", "Argmax()", WORSE, 4.0)
    return str(tmp_path / "ar"), str(tmp_path / "nat")


def test_the_table_is_printed_and_written(
    runs: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple(str(tmp_path / "out" / f"table{suffix}") for suffix in (".md", ".csv", ".tex"))
    picture = str(tmp_path / "out" / "picture")
    command.run(Compare(runs, output=names, picture=picture, n_bootstrap=100))
    printed = capsys.readouterr().out
    assert "100.00 ±0.00 =" in printed  # greedy says what beam says
    assert " - " in next(line for line in printed.splitlines() if line.startswith("nat"))
    assert "10.0" in printed  # 40 ms over 4 ms
    for name, start in zip(names, ("| system", "name,run", "% needs"), strict=True):
        assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert Path(picture + ".png").is_file()
    assert Path(picture + ".svg").is_file()


def test_pictures_for_a_column_of_a_paper(runs: tuple[str, ...], tmp_path: Path) -> None:
    """Of results, and of trainings, one of which was logged by an early version."""
    early = '{"kind": "validation", "step": 10, "score": 3.0, "length_ratio": 1.0}\n'
    row = {"kind": "validation", "step": 10, "seconds": 3.0, "target_tokens": 90, "score": 4.0}
    for run, line in zip(runs, (early, json.dumps(row) + "\n"), strict=True):
        (Path(run) / "metrics.jsonl").write_text(line, "utf-8")
    quality, curves = tmp_path / "quality.svg", tmp_path / "out" / "curves.svg"
    arguments = Compare(runs, picture=str(quality), curves=str(curves), width=3.3, no_title=True)
    command.run(dataclasses.replace(arguments, n_bootstrap=100))
    for path in (quality, curves):
        assert f'width="{72 * 3.3:g}' in path.read_text("utf-8")
    assert "30 sentences" not in quality.read_text("utf-8")
    assert "hours of training unknown: ar" in " ".join(curves.read_text("utf-8").split())


def test_curves_need_no_results(runs: tuple[str, ...], tmp_path: Path) -> None:
    run, path = tmp_path / "running", tmp_path / "curves.png"
    run.mkdir()
    with pytest.raises(ValueError, match=r"running has no metrics\.jsonl: expected the directory"):
        compare.save_curves([run], path)
    row = {"kind": "train", "step": 10, "seconds": 3.0, "target_tokens": 90, "objective": 4.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    assert compare.save_curves([run, run], path) == [path]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_columns_that_are_named_are_printed_and_written(
    runs: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.tex"
    arguments = Compare(runs, columns=("name", "chrf"), output=(str(path),), n_bootstrap=100)
    command.run(dataclasses.replace(arguments, format="markdown"))
    assert capsys.readouterr().out.startswith("| name | chrF++ |\n")
    assert "name & chrF++ " in path.read_text("utf-8")
    with pytest.raises(ValueError, match=r"columns: expected some of all, .*; got speed"):
        command.run(Compare(runs, columns=("speed",), output=(str(tmp_path / "no.md"),)))
    assert not (tmp_path / "no.md").exists()


def test_paired_tests_are_made_from_the_files(runs: tuple[str, ...]) -> None:
    comparison = compare.compare(runs, n_bootstrap=100)
    lines = comparison.table.lines
    nat = lines[-1]
    test = nat.tests["bleu"]
    assert test.baseline == pytest.approx(100)
    assert test.system == pytest.approx(metrics.corpus_bleu(WORSE, REFERENCES))
    assert test.p_value == 1 / 101
    assert [line.mark(metrics.METRICS[0]) for line in lines] == ["", "=", "-"]
    (alone,) = compare.compare(runs[1], n_bootstrap=100).table.lines
    assert alone.result.identity["name"] == "nat"
    assert repr(comparison) == "Comparison(ar Beam(size=4), ar Greedy(), nat Argmax())"
    assert str(comparison) == comparison.render("terminal")
    assert comparison._repr_markdown_().startswith("| system | data |")


def test_runs_that_differ_in_the_seed_only_are_one_line(
    runs: tuple[str, ...], tmp_path: Path
) -> None:
    """Seed 1 makes the mistakes of WORSE, seed 2 none: over sentences and seeds nobody knows which is the rule."""
    for seed, texts in ((1, WORSE), (2, REFERENCES)):
        run = tmp_path / f"seeded_seed{seed}"
        config = {"name": run.name, "training": {"seed": seed}}
        run.mkdir()
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
        changes = {"config_hash": config_json.hash_of_json(config)}
        write_run(run, "FertilityNat", "Argmax()", texts, 4.0, **changes)
    directories = [*runs, *(str(tmp_path / f"seeded_seed{seed}") for seed in (1, 2))]
    comparison = compare.compare(directories, n_bootstrap=100)
    *_, nat, seeded = comparison.table.lines
    worse = metrics.corpus_bleu(WORSE, REFERENCES)
    bleu = metrics.METRICS[0]
    assert (nat.mark(bleu), seeded.mark(bleu)) == ("-", "=")
    assert seeded.tests["bleu"].system == pytest.approx((100 + worse) / 2)
    assert seeded.deviation(metrics.METRICS[0]) == pytest.approx((100 - worse) / math.sqrt(2))
    assert "over sentences, and over seeds" in str(comparison)
    (tmp_path / "seeded_seed2" / "Argmax.txt").write_text("\n".join(WORSE) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"seeded_seed1/Argmax\.txt, .*seeded_seed2/Argmax\.txt scores"
    ):
        compare.compare(directories, n_bootstrap=100)


def test_the_variant_of_an_early_row_is_that_of_its_config(tiny_runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_runs.length_nat.directory, run)
    (run / results.FILE_NAME).unlink(missing_ok=True)
    row = evaluate.evaluate(run)
    del row["variant"]
    (run / results.FILE_NAME).unlink()
    results.append(run, row)
    (line,) = compare.compare(run, n_bootstrap=40).table.lines
    assert line.published is not None
    assert line.published.method == "vanilla NAT"
    (run / results.FILE_NAME).unlink()
    results.append(run, {**row, "config_hash": "c" * 12})  # another training in the same directory
    (line,) = compare.compare(run, n_bootstrap=40).table.lines
    assert line.published is None


def test_the_paired_test_cuts_words_as_the_rows_did(tmp_path: Path) -> None:
    """Chinese by 13a would be 0 against 0, "not distinguishable"."""
    chinese = ["我喜欢在下雨天喝热茶。", "这只猫睡在窗台上。", "他昨天买了一本新书。"]
    almost = ["我喜欢在下雨天喝冷茶。", "这只狗睡在窗台上。", "他昨天买了一本新书。"]
    shared: dict[str, Any] = {"references": chinese, "tokenize": "zh"}
    write_run(tmp_path / "ar", "Autoregressive", "Beam(size=4)", chinese, 40.0, **shared)
    write_run(tmp_path / "nat", "FertilityNat", "Argmax()", almost, 4.0, **shared)
    table = compare.compare([tmp_path / "ar", tmp_path / "nat"], n_bootstrap=100).table
    test = table.lines[-1].tests["bleu"]
    assert test.baseline == pytest.approx(100)
    assert test.system == pytest.approx(metrics.corpus_bleu(almost, chinese, tokenize="zh"))
    assert "tok:zh" in formats.render(table, "csv")
    write_run(tmp_path / "old", "LengthNat", "LengthBeam()", almost, 4.0, references=chinese)
    with pytest.raises(ValueError, match="same BLEU"):
        compare.compare([tmp_path / "ar", tmp_path / "old"])


def test_changed_translations_are_noticed(runs: tuple[str, ...]) -> None:
    path = Path(runs[1]) / "Argmax.txt"
    path.write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Argmax\.txt scores BLEU 100\.00, its row"):
        compare.compare(runs, n_bootstrap=100)


def test_a_lost_line_and_a_lost_file_are_noticed(runs: tuple[str, ...]) -> None:
    path = Path(runs[1]) / "Argmax.txt"
    path.write_text("\n".join(WORSE[1:]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="29 hypotheses for 30 references"):
        compare.compare(runs, n_bootstrap=100)
    path.unlink()
    with pytest.raises(ValueError, match=r"Argmax\.txt, the hypotheses of nat .* does not exist"):
        compare.compare(runs, n_bootstrap=100)


def test_files_are_written_where_nobody_reads_the_table(
    runs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `compare ... --output table.md | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    table, picture = tmp_path / "table.md", tmp_path / "picture.svg"
    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        command.run(Compare(runs, output=(str(table),), picture=str(picture), n_bootstrap=100))
    assert "nat" in table.read_text("utf-8")
    assert picture.exists()


def test_wrong_arguments_are_errors_before_any_work(runs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"ends in \.txt, \.md, \.csv, \.tex"):
        command.run(Compare(("nowhere",), output=("table.pdf",)))
    with pytest.raises(ValueError, match=r"picture picture\.jpg"):
        command.run(Compare(("nowhere",), picture="picture.jpg"))
    with pytest.raises(ValueError, match=r"picture curves\.jpg"):
        command.run(Compare(("nowhere",), curves="curves.jpg"))
    with pytest.raises(ValueError, match="no runs to compare"):
        command.run(Compare(()))
    with pytest.raises(ValueError, match="no results on split 'law'; the runs have: test"):
        command.run(Compare(runs, split="law"))
    with pytest.raises(ValueError, match="teacher 'nat' names 0 autoregressive systems"):
        command.run(Compare(runs, teacher="nat"))


def test_a_metric_of_the_users_own_is_a_column_and_may_be_the_height_of_the_picture(
    runs: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "letters.py"
    path.write_text(
        "from nat_ar.evaluation import metrics\n"
        "def letters(hypotheses, references, sources):\n"
        "    return metrics.of_sentences([float(len(text)) for text in hypotheses], 'letters')\n"
        "METRICS = (metrics.Metric('letters', 'Letters', letters),)\n"
    )
    path_of_picture = tmp_path / "picture.svg"
    arguments = Compare(
        runs,
        metrics=(str(path),),
        picture=str(path_of_picture),
        picture_metric="letters",
        n_bootstrap=100,
    )
    with pytest.raises(ValueError, match="nothing to draw"):  # no row has it yet
        command.run(arguments)
    assert "Letters n/a for ar Beam(size=4), ar Greedy(), nat Argmax()" in capsys.readouterr().out
    row = results.read(Path(runs[1]))[0]
    score = {"score": 7.0, "low": 6.0, "high": 8.0, "signature": "letters"}
    results.append(Path(runs[1]), {**row, "letters": score})
    command.run(arguments)
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("nat "))
    assert " 7.00 " in line
    assert path_of_picture.is_file()
    with pytest.raises(
        ValueError, match="expected one of bleu, bleu_lc, chrf, ter, letters, got 'bleurt'"
    ):
        command.run(Compare(runs, metrics=(str(path),), picture="p.svg", picture_metric="bleurt"))
