"""export RUN: a run to take elsewhere, with nat_ar or without; docs/export.md compares the formats."""

import dataclasses
from pathlib import Path

from nat_ar.config_json import ConfigError
from nat_ar.evaluation.speed import machine
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run
from nat_ar.export import stablehlo
from nat_ar.export.ctranslate2 import Quantization
from nat_ar.export.stablehlo import Platform
from nat_ar.pipeline.export import Format, export
from nat_ar.runtime import console
from nat_ar.translation.translator import BUCKETS


@dataclasses.dataclass(frozen=True)
class Export:
    """Export a run for use without nat_ar: as a CTranslate2 model (Autoregressive runs only), or as StableHLO programs
    with a runner that needs only jax, flatbuffers, numpy and sentencepiece (every method). Or as a run of one
    checkpoint, a third of the size, for others who have nat_ar."""

    run_directory: str
    """the trained run"""
    format: Format = "stablehlo"
    """format of the export"""
    output: str | None = None
    """new or empty directory; default: RUN/exported/FORMAT"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, a step, or average:5, the mean of the best five"""
    decoding: str | None = None
    """such as "Beam(size=4)"; default: the run's own; ctranslate2: only for the search options in card.json"""
    quantization: Quantization | None = None
    """ctranslate2: type of the stored weights; default: float32, as trained"""
    rows: int | None = None
    """stablehlo: sentences per batch; default: 1"""
    buckets: tuple[int, ...] = ()
    """stablehlo: lengths to which sources are padded, one program each; default: those of `translate`"""
    platforms: tuple[Platform, ...] = ()
    """stablehlo: platforms on which the programs run; default: that of this machine"""

    def __post_init__(self) -> None:
        is_hlo = self.format == "stablehlo"
        of_hlo = ("rows", "buckets", "platforms")
        foreign = {
            "ctranslate2": of_hlo,
            "run": ("decoding", "quantization", *of_hlo),
            "stablehlo": ("quantization",),
        }[self.format]
        for name in foreign:
            if value := getattr(self, name):
                raise ConfigError(
                    f"--format {self.format} takes no {name}, got {value!r}: leave it out"
                )
        if is_hlo:
            stablehlo.check(1 if self.rows is None else self.rows, self.buckets or BUCKETS)


def run(arguments: Export) -> None:
    console.say(machine.summary([Run.of(arguments.run_directory).config().method.network.dtype]))
    directory = Path(arguments.run_directory)
    default = directory / "exported" / arguments.format
    output = default if arguments.output is None else Path(arguments.output)
    given = {
        field.name: value
        for field in dataclasses.fields(arguments)[1:]
        if (value := getattr(arguments, field.name)) != field.default
    }
    exported = export(
        Run(directory),
        output,
        format=arguments.format,
        decoding=arguments.decoding,
        checkpoint=arguments.checkpoint,
        quantization=arguments.quantization,
        rows=1 if arguments.rows is None else arguments.rows,
        buckets=arguments.buckets or BUCKETS,
        platforms=arguments.platforms,
        command=provenance.command_of("export", directory, **given),
    )
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    how = (
        "every verb but train takes it"
        if arguments.format == "run"
        else "card.json says how to use it"
    )
    print(
        f"{output}: {arguments.format}, step {exported.step} of {directory}, {size / 1e6:,.1f} MB; {how}"
    )
