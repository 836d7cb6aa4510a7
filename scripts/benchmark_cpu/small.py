"""small: models of the sizes that people train on a CPU, whose time goes where large ones have none.

Train steps of a Transformer-tiny (Multi30k's study: 204 sentences of 20 tokens) beside a large matrix product, and
over the AR step; decoding at batch 1 of a model of the toy language's size."""

import dataclasses
from typing import Literal

from nat_ar.evaluation.speed import intervals, machine, training_cost
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.glancing import Glancing
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import training_kernels
from scripts.benchmark_cpu import models, timing, train
from scripts.benchmark_cpu.decode import table
from scripts.benchmark_cpu.machine import Matmul
from scripts.benchmark_cpu.models import Scale, Workshop
from scripts.benchmark_cpu.report import Figure, Row, Section

TINY = TransformerConfig(
    d_model=128,
    d_hidden=256,
    num_heads=4,
    num_encoder_layers=4,
    num_decoder_layers=4,
    dropout_rate=train.DROPOUT,
)
TRAINING = dataclasses.replace(
    models.FULL, transformer=TINY, vocabulary=8000, positions=19, train_sentences=204
)
TOY = TransformerConfig(
    d_model=128,
    d_hidden=512,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
DECODING = dataclasses.replace(models.FULL, transformer=TOY, vocabulary=1000)
DECODED = ("greedy", "beam_4", "length_nat", "ctc", "greedy_int8", "length_nat_int8")

Kind = Literal["float32", "bfloat16"]
BARS = {"AR": 0.6, "CTC + GLAT": 1 / 2.2, "DA-Transformer": 1 / 3}
"""AR: the share of the rate of a large product. Others: AR's time over theirs."""


def methods(transformer: TransformerConfig) -> dict[str, Method]:
    glancing = Glancing(start_ratio=0.5, end_ratio=0.5)
    smoothing = train.LABEL_SMOOTHING
    return {
        "AR": Autoregressive(transformer, label_smoothing=smoothing),
        "CTC + GLAT": Ctc(transformer, upsample_factor=2, upsampling="split", glancing=glancing),
        "DA-Transformer": DaTransformer(
            transformer, upsample_factor=4, inputs="split", glancing=glancing
        ),
    }


def run(section: Section, scale: Scale) -> None:
    is_quick = scale is models.QUICK
    _train(section, scale if is_quick else TRAINING)
    _decode(section, scale if is_quick else DECODING)


def _train(section: Section, scale: Scale) -> None:
    sizes = VocabularySizes(scale.vocabulary, scale.vocabulary, is_joint=True)
    batch = training_cost.random_batch(scale.train_sentences, scale.positions + 1, sizes)
    kinds: tuple[Kind, ...] = ("float32",)
    if training_kernels.multiply_bfloat16():
        kinds = ("float32", "bfloat16")
    steps = {
        (name, kind): TrainStep(method, sizes, batch)
        for kind in kinds
        for name, method in methods(dataclasses.replace(scale.transformer, dtype=kind)).items()
    }
    calls = [timing.timed(Matmul())]
    calls += [timing.timed(lambda step=step: step(batch)) for step in steps.values()]  # type: ignore[misc]
    matmul, *seconds = timing.take_turns("small, train", calls, seconds=3 * scale.seconds)
    flops, tokens = train.step_flops(scale), scale.train_sentences * (scale.positions + 1)
    of = dict(zip(steps, seconds, strict=True))
    rows: list[Row] = []
    for (name, kind), own in of.items():
        memory = steps[name, kind].compiled.memory_analysis().temp_size_in_bytes
        rows.append(
            {
                "method": name,
                "dtype": kind,
                "ms": intervals.median(1e3 * own),
                "x AR": intervals.median_ratio(own, of["AR", kind]),
                "target tokens/s": intervals.median(tokens / own),
                "temporary MiB": memory / machine.MIB,
                "compile s": steps[name, kind].compile_seconds,
            }
        )
        if name == "AR":
            what, ratio = (
                "share of the matmul rate",
                intervals.median_ratio(flops / own, Matmul.flops / matmul),
            )
        else:
            what, ratio = "speed over AR", intervals.median_ratio(of["AR", kind], own)
        bar = BARS[name] if kind == "float32" else None
        section.figures.append(Figure(f"small/train/{name}, {kind}/{what}", ratio, bar=bar))
    section.tables["A train step of a Transformer-tiny"] = rows
    section.notes.append(
        f"{scale.train_sentences} sentences of {scale.positions + 1} tokens a side, vocabulary {scale.vocabulary:,}, "
        f"dropout {train.DROPOUT}, Adam; CTC has two frames a token and the DA-Transformer four vertices, both "
        f"glance. AR's step is {flops / 1e9:.1f} GFLOP of matrix products. bfloat16's share is of float32's rate."
    )


def _decode(section: Section, scale: Scale) -> None:
    systems = models.systems(scale.transformer)
    workshop, peaks = Workshop(scale), machine.measure()
    programs = workshop.programs([(systems[name], 1, scale.positions) for name in DECODED])
    seconds = timing.take_turns(
        "small, decode", [timing.timed(program) for program in programs], seconds=scale.seconds
    )
    costs = workshop.costs(programs, peaks)
    title = f"Decoding by a model of the toy language's size, batch 1, {seconds.shape[1]} rounds"
    section.tables[title] = table(programs, seconds, costs)
    section.figures.append(
        Figure(
            "small/batch 1/length_nat/speed over greedy",
            intervals.median_ratio(seconds[0], seconds[DECODED.index("length_nat")]),
        )
    )
    section.figures.append(
        Figure("small/batch 1/greedy", intervals.median(1e3 * seconds[0]), unit="ms")
    )
    section.notes.append(
        f"Decoding: vocabulary {scale.vocabulary:,}, sources of {scale.positions + 1} tokens, translations of "
        f"{scale.positions} positions. The bar of such a model, 0.6 of the latency at c8abc97, is between two "
        "checkouts (docs/speed.md)."
    )
