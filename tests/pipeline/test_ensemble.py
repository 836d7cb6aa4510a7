"""ensemble RUN RUN --run DIRECTORY: a run that every verb takes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import nat_ar
from nat_ar import __main__ as command_line
from nat_ar.commands import ensemble as command
from nat_ar.commands import translate
from nat_ar.commands.translate import Translate
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.experiment.run import Run
from nat_ar.pipeline import compare, distill, evaluate
from nat_ar.pipeline.ensemble import ensemble

SOURCES = ["a b c", "d e", "h"]


@pytest.fixture(scope="module")
def members(
    tiny_runs, train_anew: Callable[[Run], None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Run]:
    """Two seeds of one model."""
    place = tmp_path_factory.mktemp("members")
    runs = [Run(shutil.copytree(tiny_runs.autoregressive.directory, place / name)) for name in "ab"]
    for run in runs:
        (run.directory / results.FILE_NAME).unlink(missing_ok=True)
    train_anew(runs[1])
    return runs[0], runs[1]


@pytest.fixture(scope="module")
def both(members: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ensemble(members, tmp_path_factory.mktemp("ensemble") / "both")


def test_it_needs_its_members_no_longer(members: tuple[Run, Run], tmp_path: Path) -> None:
    copies = [
        shutil.copytree(one.directory, tmp_path / f"m{place}") for place, one in enumerate(members)
    ]
    to = tmp_path / "both"
    words = ["ensemble", *map(str, copies), "--run", str(to), "--name", "two"]
    command.run(command_line.parse(words[0], words[1:]))
    before = nat_ar.load(to).translate(SOURCES)
    for copy in copies:
        shutil.rmtree(copy)
    model = nat_ar.load(to)
    assert model.translate(SOURCES) == before
    assert model.trained.config.name == "two"
    known = Run(to).facts()["members"]
    hashes = [one.parameters_hash() for one in members]
    assert [one["parameters_hash"] for one in known] == hashes
    assert hashes[0] != hashes[1]


def test_its_score_lies_between_those_of_its_members(members: tuple[Run, Run], both: Run) -> None:
    """log of a mean is at least the mean of the logs, and at most the larger: word by word."""
    texts = ["A B C", "D E", "H"]
    mean = nat_ar.load(both.directory).score(SOURCES, texts)
    alone = zip(*(nat_ar.load(one.directory).score(SOURCES, texts) for one in members), strict=True)
    for value, scores in zip(mean, alone, strict=True):
        assert value >= sum(scores) / 2 - 1e-4
        assert value != pytest.approx(scores[0], abs=1e-3)


def test_it_is_a_row_of_its_own_name(members: tuple[Run, Run], both: Run) -> None:
    evaluate.evaluate(members[0])
    row = evaluate.evaluate(both)
    assert (row["name"], row["method"], row["family"]) == ("both", "Ensemble", "AR")
    assert [one["name"] for one in row["members"]] == ["ar", "ar"]
    assert row["parameters"] == 2 * members[0].load().num_parameters
    assert row["training_data"] == "raw"
    table = compare.compare([members[0].directory, both.directory], teacher="ar").table
    assert [line.result.identity["name"] for line in table.lines] == ["ar", "both"]
    assert table.lines[1].tests["bleu"].p_value > 0  # it was tested


def test_it_translates_lines_and_teaches(both: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{line}\n" for line in SOURCES), "utf-8")
    output = tmp_path / "out.txt"
    for decoding in ("Greedy()", "Beam(size=2)"):
        translate.run(
            Translate(str(both.directory), str(source), str(output), decoding=decoding, scores=True)
        )
        assert output.read_text("utf-8").count("\n") == 3
    manifest = distill.distill(both, tmp_path / "distilled", word_distributions=2, spoilt="keep")
    assert manifest["distilled"]["teacher"]["name"] == "both"
    assert len(PreparedData.load(tmp_path / "distilled").split("train")) == 36


def test_the_same_again_is_found_and_others_are_refused(
    members: tuple[Run, Run], both: Run, tiny_runs, tmp_path: Path
) -> None:
    before = both.parameters_hash()
    assert ensemble(members, both).parameters_hash() == before
    with pytest.raises(ConfigError, match="both is another run, of 2 members: name another --run"):
        ensemble([members[1], members[0]], both)
    with pytest.raises(ConfigError, match="is another run, of 0 members"):
        ensemble(members, members[0])
    with pytest.raises(ConfigError, match="members of family AR, got LengthNat of family NAT"):
        ensemble([members[0], tiny_runs.length_nat], tmp_path / "x")
    other = Run(shutil.copytree(members[1].directory, tmp_path / "other"))
    facts = {key: value for key, value in other.facts().items() if key != "checksum"}
    other._write_facts({**facts, "vocabulary_hash": "f" * 64})
    with pytest.raises(ConfigError, match=r"other has another vocabulary [(]ffffffffffff[)] than"):
        ensemble([members[0], other], tmp_path / "x")
    assert not (tmp_path / "x").exists()
