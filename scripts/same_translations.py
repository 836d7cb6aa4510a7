"""Are translations the same? For a change that should be faster and nothing else.

    python -m scripts.same_translations checkouts ../before studies/toy_family/runs/* --source test.en
    python -m scripts.same_translations checkouts ../before runs/ar --source test.en --decoding "Greedy()" "Beam()"
    python -m scripts.same_translations kernels --only autoregressive ctc

`checkouts` translates the lines of a file by every run, in this checkout and in another one, and counts those that
differ. Without --decoding each run takes its own.

`kernels` gives every method random weights at toy size, translates 1,000 sentences of the toy language by every
decoding of every method, in float32, with the kernels for a CPU and by XLA alone, and counts those whose words differ.
Of these a near tie is one that XLA alone translates otherwise too where weights are moved by about a millionth:
rounding decides there, whoever rounds. All sentences have one shape, so that a decoding is two programs.

Exit status 1 if there are differences, near ties not counted."""

import argparse
import dataclasses
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.data import evaluation_set, prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.ensemble import Ensemble
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.search.speculative import Speculative
from nat_ar.translation import decodings
from nat_ar.translation.model import Drafter, Model, vocabulary_sizes
from nat_ar.translation.translator import Translator, bucket_of
from scripts.torture import models

TRANSFORMER = TransformerConfig(128, 512, 4, 2, 2, dropout_rate=0.0)
MOVED = 1e-6
"""relative size of the changes of weights that tell near ties"""
TRIES = 8
"""such changes, of which one that changes a translation is enough"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = parser.add_subparsers(dest="way", required=True)
    checkouts = ways.add_parser("checkouts", help="this checkout and another one")
    checkouts.add_argument("other", type=Path, help="the other checkout")
    checkouts.add_argument("runs", type=Path, nargs="+")
    checkouts.add_argument("--source", type=Path, required=True, help="a sentence a line")
    checkouts.add_argument("--decoding", nargs="+", default=[""])
    kernels = ways.add_parser("kernels", help="with kernels and by XLA alone, every method")
    kernels.add_argument("--only", nargs="+", choices=every_method(), help="methods; default: all")
    arguments = parser.parse_args()
    if arguments.way == "checkouts":
        differ = compare_checkouts(
            arguments.other, arguments.runs, arguments.decoding, arguments.source
        )
    else:
        differ = compare_kernels(arguments.only or list(every_method()))
    sys.exit(1 if differ else 0)


def compare_checkouts(
    other: Path, runs: Sequence[Path], texts: Sequence[str], source: Path
) -> bool:
    """Prints how many lines differ; whether any does."""
    here, total = Path(__file__).resolve().parents[1], 0
    for run in runs:
        for decoding in texts:
            one, two = (
                _translate(checkout, run.resolve(), decoding, source)
                for checkout in (here, other.resolve())
            )
            num_different = sum(a != b for a, b in zip(one, two, strict=True))
            total += num_different
            print(f"{run.name} {decoding}: {num_different} of {len(one)} differ", flush=True)
    return total > 0


def _translate(checkout: Path, run: Path, decoding: str, source: Path) -> list[str]:
    command = [sys.executable, "-m", "nat_ar", "translate", str(run)]
    command += ["--decoding", decoding] if decoding else []
    with source.open("rb") as sentences:
        done = subprocess.run(
            command, stdin=sentences, stdout=subprocess.PIPE, cwd=checkout, check=True
        )
    return done.stdout.decode("utf-8").splitlines()


def every_method() -> dict[str, Method]:
    """The methods of the catalogue at toy size, with the options that decodings ask for."""
    found: dict[str, Method] = {}
    for name, method in models.by_default().items():
        sizes: dict[str, Any] = {"network": RecurrentConfig(d_model=128, dropout_rate=0.0)}
        if isinstance(method.network, TransformerConfig):
            sizes = {"transformer": TRANSFORMER}
        if name == "autoregressive":
            sizes["lookahead_words"] = 3
        found[name] = dataclasses.replace(method, **sizes)
    waiting = dataclasses.replace(TRANSFORMER, encoder_attention="causal")
    found["autoregressive_wait_k"] = Autoregressive(waiting, wait_k=(1, 3))
    found["ctc_wait_k"] = Ctc(waiting, wait_k=(1, 3))
    found["ensemble"] = Ensemble((found["autoregressive"], found["recurrent"]))
    return found


def compare_kernels(names: Sequence[str]) -> bool:
    """Prints a table, a row for each method and decoding; whether words differ beside near ties."""
    if not cpu_kernels.are_available():
        raise ConfigError("no kernels to compare with: they need a CPU and a C++ compiler")
    with tempfile.TemporaryDirectory() as directory:
        data = DataConfig(
            directory,
            ToyCorpus(num_train=2_000, num_test=2_000),
            VocabularyConfig(size=1000, kind="bpe", byte_fallback=False),
            aligner=None,
        )
        prepare.prepare(data)
        prepared = PreparedData.load(directory)
        vocabulary = prepared.vocabulary
        texts = evaluation_set.of_prepared(prepared, "test").source
    rows = vocabulary.encode_source(texts)
    fitting = (text for text, row in zip(texts, rows, strict=True) if bucket_of(len(row) + 1) == 16)
    sentences = list(itertools.islice(fitting, 1000))
    print(f"{len(sentences):,} sentences, random weights, float32\n")
    print(
        "| method | decoding | differ | of these near ties | words | same words: scores differ by |"
    )
    print("|---|---|--:|--:|--:|--:|")
    num_unexplained = 0
    for name in names:
        for translator in _translators(name, vocabulary):
            text = decodings.decoding_text(translator.decoding)
            try:
                decodings.choose(every_method()[name], translator.decoding)
                found = _compare(translator, sentences)
            except ConfigError as error:  # it needs what the method as configured has not
                print(f"{name}, {text}: {error}", file=sys.stderr, flush=True)
                continue
            print(
                f"| {name} | {text} | {found.num_different} | {found.num_near_ties} | "
                f"{found.num_words:,} | {found.score_difference:.1e} |",
                flush=True,
            )
            num_unexplained += found.num_different - found.num_near_ties
    return num_unexplained > 0


def _translators(name: str, vocabulary: Vocabulary) -> Iterator[Translator]:
    """One for each decoding of a method, as that is by default."""
    methods = every_method()

    def model(name: str, seed: int) -> Model:
        built = methods[name].build(vocabulary_sizes(vocabulary), rngs=nnx.Rngs(seed))
        return Model(*nnx.split(built, nnx.Param))

    method, of_method = methods[name], model(name, 1)
    for cls in decodings.decodings_of(type(method)):
        decoding, drafter = cls(), None
        if isinstance(decoding, Speculative) and not method.drafts_itself:
            decoding = dataclasses.replace(decoding, drafter="ctc")
            drafter = Drafter(model("ctc", 2), methods["ctc"].decoding)
        needs_scorer = decodings.needs_scorer(method, decoding)
        scorer = model("autoregressive", 3) if needs_scorer else None
        yield Translator(of_method, vocabulary, decoding=decoding, scorer=scorer, drafter=drafter)


class Comparison(NamedTuple):
    """Of a decoding: sentences whose best translation differs, those of them that are near ties, words that XLA alone
    says, and the largest difference of two scores of the same words."""

    num_different: int
    num_near_ties: int
    num_words: int
    score_difference: float


def _compare(translator: Translator, sentences: Sequence[str]) -> Comparison:
    plain = Translator(
        translator.model,
        translator.vocabulary,
        decoding=translator.decoding,
        scorer=translator.scorer,
        drafter=translator.drafter,
        is_packed=False,
    )
    ours, xlas = (each.translate(sentences, is_quiet=True) for each in (translator, plain))
    is_same = [a.tokens[0] == b.tokens[0] for a, b in zip(ours, xlas, strict=True)]
    differences = [
        abs(a.scores[0] - b.scores[0])
        for a, b, same in zip(ours, xlas, is_same, strict=True)
        if same and np.isfinite(a.scores[0])
    ]
    different = [text for text, same in zip(sentences, is_same, strict=True) if not same]
    return Comparison(
        len(different),
        _near_ties(plain, different),
        sum(len(each.tokens[0]) for each in xlas),
        max(differences, default=0.0),
    )


def _near_ties(plain: Translator, sentences: Sequence[str]) -> int:
    """Of these sentences, those that slightly other weights translate otherwise."""
    if not sentences:
        return 0
    model, found = plain.model, set[int]()
    before = [each.tokens[0] for each in plain.translate(sentences, is_quiet=True)]
    for seed in range(TRIES):
        plain.use(_moved(model, seed))
        after = [each.tokens[0] for each in plain.translate(sentences, is_quiet=True)]
        found.update(i for i, words in enumerate(after) if words != before[i])
    return len(found)


def _moved(model: Model, seed: int) -> Model:
    """The model with each weight changed by a random part of itself, some MOVED."""
    random = np.random.default_rng(seed)

    def moved(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x * jnp.asarray(1 + MOVED * random.standard_normal(x.shape), x.dtype)

    return dataclasses.replace(model, params=jax.tree.map(moved, model.params))


if __name__ == "__main__":
    main()
