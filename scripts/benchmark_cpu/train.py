"""train: our train step beside a large matrix product and beside PyTorch's torch.nn.Transformer, each at its best.

First every setting takes two steps in a process of its own: ours with several numbers of threads, torch's too, then
compiled (torch.compile) with the fastest of them; and all of that in bfloat16, torch's under autocast, where the
processor multiplies bfloat16 (elsewhere it is emulated, more than ten times as slow, or refused). The fastest of each
then take turns, so that the share of the machine's rate and the speed-ups are ratios within a round. Whoever is not at
work is idle."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from nat_ar.evaluation.speed import intervals, machine, training_cost
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.runtime import processor, training_kernels
from nat_ar.types import Batch
from scripts.benchmark_cpu import contest, models, timing
from scripts.benchmark_cpu.contest import Setting
from scripts.benchmark_cpu.machine import Matmul
from scripts.benchmark_cpu.models import Scale
from scripts.benchmark_cpu.report import Figure, Row, Section
from scripts.benchmark_cpu.timing import Worker

DROPOUT = 0.1
LABEL_SMOOTHING = 0.1
PAUSE = 0.05
"""Seconds: OpenMP's threads spin for some milliseconds after a parallel region. OMP_WAIT_POLICY=passive would make the
peer wake its threads at every operation, and slow it down."""
PILOT_STEPS = 2
"""Of each setting; the first allocates, or compiles."""
COMPILED = "compiled"
MULTIPLY_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "i8mm"})
"""Extensions of processors with products in bfloat16; ARM's BF16 came with i8mm."""
MATMULS = 3
"""Products a round, of which the fastest counts: a peak rate, which noise can only lower."""


def train_step(scale: Scale, dtype: Literal["float32", "bfloat16"]) -> tuple[TrainStep, Batch]:
    """Our train step and its batch."""
    sizes = VocabularySizes(scale.vocabulary, scale.vocabulary, is_joint=True)
    transformer = dataclasses.replace(scale.transformer, dropout_rate=DROPOUT, dtype=dtype)
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
    counts = contest.thread_counts(machine.num_threads())
    flops = step_flops(scale)
    with contextlib.ExitStack() as running:

        def start(setting: Setting) -> Worker:
            return _ours(setting, scale)

        kinds = ("float32", "bfloat16") if training_kernels.multiply_bfloat16() else ("float32",)
        mine = {}
        for kind in kinds:
            settings = [Setting("nat_ar", kind, number) for number in counts]
            mine[kind] = _fastest(settings, start, running)
        setting, ours = mine["float32"]
        section.notes.append(
            f"{scale.train_sentences} sentences of {scale.positions + 1} tokens a side, dropout {DROPOUT}, label "
            f"smoothing {LABEL_SMOOTHING}, Adam with clipping. A step is {flops / 1e9:.1f} GFLOP of matrix products "
            f"(6 x weights in products x tokens, and attention), and {ours.greeting['flops'] / 1e9:.1f} by XLA's cost "
            "analysis, which counts elementwise work too."
        )
        peers = _fastest_of_torch(section, scale, counts, running)

        def matmul() -> float:
            return min(ours.ask("matmul")["seconds"] for _ in range(MATMULS))

        calls: dict[Setting, timing.Call] = {
            Setting("large matmul", "float32", setting.threads): matmul,
        }
        for one, worker in (*mine.values(), *peers):
            calls[one] = lambda worker=worker: worker.ask("step")["seconds"]  # type: ignore[misc]
        seconds = timing.take_turns(
            "train", list(calls.values()), seconds=3 * scale.seconds, pause=PAUSE
        )
    tokens = scale.train_sentences * (scale.positions + 1)
    rows: list[Row] = []
    for index, (one, own) in enumerate(zip(calls, seconds, strict=True)):
        is_step = index > 0
        rate = (flops if is_step else Matmul.flops) / own
        rows.append(
            {
                "system": one.label,
                "threads": one.threads,
                "ms": intervals.median(1e3 * own),
                "GFLOP/s": intervals.median(rate / 1e9),
                "target tokens/s": intervals.median(tokens / own) if is_step else None,
                "rounds": len(own),
            }
        )
    section.tables["A train step"] = rows
    of = dict(zip(calls, seconds, strict=True))
    floats = of[setting]
    share = intervals.median_ratio(flops / floats, Matmul.flops / seconds[0])
    section.figures.append(Figure("train/share of the matmul rate", share, bar=0.75))
    fastest = {kind: of[one] for kind, (one, _) in mine.items()}
    if "bfloat16" in fastest:
        faster = intervals.median_ratio(floats, fastest["bfloat16"])
        section.figures.append(Figure("train/speed in bfloat16 over float32", faster, bar=1.8))
    for peer, _ in peers:
        faster = intervals.median_ratio(of[peer], fastest.get(peer.kind, floats))
        section.figures.append(Figure(f"train/speed over torch, {peer.kind}", faster, bar=1.25))


