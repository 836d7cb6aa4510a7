"""Which runs a study plans for its seeds, and what each of them learns from."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.experiment.study import Entry, StudyConfig, drafters_of, only
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.training.config import TrainingConfig

TEACHER = Entry("ar", Autoregressive(), TrainingConfig(seed=7))
NAT = Entry("nat", LengthNat(), TrainingConfig(seed=8), distilled=True)
MORE = Entry("more", LengthNat(), TrainingConfig(seed=9), start_from="nat")
STUDY = StudyConfig(
    "x", "study", DataConfig("data", TextFiles(("train.tsv",))), TEACHER, (NAT, MORE)
)


def planned(**changes: Any) -> dict[str, tuple[int, str | None, str | None, str | None]]:
    """Of each run: seed, teacher, data and start, without their directories."""

    def last(path: str | None) -> str | None:
        return None if path is None else Path(path).name

    runs = dataclasses.replace(STUDY, **changes).plan()
    assert all(run.directory == Path("study/runs") / run.experiment.name for run in runs)
    found = {
        run.experiment.name: (
            run.experiment.training.seed,
            last(run.experiment.teacher),
            last(run.experiment.train_on),
            last(run.experiment.start_from),
        )
        for run in runs
    }
    assert len(found) == len(runs)
    return found


def test_a_study_without_seeds_has_the_runs_that_it_always_had() -> None:
    assert planned() == {
        "ar": (7, None, None, None),
        "nat": (8, "ar", "distilled", None),
        "more": (9, "ar", None, "nat"),
    }


def test_every_entry_has_a_run_a_seed_and_one_teacher() -> None:
    assert planned(seeds=(1, 2)) == {
        "ar": (7, None, None, None),
        "nat_seed1": (1, "ar", "distilled", None),
        "nat_seed2": (2, "ar", "distilled", None),
        "more_seed1": (1, "ar", None, "nat_seed1"),
        "more_seed2": (2, "ar", None, "nat_seed2"),
    }


def test_a_student_learns_from_the_teacher_of_its_own_seed() -> None:
    assert planned(seeds=(1, 2), seed_teacher=True) == {
        "ar_seed1": (1, None, None, None),
        "ar_seed2": (2, None, None, None),
        "nat_seed1": (1, "ar_seed1", "distilled_seed1", None),
        "nat_seed2": (2, "ar_seed2", "distilled_seed2", None),
        "more_seed1": (1, "ar_seed1", None, "nat_seed1"),
        "more_seed2": (2, "ar_seed2", None, "nat_seed2"),
    }


def test_an_entry_may_have_seeds_of_its_own_or_none() -> None:
    """Without a seed it learns from the first run of a seeded entry."""
    once = dataclasses.replace(MORE, seeds=())
    assert planned(entries=(dataclasses.replace(NAT, seeds=(5, 6)), once), seeds=(1, 2)) == {
        "ar": (7, None, None, None),
        "nat_seed5": (5, "ar", "distilled", None),
        "nat_seed6": (6, "ar", "distilled", None),
        "more": (9, "ar", None, "nat_seed5"),
    }
    teacher = dataclasses.replace(TEACHER, seeds=(3, 4))
    assert planned(teacher=teacher, entries=(NAT,)) == {
        "ar_seed3": (3, None, None, None),
        "ar_seed4": (4, None, None, None),
        "nat": (8, "ar_seed3", "distilled_seed3", None),
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": (1, 1)}, r"^seeds: expected different seeds from 0 up, got \(1, 1\)"),
        ({"seeds": (-1,)}, "from 0 up"),
        ({"seed_teacher": True}, "seed_teacher: expected seeds to train the teacher with"),
        (
            {"entries": (NAT, dataclasses.replace(MORE, seeds=(1, 3))), "seeds": (1, 2)},
            r"more\.seeds: it learns from nat of the same seed, expected some of \(1, 2\), got \(3,\)",
        ),
        (
            {
                "teacher": dataclasses.replace(TEACHER, seeds=(1, 2)),
                "entries": (dataclasses.replace(NAT, seeds=(2, 9)),),
            },
            r"nat\.seeds: it learns from ar of the same seed",
        ),
        (
            {"entries": (NAT, dataclasses.replace(NAT, name="nat_seed2", seeds=())), "seeds": (2,)},
            "runs of a study need different names, got ar, nat_seed2, nat_seed2",
        ),
    ],
)
def test_impossible_seeds_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(STUDY, **changes)


def test_an_entry_checks_its_own_seeds() -> None:
    with pytest.raises(ConfigError, match=r"nat\.seeds: expected different seeds"):
        dataclasses.replace(NAT, seeds=(2, 2))


def test_a_decoding_drafts_by_another_entry_of_the_study() -> None:
    decoding = "Speculative(drafter='nat')"
    drafted = dataclasses.replace(TEACHER, decodings=("Greedy()", decoding))
    study = dataclasses.replace(STUDY, teacher=drafted)
    assert drafters_of(study.teacher) == {decoding: "nat"}
    assert only(study, ["nat"]).teacher.decodings == ("Greedy()", decoding)
    assert only(study, []).teacher.decodings == ("Greedy()",)
    for name in ("ctc", "ar"):
        wrong = dataclasses.replace(TEACHER, decodings=(f"Speculative(drafter='{name}')",))
        with pytest.raises(
            ConfigError, match=rf"another entry of the study \(nat, more\), got '{name}'"
        ):
            dataclasses.replace(STUDY, teacher=wrong)
