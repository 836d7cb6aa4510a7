import dataclasses

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.experiment import sweep
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.experiment.sweep import Sweep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.training.config import TrainingConfig

NAT = Entry("nat", LengthNat(), TrainingConfig())
STUDY = StudyConfig(
    "x",
    "study",
    DataConfig("data", TextFiles(("train.tsv",))),
    Entry("ar", Autoregressive(), TrainingConfig()),
    (NAT, Entry("nat.more", LengthNat(), TrainingConfig(), start_from="nat")),
)


def with_value(entry: Entry, field: str, value: str) -> Entry:
    name = field.removeprefix("training.")
    training = dataclasses.replace(entry.training, **{name: int(value)})  # type: ignore[arg-type]
    return dataclasses.replace(entry, training=training)


def test_a_sweep_is_of_every_entry_or_of_the_longest_name_that_fits() -> None:
    assert Sweep.of("training.seed=1, 2", STUDY) == Sweep("training.seed", ("1", "2"))
    assert Sweep.of("nat.training.seed=1", STUDY) == Sweep("training.seed", ("1",), "nat")
    assert Sweep.of("nat.more.training.seed=1", STUDY) == Sweep("training.seed", ("1",), "nat.more")


def test_names_say_the_value_in_letters_that_a_directory_may_have() -> None:
    assert Sweep("training.batching.buckets", ()).name_of("8 16") == "_buckets_8_16"
    assert Sweep("training.optimizer.peak-learning-rate", ()).name_of("1e-3") == (
        "_peak_learning_rate_1e-3"
    )
    assert Sweep("method.decoding", ()).name_of('Beam("a/b")') == "_decoding_Beam_a_b"


def test_every_combination_is_an_entry_and_starts_from_its_like() -> None:
    sweeps = [Sweep.of(text, STUDY) for text in ("training.seed=1,2", "training.max_steps=7,8")]
    entries = sweep.swept(STUDY, sweeps, with_value).entries
    assert [(e.training.seed, e.training.max_steps, e.start_from) for e in entries] == [
        (1, 7, None),
        (1, 8, None),
        (2, 7, None),
        (2, 8, None),
        (1, 7, "nat_seed_1_max_steps_7"),
        (1, 8, "nat_seed_1_max_steps_8"),
        (2, 7, "nat_seed_2_max_steps_7"),
        (2, 8, "nat_seed_2_max_steps_8"),
    ]


def test_an_entry_that_is_not_swept_stays() -> None:
    sweeps = [Sweep.of("nat.more.training.seed=1,2", STUDY)]
    entries = sweep.swept(STUDY, sweeps, with_value).entries
    assert entries[0] == NAT
    assert [entry.start_from for entry in entries[1:]] == ["nat", "nat"]
    assert sweep.swept(STUDY, [], with_value) == STUDY


def test_a_value_twice_is_a_name_twice() -> None:
    with pytest.raises(ConfigError, match="different names, got ar, nat_seed_1, nat_seed_1"):
        sweep.swept(STUDY, [Sweep.of("nat.training.seed=1,1", STUDY)], with_value)
