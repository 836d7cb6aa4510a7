"""train: our train step beside a large matrix product and beside PyTorch's torch.nn.Transformer.

They take turns, so that the share of the machine's rate and the speed-up are ratios within a round. The torch peer
(torch_peer.py) has a process of its own, which is idle between its turns."""

import dataclasses
import os
import subprocess

from nat_ar.evaluation.speed import intervals, machine, training_cost
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.types import Batch
from scripts.benchmark_cpu import timing
from scripts.benchmark_cpu.machine import Matmul
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Figure, Row, Section
from scripts.benchmark_cpu.timing import Worker

DROPOUT = 0.1
LABEL_SMOOTHING = 0.1
PAUSE = 0.05
"""Seconds: OpenMP's threads spin for some milliseconds after a parallel region. OMP_WAIT_POLICY=passive would make the
peer wake its threads at every operation, and slow it down."""
MATMULS = 3
"""Products a round, of which the fastest counts: a peak rate, which noise can only lower."""


def train_step(scale: Scale) -> tuple[TrainStep, Batch]:
    """Our train step and its batch."""
    sizes = VocabularySizes(scale.vocabulary, scale.vocabulary, is_joint=True)
    transformer = dataclasses.replace(scale.transformer, dropout_rate=DROPOUT)
    method = Autoregressive(transformer, label_smoothing=LABEL_SMOOTHING)
    batch = training_cost.random_batch(scale.train_sentences, scale.positions + 1, sizes)
    return TrainStep(method, sizes, batch), batch


def step_flops(scale: Scale) -> int:
    """FLOPs of the matrix products of a train step, three times those of the forward pass: 6 for each weight and each
    token, and attention's two products in every layer.

    A multiplication and an addition are two FLOP. Sources and targets have equal lengths, so that source tokens, of
    which cross attention makes its keys and values, need no account of their own."""
    size, length = scale.transformer, scale.positions + 1
    d_model, tokens = size.d_model, scale.train_sentences * length
    encoder = 4 * d_model**2 + 2 * d_model * size.d_hidden  # query, key, value, output; two linear
    decoder = encoder + 4 * d_model**2  # and attention to the source
    weights = size.num_encoder_layers * encoder + size.num_decoder_layers * decoder
    weights += scale.vocabulary * d_model  # the output projection; embedding is no product
    attentions = size.num_encoder_layers + 2 * size.num_decoder_layers
    return 6 * weights * tokens + 3 * attentions * 4 * tokens * length * d_model


def run(section: Section, scale: Scale) -> None:
    (train, batch), matmul, flops = train_step(scale), Matmul(), step_flops(scale)
    by_xla = train.compiled.cost_analysis()["flops"]
    section.notes.append(
        f"{scale.train_sentences} sentences of {scale.positions + 1} tokens a side, dropout {DROPOUT}, label "
        f"smoothing {LABEL_SMOOTHING}, Adam with clipping. A step is {flops / 1e9:.1f} GFLOP of matrix products "
        f"(6 x weights in products x tokens, and attention), and {by_xla / 1e9:.1f} by XLA's cost "
        "analysis, which counts elementwise work too."
    )
    one_matmul = timing.timed(matmul)
    calls = [lambda: min(one_matmul() for _ in range(MATMULS)), timing.timed(lambda: train(batch))]
    names = ["large matmul", "nat_ar"]
    peer = _torch_peer(section, scale)
    if peer is not None:
        calls.append(lambda: peer.ask("step")["seconds"])
        names.append(f"torch.nn.Transformer, torch {peer.greeting['version']}")
    try:
        seconds = timing.take_turns("train", calls, seconds=3 * scale.seconds, pause=PAUSE)
    finally:
        if peer is not None:
            peer.close()
    tokens = scale.train_sentences * (scale.positions + 1)
    rows: list[Row] = []
    for name, mine in zip(names, seconds, strict=True):
        is_step = name != names[0]
        rate = (flops if is_step else Matmul.flops) / mine
        rows.append(
            {
                "system": name,
                "ms": intervals.median(1e3 * mine),
                "GFLOP/s": intervals.median(rate / 1e9),
                "target tokens/s": intervals.median(tokens / mine) if is_step else None,
                "rounds": len(mine),
            }
        )
    section.tables["A train step"] = rows
    peak = Matmul.flops / seconds[0]
    share = intervals.median_ratio(flops / seconds[1], peak)
    section.figures.append(Figure("train/share of the matmul rate", share, bar=0.7))
    if peer is not None:
        faster = intervals.median_ratio(seconds[2], seconds[1])
        section.figures.append(Figure("train/speed over torch", faster, bar=1.25))


def _torch_peer(section: Section, scale: Scale) -> Worker | None:
    """None, with a note, if the interpreter has no torch."""
    python = os.environ["NAT_AR_TORCH_PYTHON"]
    trial = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    if trial.returncode:
        error = (trial.stderr.strip().splitlines() or ["no error"])[-1]
        section.notes.append(
            f"The torch peer is skipped: {os.path.basename(python)} cannot import torch ({error}); install "
            "requirements-bench.txt in an environment and name its interpreter as --torch-python."
        )
        return None
    size = scale.transformer
    numbers = {
        "d_model": size.d_model,
        "d_hidden": size.d_hidden,
        "heads": size.num_heads,
        "encoder_layers": size.num_encoder_layers,
        "decoder_layers": size.num_decoder_layers,
        "vocabulary": scale.vocabulary,
        "sentences": scale.train_sentences,
        "length": scale.positions + 1,
        "threads": machine.num_threads(),
    }
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    script = os.path.join(os.path.dirname(__file__), "torch_peer.py")
    words += ["--dropout", str(DROPOUT), "--smoothing", str(LABEL_SMOOTHING)]
    return Worker([python, script, *words], dict(os.environ))
