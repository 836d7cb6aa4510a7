"""Train steps as `plan` predicts them beside what they take on this machine, on one device.

    python -m scripts.plan_check

FLOPs are counted as `plan` counts them. The share of the peak that a step reaches is no prediction: it is taken from
the first system, and the others are predicted by it. The steps of all systems take turns."""

import argparse
import datetime
import time

import numpy as np

from nat_ar.evaluation.speed import machine, training_cost
from nat_ar.evaluation.speed.training_cost import TrainStep
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime.malloc import keep_freed_memory

LENGTH = 32
MIDDLE = TransformerConfig(
    d_model=256, d_hidden=1024, num_heads=4, num_encoder_layers=3, num_decoder_layers=3
)
SMALL = TransformerConfig(
    d_model=128, d_hidden=512, num_heads=4, num_encoder_layers=2, num_decoder_layers=2
)
BASE = TransformerConfig(
    d_model=512, d_hidden=2048, num_heads=8, num_encoder_layers=6, num_decoder_layers=6
)
SYSTEMS = {
    "AR, d_model 256": (Autoregressive(MIDDLE), 8000, 2048),
    "AR, d_model 128": (Autoregressive(SMALL), 8000, 2048),
    "AR, base": (Autoregressive(BASE), 8000, 1024),
    "CMLM, d_model 256": (Cmlm(MIDDLE), 8000, 2048),
    "CTC, d_model 256": (Ctc(MIDDLE), 8000, 2048),
    "AR, d_model 256, 32,000 subwords": (Autoregressive(MIDDLE), 32_000, 2048),
}
"""method, vocabulary, target tokens of a batch; the first gives the efficiency"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each system")
    arguments = parser.parse_args()
    keep_freed_memory()
    peaks = machine.measure()
    batches, steps, flops = {}, {}, {}
    for name, (method, words, tokens) in SYSTEMS.items():
        sizes = VocabularySizes(words, words, is_joint=True)
        batches[name] = training_cost.random_batch(tokens // LENGTH, LENGTH, sizes)
        steps[name] = TrainStep(method, sizes, batches[name])
        flops[name] = steps[name].product_cost(batches[name], peaks).flops
    times: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for is_warm in (False, *[True] * arguments.rounds):  # the first round is not counted
        for name, train in steps.items():
            start = time.perf_counter()
            train(batches[name])
            if is_warm:
                times[name].append(time.perf_counter() - start)
    peak = peaks.best(machine.measure()).matmul["float32"]
    first = next(iter(SYSTEMS))
    reached = flops[first] / float(np.median(times[first])) / peak
    print("| system | GFLOPs | predicted ms | measured ms | predicted / measured |")
    print("|---|--:|--:|--:|--:|")
    for name, number in flops.items():
        seconds = number / (peak * reached)
        low, middle, high = np.quantile([seconds / x for x in times[name]], (0.25, 0.5, 0.75))
        print(
            f"| {name} | {number / 1e9:.1f} | {1e3 * seconds:.0f} | {1e3 * np.median(times[name]):.0f} "
            f"| {middle:.2f} [{low:.2f}, {high:.2f}] |"
        )
    print(
        f"\nEfficiency {reached:.3f} of {peak / 1e9:.0f} GFLOP/s; {machine.device_name()}, {machine.num_threads()} "
        f"threads, {datetime.date.today()}; {arguments.rounds} rounds, all systems in turn in each."
    )


if __name__ == "__main__":
    main()
