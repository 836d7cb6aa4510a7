"""A run as StableHLO programs (jax.export) that need no nat_ar, for every method and decoding.

    decode_8.stablehlo, ...       one program a bucket: the whole decode of sources padded to 8 tokens, ...
    weights.npz                   parameters by name, a rescorer's included: arguments of every program
    joint.model                   or source.model and target.model
    run.py                        runner.py of this folder
    card.json                     provenance, and what run.py needs to know

Weights are arguments, because ten programs would hold ten copies of constants (for a model of 1,037 kB, 48 kB a program
against 1,063 kB). The files contain no paths of the machine that made them. A program runs on the platforms that it
was lowered for; jax.export keeps serialised programs readable for six months of JAX versions
(https://docs.jax.dev/en/latest/export/export.html)."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.export import runner
from nat_ar.nn.packed import Weights
from nat_ar.runtime import bars, files
from nat_ar.search.verification import DraftedDecoding
from nat_ar.translation.model import Model
from nat_ar.translation.translator import BUCKETS, Translator

Platform = Literal["cpu", "cuda", "rocm", "tpu"]


def write(
    translator: Translator,
    directory: Path,
    *,
    rows: int,
    buckets: Sequence[int],
    platforms: Sequence[str],
    identity: dict[str, Any],
) -> None:
    """Fills an empty directory: a program for `rows` sentences of each bucket, weights, vocabulary, runner, card.json.
    The card starts with `identity`.

    Raises ConfigError for buckets that the translator does not have, no rows, and int8 weights."""
    check(rows, buckets, translator.weights)
    models = [portable(translator.model)]
    if translator.scorer is not None:
        models.append(portable(translator.scorer))
    portable_translator = Translator(
        models[0],
        translator.vocabulary,
        decoding=translator.decoding,
        scorer=models[1] if len(models) > 1 else None,
        is_packed=False,
    )
    names = [
        [f"{prefix}.{name}" for name in parameter_names(model)]
        for prefix, model in zip(("model", "scorer"), models, strict=False)
    ]
    weights = {
        name: np.asarray(leaf)
        for model, model_names in zip(models, names, strict=True)
        for name, leaf in zip(model_names, model.leaves, strict=True)
    }
    with (directory / "weights.npz").open("wb") as file:
        np.savez(file, **weights)  # type: ignore[arg-type]
    programs = {}
    for bucket in bars.Bar(buckets, desc="export", unit="bucket"):
        exported = lower(portable_translator, names, weights, rows, bucket, platforms)
        programs[str(bucket)] = f"decode_{bucket}.stablehlo"
        (directory / programs[str(bucket)]).write_bytes(serialise(exported))
    translator.vocabulary.save(directory)
    sides = ["joint"] * 2 if translator.vocabulary.joint else ["source", "target"]
    shutil.copyfile(runner.__file__, directory / "run.py")
    card = {
        **identity,
        "platforms": list(platforms),
        "rows": rows,
        "programs": programs,
        "weights": "weights.npz",
        "vocabulary": [f"{side}.model" for side in sides],
        "white_space": translator.vocabulary.white_space,
        "arguments": "weights: {name: float32}, source: int32 [rows, bucket], each row ends with 2, then 0",
        "results": "tokens: int32 [rows, n_best, length], right-padded with 0; scores: float32 [rows, n_best]; "
        "passes: int32 [rows], sequential decoder passes",
        "usage": "python DIR/run.py < source.txt > translations.txt",
    }
    files.write_text(directory / "card.json", json.dumps(files.signed(card), indent=2) + "\n")


def serialise(exported: export.Exported) -> bytes:
    """The bytes for jax.export.deserialize. Raises ConfigError if JAX misses flatbuffers, with which it writes them."""
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ConfigError(
            f"--format stablehlo: {error}: pip install flatbuffers (the runner needs it as well)"
        ) from error


def check(
    rows: int, buckets: Sequence[int], weights: Weights = "float32", decoding: Any = None
) -> None:
    """Raises ConfigError for buckets that the translator does not have, no rows, int8 weights, and decodings that
    verify drafts."""
    if isinstance(decoding, DraftedDecoding):
        raise ConfigError(
            f"--format stablehlo writes the decoding of one model, got {decoding}: its words are those of "
            f"{decoding.plain}, give that as --decoding"
        )
    if weights == "int8":
        raise ConfigError(
            "--format stablehlo has float32 weights, got int8: leave int8 out, or choose "
            "--format ctranslate2 --quantization int8"
        )
    if rows < 1:
        raise ConfigError(f"rows must be at least 1, got {rows}")
    if not buckets or sorted(set(buckets)) != list(buckets) or not set(buckets) <= set(BUCKETS):
        raise ConfigError(
            f"buckets must be some of {', '.join(map(str, BUCKETS))}, in this order, got {tuple(buckets)}"
        )


def portable(model: Model) -> Model:
    """The same parameters with attention by XLA: cuDNN's kernels call a library of one platform, by names that
    jax.export does not promise to keep."""
    network = model.merge(model.leaves)
    for _, module in nnx.iter_modules(network):
        if hasattr(module, "implementation"):
            module.implementation = "xla"
    return Model(*nnx.split(network))


def parameter_names(model: Model) -> list[str]:
    """A name for each of the model's leaves, such as encoder.blocks.0.attention.project.kernel."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(model.params)[0]]
    texts = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    return [text.removesuffix(".value") for text in texts]


def lower(
    translator: Translator,
    names: Sequence[Sequence[str]],
    weights: dict[str, np.ndarray],
    rows: int,
    bucket: int,
    platforms: Sequence[str],
) -> export.Exported:
    """The decode of one shape on plain arrays: (weights, source) -> (tokens, scores, decoder passes). `names` are those
    of the model's leaves and, if it rescores, of the scorer's."""
    program = translator.function(bucket)

    def decode(
        weights: dict[str, Float[Array, "..."]], source: Int[Array, "rows bucket"]
    ) -> tuple[Int[Array, "rows n_best length"], Float[Array, "rows n_best"], Int[Array, "rows"]]:
        leaves, *scorer_leaves = [[weights[name] for name in group] for group in names]
        hypotheses = program(leaves, scorer_leaves[0] if scorer_leaves else None, source)
        return hypotheses.tokens, hypotheses.scores, hypotheses.passes

    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    source = jax.ShapeDtypeStruct((rows, bucket), jnp.int32)
    with _without_locations():
        return export.export(jax.jit(decode), platforms=list(platforms))(shapes, source)


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Inside, programs are lowered without the files and lines that they come from."""
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
