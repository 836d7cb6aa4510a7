"""Writes a run to take elsewhere: a run again, without what training needs, or, for an engine that needs no nat_ar, a
model of CTranslate2 or StableHLO programs."""

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.export

import nat_ar
from nat_ar.config_json import ConfigError
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.experiment.translators import open_translator
from nat_ar.export import ctranslate2, stablehlo
from nat_ar.export.ctranslate2 import Quantization
from nat_ar.export.stablehlo import Platform
from nat_ar.pipeline import passing_on
from nat_ar.runtime import files
from nat_ar.translation import decodings
from nat_ar.translation.translator import BUCKETS, Translator

Format = Literal["ctranslate2", "run", "stablehlo"]
FORMAT = 1
"""Of card.json; changes when the directory's layout does."""
PACKAGES = ("jax", "jaxlib", "sentencepiece")


def export(
    run: Run,
    output: Path,
    *,
    format: Format = "stablehlo",
    decoding: str | None = None,
    checkpoint: str = "best",
    quantization: Quantization | None = None,
    rows: int = 1,
    buckets: Sequence[int] = BUCKETS,
    platforms: Sequence[Platform] = (),
    command: str,
) -> TrainedModel:
    """Fills the new directory `output`, completely or not at all, and returns what was exported.

    quantization: of CTranslate2. rows, buckets, platforms: of StableHLO; no platforms: the default device's. command:
    the one that the card shows. Raises ConfigError for a method or a decoding that the format cannot represent, before
    anything is written."""
    if format == "run":
        return passing_on.pass_on(run, output, checkpoint=checkpoint)
    method = run.config().method
    chosen = decodings.choose(method, decoding)
    if format == "ctranslate2":
        ctranslate2.check(method, chosen.decoding)
        if chosen.weights == "int8":
            raise ConfigError(
                f"--format ctranslate2 rounds the weights itself, got {chosen.text}: leave int8 out and give "
                "--quantization int8"
            )
    else:
        stablehlo.check(rows, buckets, chosen.weights, chosen.decoding)
    with files.new_directory(output) as partial:
        trained, translator = open_translator(run, decoding, checkpoint, is_for_here=False)
        identity = {"kind": format, **_identity(run, trained, translator), "command": command}
        if format == "ctranslate2":
            ctranslate2.write(
                trained.model,
                method,
                trained.vocabulary,
                partial,
                decoding=chosen.decoding,
                quantization=quantization,
                identity=identity,
            )
        else:
            stablehlo.write(
                translator,
                partial,
                rows=rows,
                buckets=buckets,
                platforms=platforms or (jax.export.default_export_platform(),),
                identity=identity,
            )
    return trained


def _identity(run: Run, trained: TrainedModel, translator: Translator) -> dict[str, Any]:
    """What a card has in either format."""
    return {
        "format": FORMAT,
        **provenance.identity(run, trained),
        "decoding": translator.choice.text,
        "score": translator.decoding.score,
        "vocabulary_hash": trained.vocabulary.hash,
        "versions": {
            "nat_ar": nat_ar.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "date": provenance.now(),
    }
