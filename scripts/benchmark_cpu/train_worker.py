"""Trains on so many cores: python -m scripts.benchmark_cpu.train_worker 2.

Reads "step" or "matmul", a JSON string a line, takes one train step or multiplies two large matrices, and answers with
the seconds."""

import argparse
import json
import sys

from nat_ar.evaluation.speed import clock, machine
from nat_ar.runtime import malloc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("threads", type=int, help="cores to use, of those allowed")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--bfloat16", action="store_true", help="the type of the network")
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    malloc.keep_freed_memory()  # as the verb does, before JAX allocates anything
    from scripts.benchmark_cpu import models, timing, train
    from scripts.benchmark_cpu.machine import Matmul

    step, batch = train.train_step(
        models.QUICK if arguments.quick else models.FULL,
        "bfloat16" if arguments.bfloat16 else "float32",
    )
    calls = {"step": timing.timed(lambda: step(batch)), "matmul": timing.timed(Matmul())}
    print(json.dumps({"flops": step.compiled.cost_analysis()["flops"]}), flush=True)
    with clock.no_compilation():
        for line in sys.stdin:
            print(json.dumps({"seconds": calls[json.loads(line)]()}), flush=True)


if __name__ == "__main__":
    main()
