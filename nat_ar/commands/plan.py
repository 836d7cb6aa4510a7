"""plan CONFIG --mesh data=8,fsdp=8: what its training would take on such devices; nothing is trained.

nat_ar/pipeline/plan.py says how it is found out, docs/scale.md what it is worth."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.experiment.study import StudyConfig
from nat_ar.pipeline import plan as planned
from nat_ar.pipeline.plan import Rates
from nat_ar.runtime import bars, console


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compile the train step of a config for a mesh of devices that need not be there: memory, arithmetic, what they
    exchange and, with --peak and --bandwidth, time. Of a study the teacher's, or that of --entry NAME."""

    config: ExperimentConfig
    """the experiment; every field is an option with a dotted name"""
    mesh: tuple[str, ...] = ("data=1",)
    """as train has it, in numbers, such as data=8,fsdp=8; several: a line each"""
    length: int = planned.LENGTH
    """words of each sentence of the batch that is planned: it is of the smallest bucket that holds them"""
    peak: float | None = None
    """FLOP/s of a device in the type of the network, such as 989e12 (H100, bfloat16)"""
    bandwidth: float | None = None
    """bytes/s that a device sends to the others of its machine, such as 450e9"""
    network: float | None = None
    """bytes/s that a device sends to other machines; default: as within one"""
    devices_per_machine: int = 8
    """neighbours in the mesh that share a machine"""
    efficiency: float = 0.4
    """share of the peak that a step reaches"""


def parse(path: str, words: list[str], fill: Callable[..., Any]) -> Plan:
    """The plan with all options set; --entry chooses one of a study."""
    name = None
    if "--entry" in words:
        at = words.index("--entry")
        name, words = " ".join(words[at + 1 : at + 2]), words[:at] + words[at + 2 :]
    return fill(Plan(_experiment(load_file(path), path, name)), words)


def _experiment(config: Any, path: str, name: str | None) -> ExperimentConfig:
    if isinstance(config, StudyConfig):
        entries = {entry.name: entry for entry in (config.teacher, *config.entries)}
        if name is not None and name not in entries:
            raise ConfigError(f"--entry: {path} has {', '.join(entries)}; got {name!r}")
        return config.experiment(config.teacher if name is None else entries[name])
    if not isinstance(config, ExperimentConfig) or name is not None:
        raise ConfigError(
            f"{path} holds a {type(config).__name__}; `plan` takes an ExperimentConfig, or a StudyConfig of which "
            "--entry names one"
        )
    return config


def run(arguments: Plan) -> None:
    rates = _rates(arguments)
    found = []
    for mesh in arguments.mesh:
        with bars.line(f"{arguments.config.name}: compiling for {mesh}"):
            found.append(
                planned.plan(
                    arguments.config,
                    mesh,
                    length=arguments.length,
                    devices_per_machine=arguments.devices_per_machine,
                )
            )
    console.show(
        _heading(found, arguments.config) + "\n\n" + planned.markdown(found, rates).rstrip()
    )


def _rates(arguments: Plan) -> Rates | None:
    if arguments.peak is None and arguments.bandwidth is None:
        return None
    if arguments.peak is None or arguments.bandwidth is None:
        raise ConfigError(
            "--peak and --bandwidth belong together: give both, or neither for no times"
        )
    return Rates(arguments.peak, arguments.bandwidth, arguments.network, arguments.efficiency)


def _heading(found: Sequence[planned.Plan], config: ExperimentConfig) -> str:
    one = found[0]
    return (
        f"{config.name}: {one.parameters:,} parameters, sentences of {one.width} words, {one.steps:,} steps. "
        "Predicted, not measured"
    )
