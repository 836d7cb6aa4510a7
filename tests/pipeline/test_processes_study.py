"""Two processes run a study together: each stage once, written by the first, which alone times."""

from pathlib import Path

import pytest

import processes
from nat_ar import __main__ as main
from nat_ar.commands import study as command
from nat_ar.evaluation import results
from nat_ar.training import logging
from scripts.torture import tiny_study

FEW = """
import dataclasses
from pathlib import Path

from nat_ar.experiment.config import load_file
from nat_ar.training.config import ValidationConfig

study = load_file(Path(__file__).with_name("study.py"))
training = dataclasses.replace(
    study.teacher.training, max_steps=100, log_every=50, validation=ValidationConfig(every_steps=100)
)
student = dataclasses.replace(study.entries[0], name="kd", training=training, distilled=True)
config = dataclasses.replace(
    study, teacher=dataclasses.replace(study.teacher, training=training), entries=(student,)
)
"""
PROGRAM = """
from nat_ar.__main__ import main
from nat_ar.runtime import child_process, distributed

child_process.run = lambda words: print(f"process {distributed.index()} times", *words, flush=True)
main()
"""


@pytest.mark.slow
def test_every_stage_is_shared_and_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process that comes later finds nothing left to do."""
    place = tiny_study.write(tmp_path / "study")
    (place / "few.py").write_text(FEW, "utf-8")
    with processes.job(["-c", PROGRAM, "study", "few.py"], place) as job:
        assert job.end() == [0, 0], job.said(0) + job.said(1)
        first, second = job.said(0), job.said(1)
    assert first.count("process 0 times benchmark ") == 1
    stages = ("prepare", "train ar", "distill", "train kd", "evaluate ar on", "evaluate kd on")
    for stage in stages:
        assert f"min] {stage}" in first
    assert not any(word in second for word in ("min]", "times", "BLEU", "step"))
    written = [place / "study" / name for name in ("table.md", "table.csv", "examples.md")]
    rows = [place / "study" / "runs" / name / results.FILE_NAME for name in ("ar", "kd")]
    for path in rows:
        [row] = results.read(path.parent)
        assert row["kind"] == "quality"
        steps = [row["step"] for row in logging.read(path.parent) if row["kind"] == "train"]
        assert steps == [50, 100]
    before = [path.read_bytes() for path in rows]
    for path in written:
        path.unlink()
    monkeypatch.chdir(place)
    command.run(main.parse("study", ["few.py", "--untimed"]))
    assert [path.read_bytes() for path in rows] == before
    assert all(path.exists() for path in written)
