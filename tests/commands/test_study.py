"""study: the options of its entries, and sweeps of them."""

from pathlib import Path
from typing import Any

import pytest

from nat_ar import __main__ as main
from nat_ar.commands import study as command
from nat_ar.commands.study import Study
from nat_ar.experiment.study import Entry

CONFIG = """
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.training.config import TrainingConfig

config = StudyConfig(
    "x",
    "study",
    DataConfig("data", TextFiles(("train.tsv",))),
    Entry("ar", Autoregressive(), TrainingConfig()),
    (
        Entry("nat", LengthNat(), TrainingConfig(max_steps=5)),
        Entry("nat_0.5", LengthNat(), TrainingConfig(), start_from="nat"),
        Entry("lstm", Recurrent(), TrainingConfig()),
    ),
)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.py").write_text(CONFIG, "utf-8")


def parsed(*words: str) -> Study:
    arguments: Study = main.parse("study", ["study.py", *words])
    return arguments


def entries(*words: str) -> dict[str, Entry]:
    config = parsed(*words).config
    return {entry.name: entry for entry in (config.teacher, *config.entries)}


def steps(*words: str) -> dict[str, int]:
    return {name: entry.training.max_steps for name, entry in entries(*words).items()}


def test_a_dotted_name_is_an_option_of_every_entry_and_with_a_name_before_it_of_one() -> None:
    assert steps("--training.max-steps", "7") == {"ar": 7, "nat": 7, "nat_0.5": 7, "lstm": 7}
    words = ["--nat.training.max_steps=8", "--nat-0.5.training.max-steps", "9"]
    words += ["--training.max-steps", "7", "--teacher.training.max-steps", "3"]
    assert steps(*words) == {"ar": 3, "nat": 8, "nat_0.5": 9, "lstm": 7}
    assert steps("--ar.training.max-steps", "4")["ar"] == 4


def test_the_fields_of_a_study_are_options_too() -> None:
    words = ["--seeds", "1", "2", "--seed-teacher", "--data.corpus.train", "a.tsv"]
    words += ["--speed.sentences", "9", "--lstm.seeds", "1", "--lstm.distilled"]
    config = parsed(*words).config
    assert (config.seeds, config.seed_teacher, config.speed.sentences) == ((1, 2), True, 9)
    assert config.data.corpus.train == ("a.tsv",)  # type: ignore[attr-defined]
    nat, *_, lstm = config.entries
    assert (nat.seeds, lstm.seeds, lstm.distilled) == (None, (1,), True)


def test_the_command_of_the_reports_has_what_changes_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(command, "study", lambda config, **more: seen.append(more["command"]))
    words = ["--only", "nat", "--directory", "/my/place", "--seeds", "1", "2", "--publish", "docs"]
    words += ["--training.batching.buckets", "8", "12", "--columns", "bleu", "--int8"]
    command.run(parsed(*words))
    assert seen == [
        "python -m nat_ar study study.py --seeds 1 2 --training.batching.buckets 8 12 --columns bleu --int8 --only nat"
    ]


def test_a_sweep_makes_an_entry_for_each_value() -> None:
    assert steps("--sweep", "nat.training.max-steps=6,7", "--only", "nat") == {
        "ar": 10_000,
        "nat_max_steps_6": 6,
        "nat_max_steps_7": 7,
    }
    words = ["--sweep", "training.max-steps=6", "method.deep-supervision=True,False"]
    found = entries(*words, "--only", "nat_0.5")
    assert [*found] == [
        "ar",
        "nat_max_steps_6_deep_supervision_True",
        "nat_max_steps_6_deep_supervision_False",
        "nat_0.5_max_steps_6_deep_supervision_True",
        "nat_0.5_max_steps_6_deep_supervision_False",
    ]
    last = found["nat_0.5_max_steps_6_deep_supervision_False"]
    assert last.start_from == "nat_max_steps_6_deep_supervision_False"
    assert not last.method.deep_supervision  # type: ignore[union-attr]
    assert found["nat_max_steps_6_deep_supervision_True"].method.deep_supervision  # type: ignore[union-attr]
    buckets = entries("--sweep", "training.batching.buckets=8,8 12", "--only", "lstm")
    assert buckets["lstm_buckets_8_12"].training.batching.buckets == (8, 12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--training.max-stepss", "7"], "^entry ar: .*Perhaps you meant: --training.max-steps"),
        (["--nat.training.max-steps", "no"], "^entry nat: .*'no'"),
        (
            ["--nta.training.max-steps", "7"],
            r"of the study \(teacher, ar, nat, nat_0.5, lstm\), got",
        ),
        (["--method.token-loss.smoothing", "0"], "^entry ar: Unrecognized options"),
        (["--nat.name", "x"], "Unrecognized options: --name"),
        (["--seeds", "1", "1"], "expected different seeds"),
        (["--sweep", "training.max-steps"], "expected FIELD=a,b,c, got 'training.max-steps'"),
        (["--sweep", "training.max-steps=1,,2"], "expected FIELD=a,b,c"),
        (["--sweep", "training.max-steps=1,x"], "^entry nat_max_steps_x: "),
        (["--sweep", "ar.training.max-steps=1,2"], "a study has one teacher"),
        (["--sweep", "teacher.training.max-steps=1,2"], "a study has one teacher"),
        (["--sweep", "data.max-tokens=1,2"], "begins with one of decoder_from_teacher"),
        (["--sweep", "nat.start-from=ar"], "begins with one of decoder_from_teacher"),
        (["--sweep", "nat.training.max-steps=1,2"], r"nat_0.5.start_from: expected an earlier"),
    ],
)
def test_a_mistake_names_what_was_expected(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parsed(*words)
    assert "\n" not in str(caught.value)


def test_help_has_the_options_of_a_study_and_says_how_entries_are_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    said: Any = capsys.readouterr().out
    assert "--seeds" in said
    assert "--nat.training.max-steps 100" in said
    for hidden in ("--overrides", "--path", "--entries", "--teacher.name"):
        assert hidden not in said


def test_its_pictures_may_be_those_of_a_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a place nor the look of a picture is in the command that the reports give."""
    words = ["--picture", "out/paper.pdf", "--width", "3.3", "--no-title", "--seeds", "1", "2"]
    arguments = parsed(*words)
    assert arguments.overrides == ("--seeds", "1", "2")
    given: dict[str, Any] = {}
    monkeypatch.setattr(command, "study", lambda config, **options: given.update(options))
    command.run(arguments)
    assert (given["picture"], given["width"], given["has_title"]) == ("out/paper.pdf", 3.3, False)
    for wrong, said in (("--picture=x.jpg", r"\.png, \.svg or \.pdf"), ("--width=1", "2.5 inches")):
        with pytest.raises(ValueError, match=said):
            command.run(parsed(wrong))


def test_rows_of_8_bits_stand_behind_the_decodings_that_there_are() -> None:
    """Also behind a default and one that an entry has already."""
    text = CONFIG.replace(
        "LengthNat(), TrainingConfig(max_steps=5)",
        "LengthNat(), TrainingConfig(max_steps=5), decodings=('LengthBeam(size=5)', 'LengthBeam() int8')",
    )
    Path("study.py").write_text(text, "utf-8")
    found = {name: entry.decodings for name, entry in entries("--int8", "--only", "nat").items()}
    assert found == {
        "ar": ("Beam(size=4)", "Beam(size=4) int8"),
        "nat": ("LengthBeam(size=5)", "LengthBeam(size=5) int8", "LengthBeam(size=1) int8"),
    }
    assert entries("--only", "nat")["ar"].decodings == ()
