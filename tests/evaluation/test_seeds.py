import math
from pathlib import Path
from typing import Any

import pytest

from nat_ar.evaluation import results, seeds
from nat_ar.evaluation.results import SystemResult
from nat_ar.evaluation.seeds import SeededRun
from nat_ar.evaluation.table import build, formats

NAT: dict[str, Any] = {"method": "LengthNat", "family": "NAT", "training_data": "distilled"}
RUNS = {
    **{f"runs/nat_seed{seed}": SeededRun("nat", seed, "a NAT") for seed in (1, 2, 3)},
    "runs/ar": SeededRun("ar", 1, "a teacher"),
}


@pytest.fixture
def systems(quality, speed) -> list[SystemResult]:
    """A NAT with 26, 27 and 31 BLEU by seeds 3, 1 and 2, of which the last two were timed; a teacher of one seed."""
    rows = [
        quality("nat_seed3", "Argmax()", 26.0, **NAT, steps=1.0, warnings=["3 are empty"]),
        quality("nat_seed1", "Argmax()", 27.0, **NAT, steps=2.0, valid=90.0),
        quality("nat_seed2", "Argmax()", 31.0, **NAT, steps=6.0, valid=70.0),
        speed("nat_seed2", "Argmax()", 5.0, **NAT),
        speed("nat_seed1", "Argmax()", 4.0, **NAT),
        quality("ar", "Greedy()", 33.0),
        speed("ar", "Greedy()", 20.0),
        quality("ar", "Beam(size=4)", 34.0),
        speed("ar", "Beam(size=4)", 40.0),
    ]
    return results.join(rows)


def test_runs_that_differ_in_the_seed_only_are_one_system(systems) -> None:
    nat, greedy, beam = seeds.merge(systems, RUNS)
    assert nat.quality is not None
    assert nat.quality["name"] == nat.identity["name"] == "nat"
    assert nat.quality["bleu"]["score"] == pytest.approx(28)
    assert (nat.quality["bleu"]["low"], nat.quality["bleu"]["high"]) == pytest.approx((27, 29))
    assert nat.quality["steps"] == pytest.approx(3)
    assert nat.quality["valid"] is None  # one run has none
    assert nat.quality["warnings"] == ["3 are empty"]
    assert [seed for seed, _ in nat.by_seed] == [1, 2, 3]
    assert [row["bleu"]["score"] for row in nat.qualities] == [27, 31, 26]
    assert nat.speed is not None
    assert (nat.speed["latency_ms"]["mean"], nat.speed["timed_seed"]) == (4.0, 1)
    assert (greedy, beam) == tuple(systems[-2:])


def test_the_deviation_is_that_of_a_sample(systems) -> None:
    nat, greedy, _ = seeds.merge(systems, RUNS)
    # (1 + 9 + 4) / 2
    assert seeds.deviation(nat.qualities, "bleu") == pytest.approx(math.sqrt(7))
    assert seeds.deviation(greedy.qualities, "bleu") is None


def test_runs_of_one_seed_stay_apart(systems) -> None:
    """Something else tells them apart, and nobody knows which of the two a mean should take."""
    twice = {**RUNS, "runs/nat_seed2": SeededRun("nat", 1, "a NAT")}
    assert seeds.merge(systems, twice) == systems
    unknown = {**RUNS, "runs/nat_seed2": None}
    assert [len(one.qualities) for one in seeds.merge(systems, unknown)] == [2, 1, 1, 1]


def test_a_score_that_one_run_lacks_is_not_averaged(quality) -> None:
    whole, lacking = quality("a", "Argmax()", 27.0), quality("b", "Argmax()", 28.0)
    del lacking["chrf"]
    mean = seeds.mean_row([whole, lacking])
    assert "chrf" not in mean
    assert mean["bleu"]["score"] == pytest.approx(27.5)


def test_groups_of_sentences_have_means_too(quality) -> None:
    rows = [
        quality(str(bleu), "Argmax()", bleu, lengths={"1-10": {"sentences": 9, "bleu": bleu}})
        for bleu in (20.0, 30.0)
    ]
    assert seeds.mean_row(rows)["lengths"] == {"1-10": {"sentences": 9, "bleu": 25.0}}


def test_the_table_says_how_many_seeds_and_how_far_apart_they_are(systems) -> None:
    table = build.build(seeds.merge(systems, RUNS))
    markdown = formats.render(table, "markdown")
    (nat,) = (line for line in markdown.splitlines() if line.startswith("| nat Argmax"))
    assert "| 28.00 [27.00, 29.00] | 3, ±2.65 | 3.0 |" in nat
    (greedy,) = (line for line in markdown.splitlines() if line.startswith("| ar Greedy"))
    assert "| 1 |" in greedy
    notes = " ".join(table.notes)
    assert "means over seeds 1, 2, 3 (nat Argmax())" in notes
    assert "One seed, ar Beam(size=4), ar Greedy(): what another seed" in notes
    assert "Speed of nat Argmax(): that of the run with seed 1." in notes
    assert sum("nat_seed" in command for command in table.commands) == 3
    assert "seeds" in formats.render(table, "csv").splitlines()[0]
    assert "1 2 3" in formats.render(table, "csv")


def test_runs_of_other_seeds_are_no_other_models_of_one_run(quality, speed) -> None:
    """A decoding that only the second seed was scored and timed by."""
    rows = [quality("nat_seed1", "A()", 27.0, parameters_hash="1" * 64)]
    rows += [quality("nat_seed2", f"{name}()", 27.0, parameters_hash="2" * 64) for name in "AB"]
    rows.append(speed("nat_seed2", "B()", 27.0, parameters_hash="2" * 64))
    merged = seeds.merge(results.join(rows), RUNS)
    assert [(one.identity["name"], len(one.qualities)) for one in merged] == [
        ("nat", 2),
        ("nat", 1),
    ]
    assert not build.build(merged).warnings
    rows[1] |= {"parameters_hash": "3" * 64}
    (warning, _) = build.build(seeds.merge(results.join(rows), RUNS)).warnings
    assert warning.startswith("Warning, nat_seed2: another model for")


def test_where_every_system_has_one_seed_the_table_says_so(systems) -> None:
    table = build.build(systems)
    assert any(note.startswith("One seed a system") for note in table.notes)
    assert "| seeds |" not in formats.render(table, "markdown")


def test_the_teacher_is_named_by_any_of_its_runs(quality) -> None:
    rows = [quality(f"ar_seed{seed}", "Beam(size=4)", 30.0 + seed) for seed in (1, 2)]
    runs = {f"runs/ar_seed{seed}": SeededRun("ar", seed, "") for seed in (1, 2)}
    (one,) = seeds.merge(results.join(rows), runs)
    for name in ("ar", "ar_seed2", str(Path("runs/ar_seed2")), "runs/ar_seed1"):
        assert build.find_teacher([one], name) == one


def test_means_of_checkpoints_are_merged_with_each_other_only(quality) -> None:
    mean = {"averaged_steps": [300, 400]}
    rows = [
        quality(f"nat_seed{seed}", "A()", score, **changes, date=date)
        for seed in (1, 2)
        for score, changes, date in ((27.0, {}, "2026-01-01"), (28.0, mean, "2026-01-02"))
    ]
    merged = seeds.merge(results.join(rows), RUNS)
    found = [(one.identity["name"], one.identity["bleu"]["score"]) for one in merged]
    assert found == [("nat", 27.0), ("nat (mean of 2)", 28.0)]
