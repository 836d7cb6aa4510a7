"""How a decoding finds the run that drafts, and what a row then knows of it."""

import shutil
from pathlib import Path

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.evaluation import results
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from nat_ar.pipeline import evaluate
from nat_ar.search.greedy import Greedy
from nat_ar.search.speculative import Speculative

DRAFTED = "Speculative(block=4, drafter='nat')"


@pytest.fixture
def runs(tiny_runs, tmp_path: Path) -> Path:
    """The two tiny runs side by side: ar and nat."""
    for run in (tiny_runs.autoregressive, tiny_runs.length_nat):
        shutil.copytree(run.directory, tmp_path / run.directory.name)
    return tmp_path


def test_a_drafter_is_named_by_its_run_or_by_a_path(runs: Path) -> None:
    run = Run(runs / "ar")
    assert run.drafter(Greedy()) is None
    assert run.drafter(Speculative(drafter="nat")) == Run(runs / "nat")
    assert run.drafter(Speculative(drafter=str(runs / "nat"))).directory == runs / "nat"


def test_of_several_seeds_the_same_one_drafts_or_the_first(runs: Path) -> None:
    for seed in (0, 2, 3):  # tiny runs have seed 0
        shutil.copytree(runs / "nat", runs / f"length_seed{seed}")
    run, decoding = Run(runs / "ar"), Speculative(drafter="length")
    assert run.drafter(decoding) == Run(runs / "length_seed0")
    shutil.rmtree(runs / "length_seed0")
    assert run.drafter(decoding) == Run(runs / "length_seed2")


def test_rows_of_drafted_words_are_those_of_greedy_search_and_pin_the_drafter(
    runs: Path, train_anew
) -> None:
    run, nat = Run(runs / "ar"), Run(runs / "nat")
    plain = evaluate.evaluate(run, decoding="Greedy()")
    row = evaluate.evaluate(run, decoding=DRAFTED)
    assert row["decoding"] == DRAFTED
    assert row["bleu"] == plain["bleu"]
    texts = [(run.directory / r["hypotheses"]).read_text("utf-8") for r in (plain, row)]
    assert texts[0] == texts[1]
    assert plain["verification"] is None
    verification = row["verification"]
    assert row["steps"] == pytest.approx(verification["passes"] + 1)  # the draft is a pass
    words = plain["steps"]  # and EOS: greedy search takes a pass for each
    assert verification["words_a_pass"] == pytest.approx(words / verification["passes"])
    assert plain["drafter"] is None
    assert row["drafter"] == {
        "run": str(nat.directory),
        "checkpoint_step": 0,
        "parameters_hash": nat.parameters_hash(),
    }
    decoding = Speculative(block=4, drafter="nat")
    assert results.is_same_model(row, provenance.version(run, decoding))
    train_anew(nat)
    assert not results.is_same_model(row, provenance.version(run, decoding))


def test_a_drafter_that_cannot_be_is_refused(runs: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"\"Speculative\(drafter='RUN'\)\"; Jacobi\(\) needs none"
    ):
        open_translator(runs / "ar", "Speculative()")
    with pytest.raises(ConfigError, match="a drafter works alone, got LengthBeam"):
        open_translator(
            runs / "ar",
            "Speculative(drafter='nat', drafting='LengthBeam(size=2, rescore=True)')",
        )
    with pytest.raises(ConfigError, match="is no run"):
        open_translator(runs / "ar", "Speculative(drafter='nowhere')")
    with pytest.raises(ConfigError, match="expected a decoding of LengthNat"):
        open_translator(runs / "nat", DRAFTED)
