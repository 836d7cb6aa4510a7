"""Every config says no to values that cannot be, by the name of the field, when it is made."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig

MAY_BE_NEGATIVE = {"blank_penalty", "length_penalty", "rescoring_length_penalty", "length_prior"}
DATA = DataConfig("data", ToyCorpus())
TEACHER = Entry("ar", Autoregressive(), TrainingConfig())
MADE: dict[str, Any] = {
    "DataConfig": DATA,
    "Entry": TEACHER,
    "ExperimentConfig": ExperimentConfig("x", DATA, LengthNat()),
    "StudyConfig": StudyConfig("x", "study", DATA, TEACHER, ()),
    "TextFiles": TextFiles(("train.tsv",)),
}
"""of the classes with fields that have no default"""


@pytest.fixture(autouse=True)
def checked_by_the_package_alone() -> Iterator[None]:
    """The suite's own checker of types would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def configs() -> list[type]:
    """The classes of this package that an experiment or a study can hold."""

    def inside(annotation: Any) -> Iterator[type]:
        yield from config_json.classes_of((annotation,))
        for member in typing.get_args(annotation):
            yield from inside(member)

    waiting: list[type] = [ExperimentConfig, StudyConfig]
    found = dict.fromkeys(waiting)
    while waiting:
        for annotation in config_json.field_types(waiting.pop()).values():
            new = [cls for cls in inside(annotation) if cls not in found]
            waiting += new
            found |= dict.fromkeys(new)
    return [cls for cls in found if cls.__module__.startswith("nat_ar.")]


def numbers() -> Iterator[tuple[type, str]]:
    for cls in configs():
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            annotation = config_json.field_types(cls)[field.name]
            is_number = {int, float} & {annotation, *typing.get_args(annotation)}
            if is_number and typing.get_origin(annotation) is not tuple:
                yield cls, field.name


def made(cls: type, **change: Any) -> Any:
    if cls.__name__ in MADE:
        return dataclasses.replace(MADE[cls.__name__], **change)
    try:
        return cls(**change)
    except TypeError as error:
        if "required positional argument" in str(error):
            pytest.skip("its required fields are of its user's making")
        raise


def test_there_are_many_numbers() -> None:
    assert len(list(numbers())) > 100


@pytest.mark.parametrize(("cls", "name"), list(numbers()))
def test_a_number_that_makes_no_sense_is_refused_by_name_when_the_config_is_made(
    cls: type, name: str
) -> None:
    wrong: list[Any] = ["7", float("nan"), True]
    wrong += [] if name in MAY_BE_NEGATIVE else [-1]
    for value in wrong:
        with pytest.raises(ConfigError, match=rf"\b{name}\b"):
            made(cls, **{name: value})


SHARES = ("smoothing", "dropout_rate", "probability", "_share", "decay", "beta1", "beta2")


@pytest.mark.parametrize(("cls", "name"), list(numbers()))
def test_a_share_above_one_is_refused_by_name(cls: type, name: str) -> None:
    if any(part in name for part in SHARES) and name != "weight_decay":
        with pytest.raises(ConfigError, match=rf"\b{name}\b"):
            made(cls, **{name: 1.5})


@pytest.mark.parametrize("cls", configs())
def test_every_config_checks_its_types(cls: type) -> None:
    assert issubclass(cls, config_json.Config)


def test_a_wrong_type_is_not_compared_before_it_is_named(tmp_path: Path) -> None:
    """Once: TypeError: '<' not supported between instances of 'str' and 'int', without a field."""
    for make, said in (
        (lambda: TrainingConfig(max_steps="300"), r"TrainingConfig\.max_steps: expected int, got"),
        (lambda: ValidationConfig(patience=2.5), r"ValidationConfig\.patience: expected int, got"),
        (lambda: TransformerConfig(attention="cudnn"), r"\.attention: expected .*Full.*'cudnn'"),
        (lambda: TrainingConfig(optimizer=3), r"\.optimizer: expected .*OptimizerConfig"),
        (lambda: TextFiles("train.tsv"), r"TextFiles\.train: expected a list, got 'train.tsv'"),
        (lambda: LengthNat(copy="hard"), r"LengthNat\.copy: expected one of .*'soft'"),
    ):
        with pytest.raises(ConfigError, match=said):
            make()  # type: ignore[no-untyped-call]
    path = tmp_path / "config.py"
    path.write_text(
        "from nat_ar.training.config import TrainingConfig\n\nconfig = TrainingConfig(max_steps='5')"
    )
    with pytest.raises(ConfigError, match=r"config\.py:3: TrainingConfig\.max_steps: expected int"):
        config_json.run_file(path)


def test_what_may_be_left_out_and_whole_numbers_for_fractions_stay_possible() -> None:
    assert TrainingConfig(num_devices=None, average_decay=None).num_devices is None
    assert TransformerConfig(dropout_rate=0).dropout_rate == 0
