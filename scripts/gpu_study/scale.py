"""The sizes and methods of the study, whole and tiny."""

import dataclasses

from nat_ar.data.batching import BatchingConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.glancing import Glancing
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.beam import Beam
from scripts.benchmark_cpu import models
from scripts.benchmark_cpu.models import System

CURVE = ("greedy", "beam_4", "deep_greedy", "length_nat", "ctc", "da")
"""The systems of the batch curve, by their names in scripts/benchmark_cpu/models.py."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is."""

    decode: models.Scale
    """random weights, for latency and batch curve"""
    transformer: TransformerConfig
    """of what is trained, with its dropout"""
    step_rows: int
    """sentences in the batch of a timed train step"""
    step_length: int
    """tokens of each, EOS counted"""
    rounds: int
    """timed train steps of each method"""
    batching: BatchingConfig
    """of the trainings: few buckets, since each costs a compilation"""
    max_steps: int
    """of a training, however much time there is"""
    validation: int
    """sentences that a training translates at its end"""
    left_out: tuple[str, ...] = ()
    """systems that are not timed"""


BASE = TransformerConfig(
    d_model=512,
    d_hidden=2048,
    num_heads=8,
    num_encoder_layers=6,
    num_decoder_layers=6,
    dropout_rate=0.3,
    dtype="bfloat16",
)
SMALLEST = TransformerConfig(
    d_model=16,
    d_hidden=32,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
    dtype="bfloat16",
)
FULL = Scale(
    dataclasses.replace(
        models.FULL,
        transformer=dataclasses.replace(BASE, dropout_rate=0.0),
        vocabulary=6000,
        batches=(1, 8, 64, 512),
        seconds=10.0,
    ),
    BASE,
    step_rows=512,
    step_length=32,
    rounds=10,
    batching=BatchingConfig(batch_tokens=16_384, buckets=(20, 40)),
    max_steps=3000,
    validation=100,
)
TINY = Scale(
    dataclasses.replace(
        models.QUICK,
        transformer=dataclasses.replace(SMALLEST, dropout_rate=0.0),
        vocabulary=60,
        batches=(1, 4),
        seconds=0.1,
    ),
    SMALLEST,
    step_rows=4,
    step_length=8,
    rounds=2,
    batching=BatchingConfig(batch_tokens=64, buckets=(8,)),
    max_steps=3,
    validation=2,
    left_out=("length_beam_5", "ctc_beam_20", "cmlm_10"),
)
"""For checking that every stage works; its numbers mean nothing."""


def methods(transformer: TransformerConfig, steps: int) -> dict[str, AnyMethod]:
    """What is trained, by name; annealing ends with the training, that of the DA-Transformer after two thirds."""
    glancing = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=steps)
    graph_glancing = Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=max(1, 2 * steps // 3))
    return {
        "ar": Autoregressive(transformer, decoding=Beam(4)),
        "ctc_glat": Ctc(transformer, upsample_factor=2, upsampling="split", glancing=glancing),
        "da_transformer": DaTransformer(transformer, glancing=graph_glancing),
    }


DECODINGS = {
    "ar": ("Beam(size=4)", "Greedy()"),
    "ctc_glat": ("BestPath()",),
    "da_transformer": ("Lookahead()",),
}


def systems(scale: Scale) -> dict[str, System]:
    """Those of scripts/benchmark_cpu that a GPU can have."""
    listed = models.systems(scale.decode.transformer)
    return {
        name: system
        for name, system in listed.items()
        if system.weights != "int8" and name not in scale.left_out
    }