def _fastest(
    settings: Iterable[Setting],
    start: Callable[[Setting], Worker],
    running: contextlib.ExitStack,
) -> tuple[Setting, Worker]:
    """The setting with the fastest of PILOT_STEPS steps, and its process, which goes on."""
    chosen: tuple[float, Setting, Worker] | None = None
    for setting in settings:
        worker = start(setting)
        seconds = min(worker.ask("step")["seconds"] for _ in range(PILOT_STEPS))
        if chosen is None or seconds < chosen[0]:
            if chosen is not None:
                chosen[2].close()
            chosen = seconds, setting, worker
        else:
            worker.close()
    assert chosen is not None
    running.callback(chosen[2].close)
    return chosen[1:]


def _ours(setting: Setting, scale: Scale) -> Worker:
    command = [sys.executable, "-m", "scripts.benchmark_cpu.train_worker", str(setting.threads)]
    command += ["--quick"] * (scale is models.QUICK)
    command += ["--bfloat16"] * (setting.kind == "bfloat16")
    return Worker(command, dict(os.environ))


def _fastest_of_torch(
    section: Section, scale: Scale, counts: Sequence[int], running: contextlib.ExitStack
) -> list[tuple[Setting, Worker]]:
    """Torch's fastest setting of each kind of arithmetic; none, with a note, if the interpreter has no torch."""
    python = os.environ["NAT_AR_TORCH_PYTHON"]
    trial = subprocess.run(
        [python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True
    )
    if trial.returncode:
        error = (trial.stderr.strip().splitlines() or ["no error"])[-1]
        section.notes.append(
            f"The torch peer is skipped: {os.path.basename(python)} cannot import torch ({error}); install "
            "requirements-bench.txt in an environment and name its interpreter as --torch-python."
        )
        return []
    kinds = ["float32"]
    if set(processor.extensions()) & MULTIPLY_BFLOAT16:
        kinds.append("bfloat16")
    else:
        section.notes.append("No bfloat16: this processor would emulate it.")
    name, fastest = f"torch {trial.stdout.strip()}", []
    for kind in kinds:

        def start(setting: Setting) -> Worker:
            return _torch(python, setting, scale)

        with contextlib.ExitStack() as pilot:
            eager, _ = _fastest([Setting(name, kind, number) for number in counts], start, pilot)
        compiled = dataclasses.replace(eager, note=COMPILED)
        try:
            fastest.append(_fastest((eager, compiled), start, running))
        except RuntimeError as error:  # torch.compile asks for a C++ compiler and Python's headers
            section.notes.append(f"{compiled.label}: {error}.")
            fastest.append(_fastest((eager,), start, running))
    return fastest


def _torch(python: str, setting: Setting, scale: Scale) -> Worker:
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
        "threads": setting.threads,
    }
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    script = os.path.join(os.path.dirname(__file__), "torch_peer.py")
    words += ["--dropout", str(DROPOUT), "--smoothing", str(LABEL_SMOOTHING)]
    words += ["--bfloat16"] * (setting.kind == "bfloat16") + ["--compiled"] * bool(setting.note)
    return Worker([python, script, *words], dict(os.environ))
