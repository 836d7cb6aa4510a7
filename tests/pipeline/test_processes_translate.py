"""What two processes of two devices translate together is what one process says, to the last bit; the first writes."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import processes
from nat_ar.__main__ import main
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from nat_ar.pipeline.validation import Validation
from nat_ar.runtime import devices

PROGRAM = """
import argparse, json, runpy, sys
from nat_ar.runtime import distributed

parser = argparse.ArgumentParser()
for name in ("--coordinator", "--processes", "--process", "--test", "--place"):
    parser.add_argument(name)
given = parser.parse_args()
with distributed.joined(given.coordinator, int(given.processes), int(given.process)):
    test = runpy.run_path(given.test)
    found = test["work"](given.place)
    found["together"] = test["failures"](given.place, distributed.index())
    print("found " + json.dumps(found), flush=True)
"""


def work(place: str) -> dict[str, Any]:
    """The verbs on copies of the two runs in a folder, one after the other, and the numbers of a validation."""
    autoregressive, length_nat = f"{place}/ar", f"{place}/nat"

    def verb(*words: str) -> None:
        main([*words, "--batch-tokens", "32"], set_up=lambda _: None)

    verb("evaluate", autoregressive, "--decoding", "Greedy()", "Beam(size=2)")
    verb("evaluate", length_nat, "--decoding", "LengthBeam(size=2, n_best=2)", "--oracle-length")
    lines = ("--input", f"{place}/lines.txt", "--output", f"{place}/translated.txt")
    verb(
        "translate",
        autoregressive,
        *lines,
        "--decoding",
        "Beam(size=2)",
        "--n-best",
        "2",
        "--scores",
    )
    distilled = ("--directory", f"{place}/distilled", "--shard-sentences", "20")
    verb("distill", autoregressive, *distilled, "--choose", "best_bleu")
    return {"validation": of_validation(length_nat)}


def of_validation(directory: str) -> dict[str, float]:
    run = Run.of(directory)
    config, loaded = run.config(), run.load()
    training = config.training
    batching = dataclasses.replace(training.batching, batch_tokens=32, buckets=(16,))
    config = dataclasses.replace(config, training=dataclasses.replace(training, batching=batching))
    data = PreparedData.load(config.data.directory)
    return Validation(config, data, loaded.model.graphdef, None)(loaded.model.params)


def failures(place: str, process: int) -> list[str]:
    """What a process hears where only process 1 has too little memory, or other sentences."""

    _, translator = open_translator(f"{place}/ar", "Greedy()")
    translator.devices, translator.is_shared = devices.local(), True
    translator.max_rows = 1
    said = []

    def attempt(sentences: list[str]) -> None:
        try:
            translator.translate(sentences)
        except (ValueError, MemoryError, OSError) as error:
            said.append(f"{type(error).__name__}: {error}")

    attempt(["a", "b d" if process else "b c"])
    if process:
        translator.texts = out_of_memory
    attempt(["a", "b", "c"])
    return said


def out_of_memory(_: Any) -> None:
    raise MemoryError("no room for caches")


def copied(tiny_runs: Any, place: Path) -> Path:
    for run, name in ((tiny_runs.autoregressive, "ar"), (tiny_runs.length_nat, "nat")):
        shutil.copytree(run.directory, place / name)
        (place / name / results.FILE_NAME).unlink(missing_ok=True)
    (place / "lines.txt").write_text("a b\n\nc\nb d a\nd c\n" * 3, "utf-8")
    return place


@pytest.fixture(scope="module")
def both(tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one process, which is this one, and of two: the folder, and what each process has found."""
    alone = copied(tiny_runs, tmp_path_factory.mktemp("alone"))
    here = work(str(alone))
    place = copied(tiny_runs, tmp_path_factory.mktemp("joined"))
    words = ["-c", PROGRAM, "--test", __file__, "--place", str(place)]
    with processes.job(words, place / "job", devices=2) as job:
        assert job.end() == [0, 0], job.said(0) + job.said(1)
        said = [job.said(index) for index in (0, 1)]
    lines = [line for text in said for line in text.splitlines() if line.startswith("found ")]
    found = [json.loads(line.removeprefix("found ")) for line in lines]
    return {"alone": alone, "joined": place, "here": here, "found": found, "said": said}


@pytest.mark.slow
def test_the_first_writes_the_rows_of_one_process(both: dict[str, Any]) -> None:
    clock = ("date", "run", "command", "device", "drafter")
    alone, joined = (
        [
            {key: value for key, value in row.items() if key not in clock}
            for name in ("ar", "nat")
            for row in results.read(both[place] / name)
        ]
        for place in ("alone", "joined")
    )
    assert len(alone) == 3
    assert joined == alone
    for row in alone:
        folder = "ar" if row["name"] == "ar" else "nat"
        texts = [
            (both[place] / folder / row["hypotheses"]).read_bytes() for place in ("alone", "joined")
        ]
        assert texts[0] == texts[1]
        assert len(set(texts[0].splitlines())) > 1


@pytest.mark.slow
def test_translate_and_distill_write_the_same_bytes(both: dict[str, Any]) -> None:
    """Scores are among the translations; data have one hash."""
    texts = [(both[place] / "translated.txt").read_text("utf-8") for place in ("alone", "joined")]
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 27  # two of each line, but one of a blank one
    data = [PreparedData.load(both[place] / "distilled") for place in ("alone", "joined")]
    assert data[0].hash == data[1].hash
    assert data[1].manifest["distilled"]["sentences"] == 36
    assert not (both["joined"] / "distilled.shards").exists()


@pytest.mark.slow
def test_a_validation_has_the_same_numbers_in_all_processes(both: dict[str, Any]) -> None:
    assert [found["validation"] for found in both["found"]] == [both["here"]["validation"]] * 2
    assert both["here"]["validation"].keys() == {"score", "length_ratio", "loss", "perplexity"}


@pytest.mark.slow
def test_one_speaks_and_all_fail_together(both: dict[str, Any]) -> None:
    first, second = (found["together"] for found in both["found"])
    assert "BLEU" in both["said"][0]
    assert "BLEU" not in both["said"][1]
    assert second[0].startswith("ConfigError: all processes translate the same sentences: expected")
    assert first[0].startswith("ProcessError: process 1: all processes translate the same")
    assert second[1].startswith("OutOfMemoryError: out of memory: ")
    assert first[1].startswith("ProcessError: process 1: out of memory: ")
