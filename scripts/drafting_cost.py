"""What a drafter must be worth: times of greedy search and of passes that verify drafts, of a random base model.

    python -m scripts.drafting_cost              # a minute on two cores
    python -m scripts.drafting_cost --threads 1

The models of scripts/benchmark_cpu at batch 1. Random drafts are wrong, so that a pass adds a word: its time is that of
a decode, less the time without a sentence, over its passes. A drafter reaches a speed over greedy search, what comes
before the first pass aside, where its words a pass exceed that speed times the pass in steps of greedy search."""

import argparse
import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nat_ar.evaluation.speed import machine
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.ctc import Ctc
from nat_ar.nn.packed import Weights
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import compilation
from nat_ar.search.ctc import BestPath
from nat_ar.search.greedy import Greedy
from nat_ar.search.speculative import Speculative
from nat_ar.search.step_function import Blocks
from nat_ar.translation.model import Drafter, Model
from nat_ar.types import Encoded, Hypotheses
from scripts.benchmark_cpu import models, timing
from scripts.benchmark_cpu.models import FULL

BLOCKS = (4, 6, 8, 12)
SPEEDS = (1.5, 2.0)


def shallow(transformer: TransformerConfig) -> TransformerConfig:
    return dataclasses.replace(transformer, num_decoder_layers=1)


def drafters() -> dict[str, Drafter]:
    """With the encoder of the verifier, which is random alike."""
    small = shallow(FULL.transformer)
    autoregressive = models.build(Autoregressive(small), FULL.vocabulary)
    ctc = models.build(Ctc(small, upsample_factor=2), FULL.vocabulary)

    def drafter(model: Model, decoding: object, weights: Weights) -> Drafter:
        return Drafter(model, decoding, weights, shares_encoder=True).packed()

    return {
        "AR, 1 layer, goes on": drafter(autoregressive, Greedy(), "float32"),
        "AR, 1 layer, int8, goes on": drafter(autoregressive, Greedy(), "int8"),
        "CTC, 1 layer, int8, drafts once": drafter(ctc, BestPath(), "int8"),
    }


class Decode:
    """A compiled decode: a call translates a sentence, or none, and waits for it."""

    def __init__(self, model: Model, decoding: object, drafter: Drafter | None) -> None:
        source = models.sources(1, FULL.positions + 1, FULL.vocabulary)
        self.sentence, self.nothing = jnp.asarray(source), jnp.zeros_like(source)
        others = None if drafter is None else drafter.model.leaves
        length = FULL.positions - 1

        def decode(leaves: list, other_leaves: list | None, source: jax.Array) -> Hypotheses:
            def draft(encoded: Encoded | None) -> Hypotheses | Blocks:
                assert drafter is not None
                assert other_leaves is not None
                return drafter.draft(other_leaves, source, max_length=length, encoded=encoded)

            asked = None if drafter is None else draft
            return model.decode(leaves, source, decoding=decoding, max_length=length, draft=asked)

        self.arguments = model.leaves, others
        self.compiled = compilation.compile_ahead(decode, *self.arguments, self.sentence)
        found = self(self.sentence)
        self.words = int(np.asarray(found.passes)[0])
        if found.verification is not None:
            self.words = int(np.asarray(found.verification.passes)[0])

    def __call__(self, source: jax.Array) -> Hypotheses:
        return jax.block_until_ready(self.compiled(*self.arguments, source))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        machine.pin(options.threads)
    model = models.build(Autoregressive(FULL.transformer), FULL.vocabulary).packed()
    ways = {("greedy search", 1): Decode(model, Greedy(), None)}
    for name, drafter in drafters().items():
        for block in BLOCKS:
            ways[name, block] = Decode(model, Speculative(block=block), drafter)
    calls = [
        timing.timed(functools.partial(way, source))
        for way in ways.values()
        for source in (way.sentence, way.nothing)
    ]
    seconds = timing.take_turns("drafting cost", calls, seconds=options.seconds)
    full, empty = np.median(seconds[::2], axis=1), np.median(seconds[1::2], axis=1)
    passes = [
        (all_of - none) / way.words
        for way, all_of, none in zip(ways.values(), full, empty, strict=True)
    ]
    print(
        f"{machine.num_threads()} threads, {seconds.shape[1]} rounds; before the first pass {1e3 * empty[0]:.2f} ms"
    )
    print(
        "| drafts | block | before the first pass, ms | a pass, ms | in steps | words a pass for 1.5 | for 2 |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for (name, block), before, one in zip(ways, empty, passes, strict=True):
        steps = one / passes[0]
        needed = " | ".join(f"{speed * steps:.1f}" for speed in SPEEDS)
        print(
            f"| {name} | {block} | {1e3 * before:.2f} | {1e3 * one:.2f} | {steps:.2f} | {needed} |"
        )


if __name__ == "__main__":
    main()
