"""An autoregressive method in a file outside the package may be what Autoregressive may: it translates by every
left-to-right decoding, teaches a study, and rescores another method's candidates.

Other things from a file: a method, a decoding and a loss in tests/methods/test_outside.py, attention and positions in
tests/nn/test_attention_kinds.py, a corpus in tests/pipeline/test_evaluate.py and tests/test_docs.py, a metric in
tests/evaluation/test_metrics.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE = """
import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from nat_ar.methods import base
from nat_ar.methods.left_to_right import LeftToRight
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.greedy import Greedy
from nat_ar.special_tokens import BOS


@dataclasses.dataclass(frozen=True)
class Bigram(base.Method):
    family: ClassVar[base.Family] = "AR"

    transformer: TransformerConfig = TransformerConfig()
    label_smoothing: float = 0.0
    decoding: LeftToRightDecoding = Greedy()
    rescoring_length_penalty: float = 0.0

    def build(self, sizes, *, rngs):
        return BigramModel(self, sizes, rngs=rngs)


class BigramModel(LeftToRight):
    def __init__(self, config, sizes, *, rngs):
        super().__init__(config.transformer.d_model, config.transformer.dtype, sizes, rngs=rngs)
        self.config = config

    def encode(self, source, *, rngs=None):
        return self.embed_source(source).mean(axis=1)  # [batch, d_model]

    def _after(self, encoded, tokens):
        context = jnp.repeat(encoded, len(tokens) // len(encoded), axis=0)  # [rows, d_model]
        return self.target_embedding.attend(self.target_embedding(tokens) + context)

    def _logits(self, encoded, target, *, rngs=None):
        before = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
        columns = [self._after(encoded, before[:, t]) for t in range(before.shape[1])]
        return jnp.stack(columns, axis=1)

    def _stepper(self, encoded, max_length):
        def step(tokens, cache, position):
            logits = self._after(encoded, tokens.reshape(-1))
            return logits.reshape(*tokens.shape, -1), cache

        return step, lambda hypotheses: ()  # it needs no cache
"""
USE = """
import dataclasses

import jax.numpy as jnp
from flax import nnx

from nat_ar import config_json
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.length_nat import LengthNat
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.special_tokens import EOS
from nat_ar.training.config import TrainingConfig
from toys import TINY

new = config_json.run_file("new.py")
tiny = dataclasses.replace(TINY, max_length=1024)
teacher = Entry("bigram", new.Bigram(tiny), TrainingConfig(), decodings=("Greedy()", "Beam(size=2)"))
student = Entry("nat", LengthNat(tiny), TrainingConfig(), decodings=("LengthBeam(size=3, rescore=True)",))
data = DataConfig("data", TextFiles(("train.tsv",)))
study = StudyConfig("x", "x", data, teacher, (student,), distillation="Greedy()")
written = config_json.to_json(study)
print("a study with the teacher", type(study.teacher.method).__name__)
print("read back from", written["teacher"]["method"]["from"], config_json.from_json(StudyConfig, written) == study)
try:
    StudyConfig("x", "x", data, student, (teacher,))
except config_json.ConfigError as error:
    print("refused:", error)

sizes = VocabularySizes(12, 12, True)
rescorer = teacher.method.build(sizes, rngs=nnx.Rngs(1))
model = student.method.build(sizes, rngs=nnx.Rngs(0))
source = jnp.array([[7, 8, 9, 10, EOS], [9, 8, EOS, 0, 0]])
greedy, beam = (
    rescorer.decode(source, decoding=decoding, max_length=6) for decoding in (Greedy(), Beam(1, 0.0))
)
print("beam 1 is greedy", bool((greedy.tokens == beam.tokens).all()))
candidates = model.decode(source, decoding=LengthBeam(size=3, n_best=3), max_length=20).tokens
scores = rescorer.score(source, candidates)
chosen = model.decode(source, decoding=LengthBeam(size=3, rescore=True), max_length=20, scorer=rescorer)
print("the best by its scores", bool(jnp.allclose(chosen.scores[:, 0], scores.max(axis=1), rtol=1e-5)))
"""


@pytest.mark.slow
def test_an_autoregressive_method_from_a_file_teaches_and_rescores(tmp_path: Path) -> None:
    """In a process of its own: a class of an open kind stays known until its process ends."""
    (tmp_path / "new.py").write_text(FILE, "utf-8")
    (tmp_path / "use.py").write_text(USE, "utf-8")
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "a study with the teacher Bigram"
    assert lines[1] == "read back from new.py True"
    assert lines[2].startswith("refused: the teacher of a study is autoregressive")
    assert lines[3] == "beam 1 is greedy True"
    assert lines[4] == "the best by its scores True"
