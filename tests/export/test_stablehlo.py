"""Exported programs say what our translator says: every method in this process, two in a fresh one that has no
nat_ar. They multiply by XLA's libraries, and our translator on a CPU by its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export

from nat_ar.config_json import ConfigError
from nat_ar.experiment.translators import open_translator
from nat_ar.export import runner, stablehlo
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.search.beam import Beam
from nat_ar.translation import decodings
from nat_ar.translation.model import Model
from nat_ar.translation.translator import Translator
from scripts.torture import models

pytestmark = pytest.mark.slow

SIZES = base.VocabularySizes(24, 24, True)
SOURCE = np.array([[7, 8, 9, 10, 2, 0, 0, 0], [12, 13, 2, 0, 0, 0, 0, 0]], np.int32)


def random_model(method: Any, seed: int = 0) -> Model:
    return Model(*nnx.split(method.build(SIZES, rngs=nnx.Rngs(seed)), nnx.Param))


def named(model: Model, prefix: str) -> dict[str, np.ndarray]:
    names = [f"{prefix}.{name}" for name in stablehlo.parameter_names(model)]
    return dict(zip(names, map(np.asarray, model.leaves), strict=True))


@pytest.mark.parametrize("name", models.by_default())
def test_every_method_says_the_same_after_a_round_trip(name: str, any_vocabulary: Any) -> None:
    """With the method's own decoding; where it rescores, the scorer's weights go along."""
    method = models.by_default()[name]
    needs_scorer = decodings.needs_scorer(method, method.decoding)
    scorer = random_model(models.by_default()["autoregressive"], 1) if needs_scorer else None
    model, decoding = random_model(method), method.decoding
    translator = Translator(
        model, any_vocabulary, decoding=decoding, scorer=scorer, is_packed=False
    )
    weights = [named(translator.model, "model")]
    if scorer is not None:
        weights.append(named(scorer, "scorer"))
    together = {key: array for group in weights for key, array in group.items()}
    names = [list(group) for group in weights]
    lowered = stablehlo.lower(translator, names, together, 2, 8, ["cpu"])
    program = export.deserialize(bytearray(stablehlo.serialise(lowered)))
    tokens, scores, passes = jax.jit(program.call)(together, SOURCE)
    expected = Translator(model, any_vocabulary, decoding=decoding, scorer=scorer).decode(SOURCE)
    np.testing.assert_array_equal(tokens, expected.tokens)
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)
    np.testing.assert_array_equal(passes, expected.passes)


@pytest.fixture(scope="module")
def any_vocabulary(tiny_runs) -> Any:
    return tiny_runs.autoregressive.vocabulary()


def test_programs_can_be_made_for_another_platform_without_cudnn(any_vocabulary: Any) -> None:
    """A model that was trained with cuDNN's attention is exported with the plain one, and for a machine that
    is not here."""
    transformer = TransformerConfig(16, 32, 2, 1, 1, dtype="bfloat16", implementation="cudnn")
    model = stablehlo.portable(random_model(LengthNat(transformer)))
    decoding = LengthNat().decoding
    translator = Translator(model, any_vocabulary, decoding=decoding, is_packed=False)
    weights = named(model, "model")
    lowered = stablehlo.lower(translator, [list(weights)], weights, 1, 8, ["cpu", "cuda"])
    assert lowered.platforms == ("cpu", "cuda")
    assert "__cudnn" not in lowered.mlir_module()  # how its calls are named
    assert "model.encoder.blocks.0.attention.project.kernel" in weights


def test_programs_hold_neither_weights_nor_places(any_vocabulary: Any) -> None:
    """Sixteen times the feed-forward parameters, and the program grows by less than a tenth."""
    sizes = []
    for d_hidden in (256, 4096):
        model = random_model(Autoregressive(TransformerConfig(16, d_hidden, 2, 1, 1)))
        translator = Translator(model, any_vocabulary, decoding=Beam(), is_packed=False)
        weights = named(model, "model")
        lowered = stablehlo.lower(translator, [list(weights)], weights, 1, 8, ["cpu"])
        content = stablehlo.serialise(lowered)
        sizes.append(len(content))
        assert b".py" not in content
    assert sizes[1] < 1.1 * sizes[0] < 4 * 2 * 2 * 16 * 4096


def write(
    run: Any, directory: Path, decoding: str, *, rows: int, buckets: tuple[int, ...]
) -> Translator:
    """Exports a run, and answers a translator that batches as the runner does."""
    _, translator = open_translator(run, decoding)
    directory.mkdir()
    stablehlo.write(
        translator, directory, rows=rows, buckets=buckets, platforms=["cpu"], identity={"name": "x"}
    )
    translator.max_rows = rows
    return translator


def translate_alone(directory: Path, text: bytes) -> tuple[bytes, str]:
    """What the runner of a directory says in a fresh Python that cannot find nat_ar. XLA optimises as little
    there as in this process."""
    environment = {
        **os.environ,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-I", str(directory / "run.py")],
        cwd=directory,
        env=environment,
        input=text,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, done.stderr.decode()


@pytest.mark.skipif(not cpu_kernels.are_available(), reason="int8 needs the kernels")
def test_programs_have_float32_weights(tiny_runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave int8 out, or choose --format ctranslate2"):
        write(tiny_runs.autoregressive, tmp_path / "out", "Greedy() int8", rows=1, buckets=(8,))


@pytest.mark.parametrize("decoding", ["Greedy()", "Beam(size=4)"])
def test_the_runner_translates_as_the_translator(toy_run, decoding: str, tmp_path: Path) -> None:
    translator = write(toy_run.run, tmp_path / "out", decoding, rows=4, buckets=(16,))
    lines = [*toy_run.sentences[:7], "", toy_run.sentences[7]]
    found, said = translate_alone(tmp_path / "out", "\n".join(lines).encode())
    ours = translator.translate(lines)
    assert found.decode().split("\n") == [*(item.texts[0] for item in ours), ""]
    cut = sum(item.is_cut for item in ours)
    expected = f"run.py: {cut} translations reached their length limit\n" if cut else ""
    assert said.endswith(expected)
    assert len({item.texts[0] for item in ours}) > 5


def test_the_runner_rescores_and_keeps_the_rules_of_text(tiny_runs, tmp_path: Path) -> None:
    """Lines as `translate` reads them: LF ends a line, bytes that are not UTF-8 are counted, what is too long for
    the largest bucket loses its end; and the teacher's weights are among those of the program."""
    directory = tmp_path / "out"
    decoding = "LengthBeam(size=3, rescore=True)"
    translator = write(tiny_runs.length_nat, directory, decoding, rows=1, buckets=(8,))
    with np.load(directory / "weights.npz") as weights:
        assert {name.split(".")[0] for name in weights.files} == {"model", "scorer"}
    lines = [
        "a b",
        "",
        " \t",
        "\u2581 a \U0010fffd",
        "b a d",
        "b  a\u3000d ",
        "a \ufffd",
        "c\u2028d",
    ]
    text = "\ufeffa b\r\n\n \t\n\u2581 a \U0010fffd\nb a d\nb  a\u3000d \na ".encode()
    text += b"\xff\n" + "c\u2028d\n".encode()
    long = " ".join("abcdefgh" * 4)
    short = translator.vocabulary.decode_target(translator.vocabulary.encode_source([long]))[0]
    assert short == long
    found, said = translate_alone(directory, text + long.encode())
    (kept,) = translator.vocabulary.encode_source([long])
    shortened = np.array([[*kept[:7], 2]], np.int32)
    (last,) = translator.texts(translator.decode(shortened))
    ours = translator.translate([*lines[:-1], "c d"])
    assert found.decode().split("\n") == [*(item.texts[0] for item in ours), last.texts[0], ""]
    assert found.decode().split("\n")[1:3] == ["", ""]
    assert "run.py: 2 lines are blank, and so are their translations" in said
    assert "run.py: 1 sources were longer than the model takes and lost their end" in said
    assert "run.py: 1 lines hold bytes that are not UTF-8" in said


def test_the_runner_says_where_its_programs_do_not_run(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"platforms": ["tpu"]}), "utf-8")
    with pytest.raises(SystemExit, match="these programs are for tpu, JAX runs on cpu: set"):
        runner.Exported(tmp_path)


def test_the_runner_is_short_and_needs_nothing_of_ours() -> None:
    text = Path(runner.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 100
    assert "import nat_ar" not in text
    assert "from nat_ar" not in text


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ConfigError, match="rows must be at least 1, got 0"):
        stablehlo.check(0, (8,))
    for buckets in ((), (8, 8), (16, 8), (7,)):
        with pytest.raises(ConfigError, match=r"buckets must be some of 8, 16, .* in this order"):
            stablehlo.check(1, buckets)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(exported: export.Exported) -> bytearray:
        raise ImportError("Please install 'flatbuffers'")

    lowered = export.export(jax.jit(lambda x: x))(np.zeros(1, np.float32))
    monkeypatch.setattr(export.Exported, "serialize", fail)
    with pytest.raises(ConfigError, match=r"install 'flatbuffers'.*pip install flatbuffers"):
        stablehlo.serialise(lowered)
