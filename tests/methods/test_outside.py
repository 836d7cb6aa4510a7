"""A method, a decoding and a loss from a file outside the package, which stays as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FILE = """
import dataclasses

import jax.numpy as jnp
from flax import nnx

from nat_ar.losses.token_loss import TokenLoss
from nat_ar.methods.base import Method, Seq2Seq
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.base import StepwiseDecoding
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.losses.cross_entropy import smoothed_cross_entropy
from nat_ar.special_tokens import PAD
from nat_ar.types import Hypotheses, Loss, lengths_of, without_eos


@dataclasses.dataclass(frozen=True)
class FirstWords(StepwiseDecoding):
    number: int = 2

    def search(self, step, empty_cache, source, *, max_length):
        found = Greedy().search(step, empty_cache, source, max_length=max_length)
        is_kept = jnp.arange(max_length) < self.number
        return dataclasses.replace(found, tokens=jnp.where(is_kept, found.tokens, PAD))


@dataclasses.dataclass(frozen=True)
class Doubled(TokenLoss):
    factor: float = 2.0

    def __call__(self, prediction, target, *, step, smoothing):
        smoothed, plain = smoothed_cross_entropy(prediction, target, smoothing=smoothing)
        return self.factor * smoothed.value, {"token": plain}


@dataclasses.dataclass(frozen=True)
class Copy(Method):
    transformer: TransformerConfig = TransformerConfig()
    decoding: LengthBeam = LengthBeam()

    def build(self, sizes, *, rngs):
        return CopyModel(self.transformer, sizes, rngs=rngs)


class CopyModel(Seq2Seq):
    def loss(self, batch, *, step, rngs, teacher=None):
        return Loss(jnp.square(self.encode(batch.source).states).mean(), {})

    def decode(self, source, *, decoding, max_length, scorer=None):
        tokens = jnp.pad(without_eos(source), ((0, 0), (0, max_length - source.shape[1])))
        passes = jnp.zeros(len(source), jnp.int32)
        return Hypotheses(tokens[:, None], jnp.zeros((len(source), 1)), passes)
"""
USE = """
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from nat_ar import config_json
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.length_nat import LengthNat
from nat_ar.special_tokens import EOS
from nat_ar.translation import decodings
from nat_ar.types import Batch

new = config_json.run_file("new.py")
from toys import TINY

tiny = dataclasses.replace(TINY, max_length=1024)
data = DataConfig("data", TextFiles(("train.tsv",)))
source = jnp.array([[7, 8, 9, EOS]])
for method in (
    Autoregressive(tiny, decoding=new.FirstWords(3)),
    LengthNat(tiny, token_loss=new.Doubled(3.0)),
    new.Copy(tiny),
):
    config = ExperimentConfig("x", data, method)
    written = config_json.to_json(config)
    assert config_json.from_json(ExperimentConfig, written) == config, written
    model = method.build(VocabularySizes(12, 12, True), rngs=nnx.Rngs(0))
    found = model.decode(source, decoding=method.decoding, max_length=12)
    print(type(method).__name__, int((found.tokens > 0).sum()), found.tokens[0, 0, :3].tolist())

for method, text in ((Autoregressive(), "FirstWords(number=1)"), (new.Copy(), "LengthBeam(2)")):
    try:
        print(decodings.parse_decoding(method, text))
    except config_json.ConfigError as error:
        print(error)
batch = Batch(source, source)
twice, once = (
    LengthNat(tiny, token_loss=loss, label_smoothing=0.0, length_loss_weight=0.0)
    .build(VocabularySizes(12, 12, True), rngs=nnx.Rngs(0))
    .loss(batch, step=jnp.int32(0), rngs=None)
    for loss in (new.Doubled(), CrossEntropy())
)
print(float(twice.objective / once.objective))
"""


def test_a_file_adds_a_method_a_decoding_and_a_loss(tmp_path: Path) -> None:
    """In a process of its own: what a kind has stays known until its process ends."""
    (tmp_path / "new.py").write_text(FILE, "utf-8")
    (tmp_path / "use.py").write_text(USE, "utf-8")
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    name, number = lines[0].split()[:2]
    assert name == "Autoregressive"
    assert int(number) <= 3
    assert lines[2] == "Copy 3 [7, 8, 9]"
    assert lines[3] == "FirstWords(number=1)"
    assert lines[4].startswith("expected a decoding of Copy: LengthBeam(size=1")
    assert float(lines[5]) == 2.0
