"""export RUN: a run as files for an engine that needs no nat_ar."""

import dataclasses
import datetime
import importlib.metadata
import platform
import shlex
from pathlib import Path
from typing import Any, Literal

import jax.export

import nat_ar
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.experiment.run import Run, TrainedModel, open_translator
from nat_ar.export import ctranslate2, stablehlo
from nat_ar.export.ctranslate2 import Quantization
from nat_ar.export.stablehlo import Platform
from nat_ar.runtime import files
from nat_ar.translation import decodings
from nat_ar.translation.translator import BUCKETS, Translator

FORMAT = 1
"""Of card.json; changes when the directory's layout does."""
PACKAGES = ("jax", "jaxlib", "sentencepiece")


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run for other programs: a model of CTranslate2 (Autoregressive runs), or StableHLO programs with a
    runner that needs jax, flatbuffers, numpy and sentencepiece (every method)."""

    run_directory: str
    """the trained run"""
    format: Literal["ctranslate2", "stablehlo"] = "stablehlo"
    """what to write"""
    output: str | None = None
    """new directory to fill; default RUN/exported/FORMAT"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, or a step"""
    decoding: str | None = None
    """such as "Beam(size=4)"; default: the run's own. CTranslate2 chooses its search when it is called: the card
    then says how to call it for this one"""
    quantization: Quantization | None = None
    """ctranslate2: how weights are stored; default as they are, in float32"""
    rows: int | None = None
    """stablehlo: sentences of a batch; default 1"""
    buckets: tuple[int, ...] = ()
    """stablehlo: lengths to which sources are padded, a program each; default all of the translator"""
    platforms: tuple[Platform, ...] = ()
    """stablehlo: what the programs shall run on; default what they are exported on"""

    def __post_init__(self) -> None:
        is_hlo = self.format == "stablehlo"
        foreign = ("quantization",) if is_hlo else ("rows", "buckets", "platforms")
        for name in foreign:
            if value := getattr(self, name):
                raise ConfigError(
                    f"--format {self.format} takes no {name}, got {value!r}: leave it out"
                )
        if is_hlo:
            stablehlo.check(1 if self.rows is None else self.rows, self.buckets or BUCKETS)


def run(arguments: Export) -> None:
    directory = Run(Path(arguments.run_directory))
    default = directory.directory / "exported" / arguments.format
    output = default if arguments.output is None else Path(arguments.output)
    method = directory.config().method
    decoding = decodings.parse_decoding(method, arguments.decoding)
    if arguments.format == "ctranslate2":
        ctranslate2.check(method, decoding)
    with files.new_directory(output) as partial:
        loaded, translator = open_translator(directory, arguments.decoding, arguments.checkpoint)
        facts = _facts(arguments, loaded, translator)
        if arguments.format == "ctranslate2":
            ctranslate2.write(
                loaded.model,
                method,
                loaded.vocabulary,
                partial,
                decoding=decoding,
                quantization=arguments.quantization,
                facts=facts,
            )
        else:
            stablehlo.write(
                translator,
                partial,
                rows=1 if arguments.rows is None else arguments.rows,
                buckets=arguments.buckets or BUCKETS,
                platforms=arguments.platforms or (jax.export.default_export_platform(),),
                facts=facts,
            )
    size = sum(path.stat().st_size for path in output.iterdir())
    print(
        f"{output}: {arguments.format}, step {loaded.step} of {directory.directory}, {size / 1e6:,.1f} MB; "
        "card.json says how to use it"
    )


def _facts(arguments: Export, loaded: TrainedModel, translator: Translator) -> dict[str, Any]:
    """What a card says whatever the format."""
    config = loaded.config
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    teacher = config.teacher if translator.scorer is not None else None
    given = [
        word
        for field in dataclasses.fields(arguments)[1:]
        if (value := getattr(arguments, field.name)) != field.default
        for word in [
            f"--{field.name}",
            *(map(str, value) if isinstance(value, tuple) else [str(value)]),
        ]
    ]
    return {
        "format": FORMAT,
        "kind": arguments.format,
        "run": arguments.run_directory,
        "name": config.name,
        "method": type(config.method).__name__,
        "decoding": decodings.decoding_text(translator.decoding),
        "checkpoint_step": loaded.step,
        "config_hash": config_json.hash_of(config),
        "vocabulary_hash": loaded.vocabulary.hash,
        "rescorer": teacher,
        "parameters": loaded.num_parameters,
        "dtype": loaded.dtype,
        "versions": {
            "nat_ar": nat_ar.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(
            ["python", "-m", "nat_ar", "export", arguments.run_directory, *given]
        ),
    }
